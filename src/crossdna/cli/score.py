"""``crossdna score``: variants in, the same variants with scores out."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from crossdna.data.vcf import VariantFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--model", required=True, help="checkpoint directory or hub id")
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
        "--scores",
        nargs="+",
        metavar="NAME",
        help="llr, pll, entropy, distance, head; default: what suits the model",
    )
    parser.add_argument(
        "--window",
        type=int,
        default=512,
        help="bases the model sees around a variant (%(default)s)",
    )
    parser.add_argument(
        "--mask-spacing",
        type=int,
        default=8,
        help="pll masks one base in so many at once (%(default)s)",
    )
    parser.add_argument(
        "--forward-only",
        action="store_true",
        help="read the forward strand only: half the time, no strand symmetry",
    )
    parser.add_argument(
        "--allow-missing-contigs",
        action="store_true",
        help="leave records unscored whose contig the genome does not have",
    )
    parser.add_argument(
        "--prefix", default="XD_", help="of the names of INFO fields (%(default)s)"
    )
    parser.add_argument(
        "--work",
        type=Path,
        help="folder for finished chunks, from which a killed run goes on; "
        "default: beside the output",
    )
    parser.add_argument(
        "--chunk-size", type=int, default=256, help="records in a chunk (%(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, help="windows at a time (%(default)s)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes; each has a GPU of its own, or shares the CPU (%(default)s)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda (%(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Score and write; what the file has to be known for goes to stderr."""
    import sys

    from crossdna.analysis.chunks import worker_devices
    from crossdna.analysis.scan import require_scorable
    from crossdna.analysis.score_file import prepare, run_scoring
    from crossdna.analysis.score_output import check_output, write_scores
    from crossdna.cli.progress import progress
    from crossdna.data.genome import Genome

    output: Path = arguments.output
    check_output(output, arguments.prefix)
    work = arguments.work or output.with_name(f"{output.name}.work")
    devices = worker_devices(arguments.device, arguments.workers)
    with _variants(arguments.variants) as file:
        scoring = prepare(
            file,
            Genome.open(arguments.genome),
            arguments.model,
            scores=arguments.scores,
            chunk_size=arguments.chunk_size,
            options={
                "window": arguments.window,
                "mask_spacing": arguments.mask_spacing,
                "strand_average": not arguments.forward_only,
                "batch_size": arguments.batch_size,
            },
        )
        require_scorable(
            scoring.scan,
            file,
            output,
            allow_missing_contigs=arguments.allow_missing_contigs,
        )
        for note in scoring.scan.notes(file.name):
            print(note, file=sys.stderr)
        with progress("scoring", scoring.scan.records, "variants") as advance:
            store = run_scoring(scoring, work, devices=devices, advance=advance)
        counts = write_scores(scoring, store, output, prefix=arguments.prefix)
    store.remove()
    skipped = ", ".join(f"{name} {count}" for name, count in counts.skipped.items())
    print(
        f"written: {output}: {counts.records} records, {counts.scored} alleles scored"
        + (f"; not scored: {skipped}" if skipped else "")
    )
    return 0


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
