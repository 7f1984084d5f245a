"""Which sequences are relatives of each other, by k-mer sketches.

Two sequences are relatives when they share at least a given part of the k-mers of the
one that has fewer (containment), either strand. With k = 12, 0.3 corresponds to about
90 % identity over the whole length (identity is about containment ** (1/k)), or to an
overlap of a third at full identity. Long inputs keep a fixed share of all k-mers,
chosen by hash (FracMinHash, Irber et al. 2022), so that memory stays bounded. K-mers of
very many sequences are repeats and no evidence; a sequence that has hardly any others,
as in a library of variants of one backbone, is compared with a bounded number of its
kind by all of its k-mers. What MMseqs2 says instead: `crossdna.data.mmseqs`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from crossdna import alphabet
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

K: Final = 12
THRESHOLD: Final = 0.3
COMMON: Final = 2000
"""A k-mer found in more distinct sequences than this is a repeat and no evidence."""
_MAX_KMERS: Final = 20_000_000
_ROWS_AT_ONCE: Final = 512
_REPETITIVE: Final = 0.5
"""A sequence with a larger share of such k-mers is compared by all that it has."""
_MODELS_AT_ONCE: Final = 64
_MOST_ROUNDS: Final = 50
_EMPTY: Final = np.zeros(0, np.uint64)


class Relatives(NamedTuple):
    """For each query, the closest of the others.

    Attributes
    ----------
    containment : (queries,) float64
        Shared part of the k-mers of the smaller one; 1 for duplicates, 0 for none.
    nearest : (queries,) int64
        Which one that is; -1 without any shared k-mer.
    """

    containment: NDArray[np.float64]
    nearest: NDArray[np.int64]


def canonical(ids: NDArray[np.uint8]) -> bytes:
    """The same bytes for a sequence and its reverse complement."""
    return min(ids.tobytes(), alphabet.reverse_complement(ids).tobytes())


def canonical_kmers(ids: NDArray[np.uint8], k: int = K) -> NDArray[np.uint64]:
    """Codes of the distinct k-mers without N, the smaller of both strands; sorted.

    Parameters
    ----------
    ids : (length,) uint8
    k
        At most 31.
    """
    if len(ids) < k:
        return _EMPTY
    forward = np.zeros(len(ids) - k + 1, np.uint64)
    reverse = forward.copy()
    valid = np.ones(len(forward), bool)
    for offset in range(k):
        bases = ids[offset : offset + len(forward)]
        valid &= bases < alphabet.NUM_BASES
        digits = bases.astype(np.uint64) & np.uint64(3)
        forward = forward << np.uint64(2) | digits
        reverse |= (np.uint64(3) - digits) << np.uint64(2 * offset)
    return np.unique(np.minimum(forward, reverse)[valid])


def nearest_relatives(
    queries: Sequence[NDArray[np.uint8]],
    others: Sequence[NDArray[np.uint8]],
    k: int = K,
) -> Relatives:
    """For each query the sequence among the others that contains most of it."""
    asked, first_asked = _distinct(queries)
    known, first_known = _distinct(others)
    distinct = [queries[row] for row in first_asked]
    distinct += [others[row] for row in first_known]
    sketches = _Sketches(distinct, k)
    count = len(first_asked)
    containment = np.zeros(count)
    nearest = np.full(count, -1, np.int64)
    for start, shared in _shared(sketches.table[:count], sketches.table[count:]):
        smaller = np.minimum(
            sketches.sizes[start + shared.row], sketches.sizes[count + shared.col]
        )
        values = shared.data / np.maximum(smaller, 1)
        # The last entry written wins, so the largest must come last in each row.
        order = np.lexsort((-shared.col, values))
        rows = start + shared.row[order]
        containment[rows] = values[order]
        nearest[rows] = shared.col[order]
    repetitive = np.flatnonzero(sketches.repetitive)
    rows = repetitive[repetitive < count]
    found = _evenly(repetitive[repetitive >= count], COMMON)
    for row, values in _containments(sketches, rows, found):
        best = int(values.argmax())
        if values[best] > containment[row]:
            containment[row], nearest[row] = values[best], found[best] - count
    for key, row in asked.items():
        if key in known:
            containment[row], nearest[row] = 1.0, known[key]
    place = np.array([asked[canonical(ids)] for ids in queries], np.int64)
    # Of copies, the first.
    originals = np.append(first_known, -1)
    return Relatives(containment[place], originals[nearest[place]])


def _distinct(
    sequences: Sequence[NDArray[np.uint8]],
) -> tuple[dict[bytes, int], NDArray[np.int64]]:
    """Number the different sequences; give the row where each stands first."""
    numbers: dict[bytes, int] = {}
    first: list[int] = []
    for row, ids in enumerate(sequences):
        if numbers.setdefault(canonical(ids), len(numbers)) == len(first):
            first.append(row)
    return numbers, np.array(first, np.int64)


def cluster(
    sequences: Sequence[NDArray[np.uint8]],
    *,
    threshold: float = THRESHOLD,
    k: int = K,
) -> NDArray[np.int64]:
    """Number of the cluster of each sequence: relatives of relatives are together.

    Duplicates and reverse complements are always in one cluster.
    """
    if not 0 < threshold <= 1:
        raise CrossDNAError(f"similarity {threshold} must lie between 0 and 1")
    groups, firsts = _distinct(sequences)
    member = np.array([groups[canonical(ids)] for ids in sequences], np.int64)
    sketches = _Sketches([sequences[row] for row in firsts], k)
    rows, columns = [], []
    for start, shared in _shared(sketches.table, sketches.table):
        smaller = np.minimum(
            sketches.sizes[start + shared.row], sketches.sizes[shared.col]
        )
        related = shared.data >= threshold * smaller
        rows.append(start + shared.row[related])
        columns.append(shared.col[related])
    alike = _repetitive_relatives(sketches, threshold)
    pairs = np.concatenate([*rows, alike[0]]), np.concatenate([*columns, alike[1]])
    graph = sparse.coo_matrix(
        (np.ones(len(pairs[0]), bool), pairs), shape=(len(firsts), len(firsts))
    )
    _, component = csgraph.connected_components(graph, directed=False)
    return component.astype(np.int64)[member]


def _repetitive_relatives(
    sketches: _Sketches, threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of repetitive sequences: each with the first of its kind.

    The first few are compared with all, then the first few of those that are not yet
    related to any, and so on, for a bounded number of rounds.
    """
    left = np.flatnonzero(sketches.repetitive)
    first, second = [], []
    for _ in range(_MOST_ROUNDS):
        if not left.size:
            break
        models = left[:_MODELS_AT_ONCE]
        related = np.zeros((len(left), len(models)), bool)
        for place, (_, values) in enumerate(_containments(sketches, left, models)):
            related[place] = values >= threshold
        # A sequence is its own relative, even one that is too short for a k-mer.
        related[: len(models)] |= np.eye(len(models), dtype=bool)
        row, column = np.nonzero(related)
        first.append(left[row])
        second.append(models[column])
        left = left[~related.any(1)]
    none = np.zeros(0, np.int64)
    return np.concatenate([*first, none]), np.concatenate([*second, none])


def _containments(
    sketches: _Sketches, rows: NDArray[np.int64], others: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """For each row its (others,) containments by all k-mers; of repetitive ones."""
    if not others.size:
        return
    turned = sketches.whole[others].T.tocsr()
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        shared = (sketches.whole[some] @ turned).toarray()
        smaller = np.minimum(sketches.sizes[some][:, None], sketches.sizes[others])
        yield from zip(some.tolist(), shared / np.maximum(smaller, 1), strict=True)


def _evenly(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most so many, spread over all of them."""
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64)]


class _Sketches:
    """k-mer sets of different sequences as sparse tables.

    Attributes
    ----------
    table : (sequences, k-mers) sparse, one where a sequence has the k-mer
        Repeats left out.
    sizes : (sequences,) k-mers of each, repeats included
    repetitive : (sequences,) bool
        Those of which the table tells little, since most of what they have is repeats.
    whole : (sequences, k-mers) sparse
        Of repetitive sequences all k-mers; of others none.
    """

    def __init__(self, sequences: Sequence[NDArray[np.uint8]], k: int) -> None:
        total = sum(max(0, len(ids) - k + 1) for ids in sequences)
        keep = min(1.0, _MAX_KMERS / max(total, 1))
        kmers = [_sampled(canonical_kmers(ids, k), keep) for ids in sequences]
        self.sizes = np.array([len(codes) for codes in kmers], np.int64)
        codes, columns, counts = np.unique(
            np.concatenate([*kmers, _EMPTY]), return_inverse=True, return_counts=True
        )
        rows = np.repeat(np.arange(len(sequences)), self.sizes)
        repeats = (counts > COMMON)[columns]
        shared = (counts > 1)[columns]
        of_repeats = np.bincount(rows[repeats], minlength=len(sequences))
        self.repetitive = of_repeats > _REPETITIVE * self.sizes

        def table(told: NDArray[np.bool_]) -> sparse.csr_matrix:
            return sparse.csr_matrix(
                (np.ones(int(told.sum()), np.int32), (rows[told], columns[told])),
                shape=(len(sequences), max(len(codes), 1)),
            )

        self.table = table(shared & ~repeats)
        self.whole = table(shared & self.repetitive[rows])


def _sampled(codes: NDArray[np.uint64], keep: float) -> NDArray[np.uint64]:
    if keep >= 1:
        return codes
    # A multiplicative hash (Knuth); overflow is what makes it one.
    hashed = codes * np.uint64(0x9E3779B97F4A7C15)
    hashed ^= hashed >> np.uint64(29)
    hashed *= np.uint64(0xBF58476D1CE4E5B9)
    return codes[hashed < np.uint64(int(keep * (2**64 - 1)))]


def _shared(
    first: sparse.csr_matrix, second: sparse.csr_matrix
) -> Iterator[tuple[int, sparse.coo_matrix]]:
    """Numbers of shared k-mers, for a stretch of rows at a time."""
    turned = second.T.tocsr()
    for start in range(0, first.shape[0], _ROWS_AT_ONCE):
        yield start, (first[start : start + _ROWS_AT_ONCE] @ turned).tocoo()
