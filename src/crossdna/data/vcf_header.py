"""Headers of VCF files: fields that are added, and fields that nobody described."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

VERSION: Final = "##fileformat=VCFv4.2"
_TEXT: Final = "Number=.,Type=String,"
_FLAG: Final = "Number=0,Type=Flag,"
# Number and type of what VCF 4.3 reserves, but for flags, which show what they are.
_RESERVED: Final = {
    "INFO": {
        "AA": "1 String", "AC": "A Integer", "AD": "R Integer", "ADF": "R Integer",
        "ADR": "R Integer", "AF": "A Float", "AN": "1 Integer", "BQ": "1 Float",
        "CIGAR": "A String", "DP": "1 Integer", "END": "1 Integer", "MQ": "1 Float",
        "MQ0": "1 Integer", "NS": "1 Integer",
    },
    "FORMAT": {
        "AD": "R Integer", "ADF": "R Integer", "ADR": "R Integer", "DP": "1 Integer",
        "EC": "A Integer", "FT": "1 String", "GL": "G Float", "GP": "G Float",
        "GQ": "1 Integer", "GT": "1 String", "HQ": "2 Integer", "MQ": "1 Integer",
        "PL": "G Integer", "PP": "G Integer", "PQ": "1 Integer", "PS": "1 Integer",
    },
}  # fmt: skip


class FieldLog:
    """Fields that records use and the header does not describe.

    Readers guess their type, but refuse to write them. Those that the specification of
    VCF reserves are described as it has them, the rest as text.

    Parameters
    ----------
    header
        Header lines of a VCF.
    """

    def __init__(self, header: Sequence[str]) -> None:
        self._known = {("FILTER", "PASS"), ("FILTER", ".")}
        self.lines: dict[str, str] = {}
        """By name of a field, the header line that describes it."""
        for line in header:
            kind, _, rest = line.removeprefix("##").partition("=<ID=")
            if rest:
                self._known.add((kind, rest.split(",", 1)[0].rstrip(">")))

    def see(self, text: str) -> None:
        """Take a record as a line of VCF."""
        columns = text.split("\t")
        for name in columns[6].split(";"):
            self._add("FILTER", name, "")
        if columns[7] not in (".", ""):
            for part in columns[7].split(";"):
                name, value, _ = part.partition("=")
                self._add("INFO", name, _TEXT if value else _FLAG)
        for name in columns[8].split(":") if len(columns) > 8 else ():
            self._add("FORMAT", name, _TEXT)

    def _add(self, kind: str, name: str, what: str) -> None:
        if known := _RESERVED.get(kind, {}).get(name):
            number, type_of = known.split()
            what = f"Number={number},Type={type_of},"
        if name and (kind, name) not in self._known:
            self._known.add((kind, name))
            text = 'Description="Not described in the input"'
            self.lines[f"{kind} {name}"] = f"##{kind}=<ID={name},{what}{text}>"


class InfoField(NamedTuple):
    """A field to be added to INFO."""

    key: str
    number: str
    """``A`` for one value for each alternate allele, ``0`` for a flag."""
    kind: str
    """``Float``, ``String`` or ``Flag``."""
    description: str

    def header_line(self) -> str:
        """The line that describes the field."""
        text = self.description.replace("\\", "\\\\").replace('"', '\\"')
        return (
            f"##INFO=<ID={self.key},Number={self.number},Type={self.kind},"
            f'Description="{text}">'
        )


def extended_header(
    header: Sequence[str],
    fields: Sequence[InfoField],
    contigs: Mapping[str, int],
    provenance: str,
    replaced: Collection[str] = (),
) -> list[str]:
    """Add what a scored file needs; fields of the same name from before are replaced.

    A header without a version gets one: other tools take the file for none without.

    Parameters
    ----------
    contigs
        Contigs of the records and their lengths; those the header lacks are added.
    provenance
        A ``##`` line on how the file was made; the last one goes.
    replaced
        Fields from before that go too.
    """
    names = {*replaced, *(field.key for field in fields)}
    old = tuple(f"##INFO=<ID={name}," for name in names)
    key = provenance.split("=", 1)[0] + "="
    kept = [line for line in header[:-1] if not line.startswith((*old, key))]
    declared = {
        part.removeprefix("ID=")
        for line in kept
        if line.startswith("##contig=<")
        for part in line[len("##contig=<") :].rstrip(">").split(",")
        if part.startswith("ID=")
    }
    added = [
        f"##contig=<ID={name},length={length}>"
        for name, length in contigs.items()
        if name not in declared
    ]
    described = [field.header_line() for field in fields]
    if not header[0].startswith("##fileformat="):
        kept.insert(0, VERSION)
    return [*kept, *added, *described, provenance, header[-1]]
