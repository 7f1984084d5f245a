"""Motif detectors of a head on copies of windows with one base changed.

A detector's answer changes only within its reach of the edit. Of a window as it is,
maxima and sums up to each base and from each base on are kept, so that a copy costs
what its few changed answers cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from crossdna import alphabet
from crossdna.models.heads import MOTIF_CONTEXT_KERNEL, MOTIF_KERNEL

if TYPE_CHECKING:
    from torch import Tensor

    from crossdna.models.heads import MotifDetectors, SequenceHead

# Bases to either side of an edit where a filter on filters answers otherwise.
_REACH: Final = MOTIF_KERNEL // 2 + MOTIF_CONTEXT_KERNEL // 2


class EditedMotifs:
    """What a head's detectors find in copies of windows.

    Parameters
    ----------
    head
    ids : (windows, length) int64
    """

    def __init__(self, head: SequenceHead, ids: Tensor) -> None:
        self._by_base = self._forward = self._reverse = None
        if head.base_motifs is not None:
            self._by_base = _Windows(head.base_motifs, ids)
        elif head.strand_motifs is not None:
            detectors = head.strand_motifs.detectors
            self._forward = _Windows(detectors, ids)
            self._reverse = _Windows(detectors, alphabet.complement_ids(ids).flip(1))

    def read(self, edited: Tensor, windows: Tensor, positions: Tensor) -> Tensor | None:
        """Give what `SequenceHead.read_bases` gives for the copies.

        Parameters
        ----------
        edited : (edits, length) int64
        windows, positions : (edits,) int64
            Of which window each is a copy, and where it differs, 0-based.
        """
        if self._by_base is not None:
            return self._by_base.by_base(edited, windows, positions)
        if self._forward is None or self._reverse is None:
            return None
        other = alphabet.complement_ids(edited).flip(1)
        mirrored = edited.shape[1] - 1 - positions
        return torch.maximum(
            self._forward.pooled(edited, windows, positions),
            self._reverse.pooled(other, windows, mirrored),
        )


class _Changed(NamedTuple):
    """Answers around the edits."""

    places: Tensor
    """(edits, 2 * reach + 1): bases of the window, some of them beyond its ends."""
    inside: Tensor
    """The same shape: which are not beyond the ends."""
    found: Tensor
    """(edits, 2 * reach + 1, width); 0 beyond the ends."""


class _Windows:
    """Answers along windows as they are, in reading order of one strand."""

    def __init__(self, detectors: MotifDetectors, ids: Tensor) -> None:
        self.detectors, self.length = detectors, ids.shape[1]
        self.found = detectors(ids, None)
        # Answers are never negative, so 0 is neutral to maxima as well as to sums.
        nothing = torch.zeros_like(self.found[:, :1])
        back = self.found.flip(1)
        self.highest_before = _behind(nothing, self.found.cummax(1).values)
        self.highest_from = _behind(nothing, back.cummax(1).values).flip(1)
        self.sum_before = _behind(nothing, self.found.cumsum(1))
        self.sum_from = _behind(nothing, back.cumsum(1)).flip(1)

    def by_base(self, edited: Tensor, windows: Tensor, positions: Tensor) -> Tensor:
        """Answers (edits, length, width)."""
        changed = self._changed(edited, positions)
        found = self.found[windows]
        rows, columns = changed.inside.nonzero(as_tuple=True)
        found[rows, changed.places[rows, columns]] = changed.found[rows, columns]
        return found

    def pooled(self, edited: Tensor, windows: Tensor, positions: Tensor) -> Tensor:
        """Maxima and means (edits, 2 * width)."""
        found = self._changed(edited, positions).found
        before = windows, (positions - _REACH).clamp(min=0)
        behind = windows, (positions + _REACH + 1).clamp(max=self.length)
        around = torch.maximum(self.highest_before[before], self.highest_from[behind])
        sums = self.sum_before[before] + found.sum(1) + self.sum_from[behind]
        highest = torch.maximum(around, found.amax(1))
        return torch.cat([highest, sums / self.length], dim=-1)

    def _changed(self, edited: Tensor, positions: Tensor) -> _Changed:
        # As far again as is changed is read, for the filters to see all they look at.
        offsets = torch.arange(-2 * _REACH, 2 * _REACH + 1, device=edited.device)
        places = positions[:, None] + offsets
        inside = (places >= 0) & (places < self.length)
        bases = edited.gather(1, places.clamp(0, self.length - 1))
        found = self.detectors(bases, inside) * inside[..., None]
        kept = slice(_REACH, -_REACH)
        return _Changed(places[:, kept], inside[:, kept], found[:, kept])


def _behind(first: Tensor, x: Tensor) -> Tensor:
    return torch.cat([first, x], dim=1)
