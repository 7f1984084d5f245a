"""The recipe of a pretraining run."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from crossdna.config import from_table
from crossdna.data.masking import MaskingConfig
from crossdna.errors import CrossDNAError
from crossdna.models.crossdna import CrossDNAConfig, CrossDNAForMaskedLM
from crossdna.tokenizers.nucleotide import CrossDNATokenizer
from crossdna.training.pretraining_data import GenomeSettings, WindowSettings
from crossdna.training.pretraining_objectives import ObjectiveSettings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """The ``[train]`` section: optimisation, and when to look and save."""

    seed: int = 0
    steps: int
    """Optimiser steps."""
    max_minutes: float | None = None
    """End the run after this time at the latest, its learning rate included; what a
    slower machine then makes is another model. For one process."""
    batch_size: int = 32
    """Windows in an optimiser step, over all processes."""
    micro_batch: int | None = None
    """Windows that one process reads at once; None: its whole share of a step."""
    lr: float = 1e-3
    """Highest learning rate."""
    min_lr_share: float = 0.1
    """Share of `lr` that the cosine ends at."""
    warmup: float = 0.01
    """Share of the steps in which the learning rate grows to `lr`."""
    weight_decay: float = 0.1
    beta2: float = 0.999
    clip: float = 1.0
    """Largest norm of a step's gradient."""
    precision: Literal["float32", "bf16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = 0
    """Processes that prepare batches, for each training process."""
    log_every: int = 10
    evaluate_every: int = 500
    save_every: int = 500
    keep_checkpoints: int = 2
    keep: Literal["best", "last"] = "best"
    """Which weights become the result: best on held-out windows, or the last."""

    def __post_init__(self) -> None:
        counts = "steps batch_size log_every evaluate_every save_every keep_checkpoints"
        for name in counts.split():
            if getattr(self, name) < 1:
                raise CrossDNAError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )
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


# What may change between the parts of a resumed run: none of it changes the weights.
FREE_ON_RESUME = (
    "train.workers",
    "train.log_every",
    "train.save_every",
    "train.keep_checkpoints",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainRecipe:
    """A complete pretraining run."""

    model: dict[str, Any]
    """``type`` and fields of that family's configuration."""
    genome: dict[str, GenomeSettings]
    windows: WindowSettings = field(default_factory=WindowSettings)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    train: TrainSettings

    def __post_init__(self) -> None:
        model_config(self.model)


class Family(NamedTuple):
    """How to train one family of models."""

    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]
    tokenizer: type[CrossDNATokenizer]


FAMILIES = {"crossdna": Family(CrossDNAConfig, CrossDNAForMaskedLM, CrossDNATokenizer)}


def model_config(table: dict[str, Any]) -> PreTrainedConfig:
    """Check a ``[model]`` section against its family's fields.

    Raises
    ------
    CrossDNAError
        Unknown family or field, or a value that the configuration refuses.
    """
    rest = dict(table)
    name = rest.pop("type", None)
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise CrossDNAError(
            f"model.type is {name!r}; models that can be trained: {known}"
        )
    kind = FAMILIES[name].config
    known_fields = [
        (key, hint, field(default=None))
        for key, hint in inspect.get_annotations(kind, eval_str=True).items()
    ]
    # A dataclass of the configuration's fields gives the same checks and suggestions
    # as the rest of the recipe.
    from_table(rest, dataclasses.make_dataclass("model", known_fields), where="model")
    return kind(**rest)
