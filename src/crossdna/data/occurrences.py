"""Where given sequences occur in a genome, on either strand.

For a genome to pretrain on: what a model is to be judged by must be found in it, and
left out. Seeds are all k-mers of a sequence; an occurrence is a diagonal (position in
the genome minus position in the sequence) that enough of them agree on, so that a few
substitutions between assemblies do not hide it. Sequences whose seeds are repeats are
searched as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from crossdna import alphabet
from crossdna.data.regions import Region, merge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from crossdna.data.genome import Genome

K: Final = 24
LEAST: Final = 0.5
"""Share of the k-mers of a sequence that have to agree."""
_COMMON: Final = 32
"""A seed found more often than this in a stretch is a repeat."""
_STRETCH: Final = 8_000_000
_TABLE_BITS: Final = 28
_COPY_BITS: Final = 29
_AT_ONCE: Final = 20_000


class _Seeds(NamedTuple):
    """k-mers of the sequences, both strands."""

    codes: NDArray[np.uint64]
    owners: NDArray[np.int32]
    """Row in `texts`."""
    offsets: NDArray[np.int32]
    """Where the k-mer begins in its sequence."""
    texts: list[NDArray[np.uint8]]
    """The sequences, then their reverse complements."""
    totals: NDArray[np.int64]
    """Seeds of each sequence."""


def find_occurrences(
    genome: Genome,
    sequences: Sequence[NDArray[np.uint8]],
    *,
    k: int = K,
    least: float = LEAST,
) -> list[Region]:
    """Say where in a genome sequences lie, whole or with few differences.

    Parameters
    ----------
    sequences
        Ids of each; those shorter than `k` or without `k` known bases in a row are not
        looked for.
    k
        At most 31.
    least
        Share of a sequence's k-mers that have to lie in one order and distance.

    Returns
    -------
    regions
        Stretches of the genome, merged, without strand.
    """
    seeds = _seeds(_possible(genome, sequences, k, least), k)
    longest = max(map(len, seeds.texts), default=0)
    found: list[Region] = []
    for contig, size in genome.contigs.items():
        for start in range(0, size, _STRETCH):
            ids = genome.fetch(contig, start, min(start + _STRETCH + longest, size))
            for first, last in _spans(ids, seeds, k, least):
                low, high = max(start + first, 0), min(start + last, size)
                if low < high:
                    found.append(Region(contig, low, high))
    return merge(found)


def _possible(
    genome: Genome, sequences: Sequence[NDArray[np.uint8]], k: int, least: float
) -> list[NDArray[np.uint8]]:
    """The sequences enough of whose k-mers are anywhere in the genome."""
    present = np.zeros(1 << _TABLE_BITS, bool)
    for contig, size in genome.contigs.items():
        ids = genome.fetch(contig, 0, size)
        for strand in (ids, alphabet.reverse_complement(ids)):
            codes, valid = _codes(strand, k)
            present[_slots(codes[valid])] = True
    kept: list[NDArray[np.uint8]] = []
    long = [ids for ids in sequences if len(ids) >= k]
    for start in range(0, len(long), _AT_ONCE):
        texts = long[start : start + _AT_ONCE]
        codes, valid = _codes(np.concatenate(texts), k)
        ends = np.cumsum([len(ids) for ids in texts])
        starts = ends - [len(ids) for ids in texts]
        counts = []
        for mask in (valid, valid & present[_slots(codes)]):
            sums = np.concatenate([[0], np.cumsum(mask)])
            counts.append(sums[ends - k + 1] - sums[starts])
        enough = (counts[1] >= least * counts[0]) & (counts[0] > 0)
        kept += [texts[row] for row in np.flatnonzero(enough)]
    return kept


def _seeds(sequences: Sequence[NDArray[np.uint8]], k: int) -> _Seeds:
    distinct = {ids.tobytes(): ids for ids in sequences if len(ids) >= k}
    forward = list(distinct.values())
    texts = forward + [alphabet.reverse_complement(ids) for ids in forward]
    if not texts:
        empty = np.zeros(0, np.int32)
        return _Seeds(np.zeros(0, np.uint64), empty, empty, [], np.zeros(0, np.int64))
    lengths = np.array([len(ids) for ids in texts])
    codes, valid = _codes(np.concatenate(texts), k)
    owners = np.repeat(np.arange(len(texts), dtype=np.int32), lengths)
    starts = np.cumsum(lengths) - lengths
    offsets = (np.arange(lengths.sum()) - np.repeat(starts, lengths)).astype(np.int32)
    # The last k - 1 starts of a sequence would reach into the next one.
    inside = offsets <= lengths[owners] - k
    keep = inside[: len(codes)] & valid
    rows = np.flatnonzero(keep)
    totals = np.bincount(owners[rows], minlength=len(texts))
    # Sorted, they are searched for several times as fast.
    rows = rows[np.argsort(codes[rows])]
    return _Seeds(codes[rows], owners[rows], offsets[rows], texts, totals)


def _codes(
    ids: NDArray[np.uint8], k: int
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Number of the k-mer at each position, and whether all its bases are known."""
    size = max(len(ids) - k + 1, 0)
    unknown = np.concatenate([[0], np.cumsum(ids >= alphabet.NUM_BASES)])
    valid = unknown[k : k + size] == unknown[:size]
    single = (ids & 3).astype(np.uint64)
    codes, width = single, 1
    # Words twice as long are two words; what k needs beyond that is added singly.
    for bit in bin(k)[3:]:
        codes = codes[:-width] << np.uint64(2 * width) | codes[width:]
        width *= 2
        if bit == "1":
            codes = codes[:-1] << np.uint64(2) | single[width:]
            width += 1
    return codes[:size], valid


def _slots(codes: NDArray[np.uint64], bits: int = _TABLE_BITS) -> NDArray[np.int64]:
    # A multiplicative hash (Knuth); overflow is what makes it one.
    mixed = codes * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(64 - bits)).astype(np.int64)


def _spans(
    ids: NDArray[np.uint8], seeds: _Seeds, k: int, least: float
) -> Iterator[tuple[int, int]]:
    """Start and end of each occurrence in a stretch; may reach beyond its ends."""
    codes, valid = _codes(ids, k)
    places = np.flatnonzero(valid)
    codes = codes[places]
    order = np.argsort(codes, kind="stable")
    codes, places = codes[order], places[order]
    left = np.searchsorted(codes, seeds.codes, "left")
    counts = np.searchsorted(codes, seeds.codes, "right") - left
    rows = np.arange(len(counts))
    common = rows[counts > _COMMON]
    yield from _exact_repeats(ids, seeds, rows[counts > 0], common, 1 - least)
    rare = (counts > 0) & (counts <= _COMMON)
    rows, left, counts = rows[rare], left[rare], counts[rare]
    owners = np.repeat(seeds.owners[rows], counts).astype(np.int64)
    step = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    hits = places[np.repeat(left, counts) + step]
    diagonals = hits - np.repeat(seeds.offsets[rows], counts)
    # Shifted to be positive: an occurrence may begin before the stretch.
    keys, agreeing = np.unique(owners << 32 | diagonals + (1 << 30), return_counts=True)
    kept = keys[agreeing >= np.maximum(least * seeds.totals[keys >> 32], 1)]
    for key in kept.tolist():
        start = (key & 0xFFFFFFFF) - (1 << 30)
        yield start, start + len(seeds.texts[key >> 32])


def _exact_repeats(
    ids: NDArray[np.uint8],
    seeds: _Seeds,
    present: NDArray[np.int64],
    common: NDArray[np.int64],
    least_common: float,
) -> Iterator[tuple[int, int]]:
    """Exact copies of the sequences that the rare seeds alone cannot place."""
    size = len(seeds.texts)
    whole = np.bincount(seeds.owners[present], minlength=size) == seeds.totals
    repeats = np.bincount(seeds.owners[common], minlength=size)
    text = ids.tobytes()
    for owner in np.flatnonzero(whole & (repeats > least_common * seeds.totals)):
        sought = seeds.texts[owner].tobytes()
        start = text.find(sought)
        while start >= 0:
            yield start, start + len(sought)
            start = text.find(sought, start + 1)


def copies(
    genomes: Sequence[Genome], *, k: int = K, tile: int = 1000, least: float = 0.9
) -> list[list[Region]]:
    """Tiles of DNA that came before, in an earlier genome or contig.

    Parameters
    ----------
    genomes
        In the order in which what is found first is kept.
    tile
        Bases that are judged together.
    least
        Share of a tile's k-mers that were seen before, on either strand.

    Returns
    -------
    regions
        For each genome, merged.
    """
    # A word is taken for seen in a few of a hundred cases wrongly: tiles need many.
    seen = np.zeros(1 << _COPY_BITS, bool)
    result = []
    for genome in genomes:
        found: list[Region] = []
        for contig, size in genome.contigs.items():
            codes, valid = _canonical(genome.fetch(contig, 0, size), k)
            slots = _slots(codes, _COPY_BITS)
            known = seen[slots] & valid
            for start in range(0, len(codes) - tile + 1, tile):
                part = slice(start, start + tile)
                if known[part].sum() >= least * max(valid[part].sum(), tile / 2):
                    found.append(Region(contig, start, min(start + tile + k - 1, size)))
            seen[slots[valid]] = True
        result.append(merge(found))
    return result


def _canonical(
    ids: NDArray[np.uint8], k: int
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Number of the k-mer at each position, the smaller of both strands."""
    forward, valid = _codes(ids, k)
    reverse, _ = _codes(alphabet.reverse_complement(ids), k)
    return np.minimum(forward, reverse[::-1]), valid
