"""How far a model's predictions depend on the strand that it is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from crossdna import alphabet
from crossdna.analysis.evaluation.hidden import (
    Hidden,
    batches,
    hide_random,
    masked_log_probabilities,
    tile_windows,
)
from crossdna.analysis.evaluation.measure import EvaluationSettings, window_sums
from crossdna.analysis.statistics import Interval, interval, resampled_ratios

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crossdna.alphabet import Strand
    from crossdna.data.genome import Genome
    from crossdna.data.regions import Region


class StrandDifference(NamedTuple):
    """Mean absolute difference between the probabilities from the two strands."""

    single: Interval
    """Each strand read by itself."""
    averaged: Interval
    """With strand averaging: zero up to rounding."""
    windows: int


def strand_difference(
    model: Any,
    genome: Genome,
    regions: Sequence[Region],
    settings: EvaluationSettings,
    *,
    max_windows: int = 64,
) -> StrandDifference:
    """Compare predictions for masked windows with those for their reverse complements.

    Over the bases hidden under the condition ``random``, the four probabilities weigh
    equally.

    Parameters
    ----------
    max_windows
        So many windows are enough for three digits.
    """
    tiles = tile_windows(regions, settings.window, max_windows)
    sums: dict[Strand, list[NDArray]] = {"+": [], "both": []}
    counts = []
    for tile in tiles:
        for batch in batches(tile, settings.batch_size):
            windows = genome.gather(batch.contig, batch.starts, settings.window).ids
            hidden = hide_random(
                windows, batch.indices, share=settings.mask_share, seed=settings.seed
            )
            ones = np.ones((1, len(hidden.rows)))
            counts.append(window_sums(ones, hidden))
            for strand, parts in sums.items():
                apart = _difference(model, hidden, strand=strand)
                parts.append(window_sums(apart[None], hidden))
    draws = {"resamples": settings.resamples, "seed": settings.seed}
    hidden_bases = np.concatenate(counts)[:, 0]
    found = {}
    for strand, parts in sums.items():
        ratios = resampled_ratios(np.concatenate(parts)[:, 0], hidden_bases, **draws)
        found[strand] = interval(float(ratios.estimate), ratios.resampled)
    return StrandDifference(found["+"], found["both"], len(hidden_bases))


def _difference(model: Any, hidden: Hidden, *, strand: Strand) -> NDArray[np.float64]:
    forward = masked_log_probabilities(model, hidden.masked, strand=strand)
    mirrored = alphabet.reverse_complement(hidden.masked.astype(np.uint8))
    reverse = masked_log_probabilities(model, mirrored.astype(np.int64), strand=strand)[
        :, ::-1, ::-1
    ]
    at = hidden.rows, hidden.columns
    return np.abs(np.exp(forward[at]) - np.exp(reverse[at])).mean(-1)
