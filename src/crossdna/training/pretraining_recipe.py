"""The recipe of a pretraining run."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from crossdna.config import from_table
from crossdna.data.masking import MaskingConfig
from crossdna.errors import CrossDNAError
from crossdna.models.building import config_class, default_tokenizer, objective_of
from crossdna.models.vocabulary import IDS_BY_FAMILY
from crossdna.tokenizers.loading import load_tokenizer
from crossdna.training.devices import TrainingDevice
from crossdna.training.precision import Precision
from crossdna.training.pretraining_data import (
    VALID_SEED,
    GenomeSettings,
    WindowSettings,
)
from crossdna.training.pretraining_encoding import encode_bases, encode_tokens
from crossdna.training.pretraining_objectives import ObjectiveSettings
from crossdna.zoo.families import NATIVE

if TYPE_CHECKING:
    from crossdna.training.pretraining_encoding import Encoding


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """The ``[train]`` section: optimisation, and when to look and save."""

    seed: int = 0
    """Of random weights, windows, masks and dropout."""
    initial: Path | None = None
    """Checkpoint directory whose weights the run starts from; None: random ones."""
    steps: int
    """Optimiser steps."""
    max_minutes: float | None = None
    """End the run after this time at the latest, its learning rate included; what a
    slower machine then makes is another model. Counts from the end of the first step,
    whose compiling would else be taken for warm-up. For one process."""
    batch_size: int = 32
    """Windows in an optimiser step, over all processes."""
    micro_batch: int | None = None
    """Windows that one process reads at once; None: its whole share of a step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Muon, for the matrices, learns more from the same bases."""
    lr: float = 1e-3
    """Highest learning rate, of either."""
    min_lr_share: float = 0.1
    """Share of `lr` that the cosine ends at."""
    warmup: float = 0.01
    """Share of the steps in which the learning rate grows to `lr`."""
    weight_decay: float = 0.1
    """Of matrices; vectors such as biases and norms are left."""
    beta2: float = 0.999
    """How long AdamW remembers squared gradients."""
    clip: float = 1.0
    """Largest norm of a step's gradient."""
    precision: Precision = "float32"
    """``auto``: bf16 where the device gains by it, else float32."""
    tf32: bool = False
    """Let a GPU round float32 products to 10 bits of mantissa; bf16 needs it for
    nothing, and the losses' own products then stay float32."""
    compile: bool = False
    """Let a GPU fuse what stands between the products of a layer (torch.compile, once
    per shape, a minute or two at the start)."""
    device: TrainingDevice = "auto"
    """Auto: a GPU where there is one."""
    workers: int = 0
    """Processes that prepare batches, for each training process."""
    log_every: int = 10
    """Steps between lines of the log."""
    evaluate_every: int = 500
    """Steps between looks at the held-out windows."""
    save_every: int = 500
    """Steps between checkpoints that a killed run goes on from."""
    keep_checkpoints: int = 2
    """Newest checkpoints that stay while the run goes on."""
    keep: Literal["best", "last"] = "best"
    """Which weights become the result: best on held-out windows, or the last."""

    def __post_init__(self) -> None:
        counts = "steps batch_size log_every evaluate_every save_every keep_checkpoints"
        for name in counts.split():
            if getattr(self, name) < 1:
                raise CrossDNAError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )
        if not 0 <= self.seed < 2**32:
            raise CrossDNAError(f"seed must be from 0 to 2**32 - 1, got {self.seed}")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise CrossDNAError(f"micro_batch must be positive, got {self.micro_batch}")
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise CrossDNAError(f"max_minutes must be above 0, got {self.max_minutes}")
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise CrossDNAError(
                    f"{name} must be above 0, got {getattr(self, name)}"
                )
        for name in ("min_lr_share", "warmup", "weight_decay", "beta2"):
            if not 0 <= getattr(self, name) <= 1:
                raise CrossDNAError(f"{name} {getattr(self, name)} is not in [0, 1]")
        if self.workers < 0:
            raise CrossDNAError(f"workers must not be negative, got {self.workers}")
        if self.compile and self.device == "cpu":
            raise CrossDNAError(
                "train.compile is for GPUs: on a CPU this package's own kernels run"
            )


# What may change between the parts of a resumed run: none of it changes the weights.
FREE_ON_RESUME = (
    "train.workers",
    "train.log_every",
    "train.save_every",
    "train.keep_checkpoints",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerSettings:
    """The ``[tokenizer]`` section, for models that do not read one id per base."""

    path: Path
    """Directory that ``crossdna tokenizer`` has made, or a hub id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainRecipe:
    """A complete pretraining run."""

    model: dict[str, Any]
    """``type`` and fields of that family's configuration."""
    tokenizer: TokenizerSettings | None = None
    genome: dict[str, GenomeSettings]
    windows: WindowSettings = field(default_factory=WindowSettings)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    train: TrainSettings

    def __post_init__(self) -> None:
        model_config(self.model)
        objective = _resolved(self.objective, self.model["type"])
        # Said in full, so that the recipe beside a model does not leave it open.
        object.__setattr__(self, "objective", objective)
        if self.tokenizer is not None and self.model["type"] in NATIVE:
            raise CrossDNAError(
                f"tokenizer: {self.model['type']} reads one id per base; leave it out"
            )
        if objective.type == "causal" and self.masking != MaskingConfig():
            raise CrossDNAError(
                f"masking: nothing is hidden from {self.model['type']}, which predicts "
                "the next base; leave it out"
            )


def _resolved(settings: ObjectiveSettings, model_type: str) -> ObjectiveSettings:
    """Choose the objective that belongs to a family, or refuse the wrong one."""
    own: Literal["crossdna", "masked", "causal"] = objective_of(model_type)
    if model_type == "crossdna":
        allowed, own = {"crossdna", "masked"}, "crossdna"
    else:
        allowed = {own}
    if settings.type not in {"auto", *allowed}:
        raise CrossDNAError(
            f"objective.type {settings.type!r} is not for {model_type}; write {own!r}, "
            "or leave it out"
        )
    if model_type != "crossdna":
        plain = ObjectiveSettings(type=settings.type)
        for part in dataclasses.fields(settings):
            if getattr(settings, part.name) != getattr(plain, part.name):
                raise CrossDNAError(
                    f"objective.{part.name} is for CrossDNA: {model_type} has neither "
                    "branches nor a fusion gate; leave it out"
                )
    kind = own if settings.type == "auto" else settings.type
    return dataclasses.replace(settings, type=kind)


def model_config(table: dict[str, Any], tokenizer: Any = None) -> PreTrainedConfig:
    """Check a ``[model]`` section against its family's fields.

    Parameters
    ----------
    tokenizer
        Whose ids a family of transformers is built for.

    Raises
    ------
    CrossDNAError
        Unknown family or field, or a value that the configuration refuses.
    """
    rest = dict(table)
    name = rest.pop("type", None)
    objective_of(name)
    kind = config_class(name)
    if name not in NATIVE:
        if given := sorted(rest.keys() & _OF_TOKENIZER):
            raise CrossDNAError(f"model.{given[0]} follows from the tokenizer")
        rest |= {} if tokenizer is None else _token_ids(tokenizer)
    known_fields = [
        (key, _checkable(hint), field(default=None))
        for key, hint in _annotations(kind).items()
    ]
    # A dataclass of the configuration's fields gives the same checks and suggestions
    # as the rest of the recipe.
    from_table(rest, dataclasses.make_dataclass("model", known_fields), where="model")
    try:
        return kind(**rest)
    except CrossDNAError:
        raise
    except (ValueError, TypeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise CrossDNAError(f"model: {reason}") from error


_OF_TOKENIZER: Final = {
    f"{name}_token_id" for name in ("pad", "mask", "cls", "sep", "bos", "eos")
} | {"vocab_size"}
_CHECKED: Final = (int, float, str, bool, type(None))


def _token_ids(tokenizer: Any) -> dict[str, Any]:
    ids = {name: getattr(tokenizer, name, None) for name in _OF_TOKENIZER}
    return ids | {"vocab_size": len(tokenizer)}


def _annotations(kind: type) -> dict[str, Any]:
    """Fields of a configuration; the bases' ones last."""
    found = {name: Any for name in (*_OF_TOKENIZER, "tie_word_embeddings")}
    for cls in reversed(kind.__mro__[: kind.__mro__.index(PreTrainedConfig)]):
        found |= inspect.get_annotations(cls, eval_str=True)
    return found


def _checkable(hint: Any) -> Any:
    """A type that `from_table` checks; transformers itself checks the others."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is Literal or hint in _CHECKED:
        return hint
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    if union and all(_checkable(part) is part for part in parts):
        return hint
    return hint if hint in (dict, list, dict[str, Any]) else Any


def window_encoding(recipe: PretrainRecipe) -> Encoding:
    """How the windows of a recipe become batches for its model.

    Raises
    ------
    CrossDNAError
        A tokenizer that cannot be loaded, or cannot serve.
    """
    name = recipe.model["type"]
    objective, seeds = objective_of(name), (recipe.train.seed, VALID_SEED)
    if recipe.tokenizer is not None:
        tokenizer = load_tokenizer(recipe.tokenizer.path)
        return encode_tokens(tokenizer, objective, recipe.masking, seeds)
    ids = IDS_BY_FAMILY[name if name in NATIVE else "crossdna"]
    tokenizer = default_tokenizer(name)
    return encode_bases(tokenizer, ids, objective, recipe.masking, seeds)
