"""``crossdna ism``: what every base of a locus does, as table, picture and page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crossdna.cli.model_options import (
    CHECKPOINT,
    add_device_option,
    add_execution_options,
    add_strand_option,
    add_trust_option,
    chosen_window,
    load_chosen,
    note_strand,
)
from crossdna.cli.numbers import count

if TYPE_CHECKING:
    import argparse
    from typing import Any

    from crossdna.analysis.mutagenesis.ism import Mutagenesis
    from crossdna.data.genome import Genome
    from crossdna.data.regions import Region

_MOST_POSITIONS = 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--model", required=True, help=CHECKPOINT)
    parser.add_argument(
        "--genome",
        type=Path,
        nargs="+",
        required=True,
        help="FASTA, plain or gzip; without regions every record is changed",
    )
    parser.add_argument(
        "--region",
        nargs="+",
        default=[],
        metavar="CHR:FROM-TO",
        help="what to change, 1-based and inclusive; the rest is context",
    )
    parser.add_argument(
        "--regions", type=Path, metavar="BED", help="what to change, 0-based"
    )
    parser.add_argument("--output", type=Path, required=True, help="directory to fill")
    parser.add_argument(
        "--deletions",
        action="store_true",
        help="also delete every base (a masked model needs far longer for it)",
    )
    parser.add_argument(
        "--window",
        type=count,
        help="bases the model sees (1024, or the length that its head was trained on; "
        "no more than it reads at once)",
    )
    parser.add_argument(
        "--mask-spacing",
        type=count,
        default=8,
        help="deletions by a masked model: one base in so many is masked (%(default)s)",
    )
    add_strand_option(parser)
    parser.add_argument(
        "--batch-size", type=count, default=32, help="windows at a time (%(default)s)"
    )
    add_device_option(parser)
    add_execution_options(parser)
    add_trust_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Score all changes; write ism.parquet, and for each region a PNG and a page."""
    from crossdna.analysis.inference import checkpoint_task, choose_strand
    from crossdna.analysis.mutagenesis.ism import mutagenesis, mutagenesis_scores
    from crossdna.analysis.provenance import provenance
    from crossdna.analysis.variants.score import ScoreSettings
    from crossdna.cli.progress import progress
    from crossdna.data.genome import Genome
    from crossdna.files import claim_output_directory

    genome = Genome.open(arguments.genome)
    regions = _regions(arguments, genome)
    trust = arguments.trust_remote_code
    task = checkpoint_task(arguments.model, trust_remote_code=trust)
    model = load_chosen(arguments, task)
    settings = ScoreSettings(
        scores=mutagenesis_scores(model, deletions=arguments.deletions),
        window=chosen_window(arguments, model),
        mask_spacing=arguments.mask_spacing,
        strand=choose_strand(model, arguments.strand),
        batch_size=arguments.batch_size,
    )
    note_strand(arguments, settings.strand)
    output = claim_output_directory(arguments.output)
    results = []
    with progress("changing", sum(map(len, regions)), "positions") as advance:
        for region in regions:
            result = mutagenesis(
                model,
                genome,
                region,
                settings,
                deletions=arguments.deletions,
                advance=advance,
            )
            results.append(result)
    how = provenance(model, arguments.model, strand=settings.strand)._asdict()
    _write(results, how, output)
    print(f"written: {output / 'ism.parquet'} and a .png and .html for each region")
    return 0


def _regions(arguments: argparse.Namespace, genome: Genome) -> list[Region]:
    from crossdna.data.regions import parse_region, read_bed, whole_contigs
    from crossdna.errors import CrossDNAError

    regions = [parse_region(text, genome.contigs) for text in arguments.region]
    if arguments.regions:
        regions += read_bed(arguments.regions, genome.contigs)
    regions = regions or whole_contigs(genome.contigs)
    positions = sum(map(len, regions))
    if positions > _MOST_POSITIONS:
        raise CrossDNAError(
            f"{positions:,} positions to change; give --region or --regions (at most "
            f"{_MOST_POSITIONS:,} positions)"
        )
    return regions


def _stems(regions: list[Region]) -> list[str]:
    """A name without ending for each region's files, another one for each."""
    import re
    from collections import Counter

    stems: list[str] = []
    # What differs only in letters that files cannot have, or is given twice.
    alike: Counter[str] = Counter()
    for region in regions:
        contig = re.sub(r"[^\w.:+-]", "_", region.contig)
        stem = f"{contig}_{region.start + 1}-{region.end}"
        alike[stem] += 1
        stems.append(f"{stem}_{alike[stem]}" if alike[stem] > 1 else stem)
    return stems


def _write(results: list[Mutagenesis], how: dict[str, Any], output: Path) -> None:
    import json

    import pyarrow as pa
    from pyarrow import parquet

    from crossdna.analysis.mutagenesis.ism import table
    from crossdna.analysis.mutagenesis.report import (
        mutagenesis_figure,
        mutagenesis_page,
    )
    from crossdna.analysis.plots import save_figure
    from crossdna.files import atomic_open, atomic_path

    rows = pa.table(table(results))
    rows = rows.replace_schema_metadata({"crossdna": json.dumps(how)})
    with atomic_path(output / "ism.parquet") as temporary:
        parquet.write_table(rows, temporary)
    stems = _stems([result.region for result in results])
    for result, stem_of_region in zip(results, stems, strict=True):
        region = result.region
        for column, name in enumerate(result.columns):
            stem = stem_of_region + (f".{name}" if len(result.columns) > 1 else "")
            title = f"{region}: {name.replace('_', ' ')}"
            figure = mutagenesis_figure(result, title=title, column=column)
            with atomic_path(output / f"{stem}.png") as temporary:
                save_figure(figure, temporary)
            page = mutagenesis_page(result, title=title, provenance=how, column=column)
            with atomic_open(output / f"{stem}.html") as handle:
                handle.write(page)
