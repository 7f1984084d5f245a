"""Checkpoints of transformers' families, read strictly.

transformers warns of missing, left-over and misshaped weights and goes on with random
ones. Here each is an error that names the key, but for those of the table in
`crossdna.models.families` that nothing reads.
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from crossdna.models.tokenized.modeling import network_class

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from crossdna.models.tokenized.configuration import TokenizedConfig

# Of what a checkpoint may hold; anything else is no weight of a network.
_FLOATING = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


def load_network(name: str | Path, config: TokenizedConfig) -> PreTrainedModel:
    """Load the network of a checkpoint in float32.

    Parameters
    ----------
    name
        Directory or hub id.
    config
        Its wrapped configuration; `part` says which class is wanted.

    Raises
    ------
    CrossDNAError
        No weights, a damaged file, or a missing, unknown, misshaped or non-floating
        key, by name.
    """
    check_numbers(name, config)
    auto = network_class(config.part, config.objective)  # type: ignore[arg-type]
    options: dict[str, Any] = {}
    if config.part == "base" and config.family.pooler:
        options["add_pooling_layer"] = False
    if config.remote_code:
        config.remote_class(auto.__name__)
        options["trust_remote_code"] = True
    else:
        options["config"] = config.network_config()
    try:
        with quietly():
            net, info = auto.from_pretrained(
                str(name),
                dtype=torch.float32,
                output_loading_info=True,
                # Refused by name below.
                ignore_mismatched_sizes=True,
                **options,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CrossDNAError(f"{name}: {str(error).splitlines()[0]}") from error
    _refuse_faults(net, config, info, name)
    return net


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers from drawing bars and tables of what is told by name here."""
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _refuse_faults(
    net: PreTrainedModel, config: TokenizedConfig, info: dict[str, Any], name: Any
) -> None:
    unused = [re.compile(pattern) for pattern in config.family.unused]

    def counts(key: str) -> bool:
        return not any(pattern.search(key) for pattern in unused)

    wrong = sorted(info["mismatched_keys"])
    if wrong:
        key, found, expected = wrong[0]
        raise CrossDNAError(
            f"{name}: {key!r} has shape {tuple(found)}, the configuration asks for "
            f"{tuple(expected)}"
        )
    missing = sorted(filter(counts, info["missing_keys"]))
    if missing:
        raise CrossDNAError(
            f"{name}: missing key {missing[0]!r} (of {len(missing)}), so the "
            f"{type(net).__name__} would stay random there"
        )
    heads = config.family.heads if config.part == "base" else ()
    prefix = f"{net.base_model_prefix}." if config.remote_code else ""

    def is_head(key: str) -> bool:
        own = config.part == "base" and config.remote_code
        return key.startswith(heads) or (own and not key.startswith(prefix))

    unknown = [key for key in info["unexpected_keys"] if counts(key)]
    unknown = sorted(key for key in unknown if not is_head(key))
    if unknown:
        raise CrossDNAError(
            f"{name}: unknown key {unknown[0]!r} (of {len(unknown)}), which a "
            f"{type(net).__name__} of this configuration does not have"
        )
    own = net.state_dict()
    for key in info["missing_keys"]:
        # Random otherwise, and no two loads would have the same fingerprint.
        own[key].zero_()


def check_numbers(name: str | Path, config: TokenizedConfig) -> None:
    """Refuse weight files that are damaged or hold other numbers than floating ones.

    Raises
    ------
    CrossDNAError
        Names the file and, where there is one, the key.
    """
    unused = [re.compile(pattern) for pattern in config.family.unused]
    for path in weight_files(name):
        for key, kind in _kinds(path):
            if kind in _FLOATING or any(pattern.search(key) for pattern in unused):
                continue
            raise CrossDNAError(f"{path}: {key!r} holds {kind}, not floating numbers")


def weight_files(name: str | Path) -> list[Path]:
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
        path = _find(name, single)
        if path is not None:
            return [path]
        table = _find(name, index)
        if table is not None:
            shards = sorted(set(json.loads(table.read_text())["weight_map"].values()))
            places = [(shard, _find(name, shard)) for shard in shards]
            absent = [shard for shard, place in places if place is None]
            if absent:
                raise CrossDNAError(
                    f"{name}: {index} names {absent[0]}, which is not there"
                )
            return [place for _, place in places if place is not None]
    raise CrossDNAError(f"{name}: no {SAFE_WEIGHTS_NAME} or {WEIGHTS_NAME} in it")


def _find(name: str | Path, file: str) -> Path | None:
    path = cached_file(str(name), file, _raise_exceptions_for_missing_entries=False)
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
