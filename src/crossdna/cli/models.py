"""``crossdna models``: the cards of known checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which card, and how to print."""
    parser.add_argument(
        "name",
        nargs="?",
        help="a known checkpoint or a part of such names, or a directory: what can run "
        "it (default: list all)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print all cards or some in short, one in full, or what a directory holds."""
    import json
    from pathlib import Path

    from crossdna.zoo.cards import card, cards, cards_with, describe_directory

    name = arguments.name
    if name is None:
        found: Any = [each._asdict() for each in cards()]
    elif Path(name).is_dir():
        found = describe_directory(name)._asdict()
    elif (several := cards_with(name)) and all(each.name != name for each in several):
        found = [each._asdict() for each in several]
    else:
        found = card(name)._asdict()
    if arguments.json:
        print(json.dumps(found, indent=2))
    elif isinstance(found, list):
        print("\n".join(_table(found)) + "\n" + _LEGEND)
    else:
        if "licence" in found and found["licence"] is None:
            found["licence"] = "not checked; see its authors' card"
        print("\n".join(f"{key:<14}{_text(value)}" for key, value in found.items()))
    return 0


_LEGEND = """
runs    native: network of this package; transformers: its own classes, wrapped; both
        through every verb (docs/models.md). remote code: with --trust-remote-code only;
        nothing: needs a package of its authors
tested  shipped: weights of this project, loaded by their name; fixture: small random
        weights in the published format, with what the published code made of them;
        format: a tiny random network of that type, saved as hubs hold it; no: not
        tested. Other projects' real weights have not been at hand."""


def _table(found: list[dict[str, Any]]) -> list[str]:
    columns = ("name", "model_type", "parameters", "context", "runs", "tested")
    rows = [columns, *(tuple(_text(each[key]) for key in columns) for each in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    return [
        "  ".join(
            value.ljust(width) for value, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _text(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(value) if isinstance(value, tuple) else str(value)
