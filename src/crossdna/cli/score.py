"""``crossdna score``: variants in, the same variants with scores out."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from crossdna.cli.model_options import (
    CHECKPOINT,
    add_device_option,
    add_execution_options,
    add_strand_option,
    add_trust_option,
    chosen_execution,
    note_strand,
)
from crossdna.cli.numbers import count, seed

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Any

    from crossdna.analysis.variants.calibrate import (
        Calibration,
        CalibrationSettings,
        Surroundings,
    )
    from crossdna.analysis.variants.file import ScoringRun
    from crossdna.data.vcf import VariantFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    _add_files(parser)
    _add_scores(parser.add_argument_group("what is scored"))
    _add_calibration(parser.add_argument_group("percentiles"))
    running = parser.add_argument_group("how it is run")
    _add_running(running)
    add_execution_options(running)
    add_trust_option(parser)


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        help=f"{CHECKPOINT}, or a classical model: "
        "pwm:FILE.meme[:MOTIF], markov:ORDER@GENOME.fa, hmm:STATES@GENOME.fa",
    )
    parser.add_argument(
        "--genome", type=Path, nargs="+", required=True, help="FASTA, plain or gzip"
    )
    parser.add_argument(
        "--variants",
        required=True,
        help="VCF, BCF, or a table of chrom, pos, ref, alt; - reads stdin",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="by its suffix .vcf.gz (with index), .vcf, .tsv or .parquet",
    )
    parser.add_argument(
        "--prefix", default="XD_", help="of the names of INFO fields (%(default)s)"
    )


def _add_scores(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--scores",
        nargs="+",
        metavar="NAME",
        help="llr, pll, ll, entropy, distance, head; default: what suits the model",
    )
    group.add_argument(
        "--window",
        type=count,
        help="bases the model sees around a variant (512, or the length that its head "
        "was trained on; no more than it reads at once)",
    )
    group.add_argument(
        "--mask-spacing",
        type=count,
        default=8,
        help="pll masks one base (or token) in so many at once (%(default)s)",
    )
    add_strand_option(group)
    group.add_argument(
        "--allow-missing-contigs",
        action="store_true",
        help="leave records unscored whose contig the genome does not have",
    )


def _add_calibration(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--calibrate",
        type=count,
        nargs="?",
        const=100,
        metavar="PLACES",
        help="add the percentile of llr among substitutions at so many random places "
        "of the same kind (%(const)s when no number is given)",
    )
    group.add_argument(
        "--annotation",
        type=Path,
        help="GFF3 or GTF with the classes of region for --calibrate; without it, "
        "lower case (repeats) and the rest",
    )
    group.add_argument(
        "--seed", type=seed, default=0, help="of --calibrate (default: %(default)s)"
    )


def _add_running(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--work",
        type=Path,
        help="folder for finished chunks, from which a killed run goes on; "
        "default: beside the output",
    )
    group.add_argument(
        "--chunk-size", type=count, default=256, help="records in a chunk (%(default)s)"
    )
    group.add_argument(
        "--batch-size", type=count, default=32, help="windows at a time (%(default)s)"
    )
    group.add_argument(
        "--workers",
        type=count,
        default=1,
        help="processes; each has a GPU of its own, or shares the CPU (%(default)s)",
    )
    add_device_option(group)


def run(arguments: argparse.Namespace) -> int:
    """Score and write; what the file has to be known for goes to stderr."""
    import sys

    from crossdna.analysis.chunks import worker_devices
    from crossdna.analysis.variants import calibrate
    from crossdna.analysis.variants.file import prepare, run_scoring
    from crossdna.analysis.variants.output import (
        VCF_SUFFIXES,
        check_output,
        replaced_fields,
        write_scores,
    )
    from crossdna.analysis.variants.scan import require_scorable
    from crossdna.cli.progress import progress
    from crossdna.data.annotation import Annotation
    from crossdna.data.genome import Genome

    output: Path = arguments.output
    check_output(output, arguments.prefix, arguments.variants)
    work = arguments.work or output.with_name(f"{output.name}.work")
    devices = worker_devices(arguments.device, arguments.workers)
    chosen: dict[str, Any] = {}
    if arguments.window is not None:
        chosen["window"] = arguments.window
    if arguments.strand is not None:
        chosen["strand"] = arguments.strand
    nulls = _nulls(arguments)
    with _variants(arguments.variants) as file:
        genome = Genome.open(arguments.genome)
        annotated = arguments.annotation
        annotation = Annotation.read(annotated, genome) if annotated else None
        scoring = prepare(
            file,
            genome,
            arguments.model,
            scores=arguments.scores,
            chunk_size=arguments.chunk_size,
            options={
                **chosen,
                "mask_spacing": arguments.mask_spacing,
                "batch_size": arguments.batch_size,
            },
            trust_remote_code=arguments.trust_remote_code,
            execution=chosen_execution(arguments),
        )
        if nulls is not None:
            calibrate.require_ratios(scoring)
        require_scorable(
            scoring.scan,
            file,
            output,
            allow_missing_contigs=arguments.allow_missing_contigs,
        )
        note_strand(arguments, scoring.job.settings.strand)
        for note in scoring.scan.notes(file.name):
            print(note, file=sys.stderr)
        replaced = replaced_fields(scoring, arguments.prefix)
        if replaced and output.name.endswith(VCF_SUFFIXES):
            print(
                f"{file.name}: its fields {', '.join(replaced)} are replaced; another "
                "--prefix keeps both",
                file=sys.stderr,
            )
        with progress("scoring", scoring.scan.records, "variants") as advance:
            store = run_scoring(scoring, work, devices=devices, advance=advance)
        calibration = None
        if nulls is not None:
            around = calibrate.Surroundings(
                genome, annotation, scoring.job.settings.window
            )
            scoring, calibration = _calibrated(scoring, around, nulls, work, devices)
        counts = write_scores(
            scoring, store, output, prefix=arguments.prefix, calibration=calibration
        )
    store.remove()
    skipped = ", ".join(f"{name} {count}" for name, count in counts.skipped.items())
    print(
        f"written: {output}: {counts.records} records, {counts.scored} alleles scored"
        + (f"; not scored: {skipped}" if skipped else "")
    )
    return 0


def _nulls(arguments: argparse.Namespace) -> CalibrationSettings | None:
    from crossdna.analysis.variants.calibrate import CalibrationSettings
    from crossdna.errors import CrossDNAError

    if arguments.calibrate is not None:
        return CalibrationSettings(places=arguments.calibrate, seed=arguments.seed)
    if arguments.annotation:
        raise CrossDNAError(
            "--annotation tells --calibrate the classes of region; add --calibrate"
        )
    return None


def _calibrated(
    scoring: ScoringRun,
    surroundings: Surroundings,
    settings: CalibrationSettings,
    work: Path,
    devices: list[str],
) -> tuple[ScoringRun, Calibration]:
    """Score random substitutions; the run then has the column ``percentile``."""
    import sys

    from crossdna.analysis.variants import calibrate
    from crossdna.cli.progress import progress

    kinds = calibrate.wanted_kinds(scoring, surroundings)
    with progress("calibrating", len(kinds), "kinds") as advance:
        calibration = calibrate.calibrate(
            scoring,
            surroundings,
            kinds,
            settings,
            work / "calibration",
            devices=devices,
            advance=advance,
        )
    if calibration.rare:
        print(
            "note: no percentiles for kinds with fewer than 20 places drawn: "
            f"{', '.join(calibration.rare)}",
            file=sys.stderr,
        )
    return (
        scoring._replace(
            columns=scoring.columns | {"percentile": calibrate.DESCRIPTION},
            calibration=calibrate.provenance(settings, surroundings.annotation),
        ),
        calibration,
    )


@contextlib.contextmanager
def _variants(name: str) -> Iterator[VariantFile]:
    """Open the variants; stdin is kept in a file, as it is read more than once."""
    import shutil
    import sys
    import tempfile

    from crossdna.data.vcf import VariantFile

    if name != "-":
        yield VariantFile.open(name)
        return
    with tempfile.NamedTemporaryFile(prefix="crossdna-", suffix=".variants") as spool:
        shutil.copyfileobj(sys.stdin.buffer, spool)
        spool.flush()
        yield VariantFile.open(spool.name, "stdin")
