"""Asking a model: predictions and embeddings, of one strand or of both averaged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import Tensor

from crossdna import alphabet
from crossdna.data.task_card import CARD_NAME, TaskCard
from crossdna.errors import CrossDNAError
from crossdna.models.execution import Execution
from crossdna.models.opening import Opened, Task
from crossdna.models.record import has_head, longest_read
from crossdna.models.strands import (
    asking,
    over_strands,
    reverse_complement,
    sequence_logits,
    token_logits,
)
from crossdna.models.tokenized import TokenizedPreTrainedModel
from crossdna.models.vocabulary import require_alphabet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from crossdna.alphabet import Strand

Layer = int | Literal["all"]
FLOAT32: Final = Execution()

__all__ = [
    "FLOAT32",
    "Execution",
    "Layer",
    "Task",
    "asking",
    "base_log_probabilities",
    "checkpoint_task",
    "choose_strand",
    "default_strand",
    "default_window",
    "embedding_size",
    "embeddings",
    "gives_base_probabilities",
    "hiding_unit",
    "is_causal",
    "load_model",
    "load_whole",
    "pick_device",
    "reverse_complement",
    "sequence_logits",
    "token_logits",
]


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
    name: str | Path,
    task: Task = "masked-lm",
    device: str | torch.device = "auto",
    *,
    trust_remote_code: bool = False,
    execution: Execution = FLOAT32,
) -> PreTrainedModel:
    """Load a checkpoint directory (or hub id) for a task, ready to be asked.

    Models of other families take and give the ids of `crossdna.alphabet` too.

    Parameters
    ----------
    trust_remote_code
        Run code that comes with the checkpoint.
    execution
        Precision, and whether layers are compiled.

    Raises
    ------
    CrossDNAError
        No such directory, no checkpoint in it, a family that is not known or cannot do
        the task, weights or a tokenizer that do not fit, or a device that cannot
        compute as asked.
    """
    chosen = pick_device(device)
    model = Opened(name, trust_remote_code=trust_remote_code).model(task)
    model = model.to(chosen).eval()
    execution.prepare(model)
    return model


def checkpoint_task(name: str | Path, *, trust_remote_code: bool = False) -> Task:
    """What a checkpoint was saved for.

    Raises
    ------
    CrossDNAError
        No checkpoint, or of a family that is not known.
    """
    return Opened(name, trust_remote_code=trust_remote_code).task


def load_whole(
    name: str | Path,
    device: str | torch.device = "auto",
    *,
    trust_remote_code: bool = False,
    execution: Execution = FLOAT32,
) -> PreTrainedModel:
    """Load a checkpoint with all that was saved, head and all, for its embeddings.

    So that its fingerprint is the one that every verb gives it. Parameters and errors
    are those of `load_model`.
    """
    task = Opened(name, trust_remote_code=trust_remote_code).whole
    return load_model(
        name,
        task,
        device,
        trust_remote_code=trust_remote_code,
        execution=execution,
    )


def default_window(model: Any, usual: int) -> int:
    """Bases of a window where none are asked for.

    As many as a head has weights for, or as its longest training sequence had
    (`task.json` beside the checkpoint says), else `usual`; never more than the model
    reads at once.
    """
    wanted = (made_for(model) if has_head(model) else None) or usual
    return min(wanted, longest_read(model) or wanted)


def made_for(model: Any) -> int | None:
    """Bases of the sequences that a head was made for; None where nothing says."""
    length: int | None = getattr(model.config, "head_length", None)
    card = card_of(model)
    return card.max_length if length is None and card is not None else length


def default_strand(model: Any) -> Strand:
    """What is read where nothing else is asked for: both strands, averaged.

    But one of a head that was trained on the strand that it was given, whose sequences
    have a direction (promoters anchored at their start, splice sites): of the other it
    would be asked what it never saw.
    """
    card = card_of(model)
    return "both" if card is None else card.strand


def choose_strand(model: Any, asked: Strand | None = None) -> Strand:
    """What a model is to read: what is asked for, else its `default_strand`.

    Raises
    ------
    CrossDNAError
        Both strands of a head that was trained on the strand that it was given.
    """
    usual = default_strand(model)
    if asked == "both" and usual != "both":
        raise CrossDNAError(
            f"{model.name_or_path}: was trained on the strand that it was given, so "
            "what it says of the other would spoil the mean; choose strand + or -"
        )
    return asked or usual


def card_of(model: Any) -> TaskCard | None:
    """What ``crossdna finetune`` put beside a model's checkpoint, if it made it."""
    folder = Path(model.name_or_path or "")
    return TaskCard.read(folder) if (folder / CARD_NAME).is_file() else None


def network_name(model: PreTrainedModel) -> str:
    """The network's class without its task; of wrapped families their model_type."""
    name = type(model).__name__.partition("For")[0]
    return str(getattr(model.config, "network_type", name))


def is_causal(model: Any) -> bool:
    """Whether a model predicts a base from those before it, not from all others."""
    return type(model).__name__.endswith("ForCausalLM")


def gives_base_probabilities(model: Any) -> bool:
    """Whether a single base has a probability: not in models that read byte pairs."""
    return getattr(model, "gives_base_probabilities", True)


def hiding_unit(model: Any) -> int:
    """How many bases a model's tokens hide together with one base."""
    if isinstance(model, TokenizedPreTrainedModel):
        return model.reader.unit
    return 1


def base_log_probabilities(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    strand: Strand = "+",
) -> Tensor:
    """Log-probability of each base at each position.

    Of a masked model given all other bases that are not hidden; of a causal model given
    the bases before it (averaged over the strands: before it or behind it), 1/4 each
    for the first.

    Parameters
    ----------
    input_ids, attention_mask : (batch, length)
    strand
        What the model reads. ``both`` is the mean of the probabilities: a sequence and
        its reverse complement then get the same, mirrored.

    Returns
    -------
    (batch, length, 4) float32
        Natural logarithms; the probabilities of A C G T add up to one.

    Raises
    ------
    CrossDNAError
        A model that reads byte pairs (its bases have no probability of their own), or
        one that has not been taught our ids.
    """

    def log_probabilities(ids: Tensor, mask: Tensor | None) -> Tensor:
        logits = model(input_ids=ids, attention_mask=mask).logits
        logits = logits[..., : alphabet.NUM_BASES].float()
        if is_causal(model) and not isinstance(model, TokenizedPreTrainedModel):
            logits = _at_own_place(logits, mask)
        return logits.log_softmax(dim=-1)

    alphabet.require_strand(strand)
    require_alphabet(model)
    with asking(model):
        if strand == "+":
            return log_probabilities(input_ids, attention_mask)
        other = log_probabilities(*reverse_complement(input_ids, attention_mask))
        if strand == "-":
            return other.flip(1, 2)
        ahead = log_probabilities(input_ids, attention_mask)
        return torch.logaddexp(ahead, other.flip(1, 2)) - math.log(2)


def _at_own_place(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Move what is said of the next base to that base; nothing is said of the first."""
    moved = torch.cat([torch.zeros_like(logits[:, :1]), logits[:, :-1]], dim=1)
    if mask is None:
        return moved
    before = torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], dim=1) != 0
    return moved * before[..., None]


def embedding_size(config: Any) -> int:
    """Channels of what `embeddings` gives of a model's last layer."""
    return int(getattr(config, "representation_size", config.hidden_size))


def embeddings(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    layer: Layer = -1,
    strand: Strand = "+",
) -> Tensor:
    """Representation of each base.

    Parameters
    ----------
    input_ids, attention_mask : (batch, length)
    layer
        Index into the model's hidden states, -1 is the last; ``"all"``: all of them,
        one behind the other.
    strand
        What the model reads; ``both`` is the mean of what the strands give a base.

    Returns
    -------
    (batch, length, channels) float32

    Raises
    ------
    CrossDNAError
        A layer that the model does not have, or a model that has not been taught our
        ids.
    """

    def hidden(ids: Tensor, mask: Tensor | None) -> Tensor:
        # Not every head hands on what the network below it gives.
        base = model.base_model
        if layer == -1:
            # Not asked to keep every layer, a model has less to hold and to do.
            return base(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        states = base(
            input_ids=ids, attention_mask=mask, output_hidden_states=True
        ).hidden_states
        if layer == "all":
            return torch.cat([state.float() for state in states], dim=-1)
        if not -len(states) <= layer < len(states):
            raise CrossDNAError(
                f"layer {layer} does not exist: the model has {len(states)} (0 to "
                f"{len(states) - 1}, or -1 for the last)"
            )
        return states[layer].float()

    def mirror(x: Tensor) -> Tensor:
        return x.flip(1)

    return over_strands(model, hidden, mirror, input_ids, attention_mask, strand)
