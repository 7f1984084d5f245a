"""The command that this process runs, for files that say how they were made."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Final

_OWN: Final = Path(__file__).with_name("__main__.py")


def command_line() -> str:
    """Words to type for the same again; `crossdna` however it was started."""
    program, *words = sys.argv
    if Path(program).name == "crossdna" or Path(program) == _OWN:
        program = "crossdna"
    return shlex.join([program, *words])
