"""What a published Caduceus checkpoint holds: one strict table of names and shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from crossdna.models.official import PublishedNames

if TYPE_CHECKING:
    from crossdna.models.caduceus.configuration import CaduceusConfig

PREFIX = "caduceus."
COMPLEMENT = "complement_map"
HEADS = ("lm_head.", "score.", "head.")


def published_names(config: CaduceusConfig, *, language_model: bool) -> PublishedNames:
    """List names and shapes.

    Parameters
    ----------
    config
        Sizes and the variant (Ph or PS).
    language_model
        Whether the head over the alphabet is wanted; it has no weights of its own, in
        PS models only a copy of the complement map.
    """
    backbone, ps = f"{PREFIX}backbone", config.rcps
    words = f"{backbone}.embeddings.word_embeddings"
    embedding = f"{words}.embedding.weight" if ps else f"{words}.weight"
    shape = (config.vocab_size, config.d_model)
    required: dict[str, tuple[int, ...]] = {embedding: shape}
    aliases = {"lm_head.lm_head.weight" if ps else "lm_head.weight": embedding}
    constants = {}
    if ps:
        maps = [f"{words}.{COMPLEMENT}"]
        if language_model:
            maps.append(f"lm_head.{COMPLEMENT}")
        required |= {key: (config.vocab_size,) for key in maps}
        constants = dict.fromkeys(maps, torch.tensor(config.complement_ids))
    wrapped = ".submodule" if ps and not config.fused_add_norm else ""
    norm = {"weight": (config.d_model,)}
    if not config.rms_norm:
        norm["bias"] = (config.d_model,)
    required |= {f"{backbone}.norm_f{wrapped}.{k}": s for k, s in norm.items()}
    for i in range(config.n_layer):
        layer = f"{backbone}.layers.{i}"
        mixer = f"{layer}.mixer.submodule" if ps else f"{layer}.mixer"
        required |= {f"{layer}.norm{wrapped}.{k}": s for k, s in norm.items()}
        required |= {f"{mixer}.{k}": s for k, s in _mixer(config).items()}
        if config.bidirectional and config.bidirectional_weight_tie:
            aliases |= {
                f"{mixer}.mamba_rev.{name}": f"{mixer}.mamba_fwd.{name}"
                for name in _projections(config)
            }
    return PublishedNames(required, aliases, constants, HEADS)


def _projections(config: CaduceusConfig) -> dict[str, tuple[int, ...]]:
    d, inner = config.d_model, config.mamba_sizes.inner
    shapes: dict[str, tuple[int, ...]] = {
        "in_proj.weight": (2 * inner, d),
        "out_proj.weight": (d, inner),
    }
    assert config.ssm_cfg is not None
    if config.ssm_cfg["bias"]:
        shapes |= {"in_proj.bias": (2 * inner,), "out_proj.bias": (d,)}
    return shapes


def _mixer(config: CaduceusConfig) -> dict[str, tuple[int, ...]]:
    inner, states, rank, taps = config.mamba_sizes
    scan: dict[str, tuple[int, ...]] = {
        "conv1d.weight": (inner, 1, taps),
        "x_proj.weight": (rank + 2 * states, inner),
        "dt_proj.weight": (inner, rank),
        "dt_proj.bias": (inner,),
        "A_log": (inner, states),
        "D": (inner,),
    }
    assert config.ssm_cfg is not None
    if config.ssm_cfg["conv_bias"]:
        scan["conv1d.bias"] = (inner,)
    both = scan | _projections(config)
    shapes = {f"mamba_fwd.{key}": shape for key, shape in both.items()}
    if config.bidirectional:
        back = scan if config.bidirectional_weight_tie else both
        shapes |= {f"mamba_rev.{key}": shape for key, shape in back.items()}
    return shapes
