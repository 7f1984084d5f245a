"""Embeddings by bin: the mean representation of the bases in each bin of a region.

A bin's sum is kept in two parts, of the piece in which the bin begins and of the piece
that follows it. Each part is written once by one piece, so that a piece that is read
again after a run was killed changes nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from crossdna.analysis.tracks.rows import RowFile
from crossdna.errors import CrossDNAError
from crossdna.files import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from crossdna.data.regions import Region

_BINS_AT_ONCE: Final = 4096


class BinFile:
    """Sums of the representations in each bin, and how many bases they are of.

    Parameters
    ----------
    path
        Created when missing.
    length
        Bases of the region.
    size
        Bases of a bin; the last one may be shorter.
    channels
    """

    def __init__(self, path: Path, length: int, size: int, channels: int) -> None:
        self.length, self.size, self.channels = length, size, channels
        self.count = -(-length // size)
        self._rows = RowFile(path, self.count, 2 * (channels + 1))

    def add(
        self, start: int, vectors: NDArray[np.float32], known: NDArray[np.bool_]
    ) -> None:
        """Take a piece of at least a bin, or the region's last.

        Parameters
        ----------
        start
            0-based, within the region, of the first base.
        vectors : (length, channels)
        known : (length,)
            Whether a base counts; gaps do not.
        """
        end = start + len(vectors)
        first = start // self.size
        bins = range(first, -(-end // self.size))
        edges = np.maximum([number * self.size for number in bins], start) - start
        counted = (
            np.column_stack([vectors, np.ones(len(vectors), np.float32)])
            * known[:, None]
        )
        sums = np.add.reduceat(counted, edges, axis=0, dtype=np.float64)
        rows = self._rows.read(bins.start, bins.stop).reshape(len(bins), 2, -1).copy()
        begun = np.array([number * self.size >= start for number in bins])
        rows[begun, 0] = sums[begun]
        rows[~begun, 1] = sums[~begun]
        self._rows.write(bins.start, rows.reshape(len(bins), -1))

    def means(self, start: int, end: int) -> Means:
        """Means of bins `start` to `end`; NaN where most of a bin is a gap."""
        rows = self._rows.read(start, end).reshape(end - start, 2, -1)
        sums = rows.astype(np.float64).sum(1)
        bases = sums[:, -1]
        ends = np.minimum(np.arange(start + 1, end + 1) * self.size, self.length)
        sizes = ends - np.arange(start, end) * self.size
        with np.errstate(divide="ignore", invalid="ignore"):
            vectors = sums[:, :-1] / bases[:, None]
        vectors[bases < sizes / 2] = np.nan
        return Means(start, vectors.astype(np.float32), bases.astype(np.int64))


class Means(NamedTuple):
    """Mean representations of some bins."""

    first: int
    """Number of the first bin of the region."""
    vectors: NDArray[np.float32]
    """(bins, channels); NaN where most of a bin is a gap."""
    bases: NDArray[np.int64]
    """(bins,): how many bases each is of."""


def averaged(files: list[BinFile]) -> Iterator[Means]:
    """Read all bins of a region, the mean of the strands that were read."""
    for start in range(0, files[0].count, _BINS_AT_ONCE):
        end = min(start + _BINS_AT_ONCE, files[0].count)
        parts = [file.means(start, end) for file in files]
        mean = np.stack([part.vectors for part in parts]).mean(0)
        yield parts[0]._replace(vectors=mean)


class Components(NamedTuple):
    """Directions in which the bins of a genome differ most."""

    centre: NDArray[np.float64]
    """(channels,)"""
    axes: NDArray[np.float64]
    """(components, channels), of length one."""
    shares: NDArray[np.float64]
    """(components,): share of the variance that each explains."""

    def project(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """(bins, channels) to (bins, components)."""
        found: NDArray[np.float64] = (vectors - self.centre) @ self.axes.T
        return found.astype(np.float32)


def principal_components(parts: Iterable[Means], count: int) -> Components:
    """Principal components of the bins' means, in one pass and flat memory.

    An axis points to where its largest loading is positive.

    Raises
    ------
    CrossDNAError
        Fewer bins than components, or more components than channels.
    """
    total, bins = 0.0, 0
    products: Any = 0.0
    for part in parts:
        known = part.vectors[np.isfinite(part.vectors).all(1)].astype(np.float64)
        total = total + known.sum(0)
        products = products + known.T @ known
        bins += len(known)
    if bins <= count or count > len(np.atleast_1d(total)):
        raise CrossDNAError(
            f"{count} components need more bins than that (there are {bins}) and at "
            "most as many as the model has channels; take fewer, or smaller bins"
        )
    centre = np.asarray(total) / bins
    values, vectors = np.linalg.eigh(products / bins - np.outer(centre, centre))
    axes = vectors.T[::-1][:count]
    largest = np.abs(axes).argmax(1)
    axes = axes * np.sign(axes[np.arange(count), largest])[:, None]
    return Components(centre, axes, values[::-1][:count] / values.sum())


def write_bins(
    path: Path,
    regions: Iterable[tuple[Region, Iterable[Means]]],
    size: int,
    metadata: Mapping[str, Any],
) -> None:
    """Write bins as Parquet: chrom, start, end (0-based, half-open), bases, embedding.

    Bins that are mostly gaps have no embedding.
    """
    import pyarrow as pa
    from pyarrow import parquet

    def tables() -> Iterator[pa.Table]:
        for region, parts in regions:
            for part in parts:
                starts = region.start + size * (part.first + np.arange(len(part.bases)))
                known = np.isfinite(part.vectors).all(1)
                vectors = pa.FixedSizeListArray.from_arrays(
                    pa.array(part.vectors.ravel()),
                    part.vectors.shape[1],
                    mask=pa.array(~known),
                )
                columns = {
                    "chrom": pa.array([region.contig] * len(starts)),
                    "start": pa.array(starts),
                    "end": pa.array(np.minimum(starts + size, region.end)),
                    "bases": pa.array(part.bases),
                    "embedding": vectors,
                }
                yield pa.table(columns, metadata={"crossdna": json.dumps(metadata)})

    with atomic_path(path) as temporary:
        writer = None
        try:
            for table in tables():
                writer = writer or parquet.ParquetWriter(temporary, table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()
