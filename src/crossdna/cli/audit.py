"""``crossdna audit``: what test sequences share with those a model learns from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crossdna.cli.labelled_options import add_input_options

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sets, a corpus and where the report goes."""
    add_input_options(parser)
    parser.add_argument(
        "--corpus",
        nargs="+",
        metavar="FASTA",
        help="genomes that a model was pretrained on",
    )
    parser.add_argument(
        "--relatives",
        choices=("sketch", "mmseqs"),
        default="sketch",
        help="how near-duplicates are found: shared k-mers, or alignments by MMseqs2 "
        "where that is installed (default: sketch, the same on every machine)",
    )
    parser.add_argument("--output", metavar="JSON", help="also write the numbers")


def run(arguments: argparse.Namespace) -> int:
    """Print the report; exit status 0 whatever it says."""
    import json
    from dataclasses import replace

    from crossdna.analysis.supervised.audit import audit_splits, format_audit
    from crossdna.cli.labelled_options import input_options
    from crossdna.data.genome import Genome
    from crossdna.data.labelled_inputs import read_sets
    from crossdna.files import atomic_open, refuse_overwriting

    if arguments.output:
        sources = [*arguments.train, *arguments.valid, *arguments.test]
        for source in (*sources, *(arguments.corpus or ())):
            refuse_overwriting(source, Path(arguments.output))
    options = input_options(arguments)
    if bool(arguments.valid) != bool(arguments.test):
        # The files are compared as they are; nothing is split off.
        options = replace(options, shares=(1.0, 0.0, 0.0))
    sets = read_sets(arguments.train, arguments.valid, arguments.test, options)
    corpus = None
    if arguments.corpus:
        genome = Genome.open(arguments.corpus)
        corpus = (genome.fetch(name, 0, size) for name, size in genome.contigs.items())
    audit = audit_splits(
        {name: data for name, data in sets.named().items() if len(data)},
        threshold=options.similarity,
        method=arguments.relatives,
        corpus=corpus,
    )
    print(format_audit(audit))
    if arguments.output:
        with atomic_open(arguments.output) as handle:
            json.dump({"split_by": sets.how, **audit.to_dict()}, handle, indent=1)
    return 0
