"""Checkpoints of transformers' families, read strictly.

transformers warns of missing, left-over and misshaped weights and goes on with random
ones. Here each is an error that names the key, but for those of the table in
`crossdna.zoo.families` that nothing reads.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from crossdna.errors import CrossDNAError
from crossdna.models.loading import refuse_not_finite
from crossdna.models.tokenized.modeling import network_class
from crossdna.models.weight_files import check_numbers, quietly

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from crossdna.models.tokenized.configuration import TokenizedConfig


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
        key or one that holds what is no number, by name.
    """
    unused = [re.compile(pattern) for pattern in config.family.unused]
    check_numbers(name, unused)
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
    refuse_not_finite(net, name)
