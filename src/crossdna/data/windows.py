"""Windows to pretrain on, drawn from (seed, index), and tilings to evaluate on."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from crossdna import alphabet
from crossdna.data.draws import LOCUS_STREAM, check_seed, raw_draws, unit
from crossdna.data.genome import Bases
from crossdna.data.regions import Region, check_region, merge
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from crossdna.data.genome import Genome

# Enough that a genome with one window in 200 free of gaps never runs out of draws.
_MAX_DRAWS: Final = 4096


@dataclass(frozen=True)
class Source:
    """A genome to draw windows from."""

    name: str
    """What to call it in errors and tables, such as the species."""
    genome: Genome
    regions: Sequence[Region]
    """Where windows may lie; each lies wholly within one, after merging."""
    weight: float = 1.0
    """Share of the windows, relative to the other sources' weights."""


class Locus(NamedTuple):
    """Where a window lies; 0-based, half-open, forward strand coordinates."""

    source: str
    contig: str
    start: int
    end: int
    strand: str

    def __str__(self) -> str:
        return f"{self.source} {self.contig}:{self.start + 1}-{self.end}({self.strand})"


@dataclass(frozen=True, slots=True)
class Window:
    """One sample."""

    index: int
    """Its number in the dataset."""
    ids: NDArray[np.uint8]
    """(length,), of the strand that `locus` names."""
    weights: NDArray[np.float32]
    """(length,) weight of each base in the loss, in the order of `ids`."""
    locus: Locus


class WindowBatch(NamedTuple):
    """Several samples of one length."""

    indices: NDArray[np.int64]
    """(batch,) their numbers in the dataset."""
    ids: NDArray[np.uint8]
    """(batch, length)"""
    weights: NDArray[np.float32]
    """(batch, length)"""
    loci: list[Locus]

    def windows(self) -> list[Window]:
        """Take the batch apart; the arrays are views."""
        rows = zip(
            self.indices.tolist(), self.ids, self.weights, self.loci, strict=True
        )
        return [Window(*row) for row in rows]


class _Stretch(NamedTuple):
    """A merged region long enough for a window."""

    contig: str
    start: int
    starts: int
    """Number of positions at which a window can start."""


class _Drawn(NamedTuple):
    """Loci and their content on the forward strand."""

    loci: list[Locus]
    ids: NDArray[np.uint8]
    softmask: NDArray[np.bool_]


@dataclass(frozen=True)
class _Pool:
    """All positions of one source at which a window can start, numbered through."""

    source: Source
    stretches: list[_Stretch]
    ends: NDArray[np.int64] = field(repr=False)
    """(stretches,) last number of each stretch, plus 1."""

    @classmethod
    def of(cls, source: Source, length: int, part: str) -> _Pool:
        contigs = source.genome.contigs
        for region in source.regions:
            check_region(region, contigs, source.name)
        stretches = [
            _Stretch(region.contig, region.start, len(region) - length + 1)
            for region in merge(source.regions)
            if len(region) >= length
        ]
        if not stretches:
            longest = max(map(len, merge(source.regions)), default=0)
            raise CrossDNAError(
                f"{source.name}: no {part} region has {length} bases "
                f"(the longest has {longest}); take shorter windows"
            )
        return cls(source, stretches, np.cumsum([part.starts for part in stretches]))

    def place(self, fraction: float) -> tuple[str, int]:
        """Contig and start for a number in [0, 1)."""
        number = int(fraction * self.ends[-1])
        which = int(np.searchsorted(self.ends, number, side="right"))
        contig, start, starts = self.stretches[which]
        return contig, start + number - (int(self.ends[which]) - starts)


class WindowDataset(Dataset[Window]):
    """Windows at random positions; sample i is a function of (seed, i) alone.

    A source is drawn by weight, then a start uniformly over all starts that its regions
    allow, then a strand. A window with more than `max_n_share` of N is drawn again from
    the same source, by later draws of the same sample.

    Parameters
    ----------
    sources
        Genomes, where in them, and their weights.
    length
        Bases in a window.
    samples
        Number of windows, i.e. the length of the dataset.
    seed
        From 0 to 2**64 - 1.
    max_n_share
        Largest share of N in a window, from 0 to 1.
    reverse_complement
        Draw the strand; else all windows are of strand +.
    repeat_weight
        Weight in the loss of lower-case bases; others have 1.
    part
        What the regions are for, in errors.

    Raises
    ------
    CrossDNAError
        A size or share out of range, no source, or no region long enough.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        length: int,
        samples: int,
        seed: int,
        max_n_share: float = 0.05,
        reverse_complement: bool = True,
        repeat_weight: float = 1.0,
        part: str = "training",
    ) -> None:
        _check_sizes(length, max_n_share, repeat_weight)
        check_seed(seed)
        if samples < 1:
            raise CrossDNAError(f"samples must be at least 1, got {samples}")
        weights = np.array([source.weight for source in sources], np.float64)
        if not len(sources) or not np.isfinite(weights).all() or weights.min() <= 0:
            given = {source.name: source.weight for source in sources}
            raise CrossDNAError(f"sources need weights above 0, got {given}")
        self.length = length
        self.samples = samples
        self.seed = seed
        self.max_n_share = max_n_share
        self.reverse_complement = reverse_complement
        self.repeat_weight = repeat_weight
        self.part = part
        self._genomes = {source.name: source.genome for source in sources}
        if len(self._genomes) < len(sources):
            names = ", ".join(source.name for source in sources)
            raise CrossDNAError(f"two sources have the same name: {names}")
        self._pools = [_Pool.of(source, length, part) for source in sources]
        # The last source takes what the others leave, whatever the rounding.
        self._shares = (np.cumsum(weights) / weights.sum())[:-1].tolist()

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Window:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Window]:
        """Give several samples at once, for torch's DataLoader."""
        return self.batch(indices).windows()

    def notes(self) -> list[str]:
        """Say of each source which regions are too short for a window, if any are."""
        found = []
        for source in (pool.source for pool in self._pools):
            regions = merge(source.regions)
            short = [len(region) for region in regions if len(region) < self.length]
            if short:
                share = sum(short) / sum(map(len, regions))
                found.append(
                    f"{source.name}: {len(short):,} of {len(regions):,} {self.part} "
                    f"regions ({sum(short):,} bases, {share:.2g} of all) are shorter "
                    f"than a window of {self.length} and never read"
                )
        return found

    def locus(self, index: int) -> Locus:
        """Where sample `index` lies."""
        return self.batch([index]).loci[0]

    def batch(self, indices: Sequence[int] | NDArray[np.integer]) -> WindowBatch:
        """Draw several samples at once.

        Raises
        ------
        IndexError
            An index that is not from 0 to ``len(self) - 1``.
        CrossDNAError
            No window with few enough N was found.
        """
        numbers = np.asarray(indices, np.int64)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < self.samples:
            raise IndexError(f"samples are 0 to {self.samples - 1}, got {indices}")
        loci, ids, repeats = self._draw(numbers)
        weights = np.where(repeats, np.float32(self.repeat_weight), np.float32(1))
        reverse = np.array([locus.strand == "-" for locus in loci], bool)
        ids[reverse] = alphabet.reverse_complement(ids[reverse])
        weights[reverse] = weights[reverse, ::-1]
        return WindowBatch(numbers, ids, weights, loci)

    def _draw(self, numbers: NDArray[np.int64]) -> _Drawn:
        """Loci and forward-strand content, redrawing windows with too many N."""
        loci = self._loci(numbers, 0)
        ids, repeats = _read(self._genomes, loci, self.length)
        for attempt in range(1, _MAX_DRAWS):
            rows = np.flatnonzero((ids == alphabet.N).mean(axis=1) > self.max_n_share)
            if not rows.size:
                return _Drawn(loci, ids, repeats)
            redrawn = self._loci(numbers[rows], attempt)
            ids[rows], repeats[rows] = _read(self._genomes, redrawn, self.length)
            for row, locus in zip(rows.tolist(), redrawn, strict=True):
                loci[row] = locus
        raise CrossDNAError(
            f"{loci[rows[0]].source}: {_MAX_DRAWS} {self.part} windows in a row "
            f"(sample {numbers[rows[0]]}) have more than {self.max_n_share:.0%} N; "
            "allow more N, take shorter windows or leave the gaps out of the regions"
        )

    def _loci(self, numbers: NDArray[np.int64], attempt: int) -> list[Locus]:
        # Draws 0 and 1 of a sample give source and strand, the later ones a start each.
        raw = raw_draws(self.seed, LOCUS_STREAM, numbers.tolist(), attempt + 3)
        loci = []
        for draw in unit(raw[:, [0, 1, attempt + 2]]).tolist():
            pool = self._pools[bisect.bisect_right(self._shares, draw[0])]
            contig, start = pool.place(draw[2])
            strand = "-" if self.reverse_complement and draw[1] < 0.5 else "+"
            name = pool.source.name
            loci.append(Locus(name, contig, start, start + self.length, strand))
        return loci


class Tile(NamedTuple):
    """A window of a tiling."""

    region: Region
    new: int
    """Number of bases at its end that no earlier window has covered."""


def evaluation_windows(regions: Sequence[Region], length: int) -> list[Tile]:
    """Tile regions with windows of one length, sorted by contig name and start.

    Windows follow each other from the start of each merged region; the last one is
    moved back to end with the region, and its first bases are then not `new`. Regions
    shorter than `length` get no window.
    """
    tiles = []
    for region in merge(regions):
        whole = len(region) // length
        for start in range(region.start, region.start + whole * length, length):
            tile = Region(region.contig, start, start + length)
            tiles.append(Tile(tile, length))
        if whole and (rest := len(region) % length):
            tile = Region(region.contig, region.end - length, region.end)
            tiles.append(Tile(tile, rest))
    return tiles


def _read(genomes: Mapping[str, Genome], loci: Sequence[Locus], length: int) -> Bases:
    """Read windows of many sources and contigs, forward strand."""
    ids = np.empty((len(loci), length), np.uint8)
    softmask = np.empty((len(loci), length), bool)
    groups: dict[tuple[str, str], list[int]] = {}
    for row, locus in enumerate(loci):
        groups.setdefault((locus.source, locus.contig), []).append(row)
    for (source, contig), rows in groups.items():
        starts = [loci[row].start for row in rows]
        ids[rows], softmask[rows] = genomes[source].gather(contig, starts, length)
    return Bases(ids, softmask)


def _check_sizes(length: int, max_n_share: float, repeat_weight: float) -> None:
    if length < 1:
        raise CrossDNAError(f"window length must be at least 1, got {length}")
    if not 0 <= max_n_share <= 1:
        raise CrossDNAError(f"max_n_share must be from 0 to 1, got {max_n_share}")
    if not 0 <= repeat_weight < np.inf:
        raise CrossDNAError(f"repeat_weight must be 0 or more, got {repeat_weight}")
