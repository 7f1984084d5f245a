"""Variant files: VCF, BCF and tables read line by line, VCF written with new fields.

A VCF is handled as text: whatever a line holds goes through unchanged, and only the
INFO column of a record and the header grow. BCF is turned into VCF text by htslib.
"""

from __future__ import annotations

import codecs
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from crossdna import alphabet
from crossdna.data.fasta import open_bytes, open_lines
from crossdna.data.vcf_header import VERSION
from crossdna.errors import CrossDNAError
from crossdna.files import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_FIXED: Final = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO"]
_REF_LETTERS: Final = frozenset(alphabet.LETTERS + alphabet.IUPAC)
_BCF_MAGIC: Final = b"BCF\x02"
# Beyond this the bins of a .tbi do not reach.
_TBI_LIMIT: Final = 1 << 29
_COLUMN_NAMES: Final = {
    "chrom": ("chrom", "#chrom", "chr", "contig", "chromosome"),
    "pos": ("pos", "position"),
    "ref": ("ref", "reference"),
    "alt": ("alt", "alternate", "alternative"),
}


class Record(NamedTuple):
    """One line of a variant file."""

    line: int
    """1-based line of the file; of a BCF the 1-based record."""
    contig: str
    position: int
    """0-based."""
    name: str
    ref: str
    alts: tuple[str, ...]
    """Without those that stand for "no alternate allele" (``.``)."""
    text: str
    """The whole record as a line of VCF."""


@dataclass
class VariantFile:
    """A variant file, open for any number of readings.

    Attributes
    ----------
    path : Path
    name : str
        What errors call the file.
    kind : {"vcf", "bcf", "tsv"}
    header : list of str
        Header lines up to and with the column names, as VCF.
    """

    path: Path
    name: str
    kind: str
    header: list[str] = field(repr=False)

    @classmethod
    def open(cls, path: str | Path, name: str | None = None) -> VariantFile:
        """Find out what a file is and read its header.

        Parameters
        ----------
        path
            VCF or BCF, or a table parted by tabs with the columns chrom, pos, ref, alt
            (in this order, or in any that a first line names); plain, gzip or BGZF.
        name
            What errors call the file; its path when not given.

        Raises
        ------
        CrossDNAError
            No such file, damaged or truncated, none of the kinds.
        """
        path = Path(path)
        name = name or str(path)
        with open_bytes(path) as (stream, _):
            kind = _kind(_peek(stream, name).removeprefix(codecs.BOM_UTF8))
        if kind == "tsv":
            columns = [VERSION, "\t".join(_FIXED)]
            return cls(path, name, kind, columns)
        file = cls(path, name, kind, [])
        for _, line in file._lines():
            if line.startswith("##"):
                file.header.append(line)
            elif line.startswith("#"):
                file.header.append(_check_columns(line, name, len(file.header) + 1))
                return file
            else:
                break
        raise CrossDNAError(
            f"{name}:{len(file.header) + 1}: the header has no #CHROM line"
        )

    @property
    def samples(self) -> list[str]:
        """Names of the samples."""
        return self.header[-1].split("\t")[9:]

    def records(self) -> Iterator[Record]:
        """Read the records in file order.

        Raises
        ------
        CrossDNAError
            With file and line: a malformed record; a damaged or truncated file.
        """
        if self.kind == "tsv":
            yield from self._table_records()
            return
        columns = self.header[-1].count("\t") + 1
        empty = 0
        for number, line in self._lines():
            if line.startswith("#"):
                continue
            # Behind the last record an empty line does no harm.
            if not line:
                empty = empty or number
                continue
            if empty:
                raise CrossDNAError(
                    f"{self.name}:{empty}: empty line among the records"
                )
            where = f"{self.name}:{number}"
            fields = line.split("\t")
            if len(fields) != columns:
                raise CrossDNAError(
                    f"{where}: {len(fields)} columns, but the header has {columns}"
                    + ("; are they parted by spaces?" if len(fields) == 1 else "")
                )
            contig, position, name, ref, alt = fields[:5]
            yield _record(where, number, contig, position, name, ref, alt, line)

    def _table_records(self) -> Iterator[Record]:
        order: list[int] | None = None
        for number, line in self._lines():
            if not line or (line.startswith("#") and not _is_heading(line)):
                continue
            fields = [value.strip() for value in line.split("\t")]
            where = f"{self.name}:{number}"
            if order is None:
                order = _column_order(fields, where)
                if _is_heading(line):
                    continue
                if len(fields) >= len(_FIXED) and not _is_bases(fields[order[2]]):
                    raise CrossDNAError(
                        f"{where}: {len(fields)} columns and no line above that names "
                        "them; a VCF begins with ##fileformat=VCFv4.2 and has a line "
                        "#CHROM; of a table the columns are chrom, pos, ref, alt"
                    )
            if len(fields) <= max(order):
                raise CrossDNAError(
                    f"{where}: {len(fields)} columns; chrom, pos, ref and alt must be "
                    "there, parted by tabs"
                )
            contig, position, ref, alt = (fields[column] for column in order)
            ref, alt = ref.upper(), alt.upper()
            text = "\t".join([contig, position, ".", ref, alt, ".", ".", "."])
            yield _record(where, number, contig, position, ".", ref, alt, text)

    def _lines(self) -> Iterator[tuple[int, str]]:
        if self.kind == "bcf":
            yield from self._bcf_lines()
            return
        for number, line in enumerate(open_lines(self.path), 1):
            yield number, line.removesuffix("\r")

    def _bcf_lines(self) -> Iterator[tuple[int, str]]:
        import pysam

        # htslib complains of an index that nobody asked for.
        verbosity = pysam.set_verbosity(0)
        try:
            with pysam.VariantFile(str(self.path)) as file:
                for line in str(file.header).rstrip("\n").split("\n"):
                    yield 0, line
                for number, record in enumerate(file, 1):
                    yield number, str(record).rstrip("\n")
        except (OSError, ValueError) as error:
            raise CrossDNAError(f"{self.name}: damaged BCF file: {error}") from None
        finally:
            pysam.set_verbosity(verbosity)


def _peek(stream: object, name: str) -> bytes:
    try:
        return stream.read(64)  # type: ignore[attr-defined]
    except (OSError, EOFError, zlib.error) as error:
        raise CrossDNAError(f"{name}: cannot be read: {error}") from None


def _kind(start: bytes) -> str:
    if start.startswith(_BCF_MAGIC):
        return "bcf"
    if start.startswith((b"##", b"#CHROM\tPOS\tID\t")):
        return "vcf"
    return "tsv"


def _check_columns(line: str, name: str, number: int) -> str:
    columns = line.split("\t")
    if columns[:8] != _FIXED or (len(columns) > 8 and columns[8] != "FORMAT"):
        raise CrossDNAError(
            f"{name}:{number}: the columns of a VCF are {' '.join(_FIXED)} and then "
            "FORMAT and samples, parted by tabs"
        )
    return line


def _is_heading(line: str) -> bool:
    columns = {word.strip().lower() for word in line.split("\t")}
    return any(not columns.isdisjoint(_COLUMN_NAMES[name]) for name in ("pos", "ref"))


def _column_order(fields: Sequence[str], where: str) -> list[int]:
    if not _is_heading("\t".join(fields)):
        return [0, 1, 2, 3]
    lower = [value.lower() for value in fields]
    order = []
    for name, spellings in _COLUMN_NAMES.items():
        found = [lower.index(word) for word in spellings if word in lower]
        if not found:
            raise CrossDNAError(
                f"{where}: no column {name!r}; a table of variants has the columns "
                "chrom, pos, ref and alt"
            )
        order.append(found[0])
    return order


def _is_bases(ref: str) -> bool:
    """Whether a text can be a REF allele."""
    return bool(ref) and not set(ref.upper()) - _REF_LETTERS


def _record(
    where: str,
    number: int,
    contig: str,
    position: str,
    name: str,
    ref: str,
    alt: str,
    text: str,
) -> Record:
    if not contig:
        raise CrossDNAError(f"{where}: no contig in the first column")
    if not position.isdecimal():
        raise CrossDNAError(f"{where}: position {position!r} is not a whole number")
    if not _is_bases(ref):
        raise CrossDNAError(f"{where}: REF {ref!r} is not a sequence of bases")
    alts = () if alt == "." else tuple(alt.split(","))
    if not all(alts):
        raise CrossDNAError(f"{where}: ALT {alt!r} has an empty allele; write . or *")
    return Record(number, contig, int(position) - 1, name, ref, alts, text)


def with_info(text: str, values: Mapping[str, str | None], known: Iterable[str]) -> str:
    """Put fields into a record's INFO column.

    Parameters
    ----------
    text
        The record as a line of VCF.
    values
        Text of each field; an empty text makes a flag, None leaves the field out.
    known
        Fields that are taken out first, should the record have them.
    """
    fields = text.split("\t")
    drop = set(known)
    old = [] if fields[7] == "." else filter(None, fields[7].split(";"))
    kept = [part for part in old if part.split("=", 1)[0] not in drop]
    new = [
        f"{key}={value}" if value else key
        for key, value in values.items()
        if value is not None
    ]
    fields[7] = ";".join(kept + new) or "."
    return "\t".join(fields)


def write_vcf(
    path: Path, header: Iterable[str], records: Iterable[str], longest: int
) -> None:
    """Write a VCF; compressed as BGZF and indexed when its name ends in .gz or .bgz.

    Parameters
    ----------
    longest
        Length of the longest contig: decides between a .tbi and a .csi index.
    """
    if path.suffix not in (".gz", ".bgz"):
        with atomic_path(path) as temporary, temporary.open("w") as output:
            output.writelines(f"{line}\n" for line in header)
            output.writelines(f"{line}\n" for line in records)
        return
    import pysam

    with atomic_path(path) as temporary:
        with pysam.BGZFile(str(temporary), "w", index=None) as output:
            for lines in (header, records):
                for line in lines:
                    output.write(f"{line}\n".encode())
        suffix = ".csi" if longest > _TBI_LIMIT else ".tbi"
        index = Path(f"{temporary}{suffix}")
        try:
            pysam.tabix_index(
                str(temporary), preset="vcf", force=True, csi=suffix == ".csi"
            )
            # The index first: a file without its index is told from a finished one.
            # Another's index of the old file would be found before it.
            other = ".tbi" if suffix == ".csi" else ".csi"
            Path(f"{path}{other}").unlink(missing_ok=True)
            index.replace(f"{path}{suffix}")
        finally:
            index.unlink(missing_ok=True)
