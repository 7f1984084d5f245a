"""Many sequences through a model: batches of similar length, results in input order."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossdna import alphabet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel


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
    strand_average: bool,
    per_base: bool = False,
    bases_per_batch: int = 1 << 15,
    advance: Callable[[int], None] = lambda rows: None,
) -> NDArray:
    """Logits of a fine-tuned model for each sequence.

    Parameters
    ----------
    strand_average
        Mean over both strands, so that a sequence and its reverse complement get the
        same (per-base logits: mirrored).
    per_base
        Whether the model predicts per base.
    advance
        Told how many more sequences are done.

    Returns
    -------
    (sequences, outputs) float32, or per base an object array of (length, outputs)
    """
    device = next(model.parameters()).device
    results: list[NDArray] = [np.empty(0)] * len(sequences)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for rows in length_batches(
                [len(ids) for ids in sequences], bases_per_batch
            ):
                chosen = [sequences[row] for row in rows]
                values = _logits(model, pad_batch(chosen, device), per_base)
                if strand_average:
                    other = [alphabet.reverse_complement(ids) for ids in chosen]
                    turned = _logits(model, pad_batch(other, device), per_base)
                    values = [
                        (ahead + (back[::-1] if per_base else back)) / 2
                        for ahead, back in zip(values, turned, strict=True)
                    ]
                for row, value in zip(rows, values, strict=True):
                    results[row] = value
                advance(len(rows))
    finally:
        model.train(was_training)
    if not per_base:
        return np.stack(results)
    ragged = np.empty(len(results), object)
    ragged[:] = results
    return ragged


def _logits(model: PreTrainedModel, batch: Batch, per_base: bool) -> list[NDArray]:
    output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    logits = output.logits.float().cpu().numpy()
    if not per_base or batch.attention_mask is None:
        return list(logits)
    lengths = batch.attention_mask.sum(1).tolist()
    return [row[:length] for row, length in zip(logits, lengths, strict=True)]
