"""What a model is, in a few hex digits: its configuration, weights and tokenizer."""

from __future__ import annotations

import hashlib
import json
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from transformers.utils import CONFIG_NAME
from transformers.utils.hub import cached_file

from crossdna.models.weight_files import weight_files
from crossdna.tokenizers.loading import NETWORK_TOKENIZER
from crossdna.zoo.shipped import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

# What a tokenizer's files are called; the last one also holds what is dropped below.
_TOKENIZER_FILES: Final = (
    "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model",
    "tokenizer_config.json",
)  # fmt: skip
_TOKENIZER_PLACES: Final = ("", f"{NETWORK_TOKENIZER}/")
# Where a configuration came from, and how it is to be run: no part of what it says.
_VOLATILE: Final = frozenset((
    "_name_or_path", "name_or_path", "transformers_version", "architectures",
    "auto_map", "dtype", "torch_dtype", "use_cache", "output_hidden_states",
    "output_attentions", "return_dict", "_attn_implementation",
    "_attn_implementation_autoset", "_commit_hash", "backend", "tokenizer_file",
    "special_tokens_map_file", "is_local",
))  # fmt: skip

# Settings that came after models had been fingerprinted, and what these have: left out
# at that value, so that a model keeps its fingerprint.
_LATER: Final = {"head_standard": False}


class Fingerprint(NamedTuple):
    """32 hex digits for each part of a model.

    Attributes
    ----------
    config
        Of what config.json says beyond where it came from.
    weights
        See `weights_fingerprint`.
    tokenizer
        Of the tokenizer's files; empty where the checkpoint has none.
    """

    config: str
    weights: str
    tokenizer: str

    def __str__(self) -> str:
        """32 hex digits for all of it."""
        return _digest("".join(self).encode())


def fingerprint(model: nn.Module, checkpoint: str | Path | None) -> Fingerprint:
    """Fingerprint a loaded model.

    Parameters
    ----------
    model
        As loaded; the same on every device.
    checkpoint
        Directory or hub id that it was loaded from, for its tokenizer; None for a new
        network.
    """
    config: Any = model.config
    said = {
        key: value
        for key, value in config.to_diff_dict().items()
        if key not in _LATER or value != _LATER[key]
    }
    return Fingerprint(
        config=_digest(_canonical(said)),
        weights=weights_fingerprint(model),
        tokenizer="" if checkpoint is None else _tokenizer_fingerprint(checkpoint),
    )


def weights_fingerprint(model: nn.Module) -> str:
    """32 hex digits that change with any weight or its name.

    The same whatever the device and the files that the weights came from.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values: Any = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def files_digest(checkpoint: str | Path) -> str:
    """32 hex digits of a checkpoint's weights and configuration as they lie on disk.

    Needs no model to be loaded, but also changes with how the same weights are written.
    Empty for what is no directory here.
    """
    folder = Path(resolve(checkpoint))
    if not folder.is_dir():
        return ""
    digest = hashlib.blake2b(digest_size=16)
    for path in (folder / CONFIG_NAME, *weight_files(folder)):
        with path.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "blake2b").digest())
    return digest.hexdigest()


def _tokenizer_fingerprint(checkpoint: str | Path) -> str:
    parts = [
        name.encode() + b"\0" + _content(path)
        for name, path in _tokenizer_files(checkpoint)
    ]
    return _digest(b"\0".join(parts)) if parts else ""


def _tokenizer_files(checkpoint: str | Path) -> Iterator[tuple[str, Path]]:
    checkpoint = resolve(checkpoint)
    local = Path(checkpoint).is_dir()
    for place, file in product(_TOKENIZER_PLACES, _TOKENIZER_FILES):
        name = place + file
        if local:
            path: Any = Path(checkpoint) / name
            path = path if path.is_file() else None
        else:
            path = cached_file(
                str(checkpoint),
                name,
                local_files_only=True,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
        if path is not None:
            yield name, Path(path)


def _content(path: Path) -> bytes:
    raw = path.read_bytes()
    if path.name != "tokenizer_config.json":
        return raw
    return _canonical(json.loads(raw))


def _canonical(table: dict[str, Any]) -> bytes:
    return json.dumps(_lasting(table), sort_keys=True, default=str).encode()


def _lasting(value: Any) -> Any:
    """Leave out, at any depth, what is no part of a configuration."""
    if not isinstance(value, dict):
        return value
    return {key: _lasting(own) for key, own in value.items() if key not in _VOLATILE}


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
