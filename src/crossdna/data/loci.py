"""Where the sequences of a table lie, as its columns or their names say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

import polars as pl

from crossdna.data.regions import Region
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTIG_NAMES: Final = ("contig", "chrom", "chr", "chromosome", "seqnames", "#chrom")
START_NAMES: Final = ("start", "chromstart", "chrom_start", "begin")
LOCUS_NAMES: Final = ("name", "id", "region", "locus")
"""Columns that may hold places such as chr1:100-200."""
END_NAMES: Final = ("end", "chromend", "chrom_end", "stop")
_LOCUS: Final = re.compile(
    r"(?P<contig>chr[^\s:_]+(?=_\d+_)|[^\s:]+(?=:))[:_](?P<start>\d+)[-_](?P<end>\d+)"
    r"(?P<strand>\([-+.]\)|:[-+*]|/rc)?"
)
"""A place, with the strand as bedtools, R (GenomicRanges) and samtools write it."""
_STRANDS: Final = {
    **dict.fromkeys(("+", "1", "+1", "plus", "forward", "fwd", ".", "*", "?", ""), "+"),
    **dict.fromkeys(("-", "-1", "minus", "reverse", "rev"), "-"),
}


def find_column(columns: pl.DataFrame, names: Sequence[str]) -> str | None:
    """The column of plain values with one of these names, in any case; else None."""
    plain = (name for name, kind in columns.schema.items() if not kind.is_nested())
    return next((name for name in plain if name.lower() in names), None)


class _Span(NamedTuple):
    contig: str
    start: int
    end: int
    strand: str


def regions_of_columns(
    columns: pl.DataFrame, places: Sequence[str], lengths: Sequence[int]
) -> tuple[Region, ...] | None:
    """Regions of a table's rows, from columns of contig, start and end or of places.

    Parameters
    ----------
    columns
    places
        File and row of each row, for errors.
    lengths
        Bases of each row's sequence.

    Returns
    -------
    tuple of Region, or None
        None where the columns do not say.

    Raises
    ------
    CrossDNAError
        With file and row: a strand that is none.
    """
    spans = _spans_of_columns(columns)
    if spans is None:
        return None
    if strands := _strands(columns, places):
        pairs = zip(spans, strands, strict=True)
        spans = [span._replace(strand=strand) for span, strand in pairs]
    return _regions(spans, lengths)


def regions_of_names(
    names: Sequence[str], lengths: Sequence[int]
) -> tuple[Region, ...] | None:
    """Regions from names such as chr1:100-200(-); None where one is no place."""
    return _regions(_spans_of_names(names), lengths)


def _spans_of_columns(columns: pl.DataFrame) -> list[_Span] | None:
    named = [find_column(columns, n) for n in (CONTIG_NAMES, START_NAMES, END_NAMES)]
    if None in named:
        name = find_column(columns, LOCUS_NAMES)
        places = [] if name is None else columns[name].cast(pl.String).to_list()
        return _spans_of_names(places) if places and None not in places else None
    contigs, starts, ends = (columns[str(name)].cast(pl.String) for name in named)
    spans = []
    for contig, start, end in zip(contigs, starts, ends, strict=True):
        if not (contig and str(start).isdigit() and str(end).isdigit()):
            return None
        spans.append(_Span(contig, int(start), int(end), "+"))
    return spans


def _spans_of_names(names: Sequence[str]) -> list[_Span] | None:
    """Coordinates from names like chr1:100-200(-) or chr1_100_200."""
    spans = []
    for name in names:
        match = _LOCUS.match(name.removeprefix(">"))
        if not match:
            return None
        strand = "-" if match["strand"] in ("(-)", ":-", "/rc") else "+"
        start, end = int(match["start"]), int(match["end"])
        spans.append(_Span(match["contig"], start, end, strand))
    return spans


def _regions(
    spans: Sequence[_Span] | None, lengths: Sequence[int]
) -> tuple[Region, ...] | None:
    """Regions of spans that count from 0, or from 1 and include the end.

    bedtools counts from 0, samtools and R from 1, and a strand behind the place tells
    nothing (all of them write it). The lengths of the sequences do, if every sequence
    has the one base more. Otherwise starts are taken to count from 0, which may be one
    base off: that matters to no use but labels of bases, and `add_base_labels` refuses
    regions of another length than their sequences.
    """
    if spans is None:
        return None
    pairs = zip(spans, lengths, strict=True)
    from_one = all(s.start > 0 and s.end - s.start + 1 == n for s, n in pairs)
    first = 1 if from_one else 0
    if any(span.start - first >= span.end for span in spans):
        return None
    return tuple(
        Region(span.contig, span.start - first, span.end, strand=span.strand)
        for span in spans
    )


def _strands(columns: pl.DataFrame, places: Sequence[str]) -> list[str]:
    """Strand of each row; empty where no column is called so."""
    name = find_column(columns, ("strand",))
    if name is None:
        return []
    strands = []
    for text, where in zip(columns[name].cast(pl.String), places, strict=True):
        word = (text or "").strip().lower()
        if word not in _STRANDS:
            raise CrossDNAError(
                f"{where}: {text!r} in column {name!r} is not + or -; mend it, or "
                "rename the column if it is no strand"
            )
        strands.append(_STRANDS[word])
    return strands
