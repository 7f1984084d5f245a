"""Checkpoint directories that exist whole or not at all."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from crossdna.errors import CrossDNAError
from crossdna.files import settle

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimiser steps lies."""
    return folder / f"checkpoint-{step}"


def best_path(folder: Path, step: int) -> Path:
    """Where the model lies that was best on held-out windows, found at `step`."""
    return folder / f"best-{step}"


def checkpoint_step(path: Path) -> int:
    """After how many optimiser steps a checkpoint was written."""
    match = _NAME.fullmatch(path.name)
    assert match, path
    return int(match[1])


def complete_checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a run, oldest first."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if _NAME.fullmatch(p.name) and p.is_dir()]
    return sorted(found, key=checkpoint_step)


def partial_path(final: Path) -> Path:
    """Where a directory is filled before it gets its name."""
    return final.with_name(f".partial-{final.name}")


def publish(final: Path) -> None:
    """Give a filled partial directory its name, once its files are on the disk."""
    partial = partial_path(final)
    try:
        for path in sorted(partial.rglob("*")):
            if path.is_file():
                settle(path)
        settle(partial)
        partial.rename(final)
        settle(final.parent)
    except OSError as error:
        raise CrossDNAError(f"cannot write {final}: {error.strerror}") from error


def start_partial(final: Path) -> Path:
    """Make an empty partial directory, removing what a killed run left there."""
    partial = partial_path(final)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise CrossDNAError(f"cannot write {partial}: {error.strerror}") from error
    return partial


@contextlib.contextmanager
def saving(final: Path) -> Iterator[None]:
    """Turn whatever the libraries raise on a full disk into an error of ours.

    Raises
    ------
    CrossDNAError
        Names `final`; its partial directory is gone, so that space is free again.
    """
    try:
        yield
    # torch reports a failed write as a plain RuntimeError.
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(partial_path(final), ignore_errors=True)
        raise CrossDNAError(
            f"cannot write {final}: {str(error).splitlines()[0]}; "
            "when there is space, continue with --resume"
        ) from error


def prune(folder: Path, keep: int, best_step: int | None) -> None:
    """Remove checkpoints but the newest `keep`, best models but that of `best_step`.

    What killed runs left half done goes too.
    """
    doomed = complete_checkpoints(folder)[:-keep]
    if best_step is not None:
        best = best_path(folder, best_step)
        doomed += [path for path in folder.glob("best-*") if path != best]
    for path in doomed:
        # Renamed first: a half-removed directory must not look like a whole one.
        path.rename(path.with_name(f".old-{path.name}"))
    for leftover in folder.glob(".*"):
        shutil.rmtree(leftover, ignore_errors=True)
