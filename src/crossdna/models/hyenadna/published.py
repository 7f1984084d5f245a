"""What a published HyenaDNA checkpoint holds: one strict table of names and shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossdna.models.official import PublishedNames

if TYPE_CHECKING:
    from crossdna.models.hyenadna.configuration import HyenaDNAConfig

PREFIX = "hyena."
HEADS = ("lm_head.", "score.", "head.")


def published_names(config: HyenaDNAConfig, *, language_model: bool) -> PublishedNames:
    """List names and shapes.

    Parameters
    ----------
    config
        Sizes.
    language_model
        Whether the head over the alphabet must be there.
    """
    d, rows = config.d_model, config.embedding_rows
    backbone = f"{PREFIX}backbone"
    required: dict[str, tuple[int, ...]] = {
        f"{backbone}.embeddings.word_embeddings.weight": (rows, d),
        f"{backbone}.ln_f.weight": (d,),
        f"{backbone}.ln_f.bias": (d,),
    }
    aliases: dict[str, str] = {}
    for i in range(config.n_layer):
        layer = f"{backbone}.layers.{i}"
        required |= {f"{layer}.{key}": shape for key, shape in _layer(config).items()}
        sine = f"{layer}.mixer.filter_fn.implicit_filter.{{}}.freq"
        # One sine serves the whole filter; pickled files repeat it after each layer.
        aliases |= {
            sine.format(2 * j + 3): sine.format(1) for j in range(config.num_inner_mlps)
        }
    if language_model:
        required["lm_head.weight"] = (rows, d)
    return PublishedNames(required, aliases, {}, HEADS)


def _layer(config: HyenaDNAConfig) -> dict[str, tuple[int, ...]]:
    d, order, inner = config.d_model, config.filter_order, config.d_inner
    assert inner is not None
    linears = {
        "mixer.in_proj": (3 * d, d),
        "mixer.out_proj": (d, d),
        "mixer.filter_fn.implicit_filter.0": (order, config.emb_dim),
        "mlp.fc1": (inner, d),
        "mlp.fc2": (d, inner),
    } | {
        f"mixer.filter_fn.implicit_filter.{2 * j + 2}": (order, order)
        for j in range(config.num_inner_mlps)
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for norm in ("norm1", "norm2"):
        shapes |= {f"{norm}.weight": (d,), f"{norm}.bias": (d,)}
    last = 2 * config.num_inner_mlps + 2
    return shapes | {
        "mixer.short_filter.weight": (3 * d, 1, config.short_filter_order),
        "mixer.short_filter.bias": (3 * d,),
        "mixer.filter_fn.bias": (d,),
        "mixer.filter_fn.implicit_filter.1.freq": (1, order),
        f"mixer.filter_fn.implicit_filter.{last}.weight": (d, order),
        "mixer.filter_fn.pos_emb.z": (1, config.max_seq_len, config.emb_dim),
        "mixer.filter_fn.pos_emb.t": (1, config.max_seq_len, 1),
        "mixer.filter_fn.modulation.deltas": (1, 1, d),
    }
