"""``crossdna convert``: a published checkpoint in this package's layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Source and destination directories."""
    parser.add_argument("source", help="directory with config.json and weights")
    parser.add_argument("destination", help="directory to create")


def run(arguments: argparse.Namespace) -> int:
    """Convert and say what was written."""
    from crossdna.models.conversion import convert_checkpoint

    report = convert_checkpoint(arguments.source, arguments.destination)
    print(
        f"{arguments.destination}: {report.parameters:,} parameters of "
        f"{report.family}, {report.extras} tensors kept aside in {report.extras_file}"
        if report.extras
        else f"{arguments.destination}: {report.parameters:,} parameters of "
        f"{report.family}"
    )
    return 0
