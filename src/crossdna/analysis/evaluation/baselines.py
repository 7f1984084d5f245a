"""Markov chains and two-sided k-mer models: what counting alone knows about a genome.

Both are hierarchical Dirichlet models (MacKay and Peto, 1995): the distribution after a
context is its counts plus `concentration` pseudo-counts spread as the next shorter
context predicts. Rare contexts thus lean on shorter ones. Each concentration is the
power of two under which stretches held back from the training regions are shortest in
bits; then all training regions are counted. Both strands are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from crossdna import alphabet
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

MAX_ORDER = 10
_CONCENTRATIONS = tuple(2.0**power for power in range(-1, 16))
_STRETCH = 10_000
_HELD_BACK = 10
_BASES_AT_ONCE = 1 << 22


@dataclass(frozen=True, kw_only=True, slots=True)
class MarkovChain:
    """P(base | the bases to its left), all orders from 0 up."""

    tables: tuple[NDArray[np.float32], ...]
    """Order k: (4**k, 4). The base next to the predicted one is the lowest digit."""
    concentrations: tuple[float, ...]

    def probabilities(
        self,
        windows: NDArray[np.uint8],
        rows: NDArray[np.integer],
        columns: NDArray[np.integer],
        order: int,
    ) -> NDArray[np.float64]:
        """Predict the bases at some positions of some windows.

        Where the window begins, or an N stands, within `order` bases to the left, the
        longest order that fits is used.

        Parameters
        ----------
        windows : (windows, length) uint8
            Unmasked ids.
        rows, columns : (positions,)
            Which window, and which 0-based position in it.

        Returns
        -------
        probabilities : (positions, 4)
        """
        context = _context(windows, rows, columns, step=-1, size=order)
        result = np.empty((len(rows), alphabet.NUM_BASES))
        for size in np.unique(context.valid):
            chosen = context.valid == size
            codes = _codes(context.bases[chosen, :size])
            result[chosen] = self.tables[size][codes]
        return result


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoSidedModel:
    """P(base | k bases to its left and k to its right)."""

    tables: tuple[NDArray[np.float32], ...]
    """k: (4**k, 4, 4**k): left context, base, right context. Within a code the
    leftmost base is the highest digit."""
    concentrations: tuple[float, ...]
    bits: tuple[float, ...]
    """Bits per base on the stretches held back, for each k: `size` is the best."""
    size: int

    def probabilities(
        self,
        windows: NDArray[np.uint8],
        rows: NDArray[np.integer],
        columns: NDArray[np.integer],
    ) -> NDArray[np.float64]:
        """Predict the bases at some positions; see `MarkovChain.probabilities`.

        Near the ends of a window and beside N the largest symmetric context is used.
        """
        left = _context(windows, rows, columns, step=-1, size=self.size)
        right = _context(windows, rows, columns, step=1, size=self.size)
        valid = np.minimum(left.valid, right.valid)
        result = np.empty((len(rows), alphabet.NUM_BASES))
        for size in np.unique(valid):
            chosen = valid == size
            before = _codes(left.bases[chosen, :size])
            after = _codes(right.bases[chosen, :size][:, ::-1])
            result[chosen] = self.tables[size][before, :, after]
        return result


class Baselines(NamedTuple):
    """The fitted models and what they were fitted on."""

    markov: MarkovChain
    two_sided: TwoSidedModel
    training_bases: int
    """Bases A C G T in the training regions (one strand)."""


def fit_baselines(
    sequences: Iterable[NDArray[np.uint8]], *, max_order: int = MAX_ORDER
) -> Baselines:
    """Fit Markov chains of order 0 to `max_order` and two-sided models.

    All of them come from one table of words of ``max_order + 1`` bases: the chains
    predict the last base of a word, the two-sided models the middle one, so that the
    largest k is ``max_order // 2``.

    Parameters
    ----------
    sequences
        Training regions, each (length,) uint8 ids.

    Raises
    ------
    CrossDNAError
        The training regions are too short to hold back every tenth stretch.
    """
    counts = _count_words(sequences, max_order + 1)
    if not counts.held_back.any() or not counts.fitting.any():
        raise CrossDNAError(
            f"the training regions ({counts.bases} bases) are too short to fit Markov "
            f"models of order {max_order}; give more training chromosomes"
        )
    tuned = _fit_markov(_Words(counts.fitting), _Words(counts.held_back), None)
    sides = _fit_two_sided(_Words(counts.fitting), _Words(counts.held_back), None)
    everything = _Words(counts.fitting + counts.held_back)
    markov = _fit_markov(everything, everything, tuned.concentrations)
    final = _fit_two_sided(everything, everything, sides.concentrations)
    return Baselines(
        markov=MarkovChain(
            tables=tuple(table[..., 0] for table in markov.tables),
            concentrations=markov.concentrations,
        ),
        two_sided=TwoSidedModel(
            tables=final.tables,
            concentrations=final.concentrations,
            bits=sides.bits,
            size=int(np.argmin(sides.bits)),
        ),
        training_bases=counts.bases,
    )


class _Context(NamedTuple):
    bases: NDArray[np.uint8]
    """(positions, size), the nearest base first."""
    valid: NDArray[np.int64]
    """(positions,): how many of them, from the nearest on, are known bases inside."""


def _context(
    windows: NDArray[np.uint8],
    rows: NDArray[np.integer],
    columns: NDArray[np.integer],
    *,
    step: int,
    size: int,
) -> _Context:
    at = columns[:, None] + step * np.arange(1, size + 1)
    inside = (at >= 0) & (at < windows.shape[1])
    bases = windows[rows[:, None], np.where(inside, at, 0)]
    known = inside & (bases < alphabet.NUM_BASES)
    return _Context(bases, np.cumprod(known, axis=1, dtype=np.int64).sum(1))


def _codes(bases: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Read (positions, size) bases as numbers whose lowest digit is the first base."""
    places = alphabet.NUM_BASES ** np.arange(bases.shape[1], dtype=np.int64)
    return bases @ places


class _WordCounts(NamedTuple):
    fitting: NDArray[np.int64]
    """(4**word,): words that start outside the stretches held back; both strands."""
    held_back: NDArray[np.int64]
    bases: int


def _count_words(sequences: Iterable[NDArray[np.uint8]], word: int) -> _WordCounts:
    sequences = [np.asarray(sequence) for sequence in sequences]
    total = sum(map(len, sequences))
    # A toy genome still gets twenty stretches or more.
    stretch = max(1, min(_STRETCH, total // (2 * _HELD_BACK)))
    counts = np.zeros((2, alphabet.NUM_BASES**word), np.int64)
    bases = offset = 0
    for sequence in sequences:
        bases += int((sequence < alphabet.NUM_BASES).sum())
        for start, piece in _pieces(sequence, word):
            codes, known = _word_codes(piece, word)
            starts = offset + start + np.arange(len(codes))
            held_back = (starts // stretch) % _HELD_BACK == _HELD_BACK - 1
            for part, chosen in enumerate((known & ~held_back, known & held_back)):
                counts[part] += np.bincount(codes[chosen], minlength=counts.shape[1])
        offset += len(sequence)
    return _WordCounts(
        fitting=_both_strands(counts[0], word),
        held_back=_both_strands(counts[1], word),
        bases=bases,
    )


def _pieces(
    sequence: NDArray[np.uint8], word: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for start in range(0, len(sequence) - word + 1, _BASES_AT_ONCE):
        yield start, sequence[start : start + _BASES_AT_ONCE + word - 1]


def _word_codes(
    piece: NDArray[np.uint8], word: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Number every word by its bases, the first the highest digit; false where N."""
    number = len(piece) - word + 1
    codes = np.zeros(number, np.int32)
    known = np.ones(number, np.bool_)
    for place in range(word):
        letters = piece[place : place + number]
        codes = codes * alphabet.NUM_BASES + letters
        known &= letters < alphabet.NUM_BASES
    return codes, known


def _both_strands(counts: NDArray[np.int64], word: int) -> NDArray[np.int64]:
    axes = counts.reshape((alphabet.NUM_BASES,) * word)
    # The reverse complement of a word: its letters reversed, each 3 - id.
    reverse = np.flip(axes.transpose(range(word - 1, -1, -1)))
    return (axes + reverse).ravel()


class _Words:
    """Marginal counts of a table of words."""

    def __init__(self, counts: NDArray[np.int64]) -> None:
        self.counts = counts
        self.word = round(np.log(len(counts)) / np.log(alphabet.NUM_BASES))

    def markov(self, order: int) -> NDArray[np.float32]:
        """(4**order, 4, 1): left context, last base of the word."""
        size = alphabet.NUM_BASES**order
        table = self.counts.reshape(-1, size, alphabet.NUM_BASES, 1)
        return table.sum(0).astype(np.float32)

    def centred(self, left: int, right: int) -> NDArray[np.float32]:
        """(4**left, 4, 4**right): contexts around the middle base of the word."""
        middle = self.word // 2
        base = alphabet.NUM_BASES
        table = self.counts.reshape(
            base ** (middle - left),
            base ** (left + 1 + right),
            base ** (self.word - middle - 1 - right),
        ).sum((0, 2))
        return table.reshape(base**left, base, base**right).astype(np.float32)


class _Fitted(NamedTuple):
    tables: tuple[NDArray[np.float32], ...]
    concentrations: tuple[float, ...]
    bits: tuple[float, ...]


def _fit_markov(
    words: _Words, held_back: _Words, concentrations: Sequence[float] | None
) -> _Fitted:
    steps = _Steps(concentrations)
    prior = _uniform()
    for order in range(words.word):
        steps.add(words.markov(order), prior, held_back.markov(order))
        prior = np.tile(steps.tables[-1], (alphabet.NUM_BASES, 1, 1))
    return _Fitted(tuple(steps.tables), tuple(steps.used), tuple(steps.bits))


def _fit_two_sided(
    words: _Words, held_back: _Words, concentrations: Sequence[float] | None
) -> _Fitted:
    """Grow the context by one base on each side in turn.

    The counts of (k, k) contexts lean on the mean of what (k, k - 1) and (k - 1, k)
    predict, which keeps the model the same on both strands.
    """
    steps = _Steps(concentrations)
    steps.add(words.centred(0, 0), _uniform(), held_back.centred(0, 0))
    for size in range(1, words.word // 2 + 1):
        prior = np.tile(steps.tables[-1], (alphabet.NUM_BASES, 1, 1))
        sides = (size, size - 1)
        steps.add(words.centred(*sides), prior, held_back.centred(*sides))
        wider = np.repeat(steps.tables[-1], alphabet.NUM_BASES, axis=2)
        prior = (wider + _mirror(wider)) * np.float32(0.5)
        sides = (size, size)
        steps.add(words.centred(*sides), prior, held_back.centred(*sides))
    # Every second table is that of a symmetric context.
    return _Fitted(tuple(steps.tables[::2]), tuple(steps.used), tuple(steps.bits[::2]))


def _mirror(table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Read a (left, base, right) table on the other strand.

    Reversing a code's letters and complementing them is a transposition of its digits
    followed by a flip.
    """
    digits = [round(np.log(size) / np.log(alphabet.NUM_BASES)) for size in table.shape]
    letters = table.reshape((alphabet.NUM_BASES,) * sum(digits))
    mirrored = np.flip(letters.transpose(range(letters.ndim - 1, -1, -1)))
    return mirrored.reshape(table.shape[::-1])


def _uniform() -> NDArray[np.float32]:
    return np.full((1, alphabet.NUM_BASES, 1), 1 / alphabet.NUM_BASES, np.float32)


class _Steps:
    """Tables that lean on one another, with concentrations tuned or given."""

    def __init__(self, concentrations: Sequence[float] | None) -> None:
        self._given = concentrations
        self.tables: list[NDArray[np.float32]] = []
        self.used: list[float] = []
        self.bits: list[float] = []

    def add(
        self,
        counts: NDArray[np.float32],
        prior: NDArray[np.float32],
        held_back: NDArray[np.float32],
    ) -> None:
        """Smooth `counts` (left, base, right) towards `prior`."""
        if self._given is not None:
            concentration = self._given[len(self.used)]
        else:
            concentration, bits = _tune(counts, prior, held_back)
            self.bits.append(bits)
        self.used.append(concentration)
        self.tables.append(_smooth(counts, prior, concentration))


def _smooth(
    counts: NDArray[np.float32], prior: NDArray[np.float32], concentration: float
) -> NDArray[np.float32]:
    strength = np.float32(concentration)
    return (counts + strength * prior) / (counts.sum(1, keepdims=True) + strength)


def _tune(
    counts: NDArray[np.float32],
    prior: NDArray[np.float32],
    held_back: NDArray[np.float32],
) -> tuple[float, float]:
    """Find the concentration that needs the fewest bits per base held back."""
    seen = np.nonzero(held_back)
    weights = held_back[seen].astype(np.float64)
    counted = counts[seen].astype(np.float64)
    expected = np.broadcast_to(prior, counts.shape)[seen].astype(np.float64)
    totals = np.broadcast_to(counts.sum(1, keepdims=True), counts.shape)[seen]
    bits = [
        -(weights * np.log2((counted + a * expected) / (totals + a))).sum()
        for a in _CONCENTRATIONS
    ]
    best = int(np.argmin(bits))
    return _CONCENTRATIONS[best], float(bits[best] / weights.sum())
