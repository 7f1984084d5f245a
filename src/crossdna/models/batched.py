"""Many sequences through a model: batches of similar length, results in input order."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossdna import alphabet
from crossdna.models.strands import sequence_logits, token_logits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from crossdna.alphabet import Strand


class Batch(NamedTuple):
    """Padded sequences, each (batch, length).

    Attributes
    ----------
    input_ids : int64
        `alphabet.PAD` behind the end of a sequence.
    attention_mask : bool or None
        None where all sequences are of one length.
    """

    input_ids: Tensor
    attention_mask: Tensor | None


def pad_batch(
    sequences: Sequence[NDArray[np.uint8]], device: torch.device | str = "cpu"
) -> Batch:
    """Put sequences below each other, padded on the right."""
    lengths = np.array([len(ids) for ids in sequences])
    ids = np.full((len(sequences), lengths.max()), alphabet.PAD, np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    input_ids = torch.from_numpy(ids).to(device)
    if (lengths == lengths[0]).all():
        return Batch(input_ids, None)
    mask = np.arange(ids.shape[1]) < lengths[:, None]
    return Batch(input_ids, torch.from_numpy(mask).to(device))


def length_batches(
    lengths: Sequence[int] | NDArray[np.integer], bases: int
) -> Iterator[NDArray[np.int64]]:
    """Rows in batches of at most `bases` padded bases, longest first.

    The longest come first so that too little memory shows at once.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    start = 0
    while start < len(order):
        size = max(1, bases // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size


def predict_logits(
    model: PreTrainedModel,
    sequences: Sequence[NDArray[np.uint8]],
    *,
    strand: Strand,
    per_base: bool = False,
    bases_per_batch: int = 1 << 15,
) -> NDArray:
    """Logits of a fine-tuned model for each sequence.

    Parameters
    ----------
    strand
        What the model reads; with ``both`` a sequence and its reverse complement get
        the same (per-base logits: mirrored).
    per_base
        Whether the model predicts per base.

    Returns
    -------
    (sequences, outputs) float32, or per base an object array of (length, outputs)
    """
    device = next(model.parameters()).device
    results: list[NDArray] = [np.empty(0)] * len(sequences)
    ask = token_logits if per_base else sequence_logits
    for rows in length_batches([len(ids) for ids in sequences], bases_per_batch):
        batch = pad_batch([sequences[row] for row in rows], device)
        logits = ask(model, *batch, strand=strand).cpu().numpy()
        for row, value in zip(rows, logits, strict=True):
            results[row] = value[: len(sequences[row])] if per_base else value
    if not per_base:
        return np.stack(results)
    ragged = np.empty(len(results), object)
    ragged[:] = results
    return ragged
