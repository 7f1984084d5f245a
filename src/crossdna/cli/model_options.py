"""Options that every verb which loads a model shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import argparse

CHECKPOINT: Final = (
    "checkpoint directory, weights of this project by name (crossdna-small; `crossdna "
    "models` lists them) or hub id"
)
"""What --model takes, for its help."""


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Whether code that comes with a checkpoint may run."""
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run code that comes with the checkpoint, with all your rights, for "
        "families that nothing else reads; look at it first (default: never)",
    )
