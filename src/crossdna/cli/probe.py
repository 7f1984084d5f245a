"""``crossdna probe``: do a model's embeddings tell coding from intergenic windows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crossdna.cli.evaluate import add_split_arguments, read_split, show
from crossdna.cli.model_options import (
    add_device_option,
    add_execution_options,
    add_trust_option,
    load_chosen,
)
from crossdna.cli.numbers import count, seed

if TYPE_CHECKING:
    import argparse

    from crossdna.analysis.probe.coding import ProbeResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    add_split_arguments(parser)
    parser.add_argument("--annotation", type=Path, required=True, help="GFF3 or GTF")
    parser.add_argument("--output", type=Path, required=True, help="directory to fill")
    parser.add_argument(
        "--window", type=count, default=384, help="bases in a window (%(default)s)"
    )
    parser.add_argument(
        "--windows-per-class",
        type=count,
        default=600,
        help="at most, in training and in held-out regions (%(default)s)",
    )
    parser.add_argument(
        "--batch-size", type=count, default=32, help="windows at a time (%(default)s)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="(%(default)s)")
    add_device_option(parser)
    add_execution_options(parser)
    add_trust_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Probe, write probe.json and embedding.png, print a table."""
    from crossdna.analysis.probe.coding import (
        draw_split_windows,
        probe_coding,
        write_probe,
    )
    from crossdna.analysis.probe.linear import ProbeSettings
    from crossdna.analysis.provenance import provenance
    from crossdna.cli.progress import progress
    from crossdna.data.annotation import Annotation
    from crossdna.data.genome import Genome
    from crossdna.files import claim_output_directory

    settings = ProbeSettings(
        window=arguments.window,
        windows_per_class=arguments.windows_per_class,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
    )
    genome = Genome.open(arguments.genome)
    split = read_split(arguments, genome)
    annotation = Annotation.read(arguments.annotation, genome)
    train, held_out = draw_split_windows(annotation, split, settings)
    model = load_chosen(arguments, "embedding")
    output = claim_output_directory(arguments.output)
    total = 2 * (len(train.labels) + len(held_out.labels))
    with progress("embedding", total, "windows") as advance:
        result = probe_coding(model, train, held_out, settings, advance=advance)
    made_by = provenance(model, arguments.model, strand="both")
    write_probe(result, made_by, settings, output)
    _print_result(result)
    print(f"written: {output / 'probe.json'}, {output / 'embedding.png'}")
    return 0


def _print_result(result: ProbeResult) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{result.classes}: {len(result.labels):,} held-out windows"
    table = Table(title=title, title_justify="left")
    for column in ("features", "AUROC", "MCC"):
        table.add_column(column, justify="left" if column == "features" else "right")
    for name, score in result.scores.items():
        label = f"{name}: {score.description}"
        table.add_row(label, show(score.auroc), show(score.mcc))
    Console().print(table)
