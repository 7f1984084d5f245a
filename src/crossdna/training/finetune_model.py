"""Models to fine-tune: built for a task, partly frozen, finished."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.pytorch_utils import Conv1D
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE

from crossdna import alphabet
from crossdna.errors import CrossDNAError
from crossdna.models.batched import length_batches, pad_batch
from crossdna.models.crossdna import CrossDNAConfig, CrossDNAModel
from crossdna.models.opening import Opened
from crossdna.models.strands import asking
from crossdna.models.tokenized import TokenizedConfig
from crossdna.tokenizers.loading import load_tokenizer
from crossdna.tokenizers.nucleotide import CrossDNATokenizer
from crossdna.training.finetune_recipe import NEW, RANDOM

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PreTrainedModel

    from crossdna.data.labelled import Task
    from crossdna.data.task_card import Strands
    from crossdna.training.finetune_recipe import FinetuneRecipe

_SMALL: Final = {
    "num_heads": 4, "attention_heads": 4, "window_size": 128, "use_bridge": False,
}  # fmt: skip
NEW_SIZES: Final[dict[str, dict[str, Any]]] = {
    "tiny": {"d_model": 32, "depth": 1, "head_dim": 8, "hidden_ratio": 2.0, **_SMALL},
    "small": {"d_model": 48, "depth": 3, "head_dim": 12, **_SMALL},
    "medium": {"d_model": 96, "depth": 3, "num_heads": 4, "head_dim": 32},
    "paper": {},
}
"""Sizes of CrossDNA with random weights: small is the paper's 408K, paper its 8.1M."""

LEAST_DROPOUT: Final = 0.15
"""Of a CrossDNA that is tuned, unless the recipe has another rate: pretraining sees no
window twice and needs none, a few thousand labelled sequences do; it is what new
networks have, too (`benchmarks/finetune_settings.py` compares)."""
_DROPOUTS: Final[dict[str, tuple[str, ...]]] = {
    "crossdna": ("dropout",),
    "hyenadna": ("hyena_dropout",),
    "caduceus": (),
}
"""Names of the rates in configurations of our own families."""

MEASURED_BASES: Final = 1 << 14
"""Bases that a network reads at a time while a head is measured."""
_PROBLEMS: Final = {
    "binary": "single_label_classification",
    "multiclass": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
    "per-base": None,
}


def build_model(
    recipe: FinetuneRecipe, task: Task, *, pooling: str, length: int
) -> PreTrainedModel:
    """Load or make a network, and give it a new head for the task.

    New weights are drawn from torch's generator. The model takes ids of
    `crossdna.alphabet`, whatever its family.

    Parameters
    ----------
    pooling
        See `crossdna.models.heads`.
    length
        Bases of the longest training sequence.

    Raises
    ------
    CrossDNAError
        No such checkpoint or size, or a family without such a head.
    """
    opened = _opened(recipe.model, trust_remote_code=recipe.trust_remote_code)
    config = opened.config if opened else _new_config(recipe.model)
    config.num_labels = task.outputs
    config.id2label = dict(enumerate(task.names))
    config.label2id = {name: number for number, name in enumerate(task.names)}
    config.problem_type = _PROBLEMS[task.kind]
    config.head_pooling = pooling
    config.head_length = length if pooling == "position" else None
    config.head_dropout = recipe.dropped
    config.head_width = recipe.dense_width
    if hasattr(config, "head_motifs"):
        config.head_motifs = recipe.motifs
        config.head_standard = recipe.standard
    rate = recipe.dropout
    if rate is None and isinstance(config, CrossDNAConfig):
        rate = max(config.dropout, LEAST_DROPOUT)
    if rate is not None:
        _set_dropout(config, rate)
    per_base = task.kind == "per-base"
    if opened is None:
        auto: Any = (
            AutoModelForTokenClassification
            if per_base
            else AutoModelForSequenceClassification
        )
        return auto.from_config(config)
    return opened.model(
        "per-base" if per_base else "classification",
        random=recipe.is_new,
        new_head=True,
    )


def bare_network(
    name: str, seed: int = 0, *, trust_remote_code: bool = False
) -> PreTrainedModel:
    """A network without a head, to be asked as it is.

    Parameters
    ----------
    name
        As for `build_model`; random weights are drawn by `seed`.

    Raises
    ------
    CrossDNAError
        No such checkpoint or size.
    """
    opened = _opened(name, trust_remote_code=trust_remote_code)
    torch.manual_seed(seed)
    if opened is None:
        return CrossDNAModel(_new_config(name)).eval()
    return opened.model("embedding", random=name.startswith(RANDOM)).eval()


def _opened(name: str, *, trust_remote_code: bool = False) -> Opened | None:
    """The checkpoint that a name stands for; None for a new model."""
    if name.startswith(NEW):
        return None
    return Opened(name.removeprefix(RANDOM), trust_remote_code=trust_remote_code)


def _new_config(name: str) -> CrossDNAConfig:
    size = name.removeprefix(NEW)
    if size not in NEW_SIZES:
        raise CrossDNAError(
            f"no size {size!r} of a new model; there are {', '.join(NEW_SIZES)}"
        )
    return CrossDNAConfig(**NEW_SIZES[size])


def _set_dropout(config: Any, rate: float) -> None:
    if isinstance(config, TokenizedConfig):
        names, kind = config.family.dropouts, config.network_type
        config.network = {**(config.network or {}), **dict.fromkeys(names, rate)}
    else:
        names, kind = _DROPOUTS[config.model_type], config.model_type
        for name in names:
            setattr(config, name, rate)
    if not names:
        raise CrossDNAError(f"networks of type {kind!r} have no dropout; leave it out")


def check_model(name: str, *, trust_remote_code: bool = False) -> None:
    """Refuse a name that stands for no model, before any work is done.

    Raises
    ------
    CrossDNAError
        No such checkpoint or size.
    """
    if _opened(name, trust_remote_code=trust_remote_code) is None:
        _new_config(name)


def has_poolings(name: str, *, trust_remote_code: bool = False) -> bool:
    """Whether a model's sequence head is ours, whose `head_pooling` can be chosen."""
    opened = _opened(name, trust_remote_code=trust_remote_code)
    return opened is None or isinstance(opened.config, CrossDNAConfig | TokenizedConfig)


def save_tokenizer(name: str, folder: Path) -> None:
    """Put a tokenizer beside a checkpoint that gives what training read.

    Bases alone, without the special tokens of a language model's own. Wrapped networks
    bring it along when they are saved.
    """
    if (folder / TOKENIZER_CONFIG_FILE).exists():
        return
    opened = _opened(name)
    if opened is None or isinstance(opened.config, CrossDNAConfig):
        CrossDNATokenizer().save_pretrained(folder)
    else:
        own = load_tokenizer(opened.name)
        type(own)(ends_with_sep=False).save_pretrained(folder)


def measure(
    model: Any, sequences: Sequence[NDArray[np.uint8]], strands: Strands
) -> None:
    """Set a head's `Standard`, if it has one, by what the network makes of sequences.

    Parameters
    ----------
    strands
        With ``both`` also their reverse complements.
    """
    head = getattr(model, "head", None)
    if head is None or getattr(head, "standard", None) is None:
        return
    kept = list(sequences)
    if strands == "both":
        kept += [alphabet.reverse_complement(ids) for ids in sequences]
    lengths = [len(ids) for ids in kept]
    device = next(model.parameters()).device

    def parts() -> Iterator[Tensor]:
        for rows in length_batches(lengths, MEASURED_BASES):
            batch = pad_batch([kept[row] for row in rows], device)
            output = model.base_model(*batch)
            yield head.measured(output.last_hidden_state, batch.attention_mask)

    with asking(model):
        head.standard.measure(parts())


def restrict(model: PreTrainedModel, recipe: FinetuneRecipe) -> Any:
    """Leave only those weights trainable that the method changes."""
    if recipe.method == "full":
        return model
    network = f"{model.base_model_prefix}."
    if recipe.frozen:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = not name.startswith(network)
        return model
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise CrossDNAError(
            "lora needs peft: pip install 'crossdna[finetune]'"
        ) from None
    heads = [name for name, _ in model.named_children() if f"{name}." != network]
    wrapped = isinstance(model.config, TokenizedConfig)
    left_out = model.config.family.no_lora if wrapped else ()
    targets = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and name.startswith(network)
        and not name.endswith(left_out)
    }
    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=2 * recipe.lora_rank,
        target_modules=list(targets),
        # GPT-2 keeps its matrices the other way round.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in targets.values()),
        modules_to_save=heads,
    )
    with warnings.catch_warnings():
        # peft asks transformers in a way that transformers is giving up.
        warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
        return get_peft_model(model, config)


def merged(model: Any) -> PreTrainedModel:
    """The plain model, low-rank updates added to its weights."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


@torch.no_grad()
def divide_logits(model: Any, temperature: float) -> None:
    """Divide the weights of the last layer, and with them all logits, in place."""
    last = model.score if hasattr(model, "score") else model.head.linear
    for parameter in last.parameters():
        parameter /= temperature


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the weights that training changes, on the CPU."""
    return {
        name: parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def load_trainable_state(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Put weights from `trainable_state` back; every one of them must be there."""
    result = model.load_state_dict(state, strict=False)
    if result.unexpected_keys:
        raise CrossDNAError(f"weights of another model: {result.unexpected_keys[0]}")
