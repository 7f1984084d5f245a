"""``crossdna evaluate``: a model beside baselines on chromosomes it has not seen."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from crossdna.cli.model_options import (
    CHECKPOINT,
    add_device_option,
    add_execution_options,
    add_trust_option,
    language_task,
    load_chosen,
)
from crossdna.cli.numbers import at_least, count, seed

if TYPE_CHECKING:
    import argparse

    from rich.table import Table

    from crossdna.analysis.evaluation.run import Evaluation, Split
    from crossdna.analysis.statistics import Interval
    from crossdna.data.genome import Genome
    from crossdna.data.regions import Region


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    add_split_arguments(parser)
    add_execution_options(parser)
    add_trust_option(parser)
    parser.add_argument(
        "--annotation", type=Path, help="GFF3 or GTF: report by class of bases"
    )
    parser.add_argument("--output", type=Path, required=True, help="directory to fill")
    parser.add_argument(
        "--window", type=count, default=1024, help="bases the model sees (%(default)s)"
    )
    parser.add_argument(
        "--max-windows",
        type=at_least(0),
        default=1000,
        help="windows, spread evenly over the regions; 0 for all (%(default)s)",
    )
    parser.add_argument(
        "--batch-size", type=count, default=16, help="windows at a time (%(default)s)"
    )
    parser.add_argument(
        "--strand",
        choices=("+", "both"),
        default="+",
        help="what a masked model reads; both: averaged, in twice the time "
        "(%(default)s)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="(%(default)s)")
    add_device_option(parser)


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare a model, a genome, and where to learn and where to measure."""
    parser.add_argument("--model", required=True, help=CHECKPOINT)
    parser.add_argument(
        "--genome", type=Path, nargs="+", required=True, help="FASTA, plain or gzip"
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--chromosomes",
        nargs="+",
        metavar="NAME",
        help="held-out chromosomes, or parts such as chr1:1-50,000 (1-based)",
    )
    where.add_argument(
        "--regions", type=Path, metavar="BED", help="held-out regions, 0-based"
    )
    train = parser.add_mutually_exclusive_group()
    train.add_argument(
        "--train-chromosomes",
        nargs="+",
        metavar="NAME",
        help="what is learned from beside the model; default: all other chromosomes",
    )
    train.add_argument(
        "--train-regions",
        type=Path,
        metavar="BED",
        help="what is learned from beside the model, 0-based",
    )


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, write evaluation.json and evaluation.png, print the tables."""
    from crossdna.analysis.evaluation.measure import EvaluationSettings, count_windows
    from crossdna.analysis.evaluation.run import evaluate_model, write_evaluation
    from crossdna.analysis.inference import is_causal
    from crossdna.cli.progress import progress
    from crossdna.data.annotation import Annotation
    from crossdna.data.genome import Genome
    from crossdna.files import claim_output_directory

    settings = EvaluationSettings(
        window=arguments.window,
        max_windows=arguments.max_windows,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
    )
    genome = Genome.open(arguments.genome)
    split = read_split(arguments, genome)
    annotation = (
        Annotation.read(arguments.annotation, genome) if arguments.annotation else None
    )
    for contig in dict.fromkeys(region.contig for region in split.held_out):
        if annotation is not None and not annotation.annotates(contig):
            _warn(
                f"{arguments.annotation} has nothing on {contig}: its bases count as "
                "intergenic, or as repeats where they are lower case"
            )
    short = [region for region in split.held_out if len(region) < settings.window]
    if short:
        _warn(
            f"{len(short)} of {len(split.held_out)} regions ({sum(map(len, short)):,} "
            f"bases) are shorter than a window of {settings.window} and not measured"
        )
    model = load_chosen(arguments, language_task(arguments, "predicts bases"))
    total = count_windows(split.held_out, settings, causal=is_causal(model))
    output = claim_output_directory(arguments.output)
    with progress("evaluating", total, "windows") as advance:
        evaluation = evaluate_model(
            model,
            genome,
            split,
            checkpoint=arguments.model,
            annotation=annotation,
            settings=settings,
            strand=arguments.strand,
            advance=advance,
        )
    write_evaluation(evaluation, output)
    print_evaluation(evaluation)
    print(f"written: {output / 'evaluation.json'}, {output / 'evaluation.png'}")
    return 0


def _warn(text: str) -> None:
    import sys

    print(f"warning: {text}", file=sys.stderr)


def read_split(arguments: argparse.Namespace, genome: Genome) -> Split:
    """Regions that the options of `add_split_arguments` name."""
    from crossdna.analysis.evaluation.run import Split
    from crossdna.data.regions import complement, merge, parse_region, read_bed

    def chosen(names: list[str] | None, bed: Path | None, part: str) -> list[Region]:
        if bed is not None:
            regions = _of_part(read_bed(bed, genome.contigs), part, bed)
        else:
            regions = [parse_region(name, genome.contigs) for name in names or ()]
        # What is named twice counts once.
        return merge(regions)

    held_out = chosen(arguments.chromosomes, arguments.regions, "test")
    train = chosen(arguments.train_chromosomes, arguments.train_regions, "train")
    if not train:
        held = {region.contig for region in held_out}
        others = {n: size for n, size in genome.contigs.items() if n not in held}
        # A genome of one contig is taken apart by regions.
        train = complement([], others) or complement(held_out, genome.contigs)
    return Split(train, held_out)


def _of_part(regions: list[Region], part: str, bed: Path) -> list[Region]:
    """Of a BED file that names the parts of a recipe's split those of one part."""
    import sys

    from crossdna.data.regions import by_name
    from crossdna.errors import CrossDNAError

    parts = by_name(replace(r, name=r.name.partition(":")[0]) for r in regions)
    names, own = set(parts), parts.get(part)
    if not names <= {"train", "valid", "test", "exclude"}:
        return regions
    if len(names) == 1 and names != {"exclude"}:
        return regions
    if own is None:
        raise CrossDNAError(
            f"{bed}: column 4 names parts of a split ({', '.join(sorted(names))}) but "
            f"not {part!r}; give the rows that are meant in a file of their own"
        )
    print(
        f"note: {bed} names parts of a split; its {len(own)} rows of {part!r} are read",
        file=sys.stderr,
    )
    return own


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the model beside its strongest rivals, over all and by class."""
    from rich.console import Console

    from crossdna.analysis.evaluation.measure import ALL, strongest_baselines

    first = evaluation.conditions[0]
    everywhere = next(group for group in first.groups if group.name == ALL)
    best = strongest_baselines(everywhere.bits())
    names = list(dict.fromkeys([next(iter(everywhere.scores)), "markov-0", *best]))
    console = Console()
    console.print(_predictor_table(evaluation, names))
    console.print(_class_table(evaluation, names))
    strands = evaluation.strands
    notes = [
        f"measured: {evaluation.windows} windows of {evaluation.settings.window} bases",
        *(f"{item.name}: {item.description}" for item in evaluation.conditions),
        "± is half of the 95 % bootstrap interval over windows",
        "bits of hidden bases and bits of next bases are different quantities: masked "
        "and causal models are compared with the baselines, not with each other",
    ]
    if strands is not None:
        notes.append(
            "difference between predictions from the two strands: "
            f"{show(strands.single)} (averaged: {strands.averaged.estimate:.0e})"
        )
    console.print("\n".join(notes), highlight=False, soft_wrap=True)


def _predictor_table(evaluation: Evaluation, names: list[str]) -> Table:
    from rich.table import Table

    from crossdna.analysis.evaluation.measure import ALL, predictor_label

    table = Table(title="Predicted bases", title_justify="left")
    table.add_column("predictor")
    groups = []
    for condition in evaluation.conditions:
        group = next(group for group in condition.groups if group.name == ALL)
        groups.append(group)
        table.add_column(f"accuracy\n({condition.name})", justify="right")
        table.add_column(f"bits per base\n({condition.name})", justify="right")
    for name in names:
        cells = [
            cell
            for group in groups
            for cell in (
                show(group.scores[name].accuracy, percent=True),
                show(group.scores[name].bits),
            )
        ]
        label = predictor_label(name, evaluation.model_name)
        table.add_row(label, *cells, style="bold" if name == names[0] else None)
    return table


def _class_table(evaluation: Evaluation, names: list[str]) -> Table:
    from rich.table import Table

    from crossdna.analysis.evaluation.measure import predictor_label

    condition = evaluation.conditions[0]
    title = f"Bits per base by class, {condition.description}"
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    table.add_column("bases", justify="right")
    for name in names:
        label = predictor_label(name, evaluation.model_name)
        table.add_column(label, justify="right")
    for group in condition.groups:
        bits = (show(group.scores[name].bits) for name in names)
        table.add_row(group.name, f"{group.positions:,}", *bits)
    return table


def show(value: Interval, *, percent: bool = False) -> str:
    """Format as ``estimate ± half of the interval``."""
    half = (value.high - value.low) / 2
    if math.isnan(half):
        # One window, of which nothing can be drawn again.
        return f"{100 * value.estimate:.1f} %" if percent else f"{value.estimate:.3f}"
    if percent:
        return f"{100 * value.estimate:.1f} ± {100 * half:.1f} %"
    return f"{value.estimate:.3f} ± {half:.3f}"
