"""Both strands of a sequence, asked and averaged."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from crossdna import alphabet
from crossdna.models.execution import autocast
from crossdna.models.vocabulary import require_alphabet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedModel

    from crossdna.alphabet import Strand


@dataclass
class _Askers:
    """How many ask a model just now, in all threads, and the mode it was in before."""

    count: int = 0
    training: bool = False


_LOCK: Final = threading.Lock()
_ASKERS: Final[WeakKeyDictionary[Any, _Askers]] = WeakKeyDictionary()


@contextlib.contextmanager
def asking(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode without gradients; gives the model back in the mode it was in.

    In the precision that the model was prepared for; see `crossdna.models.execution`.
    """
    with _LOCK:
        askers = _ASKERS.setdefault(model, _Askers())
        if not askers.count:
            askers.training = model.training
            model.eval()
        askers.count += 1
    try:
        with torch.inference_mode(), autocast(model):
            yield
    finally:
        with _LOCK:
            askers.count -= 1
            if not askers.count and askers.training:
                model.train()


def reverse_complement(
    input_ids: Tensor, attention_mask: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The other strand of a padded batch: padding changes sides."""
    mask = None if attention_mask is None else attention_mask.flip(1)
    return alphabet.complement_ids(input_ids).flip(1), mask


def over_strands(
    model: PreTrainedModel,
    predict: Callable[[Tensor, Tensor | None], Tensor],
    mirror: Callable[[Tensor], Tensor],
    input_ids: Tensor,
    attention_mask: Tensor | None,
    strand: Strand,
) -> Tensor:
    """Ask for one strand, or for the mean of both.

    Parameters
    ----------
    predict
        From ids and mask to the answer.
    mirror
        From the reverse complement's answer to the order of the sequence.
    """

    def ahead() -> Tensor:
        return predict(input_ids, attention_mask)

    def back() -> Tensor:
        return mirror(predict(*reverse_complement(input_ids, attention_mask)))

    require_alphabet(model)
    with asking(model):
        return alphabet.of_strand(strand, ahead, back)


def sequence_logits(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    strand: Strand = "+",
) -> Tensor:
    """Output of a sequence head, (batch, labels) float32; averaged as logits."""

    def logits(ids: Tensor, mask: Tensor | None) -> Tensor:
        return model(input_ids=ids, attention_mask=mask).logits.float()

    return over_strands(model, logits, lambda x: x, input_ids, attention_mask, strand)


def token_logits(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    strand: Strand = "+",
) -> Tensor:
    """Output of a per-base head, (batch, length, labels) float32.

    What the reverse complement gives is mirrored. Averaging it is right for labels that
    do not depend on the strand.
    """

    def logits(ids: Tensor, mask: Tensor | None) -> Tensor:
        return model(input_ids=ids, attention_mask=mask).logits.float()

    def mirror(x: Tensor) -> Tensor:
        return x.flip(1)

    return over_strands(model, logits, mirror, input_ids, attention_mask, strand)
