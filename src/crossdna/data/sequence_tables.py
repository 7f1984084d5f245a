"""Tables of sequences as people have them: CSV, TSV, Parquet, FASTA, BED with a genome.

A table keeps every column of its file, in the file's order, and the place (file and
line) of each row: an error can point at it and a prediction can stand beside it.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from crossdna import alphabet
from crossdna.data.fasta import open_lines
from crossdna.data.loci import regions_of_columns, regions_of_names
from crossdna.data.regions import Region, check_region
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from crossdna.data.genome import Genome

SEQUENCE_NAMES: Final = ("sequence", "seq", "dna", "dna_sequence", "window", "text")
BED_COLUMNS: Final = ("contig", "start", "end", "name", "score", "strand")
COLUMN_OF_CLASS: Final = "class_of_file"
"""Column that says which of several files, one per class, a row is from.

Nobody's own column is called so: a column ``file`` (a plate, a lane) is no class.
"""

_DELIMITERS: Final = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".tab": "\t"}
_OTHER_DELIMITERS: Final = ("\t", ";", ",")
"""What may stand between the fields of a file whose name promises something else."""
_FIELD_LIMIT: Final = 2**31 - 1
"""Letters in one field of a text table: the most that csv takes on every system."""
_FASTA: Final = (".fa", ".fasta", ".fna", ".fas")


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceTable:
    """Sequences, all columns of their file, and where each row stands in it."""

    source: str
    ids: tuple[NDArray[np.uint8], ...]
    columns: pl.DataFrame
    """One row per sequence; text columns unless the file (Parquet) has types."""
    places: tuple[str, ...]
    """File and line (or row) of each sequence, for messages."""
    sequence_column: str | None = None
    """The column that holds the letters; None where they came from elsewhere."""
    regions: tuple[Region, ...] | None = None
    """Where the sequences lie on a genome, when the file says so for all of them."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(rows,) bases of each sequence."""
        return np.array([len(ids) for ids in self.ids], np.int64)

    def with_sequences(self) -> pl.DataFrame:
        """All columns, and the letters where no column holds them yet."""
        if self.sequence_column is not None or "sequence" in self.columns.columns:
            return self.columns
        letters = [alphabet.decode(ids) for ids in self.ids]
        return self.columns.with_columns(pl.Series("sequence", letters))

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> SequenceTable:
        """Some rows, in the order given."""
        index = [int(row) for row in rows]
        return replace(
            self,
            ids=tuple(self.ids[row] for row in index),
            columns=self.columns[index],
            places=tuple(self.places[row] for row in index),
            regions=None
            if self.regions is None
            else tuple(self.regions[row] for row in index),
        )


def read_sequences(
    path: str | Path,
    *,
    sequence_column: str | None = None,
    genome: Genome | None = None,
) -> SequenceTable:
    """Read a table of sequences; the kind is told by the file's name.

    Parameters
    ----------
    path
        ``.csv``, ``.tsv``, ``.txt`` (tabs), ``.parquet``, FASTA (``.fa``, ``.fasta``,
        ``.fna``) or ``.bed``; all but Parquet may end in ``.gz``. Where the first line
        of a text table lacks the mark of its kind, fields may be told apart by tabs,
        semicolons (as spreadsheets write in much of Europe) or commas.
    sequence_column
        Name of the column with the letters; found by name or content without it.
    genome
        Where the regions of a BED file lie.

    Raises
    ------
    CrossDNAError
        With file and line: unknown kind of file, no such column, no rows, an empty
        sequence, a letter that stands for no base, a region beyond its contig.
    """
    path = Path(path)
    suffix = table_suffix(path)
    if suffix in _FASTA:
        return read_fasta_table(path)
    if suffix == ".bed":
        return read_bed_table(path, genome)
    if suffix == ".parquet":
        columns = _read_parquet(path)
        places = tuple(f"{path}: row {row + 1}" for row in range(len(columns)))
    elif suffix in _DELIMITERS:
        columns, places = _read_delimited(path, _DELIMITERS[suffix])
    else:
        raise CrossDNAError(
            f"{path}: cannot tell what this is; known are .csv, .tsv, .parquet, "
            f"{', '.join(_FASTA)}, .bed (and .gz of them); save a spreadsheet as CSV"
        )
    if not len(columns):
        raise CrossDNAError(f"{path}: no rows")
    return _from_columns(path, columns, places, sequence_column)


def table_suffix(path: Path) -> str:
    """Suffix in lower case, without ``.gz``."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".bgz")
    return Path(name).suffix


def read_fasta_table(path: Path) -> SequenceTable:
    """Read FASTA records into columns ``id`` and ``description``."""
    ids, places = [], []
    columns: dict[str, list[str]] = {"id": [], "description": []}
    for record in _fasta_records(path):
        ids.append(alphabet.encode(record.letters, name=record.place))
        places.append(record.place)
        # At any white space, as genomes' names end there.
        name, *description = record.header.split(maxsplit=1) or [""]
        columns["id"].append(name)
        columns["description"].append("".join(description).strip())
    if not ids:
        raise CrossDNAError(f"{path}: no records; a FASTA file has lines like >name")
    return SequenceTable(
        source=str(path),
        ids=tuple(ids),
        columns=pl.DataFrame(columns),
        places=tuple(places),
        regions=regions_of_names(columns["id"], [len(bases) for bases in ids]),
    )


def read_bed_table(path: Path, genome: Genome | None) -> SequenceTable:
    """Read the regions of a BED file from a genome; strand - is reverse complemented.

    Columns are named as in the BED specification; those after the sixth are called
    ``column7`` and so on.
    """
    if genome is None:
        raise CrossDNAError(
            f"{path}: a BED file needs the genome it is about (--genome)"
        )
    rows: list[list[str]] = []
    ids, regions, places = [], [], []
    for number, line in enumerate(open_lines(path), 1):
        if not line.strip() or line.startswith(("#", "track", "browser")):
            continue
        where = f"{path}:{number}"
        fields = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
        if rows and len(fields) != len(rows[0]):
            raise CrossDNAError(
                f"{where}: {len(fields)} columns, but {len(rows[0])} before"
            )
        region = _bed_region(fields, where, genome)
        bases = genome.fetch(region.contig, region.start, region.end)
        if region.strand == "-":
            bases = alphabet.reverse_complement(bases)
        rows.append(fields)
        ids.append(bases)
        regions.append(region)
        places.append(where)
    if not rows:
        raise CrossDNAError(f"{path}: no regions in this BED file")
    names = [
        BED_COLUMNS[i] if i < len(BED_COLUMNS) else f"column{i + 1}"
        for i in range(len(rows[0]))
    ]
    return SequenceTable(
        source=str(path),
        ids=tuple(ids),
        columns=pl.DataFrame(rows, schema=names, orient="row"),
        places=tuple(places),
        regions=tuple(regions),
    )


def concatenate_classes(
    tables: Sequence[SequenceTable], classes: Sequence[str]
) -> SequenceTable:
    """Put tables (one per class) below each other, with the class in a new column.

    Raises
    ------
    CrossDNAError
        Tables with different columns, or a class named twice.
    """
    if len(set(classes)) < len(classes):
        raise CrossDNAError(f"classes named twice: {', '.join(classes)}")
    parts = []
    for table, name in zip(tables, classes, strict=True):
        column = pl.lit(name).alias(COLUMN_OF_CLASS)
        parts.append(replace(table, columns=table.columns.with_columns(column)))
    return concatenate(parts)


def concatenate(tables: Sequence[SequenceTable]) -> SequenceTable:
    """Put the parts of one table below each other.

    Raises
    ------
    CrossDNAError
        Tables with different columns, or whose columns do not go together.
    """
    source = ", ".join(table.source for table in tables)
    for table in tables:
        if table.columns.columns != tables[0].columns.columns:
            raise CrossDNAError(
                f"{table.source} and {tables[0].source} have different columns"
            )
    try:
        columns = pl.concat((t.columns for t in tables), how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise CrossDNAError(
            f"{source}: a column has one kind of values here and another there: {error}"
        ) from None
    located = [table.regions for table in tables if table.regions is not None]
    return SequenceTable(
        source=source,
        ids=tuple(ids for table in tables for ids in table.ids),
        columns=columns,
        places=tuple(place for table in tables for place in table.places),
        sequence_column=tables[0].sequence_column,
        regions=tuple(region for part in located for region in part)
        if len(located) == len(tables)
        else None,
    )


def digest(table: SequenceTable) -> str:
    """32 hex digits that change with any base or with the order of the rows."""
    value = hashlib.blake2b(digest_size=16)
    for ids in table.ids:
        value.update(len(ids).to_bytes(8, "little"))
        value.update(ids.tobytes())
    return value.hexdigest()


@dataclass(frozen=True, slots=True)
class _Record:
    header: str
    letters: str
    place: str


def _fasta_records(path: Path) -> Iterator[_Record]:
    header, place, parts = "", "", list[str]()
    for number, line in enumerate(open_lines(path), 1):
        text = line.strip()
        if text.startswith(">"):
            if header:
                yield _record(header, parts, place)
            header, place, parts = text[1:].strip(), f"{path}:{number}", []
            if not header:
                raise CrossDNAError(f"{place}: record without a name after >")
        elif text and not header:
            raise CrossDNAError(
                f"{path}:{number}: not a FASTA file: expected a line that starts with "
                f">, found {text[:1]!r}"
            )
        else:
            parts.append(text)
    if header:
        yield _record(header, parts, place)


def _record(header: str, parts: list[str], place: str) -> _Record:
    letters = "".join(parts)
    if not letters:
        raise CrossDNAError(f"{place}: record {header.split()[0]} has no bases")
    return _Record(header, letters, place)


def _bed_region(fields: list[str], where: str, genome: Genome) -> Region:
    if len(fields) < 3:
        raise CrossDNAError(f"{where}: expected contig, start and end")
    try:
        start, end = int(fields[1]), int(fields[2])
    except ValueError:
        raise CrossDNAError(
            f"{where}: start {fields[1]!r} and end {fields[2]!r} must be whole numbers"
        ) from None
    strand = fields[5] if len(fields) > 5 and fields[5] != "." else "+"
    name = fields[3] if len(fields) > 3 else ""
    try:
        region = Region(fields[0], start, end, name, strand)
    except CrossDNAError as error:
        raise CrossDNAError(f"{where}: {error}") from None
    return check_region(region, genome.contigs, where)


def _read_parquet(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise CrossDNAError(f"{path}: no such file")
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CrossDNAError(f"{path}: not a Parquet file: {error}") from None


def _read_delimited(path: Path, delimiter: str) -> tuple[pl.DataFrame, tuple[str, ...]]:
    lines = open_lines(path)
    first = next(lines, "")
    delimiter = _delimiter_of(first, delimiter)
    header: list[str] = []
    rows, places = [], []
    empty = ""
    for row, where in _delimited_rows(path, chain([first], lines), delimiter):
        if not header:
            header = _header(row, where)
        elif not any(field.strip() for field in row):
            empty = empty or where
        elif empty:
            # Empty lines at the end are no rows; others may be rows that got lost.
            raise CrossDNAError(f"{empty}: empty row")
        elif len(row) != len(header):
            raise CrossDNAError(
                f"{where}: {len(row)} fields, but the header names {len(header)}"
            )
        else:
            rows.append(row)
            places.append(where)
    if not header:
        raise CrossDNAError(f"{path}: empty file")
    schema = dict.fromkeys(header, pl.String)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    return pl.DataFrame(columns, schema=schema), tuple(places)


def _delimited_rows(
    path: Path, lines: Iterable[str], delimiter: str
) -> Iterator[tuple[list[str], str]]:
    """Fields of each row, and the file and line where it ends."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    before = csv.field_size_limit(_FIELD_LIMIT)
    try:
        for row in reader:
            yield row, f"{path}:{reader.line_num}"
    except csv.Error as error:
        raise CrossDNAError(f"{path}:{reader.line_num}: {error}") from None
    finally:
        csv.field_size_limit(before)


def _delimiter_of(first_line: str, promised: str) -> str:
    """What the file's name promises, unless only another mark is in the first line."""
    marks = (promised, *_OTHER_DELIMITERS)
    return next((mark for mark in marks if mark in first_line), promised)


def _header(row: list[str], where: str) -> list[str]:
    names = [name.strip().removeprefix("﻿") for name in row]
    if len(set(names)) < len(names):
        raise CrossDNAError(f"{where}: two columns have the same name")
    if any(len(name) >= 8 and set(name.upper()) <= set("ACGTN") for name in names):
        raise CrossDNAError(
            f"{where}: the first line holds a sequence; it must name the columns"
        )
    return names


def _from_columns(
    path: Path,
    columns: pl.DataFrame,
    places: tuple[str, ...],
    sequence_column: str | None,
) -> SequenceTable:
    name = sequence_column or _find_sequence_column(path, columns)
    if name not in columns.columns:
        raise CrossDNAError(
            f"{path}: no column {name!r}; there are {', '.join(columns.columns)}"
        )
    if not _holds_text(columns[name]):
        raise CrossDNAError(f"{path}: column {name!r} holds no text, so no sequences")
    ids = []
    for letters, where in zip(columns[name].cast(pl.String), places, strict=True):
        letters = (letters or "").strip()
        if not letters:
            raise CrossDNAError(f"{where}: empty sequence in column {name!r}")
        ids.append(alphabet.encode(letters, name=where))
    return SequenceTable(
        source=str(path),
        ids=tuple(ids),
        columns=columns,
        places=places,
        sequence_column=name,
        regions=regions_of_columns(columns, places, [len(bases) for bases in ids]),
    )


def _find_sequence_column(path: Path, columns: pl.DataFrame) -> str:
    named = [name for name in columns.columns if name.lower() in SEQUENCE_NAMES]
    if len(named) == 1:
        return named[0]
    candidates = named or [
        name
        for name in columns.columns
        if _holds_text(columns[name]) and _looks_like_dna(columns[name].head(50))
    ]
    if len(candidates) == 1:
        return candidates[0]
    problem = "several columns could be" if candidates else "no column looks like"
    raise CrossDNAError(
        f"{path}: {problem} the sequences; name one with --sequence-column "
        f"(columns: {', '.join(columns.columns)})"
    )


def _holds_text(values: pl.Series) -> bool:
    return values.dtype in (pl.String, pl.Categorical, pl.Enum)


def _looks_like_dna(values: pl.Series) -> bool:
    return all(
        value is not None and len(value) >= 8 and set(value.upper()) <= set("ACGTUN")
        for value in values
    )
