"""Options that every verb on labelled sequences shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossdna.cli.numbers import seed

if TYPE_CHECKING:
    import argparse

    from crossdna.data.labelled_inputs import InputOptions

KINDS = ("auto", "binary", "multiclass", "multilabel", "regression", "per-base")


def add_input_options(parser: argparse.ArgumentParser) -> None:
    """Files, columns and splitting."""
    files = parser.add_argument_group("labelled sequences")
    files.add_argument(
        "--train",
        nargs="+",
        required=True,
        metavar="[CLASS=]FILE",
        help="CSV, TSV, Parquet, FASTA (label in the header, or one file per class) "
        "or BED",
    )
    files.add_argument(
        "--valid",
        nargs="+",
        default=[],
        metavar="FILE",
        help="development set, which choices are made on (default: part of --train)",
    )
    files.add_argument(
        "--test",
        nargs="+",
        default=[],
        metavar="FILE",
        help="set for the final numbers alone (default: part of --train)",
    )
    files.add_argument("--genome", nargs="+", metavar="FASTA", help="for BED files")
    add_column_options(files)
    files.add_argument(
        "--base-labels",
        metavar="BED|GFF",
        help="label each base by the feature that covers it",
    )
    files.add_argument(
        "--positive", metavar="CLASS", help="the positive class of a binary task"
    )
    add_split_options(parser)


def add_sequence_column(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
) -> None:
    """Where sequences stand in a table."""
    parser.add_argument(
        "--sequence-column",
        metavar="NAME",
        help="column of the sequences (default: found by its name or letters)",
    )


def add_column_options(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
) -> None:
    """Where sequences and labels stand in a table, and what labels are."""
    add_sequence_column(parser)
    parser.add_argument(
        "--label-column",
        nargs="+",
        default=[],
        metavar="NAME",
        help="several for several labels or targets (default: found by its name)",
    )
    parser.add_argument(
        "--task",
        choices=KINDS,
        default="auto",
        help="kind of labels; auto: by what they look like (default: %(default)s)",
    )


def add_split_options(parser: argparse.ArgumentParser) -> None:
    """How rows are parted where no files say so."""
    group = parser.add_argument_group("splitting, where --valid or --test is not given")
    group.add_argument(
        "--by",
        choices=("auto", "contig", "similarity", "mmseqs"),
        default="auto",
        help="what stays on one side (default: contig where coordinates are known, "
        "else similarity)",
    )
    group.add_argument(
        "--shares",
        nargs=3,
        type=float,
        default=(0.8, 0.1, 0.1),
        metavar=("TRAIN", "VALID", "TEST"),
        help="how much of --train each part gets (default: 0.8 0.1 0.1)",
    )
    group.add_argument(
        "--similarity",
        type=float,
        default=0.3,
        metavar="SHARE",
        help="share of 12-mers in common that makes two sequences relatives "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--split-seed",
        type=seed,
        default=0,
        help="another one splits otherwise (default: %(default)s)",
    )


def input_options(arguments: argparse.Namespace) -> InputOptions:
    """Turn parsed options into what the library reads files by."""
    from crossdna.data.base_labels import read_features
    from crossdna.data.genome import Genome
    from crossdna.data.labelled_inputs import InputOptions
    from crossdna.errors import CrossDNAError

    shares = tuple(arguments.shares)
    if min(shares) < 0 or not shares[0] > 0:
        raise CrossDNAError(f"--shares {shares}: none may be negative, train not zero")
    features = read_features(arguments.base_labels) if arguments.base_labels else []
    return InputOptions(
        sequence_column=arguments.sequence_column,
        label_columns=tuple(arguments.label_column),
        kind=arguments.task,
        positive=arguments.positive,
        genome=Genome.open(arguments.genome) if arguments.genome else None,
        features=tuple(features),
        by=arguments.by,
        shares=shares,
        similarity=arguments.similarity,
        seed=arguments.split_seed,
    )
