"""Numbers on the command line that have a smallest value."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def at_least(smallest: int, largest: int | None = None) -> Callable[[str], int]:
    """Reader of whole numbers from `smallest` to `largest`, for `add_argument`."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if value < smallest:
            raise argparse.ArgumentTypeError(f"at least {smallest}, not {value}")
        if largest is not None and value > largest:
            raise argparse.ArgumentTypeError(f"at most {largest}, not {value}")
        return value

    return number


count = at_least(1)
"""Reader of how many of something there are to be: one or more."""
seed = at_least(0, 2**32 - 1)
"""Reader of what random numbers are drawn by."""
