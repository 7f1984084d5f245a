"""Padded batches: move every sequence to the left edge, and back again at the end."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from crossdna import alphabet
from crossdna.errors import CrossDNAError


class Alignment(NamedTuple):
    """A batch whose sequences all start at position 0.

    Attributes
    ----------
    ids : (batch, length) int64
    mask : (batch, length) bool or None
        None where there is no padding to know of.
    lengths : (batch,) int64 or None
        Bases in each sequence.
    back : (batch, length) int64 or None
        For each original position, where its base stands now.
    """

    ids: Tensor
    mask: Tensor | None = None
    lengths: Tensor | None = None
    back: Tensor | None = None

    def restore(self, x: Tensor) -> Tensor:
        """Put (batch, length, channels) back where the sequences came from."""
        return x if self.back is None else _take(x, self.back)


def align_left(ids: Tensor, attention_mask: Tensor | None) -> Alignment:
    """Rotate each row so that its first base comes first.

    Works without asking the device for a value, so that nothing waits for it.

    Raises
    ------
    CrossDNAError
        On a CPU, where the check costs nothing: a mask with a gap, or without a base.
    """
    if attention_mask is None:
        return Alignment(ids)
    mask = attention_mask.to(device=ids.device) != 0
    if mask.device.type == "cpu":
        _check(mask)
        if bool(mask.all()):
            return Alignment(ids)
    positions = torch.arange(ids.shape[1], device=ids.device)
    shift = mask.int().argmax(dim=1, keepdim=True)
    there = (positions + shift) % ids.shape[1]
    back = (positions - shift) % ids.shape[1]
    lengths = mask.sum(dim=1)
    mask = positions < lengths.unsqueeze(1)
    ids = ids.gather(1, there).masked_fill(~mask, alphabet.PAD)
    return Alignment(ids, mask, lengths, back)


def _check(mask: Tensor) -> None:
    starts = mask[:, :1].sum(1) + (mask[:, 1:] & ~mask[:, :-1]).sum(1)
    if bool((starts != 1).any()):
        row = int((starts != 1).int().argmax())
        fault = "has gaps" if int(starts[row]) else "marks no base"
        raise CrossDNAError(
            f"attention_mask of sequence {row} {fault}; "
            "padding may stand left or right of a sequence only"
        )


def flip_valid(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Reverse each row within its first `lengths` positions.

    Parameters
    ----------
    x : (batch, length) or (batch, length, channels)
    lengths : (batch,) int64 or None
        None reverses whole rows. What stands behind is of no meaning afterwards.
    """
    if lengths is None:
        return x.flip(1)
    positions = torch.arange(x.shape[1], device=x.device)
    index = (lengths.unsqueeze(1) - 1 - positions) % x.shape[1]
    return _take(x, index) if x.dim() == 3 else x.gather(1, index)


def _take(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
