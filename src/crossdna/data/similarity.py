"""Which sequences are relatives of each other, by k-mer sketches.

Two sequences are relatives when they share at least a given part of the k-mers of the
one that has fewer (containment), either strand. With k = 12, 0.3 corresponds to about
90 % identity over the whole length (identity is about containment ** (1/k)), or to an
overlap of a third at full identity. Long inputs keep a fixed share of all k-mers,
chosen by hash (FracMinHash, Irber et al. 2022), so that memory stays bounded. What
MMseqs2 says instead: `crossdna.data.mmseqs`.
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
    sketches = _Sketches([*queries, *others], k)
    first, second = sketches.split(len(queries))
    containment = np.zeros(len(queries))
    nearest = np.full(len(queries), -1, np.int64)
    for start, shared in _shared(first, second):
        smaller = np.minimum(
            sketches.sizes[start + shared.row],
            sketches.sizes[len(queries) + shared.col],
        )
        values = shared.data / np.maximum(smaller, 1)
        # The last entry written wins, so the largest must come last in each row.
        order = np.lexsort((-shared.col, values))
        rows = start + shared.row[order]
        containment[rows] = values[order]
        nearest[rows] = shared.col[order]
    same = {canonical(ids): row for row, ids in reversed(list(enumerate(others)))}
    for row, ids in enumerate(queries):
        if (place := same.get(canonical(ids))) is not None:
            containment[row], nearest[row] = 1.0, place
    return Relatives(containment, nearest)


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
    groups: dict[bytes, int] = {}
    member = np.array(
        [groups.setdefault(canonical(ids), len(groups)) for ids in sequences], np.int64
    )
    firsts = np.unique(member, return_index=True)[1]
    sketches = _Sketches([sequences[row] for row in firsts], k)
    rows, columns = [], []
    for start, shared in _shared(sketches.table, sketches.table):
        smaller = np.minimum(
            sketches.sizes[start + shared.row], sketches.sizes[shared.col]
        )
        related = shared.data >= threshold * smaller
        rows.append(start + shared.row[related])
        columns.append(shared.col[related])
    pairs = np.concatenate(rows), np.concatenate(columns)
    graph = sparse.coo_matrix(
        (np.ones(len(pairs[0]), bool), pairs), shape=(len(firsts), len(firsts))
    )
    _, component = csgraph.connected_components(graph, directed=False)
    return component.astype(np.int64)[member]


class _Sketches:
    """k-mer sets of sequences as a sparse table, repeats left out of it.

    Attributes
    ----------
    table : (sequences, k-mers) sparse, one where a sequence has the k-mer
    sizes : (sequences,) k-mers of each, repeats included
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
        told = (counts <= COMMON)[columns] & (counts > 1)[columns]
        self.table = sparse.csr_matrix(
            (np.ones(int(told.sum()), np.int32), (rows[told], columns[told])),
            shape=(len(sequences), max(len(codes), 1)),
        )

    def split(self, first: int) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        return self.table[:first], self.table[first:]


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
