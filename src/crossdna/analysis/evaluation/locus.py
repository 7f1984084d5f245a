"""One locus, base by base: what a masked model expects at each position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from crossdna import alphabet
from crossdna.analysis.evaluation.hidden import masked_log_probabilities

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crossdna.data.genome import Genome
    from crossdna.data.regions import Region


class LocusPrediction(NamedTuple):
    """Predictions for each base of a region, forward strand."""

    region: Region
    window_start: int
    """0-based; may be negative at the contig's left end."""
    ids: NDArray[np.uint8]
    """(length,): the bases of the genome."""
    probabilities: NDArray[np.float64]
    """(length, 4): of A C G T, each base predicted while it was hidden."""

    @property
    def information(self) -> NDArray[np.float64]:
        """(length,): 2 bits minus the entropy of each prediction."""
        p = self.probabilities
        return 2 + (p * np.log2(p.clip(1e-12))).sum(1)


def predict_locus(
    model: Any, genome: Genome, region: Region, *, window: int, spacing: int = 16
) -> LocusPrediction:
    """Hide every base of a region once and predict it, averaged over both strands.

    Parameters
    ----------
    region
        0-based, half-open; at most `window` long.
    window
        Bases the model sees, centred on the region; N beyond the contig's ends.
    spacing
        Bases hidden together lie so far apart, so that each is predicted from a context
        that is almost complete, in `spacing` forward passes in all.
    """
    if len(region) > window:
        raise ValueError(f"{region} is longer than the window of {window} bases")
    start = (region.start + region.end - window) // 2
    ids = genome.fetch_padded(region.contig, start, start + window)
    offset = region.start - start
    inside = offset + np.arange(len(region))
    masked = np.tile(ids.astype(np.int64), (spacing, 1))
    masked[np.arange(len(region)) % spacing, inside] = alphabet.MASK
    logs = masked_log_probabilities(model, masked, strand="both")
    chosen = logs[np.arange(len(region)) % spacing, inside]
    return LocusPrediction(region, start, ids[inside], np.exp(chosen))
