"""Numbers on the command line that have a smallest value."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def at_least(smallest: int) -> Callable[[str], int]:
    """Reader of whole numbers from `smallest` on, for `add_argument`."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if value < smallest:
            raise argparse.ArgumentTypeError(f"at least {smallest}, not {value}")
        return value

    return number


count = at_least(1)
"""Reader of how many of something there are to be: one or more."""
