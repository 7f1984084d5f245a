"""Genomes: FASTA files read by contig and position from a memory-mapped cache."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from crossdna import alphabet
from crossdna.data.fasta import ID_BITS, SOFT_MASK
from crossdna.data.genome_cache import CachedFasta, default_cache
from crossdna.data.regions import resolve_contig
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


class Bases(NamedTuple):
    """Stretches of the genome, forward strand."""

    ids: NDArray[np.uint8]
    """A 0, C 1, G 2, T 3, N 4."""
    softmask: NDArray[np.bool_]
    """True where the file has a lower-case letter (a repeat)."""


class Genome:
    """One or several FASTA files, read by contig and position.

    Positions are 0-based, intervals half-open, sequence is that of the forward strand.
    Open one with `Genome.open`.

    Attributes
    ----------
    paths : tuple of Path
    contigs : dict of str to int
        Length in bases of each contig, in file order.
    """

    def __init__(self, parts: Sequence[CachedFasta]) -> None:
        self._parts = tuple(parts)
        self.paths = tuple(part.source for part in parts)
        self.contigs: dict[str, int] = {}
        self._places: dict[str, tuple[CachedFasta, int]] = {}
        for part in parts:
            offset = 0
            for name, length in part.contigs:
                if name in self.contigs:
                    other = self._places[name][0].source
                    where = f"{other} and {part.source}"
                    raise CrossDNAError(f"contig {name} is in both {where}")
                self.contigs[name] = length
                self._places[name] = part, offset
                offset += length

    @classmethod
    def open(
        cls,
        paths: str | Path | Sequence[str | Path],
        cache: str | Path | None = None,
    ) -> Genome:
        """Open FASTA files, encoding those that are new or changed.

        Parameters
        ----------
        paths
            FASTA, plain, gzip or BGZF; contig names (the first word of each header)
            must be distinct over all files.
        cache
            Folder for the encoded bases; ``$CROSSDNA_CACHE`` or ``~/.cache/crossdna``
            by default.

        Raises
        ------
        CrossDNAError
            A file that cannot be read or is no DNA; a cache folder that cannot be
            written.
        """
        several = [paths] if isinstance(paths, str | Path) else list(paths)
        if not several:
            raise CrossDNAError("a genome needs at least one FASTA file")
        folder = Path(cache) if cache is not None else default_cache()
        return cls([CachedFasta.open(Path(path), folder) for path in several])

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers map the cache themselves instead of being sent the bases.
        return Genome.open, (self.paths, self._parts[0].file.parent)

    def __repr__(self) -> str:
        names = ", ".join(str(path) for path in self.paths)
        return f"Genome({names}: {len(self.contigs)} contigs, {self.total_bases} bases)"

    @property
    def total_bases(self) -> int:
        """Bases in all contigs, N included."""
        return sum(self.contigs.values())

    @property
    def fingerprint(self) -> str:
        """Hex digest of names, bases and lower case, whatever the paths and packing."""
        digest = hashlib.blake2b(digest_size=16)
        for part in self._parts:
            digest.update(part.digest.encode())
        return digest.hexdigest()

    def resolve(self, name: str) -> str:
        """Give `name` back if it is a contig, else raise an error with a suggestion."""
        return resolve_contig(name, self.contigs, str(self.paths[0]))

    def fetch(self, contig: str, start: int, end: int) -> NDArray[np.uint8]:
        """Read ids of bases `start` to `end`; a new array.

        Raises
        ------
        CrossDNAError
            Unknown contig, or an interval that is not within it.
        """
        return self._codes(contig, start, end) & ID_BITS

    def fetch_softmask(self, contig: str, start: int, end: int) -> NDArray[np.bool_]:
        """Read where bases `start` to `end` are lower case."""
        return self._codes(contig, start, end) >= SOFT_MASK

    def fetch_padded(self, contig: str, start: int, end: int) -> NDArray[np.uint8]:
        """Read ids like `fetch`, with N for positions beyond the ends of the contig."""
        length = self.contigs[self.resolve(contig)]
        if start > end:
            raise CrossDNAError(f"{contig}: start {start} is after end {end}")
        ids = np.full(end - start, alphabet.N, np.uint8)
        low, high = min(max(start, 0), length), max(min(end, length), 0)
        if low < high:
            ids[low - start : high - start] = self.fetch(contig, low, high)
        return ids

    def gather(self, contig: str, starts: ArrayLike, length: int) -> Bases:
        """Read many stretches of one length from one contig.

        Parameters
        ----------
        starts : (stretches,) integer
            0-based; every stretch must lie within the contig.

        Returns
        -------
        bases : ids and softmask, each (stretches, length)
        """
        begins = np.atleast_1d(np.asarray(starts, np.int64))
        size = self.contigs[self.resolve(contig)]
        if begins.size and (begins.min() < 0 or begins.max() + length > size):
            raise CrossDNAError(
                f"{contig} has {size} bases: stretches of {length} from {begins.min()} "
                f"to {begins.max()} are not all within it"
            )
        part, offset = self._places[contig]
        codes = part.gather(begins + offset, length)
        return Bases(codes & ID_BITS, codes >= SOFT_MASK)

    def _codes(self, contig: str, start: int, end: int) -> NDArray[np.uint8]:
        length = self.contigs[self.resolve(contig)]
        if not 0 <= start <= end <= length:
            raise CrossDNAError(
                f"{contig} has {length} bases: {start} to {end} (0-based) is not in it"
            )
        part, offset = self._places[contig]
        return part.read(offset + start, offset + end)
