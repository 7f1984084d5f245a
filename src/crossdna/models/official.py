"""Families whose own layout is the published one: names are checked, not translated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from crossdna.errors import CrossDNAError
from crossdna.models.loading import StrictLoadingMixin, read_weights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


class PublishedNames(NamedTuple):
    """What a published checkpoint holds.

    Attributes
    ----------
    required : dict
        Key of the whole model (prefix included) to shape.
    aliases : dict
        Second name of a shared tensor to its first; may be there or not.
    constants : dict
        Tensors that follow from the configuration; a file that has them must agree.
    heads : tuple of str
        Prefixes of keys outside the base network.
    """

    required: dict[str, tuple[int, ...]]
    aliases: dict[str, str]
    constants: dict[str, Tensor]
    heads: tuple[str, ...]


def check_state_dict(
    weights: Mapping[str, Tensor], names: PublishedNames, prefix: str, where: str
) -> dict[str, Tensor]:
    """Check every tensor and drop the second names of shared ones.

    Parameters
    ----------
    weights
        As read; files of a base model lack `prefix`.
    names
        What must be there. Heads are passed on unchecked.
    prefix
        First part of a base network's keys, with the dot.
    where
        The file, for errors.

    Raises
    ------
    CrossDNAError
        A missing, unknown or misshaped key, one that holds no floating-point numbers,
        or a shared tensor whose names disagree; by name.
    """
    bare = not any(key.startswith(prefix) for key in weights)
    rest = {
        prefix + key if bare and not key.startswith(names.heads) else key: tensor
        for key, tensor in weights.items()
    }
    for key, constant in names.constants.items():
        if not torch.equal(rest.setdefault(key, constant).cpu().long(), constant):
            raise CrossDNAError(f"{where}: {key!r} disagrees with config.json")
    for alias, first in names.aliases.items():
        if alias not in rest:
            continue
        tensor = rest.pop(alias)
        if not torch.equal(tensor, rest.setdefault(first, tensor)):
            raise CrossDNAError(f"{where}: {alias!r} differs from {first!r}")
    for key, shape in names.required.items():
        if key not in rest:
            raise CrossDNAError(f"{where}: missing key {key!r}")
        if tuple(rest[key].shape) != shape:
            raise CrossDNAError(
                f"{where}: {key!r} has shape {tuple(rest[key].shape)}, the "
                f"configuration asks for {shape}"
            )
        if key not in names.constants and not rest[key].is_floating_point():
            raise CrossDNAError(f"{where}: {key!r} holds {rest[key].dtype}")
    for key in rest:
        if key not in names.required and not key.startswith(names.heads):
            raise CrossDNAError(f"{where}: unknown key {key!r}")
    return rest


class OfficialLayoutMixin(StrictLoadingMixin):
    """Loads directories as their authors published them, and as we save them."""

    @classmethod
    def published_names(cls, config: Any) -> PublishedNames:
        """What a checkpoint of this class and configuration holds."""
        raise AssertionError(f"{cls.__name__} does not say what its checkpoints hold")

    @classmethod
    def is_published_layout(cls, config: dict[str, Any]) -> bool:
        """Always: there is no other layout."""
        return True

    @classmethod
    def load_published(
        cls, name: str | Path, hub: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Load through transformers what `check_state_dict` has let pass.

        Options of transformers' `from_pretrained` (dtype, device_map, ...) work.
        """
        config = kwargs.pop("config", None)
        options = {key: value for key, value in kwargs.items() if key not in hub}
        if config is None:
            config, options = cls.config_class.from_pretrained(  # type: ignore[attr-defined]
                name, return_unused_kwargs=True, **hub, **options
            )
        weights, where = read_weights(name, hub)
        names = cls.published_names(config)
        prefix = f"{cls.base_model_prefix}."  # type: ignore[attr-defined]
        own = _for_class(cls, check_state_dict(weights, names, prefix, where), names)
        model, info = super(StrictLoadingMixin, cls).from_pretrained(  # type: ignore[misc]
            None,
            *args,
            config=config,
            state_dict=own,
            output_loading_info=True,
            **options,
        )
        model.config.name_or_path = model.name_or_path = str(name)
        return model, info


def _for_class(
    cls: Any, weights: dict[str, Tensor], names: PublishedNames
) -> dict[str, Tensor]:
    """Leave out the heads that `cls` does not have; strip a base network's prefix."""
    prefix = f"{cls.base_model_prefix}."
    kept = {
        key: tensor
        for key, tensor in weights.items()
        if key.startswith((prefix, *cls.head_prefixes))
    }
    if cls.is_base_network:
        return {key.removeprefix(prefix): tensor for key, tensor in kept.items()}
    return kept
