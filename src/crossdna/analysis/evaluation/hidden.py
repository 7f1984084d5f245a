"""Windows of a genome with bases to predict, and what a model says of them."""

from __future__ import annotations

import math
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

    from crossdna.alphabet import Strand
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

    @property
    def chosen(self) -> NDArray[np.bool_]:
        """(windows, length): which bases are hidden, or asked for."""
        found = np.zeros(self.windows.shape, np.bool_)
        found[self.rows, self.columns] = True
        return found


class Predicted(NamedTuple):
    """What a predictor made of the hidden bases.

    Attributes
    ----------
    bits : (positions,)
        -log2 of the true base's probability.
    right : (positions,) bool
        Whether the true base was the most probable one.
    """

    bits: NDArray[np.floating]
    right: NDArray[np.bool_]

    @classmethod
    def of(cls, probabilities: NDArray[np.floating], hidden: Hidden) -> Predicted:
        """From probabilities (positions, 4) of A C G T at the hidden bases."""
        truth = hidden.truth
        right = probabilities[np.arange(len(truth)), truth]
        return cls(-np.log2(right), probabilities.argmax(1) == truth)


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


def predicts_tokens(model: Any) -> bool:
    """Whether a language model predicts whole tokens only, no single bases."""
    return not getattr(model, "gives_base_probabilities", True)


def hide_whole(model: Any, hidden: Hidden) -> Hidden:
    """Ask for whole tokens instead: all those that begin with a hidden base.

    For byte pairs, whose single bases cannot be hidden. As many bases of the windows
    are hidden, on average, but those of a token together.

    Parameters
    ----------
    model
        A `TokenizedForMaskedLM`, or a `TokenizedForCausalLM`, which hides nothing.
    """
    import torch

    ids = torch.from_numpy(hidden.windows.astype(np.int64)).to(model.device)
    chosen = torch.from_numpy(hidden.chosen).to(model.device)
    whole = model.whole_tokens(ids, chosen).cpu().numpy()
    if model.causal:
        return Hidden(hidden.windows, hidden.masked, *np.nonzero(whole))
    return _hide(hidden.windows, whole)


def _hide(windows: NDArray[np.uint8], chosen: NDArray[np.bool_]) -> Hidden:
    rows, columns = np.nonzero(chosen)
    masked = np.where(chosen, alphabet.MASK, windows).astype(np.int64)
    return Hidden(windows, masked, rows, columns)


def masked_log_probabilities(
    model: Any, masked: NDArray[np.int64], *, strand: Strand
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
    logs = base_log_probabilities(model, ids, strand=strand)
    return logs.double().cpu().numpy()


def token_predictions(model: Any, hidden: Hidden) -> Predicted:
    """Let a model of byte pairs predict the tokens that `hide_whole` asks for.

    Each base counts an equal part of its token's bits, and is right if the most
    probable token has it at its place.
    """
    import torch

    from crossdna.models.strands import asking

    ids = torch.from_numpy(hidden.windows.astype(np.int64)).to(model.device)
    with asking(model):
        answer = model.token_answers(
            ids, torch.from_numpy(hidden.chosen).to(ids.device)
        )
    at = hidden.rows, hidden.columns
    letters = answer.letters.cpu().numpy()[at]
    bits = answer.logs.cpu().numpy()[at] / -math.log(2)
    return Predicted(bits, letters == hidden.truth)
