"""``crossdna split``: labelled sequences parted so that relatives stay together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossdna.cli.labelled_options import add_column_options, add_split_options

if TYPE_CHECKING:
    import argparse

    from crossdna.analysis.supervised.audit import Method


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Input, columns, shares and output."""
    parser.add_argument(
        "input", nargs="+", metavar="[CLASS=]FILE", help="labelled sequences"
    )
    parser.add_argument(
        "--output", required=True, help=".tsv, .csv or .parquet; adds a column split"
    )
    parser.add_argument("--genome", nargs="+", metavar="FASTA", help="for BED files")
    add_column_options(parser)
    add_split_options(parser)
    parser.set_defaults(base_labels=None, positive=None)


def run(arguments: argparse.Namespace) -> int:
    """Split, write all rows in their order with their split, and report."""
    import polars as pl

    from crossdna.analysis.supervised.audit import audit_splits, format_audit
    from crossdna.cli.labelled_options import input_options
    from crossdna.data import labelled, splits
    from crossdna.data.labelled_inputs import read_inputs
    from crossdna.data.table_files import check_table_path, write_table
    from crossdna.errors import CrossDNAError
    from crossdna.files import refuse_overwriting

    output = check_table_path(arguments.output)
    for source in arguments.input:
        refuse_overwriting(source, output)
    options = input_options(arguments)
    table = read_inputs(arguments.input, options)
    columns = labelled.find_label_columns(table, options.label_columns)
    data = labelled.label(table, labelled.detect_task(table, columns, options.kind))
    result = splits.split_labelled(
        data,
        shares=options.shares,
        by=options.by,
        threshold=options.similarity,
        seed=options.seed,
    )
    for name in ("split", "group"):
        if name in table.columns.columns:
            raise CrossDNAError(f"{table.source} already has a column {name!r}")
    added = [pl.Series("split", result.split.tolist()), pl.Series(result.groups)]
    write_table(
        table.with_sequences().with_columns(added[0], added[1].alias("group")),
        arguments.output,
    )
    names = [name for name in splits.SPLITS if len(result.rows(name))]
    sets = {name: data.take(result.rows(name)) for name in names}
    print(f"{arguments.output}: {len(table)} rows split by {result.by}\n")
    method: Method = "mmseqs" if result.by == "mmseqs" else "sketch"
    audit = audit_splits(sets, threshold=options.similarity, method=method)
    print(format_audit(audit))
    return 0
