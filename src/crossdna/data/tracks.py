"""Writing tracks: bigWig, bedGraph, and peaks above a threshold.

Positions are 0-based, intervals half-open. NaN stands for no value and is not written.
"""

from __future__ import annotations

import contextlib
import gzip
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from crossdna.errors import CrossDNAError
from crossdna.files import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


class TrackWriter(Protocol):
    """Takes values from left to right, contigs in the order of the genome."""

    def add(self, contig: str, start: int, end: int, values: Floats, span: int) -> None:
        """Write values, each for `span` bases from `start` on, the last up to `end`."""


@contextlib.contextmanager
def open_track(
    path: Path, contigs: Mapping[str, int], *, zooms: int = 10
) -> Iterator[TrackWriter]:
    """Open a track that appears under its name when it is complete.

    Parameters
    ----------
    path
        ``.bw`` or ``.bigWig``; ``.bedGraph``, plain or ``.gz``.
    contigs
        Names and lengths of the genome's contigs.
    zooms
        Summaries in a bigWig for browsers that look from afar. Making them takes some
        13 bytes of memory for each value when the file is closed; 0 takes none.

    Raises
    ------
    CrossDNAError
        Another suffix, or pyBigWig is not installed.
    """
    with atomic_path(path) as temporary:
        if path.suffix in (".bw", ".bigWig"):
            with contextlib.closing(_open_bigwig(temporary, contigs, zooms)) as handle:
                yield _BigWig(handle)
        elif path.name.endswith((".bedGraph", ".bedGraph.gz")):
            # Without the time in its header a file with the same track is the same.
            with temporary.open("wb") as raw:
                if path.suffix == ".gz":
                    with gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as packed:
                        yield _BedGraph(packed)
                else:
                    yield _BedGraph(raw)
        else:
            raise CrossDNAError(f"{path}: tracks are .bw, .bedGraph or .bedGraph.gz")


def _open_bigwig(path: Path, contigs: Mapping[str, int], zooms: int) -> Any:
    try:
        import pyBigWig
    except ImportError:
        raise CrossDNAError(
            "bigWig needs pyBigWig: pip install 'crossdna[tracks]', or choose bedGraph"
        ) from None
    handle = pyBigWig.open(str(path), "w")
    handle.addHeader(list(contigs.items()), maxZooms=zooms)
    return handle


class _Run(NamedTuple):
    """Values without a gap."""

    start: int
    values: Floats


def _runs(start: int, values: Floats, span: int) -> Iterator[_Run]:
    finite = np.flatnonzero(np.isfinite(values))
    for part in np.split(finite, np.flatnonzero(np.diff(finite) > 1) + 1):
        if part.size:
            yield _Run(start + span * int(part[0]), values[part])


class _BigWig:
    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def add(self, contig: str, start: int, end: int, values: Floats, span: int) -> None:
        for run in _runs(start, values, span):
            whole = min(len(run.values), (end - run.start) // span)
            if whole:
                self._handle.addEntries(
                    contig,
                    run.start,
                    values=run.values[:whole].astype(float).tolist(),
                    span=span,
                    step=span,
                )
            if whole < len(run.values):
                rest = run.start + whole * span
                value = float(run.values[whole])
                self._handle.addEntries([contig], [rest], ends=[end], values=[value])


def shortest(value: float | np.floating) -> str:
    """A number in as few digits as give it back in single precision.

    Fewer would level what is small beside the whole, such as a temperature's changes.
    """
    return str(np.float32(value)).removesuffix(".0")


class _BedGraph:
    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def add(self, contig: str, start: int, end: int, values: Floats, span: int) -> None:
        for run in _runs(start, values, span):
            starts = run.start + span * np.arange(len(run.values))
            ends = np.minimum(starts + span, end)
            self._handle.write(
                "".join(
                    f"{contig}\t{low}\t{high}\t{shortest(value)}\n"
                    for low, high, value in zip(starts, ends, run.values, strict=True)
                ).encode()
            )


class Peak(NamedTuple):
    """A stretch whose values all reach a threshold."""

    contig: str
    start: int
    end: int
    summit: int
    """Position of the highest value."""
    value: float
    """The highest value."""


class PeakFinder:
    """Finds peaks in values that come piece by piece.

    Parameters
    ----------
    threshold
        Lowest value within a peak.
    minimum
        Shortest peak in bases.
    """

    def __init__(self, threshold: float, minimum: int = 1) -> None:
        self.threshold, self.minimum = threshold, minimum
        self.peaks: list[Peak] = []
        self._open: Peak | None = None

    def add(self, contig: str, start: int, end: int, values: Floats, span: int) -> None:
        """Take further values, as `TrackWriter.add` does."""
        above = np.where(values >= self.threshold, values, np.float32(np.nan))
        for run in _runs(start, above, span):
            best = int(run.values.argmax())
            stop = min(run.start + span * len(run.values), end)
            peak = Peak(
                contig,
                run.start,
                stop,
                min(run.start + span * best + span // 2, stop - 1),
                float(run.values[best]),
            )
            before = self._open
            if before and before.contig == contig and before.end == peak.start:
                higher = peak if peak.value > before.value else before
                peak = higher._replace(start=before.start, end=peak.end)
            else:
                self.finish()
            self._open = peak

    def finish(self) -> list[Peak]:
        """End the last peak and give all."""
        peak, self._open = self._open, None
        if peak and peak.end - peak.start >= self.minimum:
            self.peaks.append(peak)
        return self.peaks


def write_peaks(path: Path, peaks: list[Peak], comment: str) -> None:
    """Write peaks as BED (narrowPeak columns: 7 is the highest value, 10 its place).

    Parameters
    ----------
    comment
        First line, without its ``#``: track and threshold.
    """
    with atomic_path(path) as temporary, temporary.open("w") as handle:
        handle.write(f"# {comment}\n")
        for number, peak in enumerate(peaks, 1):
            summit = min(peak.summit, peak.end - 1) - peak.start
            handle.write(
                f"{peak.contig}\t{peak.start}\t{peak.end}\tpeak_{number}\t0\t.\t"
                f"{shortest(peak.value)}\t-1\t-1\t{summit}\n"
            )
