"""Stages of a longer job, each done once for the same inputs."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from crossdna.files import atomic_open

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_RECORD = "stage.json"


def run_stage(
    folder: Path,
    inputs: Mapping[str, Any],
    outputs: Sequence[str],
    work: Callable[[Path], None],
) -> bool:
    """Do the work of a stage, unless it was finished with the same inputs before.

    Parameters
    ----------
    folder
        The stage's own directory; what it holds is written over.
    inputs
        Everything that the outputs depend on, as JSON can hold it.
    outputs
        Names of the files that the work writes into `folder`.
    work
        Called with `folder`.

    Returns
    -------
    bool
        Whether there was anything to do.
    """
    record = folder / _RECORD
    # What JSON makes of the inputs: a tuple comes back as a list.
    wanted = json.loads(json.dumps(inputs))
    if record.is_file() and all((folder / name).is_file() for name in outputs):
        try:
            found = json.loads(record.read_text())
        except json.JSONDecodeError:
            found = {}
        if found.get("inputs") == wanted:
            return False
    folder.mkdir(parents=True, exist_ok=True)
    # Until the stage has finished again its outputs belong to no inputs.
    record.unlink(missing_ok=True)
    started = time.monotonic()
    work(folder)
    seconds = round(time.monotonic() - started, 1)
    with atomic_open(record) as handle:
        json.dump({"inputs": wanted, "seconds": seconds}, handle, indent=1)
    return True


def stage_seconds(folder: Path) -> float:
    """How long the stage took when it was done."""
    return float(json.loads((folder / _RECORD).read_text())["seconds"])
