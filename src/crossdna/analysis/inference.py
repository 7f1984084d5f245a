"""Asking a model: predictions and embeddings, of one strand or of both averaged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from crossdna import alphabet
from crossdna.errors import CrossDNAError
from crossdna.models.strands import (
    asking,
    over_strands,
    reverse_complement,
    sequence_logits,
    token_logits,
)
from crossdna.models.vocabulary import speak_alphabet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "asking",
    "base_log_probabilities",
    "embeddings",
    "load_model",
    "pick_device",
    "reverse_complement",
    "sequence_logits",
    "token_logits",
]

Task = Literal["masked-lm", "classification", "per-base", "embedding"]
_CLASSES: dict[str, Any] = {
    "masked-lm": AutoModelForMaskedLM,
    "classification": AutoModelForSequenceClassification,
    "per-base": AutoModelForTokenClassification,
    "embedding": AutoModel,
}


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Turn ``"auto"`` into the first CUDA device, or the CPU where there is none.

    Raises
    ------
    CrossDNAError
        A device that does not exist here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise CrossDNAError(f"device {device!r} cannot be used: {reason}") from None
    return chosen


def load_model(
    name: str | Path, task: Task = "masked-lm", device: str | torch.device = "auto"
) -> PreTrainedModel:
    """Load a checkpoint directory (or hub id) for a task, ready to be asked.

    Models of other families take and give the ids of `crossdna.alphabet` too.

    Raises
    ------
    CrossDNAError
        No such directory, no checkpoint in it, a family that cannot do the task or does
        not read one id per base, or weights that do not fit.
    """
    path = Path(name)
    if path.exists() and not (path / "config.json").is_file():
        raise CrossDNAError(f"{name}: no config.json, so no checkpoint of a model")
    if not path.exists() and (path.is_absolute() or len(path.parts) > 2):
        raise CrossDNAError(f"{name}: no such directory")
    chosen = pick_device(device)
    try:
        config = AutoConfig.from_pretrained(str(name))
        if type(config) not in _CLASSES[task]._model_mapping:
            raise CrossDNAError(
                f"{name}: a model of type {config.model_type!r} cannot do {task!r}"
            )
        model = _CLASSES[task].from_pretrained(str(name), config=config)
    except CrossDNAError:
        raise
    except (OSError, ValueError) as error:
        raise CrossDNAError(f"{name}: {str(error).splitlines()[0]}") from error
    return speak_alphabet(model).to(chosen).eval()


def base_log_probabilities(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    strand_average: bool = False,
) -> Tensor:
    """Log-probability of each base at each position.

    Parameters
    ----------
    input_ids, attention_mask : (batch, length)
    strand_average
        Mean of the probabilities from both strands: a sequence and its reverse
        complement then get the same, mirrored.

    Returns
    -------
    (batch, length, 4) float32
        Natural logarithms over A C G T, which add up to one.
    """

    def log_probabilities(ids: Tensor, mask: Tensor | None) -> Tensor:
        logits = model(input_ids=ids, attention_mask=mask).logits
        return logits[..., : alphabet.NUM_BASES].float().log_softmax(dim=-1)

    with asking(model):
        ahead = log_probabilities(input_ids, attention_mask)
        if not strand_average:
            return ahead
        other = log_probabilities(*reverse_complement(input_ids, attention_mask))
        return torch.logaddexp(ahead, other.flip(1, 2)) - math.log(2)


def embeddings(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    layer: int = -1,
    strand_average: bool = False,
) -> Tensor:
    """Representation of each base.

    Parameters
    ----------
    input_ids, attention_mask : (batch, length)
    layer
        Index into the model's hidden states; -1 is the last.
    strand_average
        Mean of the representations that both strands give a base.

    Returns
    -------
    (batch, length, channels) float32

    Raises
    ------
    CrossDNAError
        A layer that the model does not have.
    """

    def hidden(ids: Tensor, mask: Tensor | None) -> Tensor:
        if layer == -1:
            # Not asked to keep every layer, a model has less to hold and to do.
            base = model.base_model
            return base(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        states = model(
            input_ids=ids, attention_mask=mask, output_hidden_states=True
        ).hidden_states
        if not -len(states) <= layer < len(states):
            raise CrossDNAError(
                f"layer {layer} does not exist: the model has {len(states)} (0 to "
                f"{len(states) - 1}, or -1 for the last)"
            )
        return states[layer].float()

    def mirror(x: Tensor) -> Tensor:
        return x.flip(1)

    return over_strands(
        model, hidden, mirror, input_ids, attention_mask, strand_average
    )
