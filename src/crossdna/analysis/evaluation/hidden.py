"""Windows of a genome with bases to predict, and what a model says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from crossdna import alphabet
from crossdna.data.draws import raw_draws
from crossdna.data.masking import MaskingConfig, mask_bases
from crossdna.data.windows import evaluation_windows
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from crossdna.data.regions import Region

# Apart from the streams of crossdna.data.draws: offsets are drawn here alone.
_OFFSET_STREAM = 101


class Hidden(NamedTuple):
    """A batch of windows and the bases to be predicted in it."""

    windows: NDArray[np.uint8]
    """(windows, length): the true ids."""
    masked: NDArray[np.int64]
    """(windows, length): the ids with every hidden base as [MASK]; to a causal model
    nothing is hidden."""
    rows: NDArray[np.int64]
    """(positions,): the window of each hidden base."""
    columns: NDArray[np.int64]
    """(positions,): its 0-based position in that window."""

    @property
    def truth(self) -> NDArray[np.uint8]:
        """(positions,): the hidden bases."""
        return self.windows[self.rows, self.columns]


class WindowStarts(NamedTuple):
    """Windows of one contig."""

    contig: str
    starts: NDArray[np.int64]
    indices: NDArray[np.int64]
    """Numbers among all windows of the regions: they decide what is hidden."""


def tile_windows(
    regions: Sequence[Region], length: int, max_windows: int = 0
) -> list[WindowStarts]:
    """Cut regions into windows that do not overlap.

    Parameters
    ----------
    regions
        0-based, half-open. What does not fill a window at the end is left out.
    length
        Bases in a window.
    max_windows
        If there are more, so many are taken, spread evenly; 0 takes all.

    Raises
    ------
    CrossDNAError
        No region is as long as a window.
    """
    places = [
        (tile.region.contig, tile.region.start)
        for tile in evaluation_windows(regions, length)
        if tile.new == length
    ]
    if not places:
        raise CrossDNAError(
            f"no region holds a window of {length} bases; choose shorter windows"
        )
    numbers = np.arange(len(places))
    if max_windows and len(places) > max_windows:
        numbers = np.linspace(0, len(places) - 1, max_windows).round().astype(np.int64)
    tiles = []
    for contig in dict.fromkeys(places[number][0] for number in numbers):
        chosen = np.array([i for i in numbers if places[i][0] == contig])
        starts = np.array([places[i][1] for i in chosen])
        tiles.append(WindowStarts(contig, starts, chosen))
    return tiles


def batches(tile: WindowStarts, size: int) -> Iterator[WindowStarts]:
    """Cut the windows of a contig into batches."""
    for first in range(0, len(tile.starts), size):
        part = slice(first, first + size)
        yield WindowStarts(tile.contig, tile.starts[part], tile.indices[part])


def hide_random(
    windows: NDArray[np.uint8], indices: NDArray[np.int64], *, share: float, seed: int
) -> Hidden:
    """Hide a random share of the bases A C G T, all shown as [MASK].

    Parameters
    ----------
    windows : (windows, length) uint8
    indices : (windows,)
        What is hidden in a window depends on its number and the seed only.
    """
    config = MaskingConfig(share=share, mask_share=1.0, random_share=0.0)
    labels = mask_bases(windows, indices, seed=seed, config=config).labels
    return _hide(windows, labels >= 0)


def hide_isolated(
    windows: NDArray[np.uint8], indices: NDArray[np.int64], *, spacing: int, seed: int
) -> Hidden:
    """Hide every `spacing`-th base from a random offset on; see `hide_random`."""
    draws = raw_draws(seed, _OFFSET_STREAM, indices, 1)
    offsets = (draws % np.uint64(spacing)).astype(np.int64)
    columns = np.arange(windows.shape[1])
    chosen = (columns - offsets) % spacing == 0
    return _hide(windows, chosen & (windows < alphabet.NUM_BASES))


def ask_next(windows: NDArray[np.uint8]) -> Hidden:
    """Ask for every base A C G T that has a base before it in its window."""
    known = windows < alphabet.NUM_BASES
    known[:, 0] = False
    return Hidden(windows, windows.astype(np.int64), *np.nonzero(known))


def _hide(windows: NDArray[np.uint8], chosen: NDArray[np.bool_]) -> Hidden:
    rows, columns = np.nonzero(chosen)
    masked = np.where(chosen, alphabet.MASK, windows).astype(np.int64)
    return Hidden(windows, masked, rows, columns)


def masked_log_probabilities(
    model: Any, masked: NDArray[np.int64], *, strand_average: bool
) -> NDArray[np.float64]:
    """Log probabilities (windows, length, 4) of A C G T from a language model.

    Parameters
    ----------
    masked : (windows, length) int64
        Ids; hidden bases are [MASK].
    """
    import torch

    from crossdna.analysis.inference import base_log_probabilities

    ids = torch.from_numpy(masked).to(model.device)
    logs = base_log_probabilities(model, ids, strand_average=strand_average)
    return logs.double().cpu().numpy()
