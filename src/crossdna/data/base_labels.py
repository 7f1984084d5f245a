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
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crossdna.data.regions import Region
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
        Letter to kind, of those that occur; ``-`` is `OUTSIDE` of all features.
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

    Where features overlap, the later one in the file wins. Sequences of strand - (BED,
    a column ``strand``, names such as ``chr1:100-150(-)``) are read as reverse
    complements. Places from elsewhere than BED may count from 0 or from 1; which of
    them is known where the sequences are as long as their places say.

    Parameters
    ----------
    names
        The letters and kinds of the training set, for the same letters again.

    Raises
    ------
    CrossDNAError
        The sequences have no coordinates, or are not as long as they say; there are
        more kinds than letters; every base is of one kind, or one is of a kind that the
        training set lacks.
    """
    regions = _checked_regions(table)
    letters = _letters(features, names or {})
    columns = _painted(regions, features, letters)
    found = set("".join(columns))
    kinds = {letter: kind for kind, letter in letters.items() if letter in found}
    if names is None:
        _require_two_kinds(table.source, regions, features, kinds)
    else:
        _require_known_kinds(table, columns, kinds, names)
    column = pl.Series(COLUMN, columns, dtype=pl.String)
    labelled = replace(table, columns=table.columns.with_columns(column))
    return BaseLabels(labelled, kinds if names is None else names)


def _checked_regions(table: SequenceTable) -> tuple[Region, ...]:
    if table.regions is None:
        raise CrossDNAError(
            f"{table.source}: base labels need the place of each sequence; give BED "
            "regions with a genome"
        )
    rows = zip(table.regions, table.lengths, table.places, strict=True)
    for region, length, where in rows:
        if len(region) != length:
            raise CrossDNAError(
                f"{where}: the place of this sequence ({region.contig}, "
                f"{region.start}-{region.end}) is not as long as its {length} bases, "
                "so which base lies where is not known; give BED regions with a genome"
            )
    return table.regions


def _letters(features: list[Feature], names: dict[str, str]) -> dict[str, str]:
    """Letter of each kind: the one in `names`, else the next that is free."""
    letters = {OUTSIDE: _LETTERS[0]} | {kind: letter for letter, kind in names.items()}
    kinds = sorted({feature.kind for feature in features} - set(letters))
    free = [letter for letter in _LETTERS if letter not in letters.values()]
    if len(kinds) > len(free):
        raise CrossDNAError(f"{len(kinds)} kinds of feature are too many")
    return letters | dict(zip(kinds, free, strict=False))


def _require_two_kinds(
    source: str,
    regions: Sequence[Region],
    features: list[Feature],
    kinds: dict[str, str],
) -> None:
    if len(kinds) > 1:
        return
    (kind,) = kinds.values()
    here = sorted({region.contig for region in regions})
    there = sorted({feature.contig for feature in features})
    hint = "features must cover some bases of these regions and leave out others"
    if not set(here) & set(there):
        hint = (
            f"the regions lie on {', '.join(here[:3])}, the features on "
            f"{', '.join(there[:3])}: are contigs called differently in the two files?"
        )
    raise CrossDNAError(f"{source}: every base is of one kind ({kind}); {hint}")


def _require_known_kinds(
    table: SequenceTable,
    columns: list[str],
    kinds: dict[str, str],
    names: dict[str, str],
) -> None:
    for letters, where in zip(columns, table.places, strict=True):
        if unknown := sorted(set(letters) - set(names)):
            raise CrossDNAError(
                f"{where}: bases of kind {kinds[unknown[0]]!r} do not occur in the "
                f"training set (it has {', '.join(names.values())})"
            )


def _painted(
    regions: Sequence[Region], features: list[Feature], letters: dict[str, str]
) -> list[str]:
    by_contig: dict[str, list[Feature]] = {}
    for feature in features:
        by_contig.setdefault(feature.contig, []).append(feature)
    columns = []
    for region in regions:
        bases = np.full(len(region), letters[OUTSIDE], "<U1")
        _paint(bases, region.start, by_contig.get(region.contig, []), letters)
        columns.append("".join(bases[::-1] if region.strand == "-" else bases))
    return columns


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
