"""Writing scored variants: VCF with INFO fields, or a table with a row per allele."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from crossdna.analysis.variants.file import SKIP, scored_records
from crossdna.data.variants import REASONS
from crossdna.data.vcf import with_info, write_vcf
from crossdna.data.vcf_header import InfoField, extended_header
from crossdna.errors import CrossDNAError
from crossdna.files import atomic_path, refuse_overwriting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from crossdna.analysis.chunks import ChunkStore
    from crossdna.analysis.variants.calibrate import Calibration
    from crossdna.analysis.variants.file import ScoredRecord, ScoringRun

VCF_SUFFIXES: Final = (".vcf", ".vcf.gz", ".vcf.bgz")
TABLE_SUFFIXES: Final = (".tsv", ".parquet")
_NO_ALTERNATE: Final = "NO_ALT"
_ROWS_AT_ONCE: Final = 65536
_STRANDS: Final = {
    "+": "forward strand",
    "-": "reverse strand",
    "both": "both strands averaged",
}
_PREFIX: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_INFO_ID: Final = re.compile(r"##INFO=<ID=([^,>]+)")
_SCORES: Final = re.compile(r'scores="([^"]*)"')


class Counts(NamedTuple):
    """What a scored file holds."""

    records: int
    scored: int
    """Alternate alleles with scores."""
    skipped: dict[str, int]
    """Alternate alleles without, by reason."""


def check_output(output: Path, prefix: str, variants: str) -> None:
    """Refuse a name that cannot be written, before anything is computed.

    Raises
    ------
    CrossDNAError
        An unknown suffix, a missing folder, a table that would take the place of the
        variants, or a prefix that no INFO field can have.
    """
    if not output.name.endswith((*VCF_SUFFIXES, *TABLE_SUFFIXES)):
        known = ", ".join((*VCF_SUFFIXES, *TABLE_SUFFIXES))
        raise CrossDNAError(f"{output}: scores are written to {known}")
    if not output.parent.is_dir():
        raise CrossDNAError(f"{output}: the folder {output.parent} does not exist")
    if output.suffix in TABLE_SUFFIXES:
        refuse_overwriting(variants, output)
    if not _PREFIX.fullmatch(prefix):
        raise CrossDNAError(
            f"--prefix {prefix!r}: the name of a field starts with a letter and has "
            "letters, digits and _"
        )


def write_scores(
    run: ScoringRun,
    store: ChunkStore,
    output: Path,
    *,
    prefix: str,
    calibration: Calibration | None = None,
) -> Counts:
    """Write all records with their scores, in the order of the input.

    Parameters
    ----------
    prefix
        What the names of INFO fields begin with; tables have the bare names.
    calibration
        Adds percentiles; the run's columns must then have ``percentile``.
    """
    skipped: Counter[str] = Counter()

    def counted() -> Iterator[ScoredRecord]:
        for scored in scored_records(run, store, calibration):
            skipped.update(scored.skips)
            yield scored

    if output.name.endswith(VCF_SUFFIXES):
        _write_vcf(run, counted(), output, prefix)
    elif output.suffix == ".tsv":
        _write_tsv(run, counted(), output)
    else:
        _write_parquet(run, counted(), output)
    scored = skipped.pop("", 0)
    return Counts(run.scan.records, scored, dict(sorted(skipped.items())))


def info_fields(run: ScoringRun, prefix: str) -> list[InfoField]:
    """The INFO fields of a scored VCF, scores first."""
    how = _STRANDS[run.job.settings.strand]
    model = f"{run.job.model}, {how}, window {run.job.settings.window}"
    fields = [
        InfoField(f"{prefix}{name.upper()}", "A", "Float", f"{text} ({model})")
        for name, text in run.columns.items()
    ]
    reasons = "; ".join(f"{name}: {text}" for name, text in REASONS.items())
    why = f"Why an alternate allele was not scored. {reasons}"
    none = "The record has no alternate allele to score"
    fields.append(InfoField(f"{prefix}{SKIP}", "A", "String", why))
    fields.append(InfoField(f"{prefix}{_NO_ALTERNATE}", "0", "Flag", none))
    return fields


def replaced_fields(run: ScoringRun, prefix: str) -> list[str]:
    """INFO fields of the input that give way to ours of the same names."""
    header = run.file.header
    ours = {field.key for field in info_fields(run, prefix)}
    ours |= _fields_before(header, prefix)
    return [
        found[1]
        for line in (*header, *run.scan.undescribed.values())
        if (found := _INFO_ID.match(line)) and found[1] in ours
    ]


def _fields_before(header: Iterable[str], prefix: str) -> set[str]:
    """Fields of an earlier scoring, whose numbers would stand beside other ones."""
    line = next((x for x in header if x.startswith(f"##{prefix}score=<")), "")
    names = _SCORES.search(line)
    return (
        {f"{prefix}{name.upper()}" for name in names[1].split(",")} if names else set()
    )


def _write_vcf(
    run: ScoringRun, records: Iterable[ScoredRecord], output: Path, prefix: str
) -> None:
    fields = info_fields(run, prefix)
    known = [field.key for field in fields]
    old = {*known, *_fields_before(run.file.header, prefix)}
    lengths = {
        name: run.genome_contigs[mapped]
        for name, mapped in run.scan.contigs.items()
        if mapped is not None
    }
    values = [f"{key}={json.dumps(text)}" for key, text in run.provenance().items()]
    provenance = f"##{prefix}score=<ID={prefix}score,{','.join(values)}>"
    described = [*run.file.header[:-1], *run.scan.undescribed.values()]
    given = [*described, run.file.header[-1]]
    header = extended_header(given, fields, lengths, provenance, replaced=old)

    def lines() -> Iterator[str]:
        for scored in records:
            info = dict(zip(known, _info_values(run, scored), strict=True))
            yield with_info(scored.record.text, info, old)

    write_vcf(output, header, lines(), longest=max(lengths.values(), default=0))


def _info_values(run: ScoringRun, scored: ScoredRecord) -> list[str | None]:
    values: list[str | None] = []
    for name in run.columns:
        scores = scored.scores[name]
        shown = ",".join(_number(score, missing=".") for score in scores)
        values.append(None if np.isnan(scores).all() else shown)
    skips = ",".join(reason or "." for reason in scored.skips)
    values.append(skips if any(scored.skips) else None)
    values.append(None if scored.record.alts else "")
    return values


def _number(value: float, missing: str) -> str:
    # Adding zero turns -0 into 0.
    return missing if np.isnan(value) else f"{value + 0.0:.6g}"


def _rows(run: ScoringRun, records: Iterable[ScoredRecord]) -> Iterator[dict[str, Any]]:
    for number, (record, scores, skips) in enumerate(records, 1):
        for allele, alt in enumerate(record.alts):
            row: dict[str, Any] = {
                "chrom": record.contig,
                "pos": record.position + 1,
                "id": record.name,
                "ref": record.ref,
                "alt": alt,
                "record": number,
                "allele": allele + 1,
            }
            row |= {name: float(scores[name][allele]) for name in run.columns}
            yield row | {"skip": skips[allele] or "."}


def _write_tsv(run: ScoringRun, records: Iterable[ScoredRecord], output: Path) -> None:
    keys = ["chrom", "pos", "id", "ref", "alt", "record", "allele"]
    with atomic_path(output) as temporary, temporary.open("w") as handle:
        handle.write(f"# crossdna score {json.dumps(run.provenance())}\n")
        handle.write("\t".join([*keys, *run.columns, "skip"]) + "\n")
        for row in _rows(run, records):
            row |= {name: _number(row[name], missing="NA") for name in run.columns}
            handle.write("\t".join(map(str, row.values())) + "\n")


def _write_parquet(
    run: ScoringRun, records: Iterable[ScoredRecord], output: Path
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {"pos": pa.int64(), "record": pa.int64(), "allele": pa.int32()}
    kinds |= dict.fromkeys(run.columns, pa.float64())
    keys = ["chrom", "pos", "id", "ref", "alt", "record", "allele"]
    names = [*keys, *run.columns, "skip"]
    schema = pa.schema(
        [(name, kinds.get(name, pa.string())) for name in names],
        metadata={"crossdna": json.dumps(run.provenance())},
    )
    rows = _rows(run, records)
    with (
        atomic_path(output) as temporary,
        parquet.ParquetWriter(temporary, schema) as writer,
    ):
        while batch := list(islice(rows, _ROWS_AT_ONCE)):
            for row in batch:
                for name in run.columns:
                    row[name] = None if np.isnan(row[name]) else row[name]
            writer.write_table(pa.Table.from_pylist(batch, schema))
