"""Reading a variant file through before it is scored: counts, order, REF alleles."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crossdna.data.variants import (
    ContigTally,
    match_contigs,
    mismatch_hint,
    tally_reference,
)
from crossdna.data.vcf_header import FieldLog
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from pathlib import Path

    from crossdna.data.genome import Genome
    from crossdna.data.vcf import VariantFile


@dataclass
class Scan:
    """What one reading of a variant file finds, before anything is scored."""

    records: int = 0
    alleles: int = 0
    contigs: dict[str, str | None] = field(default_factory=dict)
    """The genome's name of each contig of the file."""
    tallies: dict[str, ContigTally] = field(default_factory=dict)
    """REF alleles against the genome, by contig of the file."""
    missing: dict[str, int] = field(default_factory=dict)
    """Line of the first record on each contig that the genome does not have."""
    unsorted_line: int = 0
    """First line that is before the line above it; 0 when there is none."""
    duplicates: int = 0
    """Records that repeat position and alleles of the record before."""
    digest: str = ""
    """Of the header and all records."""
    undescribed: dict[str, str] = field(default_factory=dict)
    """Fields that the header does not describe, with lines that do."""

    def notes(self, name: str) -> list[str]:
        """What a reader should know about the file, one line each."""
        lines = []
        renamed = {a: b for a, b in self.contigs.items() if b is not None and a != b}
        if renamed:
            pairs = ", ".join(f"{a} is {b}" for a, b in list(renamed.items())[:4])
            more = ", ..." if len(renamed) > 4 else ""
            lines.append(f"{name}: contigs are named otherwise: {pairs}{more}")
        for contig, tally in self.tallies.items():
            if tally.mismatches:
                lines.append(
                    f"{name}:{tally.first_line}: {contig}: REF differs from the genome "
                    f"in {tally.mismatches} of {tally.records} records (this is the "
                    f"first); these are not scored; {mismatch_hint(tally)}"
                )
            if tally.outside:
                lines.append(
                    f"{name}:{tally.first_outside}: {contig}: {tally.outside} records "
                    "(this is the first) lie beyond the end of the contig; not scored; "
                    "is the genome another assembly?"
                )
        for contig, line in self.missing.items():
            lines.append(
                f"{name}:{line}: the genome has no contig {contig}; not scored"
            )
        if self.undescribed:
            names = ", ".join(self.undescribed)
            lines.append(f"{name}: the header does not describe {names}")
        if self.duplicates:
            lines.append(f"{name}: {self.duplicates} records repeat the one before")
        return lines


def scan_variants(file: VariantFile, genome: Genome) -> Scan:
    """Read a variant file once: count, compare REF with the genome, check the order.

    Raises
    ------
    CrossDNAError
        A malformed record, with its line.
    """
    scan, digest = Scan(), hashlib.blake2b(digest_size=16)
    digest.update("\n".join(file.header).encode())
    fields = FieldLog(file.header)
    last: tuple[str, int, str, tuple[str, ...]] = ("", -1, "", ())
    finished: set[str] = set()
    for record in file.records():
        scan.records += 1
        scan.alleles += len(record.alts)
        digest.update(f"\n{record.text}".encode())
        fields.see(record.text)
        contig = record.contig
        if contig != last[0]:
            finished.add(last[0])
            if contig not in scan.contigs:
                scan.contigs |= match_contigs([contig], genome.contigs)
                scan.tallies[contig] = ContigTally()
        before = contig in finished or (contig == last[0] and record.position < last[1])
        if before and not scan.unsorted_line:
            scan.unsorted_line = record.line
        here = (contig, record.position, record.ref, record.alts)
        scan.duplicates += here == last
        last = here
        mapped = scan.contigs[contig]
        if mapped is None:
            scan.missing.setdefault(contig, record.line)
        else:
            tally_reference(
                scan.tallies[contig],
                genome,
                mapped,
                record.position,
                record.ref,
                record.line,
            )
    scan.digest, scan.undescribed = digest.hexdigest(), fields.lines
    return scan


def require_scorable(
    scan: Scan, file: VariantFile, output: Path, *, allow_missing_contigs: bool
) -> None:
    """Refuse a file that would not give what was asked for.

    Raises
    ------
    CrossDNAError
        No records; contigs that the genome does not have, unless allowed; records out
        of order, which no index can have.
    """
    if not scan.records:
        raise CrossDNAError(f"{file.name}: no records")
    if scan.missing and not allow_missing_contigs:
        contig, line = next(iter(scan.missing.items()))
        raise CrossDNAError(
            f"{file.name}:{line}: the genome has no contig {contig!r}; give the genome "
            "that the variants belong to, or --allow-missing-contigs to leave such "
            "records unscored"
        )
    if scan.unsorted_line and output.name.endswith((".gz", ".bgz")):
        raise CrossDNAError(
            f"{file.name}:{scan.unsorted_line}: records are not sorted, so {output} "
            "could not be indexed; sort them (bcftools sort) or write .vcf, .tsv or "
            ".parquet"
        )
