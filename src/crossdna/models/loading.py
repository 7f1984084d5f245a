"""Loading checkpoints so that nothing stays random and nothing goes unread."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_NAME, WEIGHTS_NAME, logging
from transformers.utils.hub import cached_file

from crossdna.errors import CrossDNAError
from crossdna.models.weight_files import check_numbers, quietly

# As a part of transformers, whose own table of the same it stands for: what silences
# transformers silences it.
logger = logging.get_logger("transformers.crossdna")

_HUB_OPTIONS = (
    "cache_dir force_download local_files_only token revision subfolder proxies"
)


class StrictLoadingMixin:
    """`from_pretrained` that refuses incomplete or foreign checkpoints.

    Only a head may be new (a classifier on a pretrained network) or left unread (a
    masked model's head when the bare network is wanted); its keys begin with one of
    `head_prefixes`.
    """

    head_prefixes: ClassVar[tuple[str, ...]] = ("head.",)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any
    ) -> Any:
        """Load a checkpoint directory or hub id, as transformers does, but strictly.

        Raises
        ------
        CrossDNAError
            A missing, unknown or misshaped key, or unreadable weights, by name.
        """
        name = pretrained_model_name_or_path
        want_info = kwargs.pop("output_loading_info", False)
        hub = {key: kwargs[key] for key in _HUB_OPTIONS.split() if key in kwargs}
        raw, _ = cls.config_class.get_config_dict(name, **hub)  # type: ignore[attr-defined]
        _refuse_other_family(cls, raw, name)
        with quietly():
            if cls.is_published_layout(raw):
                model, info = cls.load_published(name, hub, *args, **kwargs)
            else:
                model, info = cls._load_own(name, hub, *args, **kwargs)
        _refuse_incomplete(cls, raw, info, name)
        if info.get("missing_keys"):
            new = ", ".join(sorted(map(str, info["missing_keys"])))
            logger.warning(f"{name}: new and random, to be trained: {new}")
        return (model, info) if want_info else model

    @classmethod
    def _load_own(
        cls, name: str | Path, hub: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Load what `save_pretrained` wrote; what does not fit is told in the info."""
        check_numbers(name, **hub)
        # Refused by name, with both shapes, by the caller.
        kwargs.setdefault("ignore_mismatched_sizes", True)
        try:
            return super().from_pretrained(  # type: ignore[misc]
                name, *args, output_loading_info=True, **kwargs
            )
        except (RuntimeError, SafetensorError) as error:
            raise CrossDNAError(f"{name}: {error}") from error

    @classmethod
    def is_published_layout(cls, config: dict[str, Any]) -> bool:
        """Whether a raw config.json belongs to the layout its authors published."""
        raise AssertionError(
            f"{cls.__name__} does not say what its published layout is"
        )

    @classmethod
    def load_published(
        cls, name: str | Path, hub: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Load a checkpoint in the published layout: the model and the loading info."""
        raise AssertionError(f"{cls.__name__} has no published layout")


def read_weights(
    name: str | Path, hub: dict[str, Any]
) -> tuple[dict[str, Tensor], str]:
    """Read model.safetensors, or else pytorch_model.bin without running its pickle.

    Returns
    -------
    weights : dict
    where : str
        The file, for errors.

    Raises
    ------
    CrossDNAError
        No weights, or a damaged file.
    """
    for file in (SAFE_WEIGHTS_NAME, WEIGHTS_NAME):
        path = cached_file(
            str(name),
            file,
            _raise_exceptions_for_missing_entries=False,
            **hub,
        )
        if path is None:
            continue
        try:
            if file == SAFE_WEIGHTS_NAME:
                return load_file(path), str(path)
            return torch.load(path, map_location="cpu", weights_only=True), str(path)
        except Exception as error:
            raise CrossDNAError(f"{path}: cannot be read: {error}") from error
    raise CrossDNAError(f"{name}: no {SAFE_WEIGHTS_NAME} or {WEIGHTS_NAME} in it")


def _refuse_other_family(cls: Any, raw: dict[str, Any], name: str | Path) -> None:
    family, found = cls.config_class.model_type, raw.get("model_type")
    if found != family:
        raise CrossDNAError(
            f"{name}: a checkpoint of model_type {found!r}, not of {family!r}"
        )


def _refuse_incomplete(
    cls: Any, raw: dict[str, Any], info: dict[str, Any], name: str | Path
) -> None:
    heads = cls.head_prefixes
    same_class = cls.__name__ in (raw.get("architectures") or ())

    def faults(keys: Any) -> list[str]:
        return sorted(
            key for key in map(str, keys) if same_class or not key.startswith(heads)
        )

    missing = faults(info.get("missing_keys", ()))
    if missing:
        raise CrossDNAError(f"{name}: missing key {missing[0]!r} (of {len(missing)})")
    unknown = faults(info.get("unexpected_keys", ()))
    if unknown:
        raise CrossDNAError(f"{name}: unknown key {unknown[0]!r} (of {len(unknown)})")
    if info.get("mismatched_keys"):
        key, found, expected = sorted(info["mismatched_keys"])[0]
        raise CrossDNAError(
            f"{name}: {key!r} has shape {tuple(found)}, the configuration asks for "
            f"{tuple(expected)}"
        )
