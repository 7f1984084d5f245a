"""Models to fine-tune: built for a task, partly frozen, finished."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from crossdna.errors import CrossDNAError
from crossdna.models.crossdna import CrossDNAConfig
from crossdna.models.vocabulary import speak_alphabet
from crossdna.tokenizers.nucleotide import CrossDNATokenizer
from crossdna.training.finetune_recipe import NEW, RANDOM

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from crossdna.data.labelled import Task
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
    config = _config(recipe.model)
    config.num_labels = task.outputs
    config.id2label = dict(enumerate(task.names))
    config.label2id = {name: number for number, name in enumerate(task.names)}
    config.problem_type = _PROBLEMS[task.kind]
    config.head_pooling = pooling
    config.head_length = length if pooling == "position" else None
    config.head_dropout = recipe.head_dropout
    if recipe.dropout is not None:
        config.dropout = recipe.dropout
    auto: Any = (
        AutoModelForTokenClassification
        if task.kind == "per-base"
        else AutoModelForSequenceClassification
    )
    try:
        if recipe.is_new:
            return speak_alphabet(auto.from_config(config))
        return speak_alphabet(auto.from_pretrained(recipe.model, config=config))
    except CrossDNAError:
        raise
    except (OSError, ValueError) as error:
        raise CrossDNAError(f"{recipe.model}: {str(error).splitlines()[0]}") from error


def _config(name: str) -> Any:
    if name.startswith(RANDOM):
        return _config(name.removeprefix(RANDOM))
    if name.startswith(NEW):
        size = name.removeprefix(NEW)
        if size not in NEW_SIZES:
            raise CrossDNAError(
                f"no size {size!r} of a new model; there are {', '.join(NEW_SIZES)}"
            )
        return CrossDNAConfig(**NEW_SIZES[size])
    path = Path(name)
    if path.exists() and not (path / "config.json").is_file():
        raise CrossDNAError(f"{name}: no config.json, so no checkpoint of a model")
    if not path.exists() and (path.is_absolute() or len(path.parts) > 2):
        raise CrossDNAError(f"{name}: no such directory")
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise CrossDNAError(f"{name}: {str(error).splitlines()[0]}") from error


def has_poolings(name: str) -> bool:
    """Whether a model's sequence head is ours, whose `head_pooling` can be chosen."""
    return _config(name).model_type == CrossDNAConfig.model_type


def save_tokenizer(name: str, folder: Path) -> None:
    """Put the tokenizer of a model's family beside its checkpoint."""
    if _config(name).model_type == CrossDNAConfig.model_type:
        CrossDNATokenizer().save_pretrained(folder)
    else:
        AutoTokenizer.from_pretrained(name.removeprefix(RANDOM)).save_pretrained(folder)


def restrict(model: PreTrainedModel, recipe: FinetuneRecipe) -> Any:
    """Leave only those weights trainable that the method changes."""
    if recipe.method == "full":
        return model
    network = f"{model.base_model_prefix}."
    if recipe.method == "head":
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
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(network)
    ]
    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=2 * recipe.lora_rank,
        target_modules=targets,
        modules_to_save=heads,
    )
    with warnings.catch_warnings():
        # peft asks transformers in a way that transformers is giving up.
        warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
        return get_peft_model(model, config)


def merged(model: Any) -> PreTrainedModel:
    """The plain model, low-rank updates added to its weights."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


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
