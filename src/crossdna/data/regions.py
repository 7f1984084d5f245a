"""Regions of a genome: BED files, text such as chr1:1-100 and interval algebra.

A region is 0-based and half-open, as in BED. Text like ``chr1:1,001-2,000`` is 1-based
and inclusive, as genome browsers write it.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

from crossdna.data.fasta import open_lines
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SKIPPED: Final = re.compile(r"\s*$|#|(track|browser)(\s|$)")
_RANGE: Final = re.compile(r"(?P<start>[\d,]+)(-(?P<end>[\d,]+))?")


@dataclass(frozen=True, slots=True, order=True)
class Region:
    """A stretch of one contig, 0-based and half-open."""

    contig: str
    start: int
    end: int
    name: str = ""
    """Name or split (train, valid, test), from BED column 4."""
    strand: str = "+"

    def __post_init__(self) -> None:
        if self.start < 0:
            raise CrossDNAError(f"{self.contig}: start {self.start} is negative")
        if self.start >= self.end:
            raise CrossDNAError(
                f"{self.contig}: start {self.start} is not before end {self.end}"
            )
        if self.strand not in ("+", "-"):
            raise CrossDNAError(f"{self.contig}: strand {self.strand!r} is not + or -")

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.contig}:{self.start + 1}-{self.end}"


def resolve_contig(name: str, contigs: Mapping[str, int], where: str) -> str:
    """Give `name` back if it is a contig, else raise an error with a suggestion.

    Parameters
    ----------
    contigs
        Names and lengths of the contigs there are.
    where
        What the error begins with, such as the genome's file.
    """
    if name in contigs:
        return name
    raise CrossDNAError(f"{where}: no contig {name!r}{_suggestion(name, contigs)}")


def _suggestion(name: str, contigs: Mapping[str, int]) -> str:
    bare = name[3:] if name.lower().startswith("chr") else name
    spellings = [bare, f"chr{bare}"]
    if bare.upper() in ("M", "MT"):
        spellings += ["chrM", "MT", "chrMT", "M"]
    folded = {contig.lower(): contig for contig in contigs}
    for spelling in spellings:
        if contig := folded.get(spelling.lower()):
            return f"; did you mean {contig!r}? (chr1 and 1 are different names)"
    if near := difflib.get_close_matches(name, contigs, n=1):
        return f"; did you mean {near[0]!r}?"
    shown = ", ".join(list(contigs)[:5])
    return f"; it has {shown}" + (", ..." if len(contigs) > 5 else "")


def check_region(region: Region, contigs: Mapping[str, int], where: str) -> Region:
    """Give `region` back if it lies on a contig, else raise an error."""
    length = contigs[resolve_contig(region.contig, contigs, where)]
    if region.end > length:
        raise CrossDNAError(
            f"{where}: {region} goes beyond the end of {region.contig} ({length} bases)"
            "; is it of another genome build?"
        )
    return region


def parse_region(text: str, contigs: Mapping[str, int]) -> Region:
    """Read ``chr1:1,001-2,000`` (1-based, inclusive), ``chr1:1001`` or ``chr1``.

    Raises
    ------
    CrossDNAError
        Malformed text, unknown contig, or a position that is not on it.
    """
    if text in contigs:
        return Region(text, 0, contigs[text])
    contig, colon, numbers = text.rpartition(":")
    resolve_contig(contig if colon else text, contigs, f"region {text}")
    match = _RANGE.fullmatch(numbers)
    if not match:
        raise CrossDNAError(f"region {text}: write it as chr1:1001-2000 or chr1")
    first = int(match["start"].replace(",", "") or 0)
    last = int((match["end"] or match["start"]).replace(",", "") or 0)
    if first < 1 or first > last:
        raise CrossDNAError(
            f"region {text}: positions count from 1 and the first is not after the last"
        )
    return check_region(Region(contig, first - 1, last), contigs, f"region {text}")


def read_bed(path: str | Path, contigs: Mapping[str, int]) -> list[Region]:
    """Read a BED file, plain or gzip, in file order.

    Columns: contig, start, end (0-based, half-open), then optionally name (or split),
    score (not read) and strand. Columns may be parted by tabs or spaces; comment, track
    and browser lines are skipped.

    Parameters
    ----------
    contigs
        Names and lengths of the genome's contigs, such as ``genome.contigs``.

    Raises
    ------
    CrossDNAError
        With file and line: too few columns, no integers, negative, start not before
        end, unknown contig, beyond its end; or a file without regions.
    """
    path = Path(path)
    regions = [
        _bed_region(line, contigs, f"{path}:{number}")
        for number, line in enumerate(open_lines(path), 1)
        if not _SKIPPED.match(line)
    ]
    if not regions:
        raise CrossDNAError(f"{path}: no regions in this BED file")
    return regions


def _bed_region(line: str, contigs: Mapping[str, int], where: str) -> Region:
    fields = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
    if len(fields) < 3:
        raise CrossDNAError(f"{where}: expected contig, start and end, got {line!r}")
    try:
        start, end = int(fields[1]), int(fields[2])
    except ValueError:
        raise CrossDNAError(
            f"{where}: start {fields[1]!r} and end {fields[2]!r} must be whole numbers"
        ) from None
    name = fields[3].strip() if len(fields) > 3 else ""
    strand = fields[5].strip() if len(fields) > 5 else "+"
    try:
        region = Region(fields[0], start, end, name, "+" if strand == "." else strand)
    except CrossDNAError as error:
        raise CrossDNAError(f"{where}: {error}") from None
    return check_region(region, contigs, where)


def whole_contigs(contigs: Mapping[str, int]) -> list[Region]:
    """One region for each contig, in their order."""
    return [Region(name, 0, length) for name, length in contigs.items()]


def by_name(regions: Iterable[Region]) -> dict[str, list[Region]]:
    """Sort regions by their name (split), each list in its order."""
    splits: dict[str, list[Region]] = {}
    for region in regions:
        splits.setdefault(region.name, []).append(region)
    return splits


def merge(regions: Iterable[Region]) -> list[Region]:
    """Join regions that overlap or touch.

    Returns
    -------
    merged
        Sorted by contig name and start, without names, on strand +.
    """
    merged: list[Region] = []
    for region in sorted(regions):
        last = merged[-1] if merged else None
        if last and last.contig == region.contig and region.start <= last.end:
            merged[-1] = replace(last, end=max(last.end, region.end))
        else:
            merged.append(Region(region.contig, region.start, region.end))
    return merged


def overlap(first: Iterable[Region], second: Iterable[Region]) -> list[Region]:
    """Stretches that both sets cover; empty when no base leaks between them."""
    others = {
        contig: list(group)
        for contig, group in groupby(merge(second), key=lambda region: region.contig)
    }
    common: list[Region] = []
    for contig, group in groupby(merge(first), key=lambda region: region.contig):
        rest = iter(others.get(contig, ()))
        other = next(rest, None)
        for region in group:
            while other and other.start < region.end:
                start = max(region.start, other.start)
                if start < min(region.end, other.end):
                    common.append(Region(contig, start, min(region.end, other.end)))
                if other.end > region.end:
                    break
                other = next(rest, None)
    return common


def subtract(regions: Iterable[Region], removed: Iterable[Region]) -> list[Region]:
    """Stretches of `regions` that `removed` does not cover; merged."""
    kept = merge(regions)
    holes = {
        contig: list(group)
        for contig, group in groupby(
            overlap(kept, removed), key=lambda region: region.contig
        )
    }
    left: list[Region] = []
    for contig, group in groupby(kept, key=lambda region: region.contig):
        rest = iter(holes.get(contig, ()))
        hole = next(rest, None)
        for region in group:
            start = region.start
            # A hole lies within one merged region, so none is needed twice.
            while hole and hole.start < region.end:
                if start < hole.start:
                    left.append(Region(contig, start, hole.start))
                start, hole = hole.end, next(rest, None)
            if start < region.end:
                left.append(Region(contig, start, region.end))
    return left


def complement(regions: Iterable[Region], contigs: Mapping[str, int]) -> list[Region]:
    """Stretches of the genome that `regions` do not cover."""
    return subtract(whole_contigs(contigs), regions)
