"""The files that hold a checkpoint's weights: where they are, and what is in them."""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    logging,
)
from transformers.utils.hub import cached_file

from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator, Sequence

# Of what a checkpoint may hold; anything else is no weight of a network.
_FLOATING = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


_LOCK: Final = threading.Lock()
_quiet: Final[list[tuple[int, bool]]] = []
"""For each thread that wants it quiet, how loud it was before the first of them."""


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers from drawing bars and tables of what is told by name here."""
    with _LOCK:
        if not _quiet:
            level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
            _quiet.append((level, shown))
            logging.set_verbosity_error()
            logging.disable_progress_bar()
        else:
            _quiet.append(_quiet[-1])
    try:
        yield
    finally:
        with _LOCK:
            level, shown = _quiet.pop()
            if not _quiet:
                logging.set_verbosity(level)
                if shown:
                    logging.enable_progress_bar()


def check_numbers(
    name: str | Path, unused: Sequence[re.Pattern[str]] = (), **hub: Any
) -> None:
    """Refuse weight files that are damaged or hold other numbers than floating ones.

    Parameters
    ----------
    unused
        Keys that may hold anything.
    **hub
        Options of transformers' `cached_file`.

    Raises
    ------
    CrossDNAError
        Names the file and, where there is one, the key.
    """
    for path in weight_files(name, **hub):
        for key, kind in _kinds(path):
            if kind in _FLOATING or any(pattern.search(key) for pattern in unused):
                continue
            raise CrossDNAError(f"{path}: {key!r} holds {kind}, not floating numbers")


def weight_files(name: str | Path, **hub: Any) -> list[Path]:
    """Give the files with a checkpoint's weights, whole or in shards.

    Raises
    ------
    CrossDNAError
        There are none.
    """
    for single, index in (
        (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME),
        (WEIGHTS_NAME, WEIGHTS_INDEX_NAME),
    ):
        path = _find(name, single, hub)
        if path is not None:
            return [path]
        table = _find(name, index, hub)
        if table is not None:
            shards = sorted(set(json.loads(table.read_text())["weight_map"].values()))
            places = [(shard, _find(name, shard, hub)) for shard in shards]
            absent = [shard for shard, place in places if place is None]
            if absent:
                raise CrossDNAError(
                    f"{name}: {index} names {absent[0]}, which is not there"
                )
            return [place for _, place in places if place is not None]
    raise CrossDNAError(f"{name}: no {SAFE_WEIGHTS_NAME} or {WEIGHTS_NAME} in it")


def _find(name: str | Path, file: str, hub: dict[str, Any]) -> Path | None:
    path = cached_file(
        str(name), file, _raise_exceptions_for_missing_entries=False, **hub
    )
    return None if path is None else Path(path)


def _kinds(path: Path) -> Iterator[tuple[str, str]]:
    """Names and kinds of a file's tensors, without reading the tensors."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - no mapping
                    yield key, tensors.get_slice(key).get_dtype()
        except SafetensorError as error:
            raise CrossDNAError(f"{path}: cannot be read: {error}") from error
        return
    try:
        weights = torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:
        raise CrossDNAError(f"{path}: cannot be read: {error}") from error
    for key, tensor in weights.items():
        yield key, "F32" if tensor.is_floating_point() else str(tensor.dtype)
