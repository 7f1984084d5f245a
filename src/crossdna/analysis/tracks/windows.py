"""Tracks of models that cannot be streamed, and of sequence heads: window by window.

A unit of work gives rows of a result file that no other unit writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch

from crossdna import alphabet
from crossdna.analysis.inference import (
    base_log_probabilities,
    embeddings,
    hiding_unit,
    is_causal,
    sequence_logits,
    token_logits,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from crossdna.analysis.tracks.settings import TrackSettings

WINDOWS_TOGETHER: Final = 64


class Unit(NamedTuple):
    """What one unit of work gives."""

    start: int
    """Where its rows begin: a number of a row, or a base for `bin_windows`."""
    done: int
    """Bases of the region that are finished with it."""
    values: NDArray[np.float32]
    """(rows, columns)"""


def probability_windows(
    model: Any, fetch: Any, length: int, settings: TrackSettings, number: int
) -> Unit:
    """Predict the bases of one stretch from windows with a quarter around as flanks.

    Bases that share their tokens with k others are hidden k times as far apart. For a
    causal model nothing is hidden: it does not see the base that it predicts.
    """
    window = min(settings.window, length)
    step = max(1, settings.window // 2)
    begin = number * step
    behind = min(begin + step, length)
    start = min(max(0, begin - (settings.window - step) // 2), length - window)
    ids = fetch(start, start + window).astype(np.int64)
    loci = np.arange(start, start + window)
    spacing = 0 if is_causal(model) else settings.mask_spacing * hiding_unit(model)
    passes = np.arange(max(1, spacing))
    bases = ids < alphabet.NUM_BASES
    hidden = bases & (loci % max(1, spacing) == passes[:, None])
    copies = np.where(hidden, alphabet.MASK, ids) if spacing else ids[None]
    logs = [
        base_log_probabilities(
            model,
            torch.from_numpy(copies[row : row + settings.batch_size]).to(model.device),
            strand=settings.strand,
        )
        for row in range(0, len(copies), settings.batch_size)
    ]
    probabilities = torch.cat(logs).exp().cpu().numpy()
    chosen = np.arange(begin - start, behind - start)
    rows = loci[chosen] % max(1, spacing)
    values = probabilities[rows, chosen].astype(np.float32)
    values[~bases[chosen]] = np.nan
    return Unit(begin, behind, values)


def head_windows(
    model: Any, fetch: Any, length: int, settings: TrackSettings, number: int
) -> Unit:
    """Ask a head about a run of windows, each centred on the bases it stands for."""
    window = min(settings.window, length)
    first = number * WINDOWS_TOGETHER
    count = min(WINDOWS_TOGETHER, -(-length // settings.step) - first)
    middles = (first + np.arange(count)) * settings.step + settings.step // 2
    starts = np.clip(middles - window // 2, 0, length - window)
    low = int(starts[0])
    stretch = fetch(low, int(starts[-1]) + window)
    ids = np.stack([stretch[start - low :][:window] for start in starts])
    logits = [
        sequence_logits(
            model,
            torch.from_numpy(ids[row : row + settings.batch_size].astype(np.int64)).to(
                model.device
            ),
            strand=settings.strand,
        )
        for row in range(0, count, settings.batch_size)
    ]
    values = torch.cat(logits).cpu().numpy().astype(np.float32)
    # A window of gaps says nothing.
    values[(ids >= alphabet.NUM_BASES).mean(1) > 0.5] = np.nan
    return Unit(first, min((first + count) * settings.step, length), values)


def token_windows(
    model: Any, fetch: Any, length: int, settings: TrackSettings, number: int
) -> Unit:
    """Ask a per-base head about a run of stretches."""

    def read(ids: Tensor) -> Tensor:
        return token_logits(model, ids, strand=settings.strand)

    step = max(1, settings.window // 2)
    begin = number * step * WINDOWS_TOGETHER
    behind = min(begin + step * WINDOWS_TOGETHER, length)
    values = _stretches(model, fetch, length, settings, (begin, behind), read)
    values[fetch(begin, behind) >= alphabet.NUM_BASES] = np.nan
    return Unit(begin, behind, values)


def bin_windows(
    model: Any, fetch: Any, length: int, settings: TrackSettings, number: int
) -> Unit:
    """Represent the bases of whole bins, as many as about fill a run of windows."""

    def read(ids: Tensor) -> Tensor:
        return embeddings(model, ids, strand=settings.strand)

    size = settings.bin * max(
        1, settings.window // 2 * WINDOWS_TOGETHER // settings.bin
    )
    begin, behind = number * size, min((number + 1) * size, length)
    values = _stretches(model, fetch, length, settings, (begin, behind), read)
    return Unit(begin, behind, values)


def _stretches(
    model: Any,
    fetch: Any,
    length: int,
    settings: TrackSettings,
    wanted: tuple[int, int],
    read: Callable[[Tensor], Tensor],
) -> NDArray[np.float32]:
    """Rows (bases, columns) of bases from the middles of windows.

    Stretches begin at multiples of half a window; each is read with a quarter of a
    window on either side, so what a base gets does not depend on what is wanted.
    """
    window = min(settings.window, length)
    step = max(1, settings.window // 2)
    begins = range(wanted[0] // step * step, wanted[1], step)
    flank = (settings.window - step) // 2
    starts = [min(max(0, begin - flank), length - window) for begin in begins]
    parts = []
    for first in range(0, len(starts), settings.batch_size):
        chosen = starts[first : first + settings.batch_size]
        ids = np.stack([fetch(start, start + window) for start in chosen])
        tensor = torch.from_numpy(ids.astype(np.int64)).to(model.device)
        values = read(tensor).float().cpu().numpy()
        here = begins[first : first + settings.batch_size]
        for row, (begin, start) in enumerate(zip(here, chosen, strict=True)):
            low = max(begin, wanted[0]) - start
            high = min(begin + step, wanted[1]) - start
            parts.append(values[row, low:high])
    return np.concatenate(parts)
