"""Per-base labels from the features of a BED or GFF file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import polars as pl

from crossdna.data.fasta import open_lines
from crossdna.data.sequence_tables import table_suffix
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crossdna.data.sequence_tables import SequenceTable

COLUMN: Final = "base_labels"
OUTSIDE: Final = "none"
_LETTERS: Final = "-ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class Feature(NamedTuple):
    """A stretch of the genome with a kind; 0-based, half-open."""

    contig: str
    start: int
    end: int
    kind: str


class BaseLabels(NamedTuple):
    """A table with a column of per-base labels, and what its letters stand for.

    Attributes
    ----------
    table : SequenceTable
        With the column `COLUMN`: a letter per base.
    names : dict of str to str
        Letter to kind of feature; ``-`` is `OUTSIDE` of all features.
    """

    table: SequenceTable
    names: dict[str, str]


def read_features(path: str | Path) -> list[Feature]:
    """Read BED (kind: column 4) or GFF/GTF (kind: column 3), plain or gzip.

    Raises
    ------
    CrossDNAError
        With file and line: too few columns, positions that are no numbers.
    """
    path = Path(path)
    suffix = table_suffix(path)
    if suffix not in (".bed", ".gff", ".gff3", ".gtf"):
        raise CrossDNAError(f"{path}: features are read from .bed, .gff, .gff3 or .gtf")
    features = []
    for number, line in enumerate(open_lines(path), 1):
        if line.startswith("##FASTA"):
            break
        if line.strip() and not line.startswith(("#", "track", "browser")):
            features.append(_feature(line, suffix == ".bed", f"{path}:{number}"))
    if not features:
        raise CrossDNAError(f"{path}: no features")
    return features


def _feature(line: str, bed: bool, where: str) -> Feature:
    fields = line.rstrip("\r\n").split("\t")
    if len(fields) < (4 if bed else 5):
        raise CrossDNAError(f"{where}: {len(fields)} columns are too few")
    start, end = (fields[1], fields[2]) if bed else (fields[3], fields[4])
    if not (start.isdigit() and end.isdigit()):
        raise CrossDNAError(f"{where}: {start!r} and {end!r} must be whole numbers")
    # GFF counts from 1 and includes the end.
    first = int(start) - (0 if bed else 1)
    return Feature(fields[0], first, int(end), fields[3] if bed else fields[2])


def add_base_labels(
    table: SequenceTable,
    features: list[Feature],
    names: dict[str, str] | None = None,
) -> BaseLabels:
    """Label each base of located sequences with the feature that covers it.

    Where features overlap, the later one in the file wins.

    Parameters
    ----------
    names
        Letters that an earlier call gave to the kinds, for the same letters again;
        features of other kinds are left out.

    Raises
    ------
    CrossDNAError
        The sequences have no coordinates, or there are more kinds than letters.
    """
    if table.regions is None:
        raise CrossDNAError(
            f"{table.source}: base labels need the place of each sequence; give BED "
            "regions with a genome"
        )
    if names is None:
        kinds = [OUTSIDE, *sorted({feature.kind for feature in features} - {OUTSIDE})]
        if len(kinds) > len(_LETTERS):
            raise CrossDNAError(f"{len(kinds)} kinds of feature are too many")
        names = dict(zip(_LETTERS, kinds, strict=False))
    letters = {kind: letter for letter, kind in names.items()}
    by_contig: dict[str, list[Feature]] = {}
    for feature in features:
        if feature.kind in letters:
            by_contig.setdefault(feature.contig, []).append(feature)
    columns = []
    for region, length in zip(table.regions, table.lengths, strict=True):
        bases = np.full(length, "-", "<U1")
        _paint(bases, region.start, by_contig.get(region.contig, []), letters)
        columns.append("".join(bases[::-1] if region.strand == "-" else bases))
    column = pl.Series(COLUMN, columns, dtype=pl.String)
    return BaseLabels(replace(table, columns=table.columns.with_columns(column)), names)


def _paint(
    bases: NDArray[np.str_],
    start: int,
    features: list[Feature],
    letters: dict[str, str],
) -> None:
    for feature in features:
        first, last = max(feature.start - start, 0), feature.end - start
        if first < len(bases) and last > 0:
            bases[first:last] = letters[feature.kind]
