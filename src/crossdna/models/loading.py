"""Loading checkpoints so that nothing stays random and nothing goes unread."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import logging

from crossdna.errors import CrossDNAError
from crossdna.models.weight_files import check_numbers, quietly, weight_files

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

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

        With ``ignore_mismatched_sizes=True`` a head of another shape is new and random.

        Raises
        ------
        CrossDNAError
            A missing, unknown or misshaped key, unreadable weights, or weights that
            are no numbers, by name.
        """
        name = pretrained_model_name_or_path
        want_info = kwargs.pop("output_loading_info", False)
        new_shapes = kwargs.pop("ignore_mismatched_sizes", False)
        # What does not fit is refused by name here, with both shapes.
        kwargs["ignore_mismatched_sizes"] = True
        hub = hub_options(kwargs)
        raw, _ = cls.config_class.get_config_dict(name, **hub)  # type: ignore[attr-defined]
        _refuse_other_family(cls, raw, name)
        with quietly():
            if cls.is_published_layout(raw):
                model, info = cls.load_published(name, hub, *args, **kwargs)
            else:
                model, info = cls._load_own(name, hub, *args, **kwargs)
        _refuse_incomplete(cls, raw, info, name)
        new = {str(key) for key in info.get("missing_keys", ())}
        new |= _reshaped(cls, info, name, allowed=new_shapes)
        if new:
            warn_of_new(name, new)
        refuse_not_finite(model, name)
        return (model, info) if want_info else model

    @classmethod
    def _load_own(
        cls, name: str | Path, hub: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Load what `save_pretrained` wrote; what does not fit is told in the info."""
        check_numbers(name, **hub)
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


def refuse_not_finite(model: nn.Module, name: str | Path) -> None:
    """Refuse weights that are no numbers, which every answer would be too.

    Raises
    ------
    CrossDNAError
        Names the first weight that holds a NaN or an infinity.
    """
    for key, weight in model.named_parameters():
        if weight.is_meta or not weight.is_floating_point():
            continue
        bad = weight.numel() - int(weight.isfinite().sum())
        if bad:
            raise CrossDNAError(
                f"{name}: {key!r} holds {bad:,} of {weight.numel():,} values that are "
                "no numbers (NaN or infinite), so the model can answer nothing; take "
                "an earlier checkpoint of its training"
            )


def warn_of_new(name: str | Path, parts: Iterable[str]) -> None:
    """Tell which parts of a model no checkpoint has, so that nobody asks them."""
    new = ", ".join(sorted(parts))
    logger.warning(
        f"{name}: not in the checkpoint, so new and random, to be trained before it is "
        f"asked: {new}"
    )


def hub_options(options: dict[str, Any]) -> dict[str, Any]:
    """Those of `from_pretrained`'s options that say where files are and which."""
    return {key: options[key] for key in _HUB_OPTIONS.split() if key in options}


def read_weights(
    name: str | Path, hub: dict[str, Any]
) -> tuple[dict[str, Tensor], str]:
    """Read a checkpoint's weights, whole or in shards, without running a pickle.

    Returns
    -------
    weights : dict
    where : str
        The file, or the directory of shards, for errors.

    Raises
    ------
    CrossDNAError
        No weights, or a damaged file.
    """
    files = weight_files(name, **hub)
    weights: dict[str, Tensor] = {}
    for path in files:
        try:
            if path.suffix == ".safetensors":
                weights |= load_file(path)
            else:
                weights |= torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise CrossDNAError(f"{path}: cannot be read: {error}") from error
    return weights, str(files[0] if len(files) == 1 else files[0].parent)


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


def _reshaped(
    cls: Any, info: dict[str, Any], name: str | Path, *, allowed: bool
) -> set[str]:
    """Keys of heads that have another shape, where that is allowed."""
    apart = sorted(info.get("mismatched_keys", ()))
    for key, found, expected in apart:
        if not (allowed and key.startswith(cls.head_prefixes)):
            raise CrossDNAError(
                f"{name}: {key!r} has shape {tuple(found)}, the configuration asks for "
                f"{tuple(expected)}"
            )
    return {key for key, *_ in apart}
