"""Reading checkpoints in the published layout: one strict map of names.

The published code scales the input of its attention by 1/sqrt 2 and the output by
sqrt 2; both are folded into the projections here, so the network itself has no trace of
them. Projections that read the same input are stacked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from crossdna.models.crossdna.configuration import CrossDNAConfig

PREFIX = "backbone."
BUFFERS = ("g_step", "P_comp")
# Fields of the published configuration that describe its training or change nothing.
_NOT_THE_NETWORK = frozenset(
    [
        "drop_path_rates",
        "pretrain",
        "for_representation",
        "use_mem",
        "use_rc_kl",
        "use_barlow",
        "use_tv",
        "sem_max_weight",
        "sem_warmup_steps",
        "aux_ce_weight",
        "gate_freeze_steps",
        "detach_gate",
        "gate_sup_weight",
        "gate_sup_warmup_steps",
        "auto_map",
        "vocab_size",
        "pad_token_id",
        "bos_token_id",
        "sep_token_id",
        "cls_token_id",
        "mask_token_id",
        "torch_dtype",
    ]
)
_REQUIRED = {
    ("transformer_cfg", "hidden_act"): ("swish", "silu"),
    ("transformer_cfg", "attn", "qkv_bias"): (False,),
    ("comba_cfg", "use_gate"): (True,),
    ("comba_cfg", "use_short_conv"): (True,),
}


class Piece(NamedTuple):
    """One published tensor and the rows it takes of ours (None: all of them)."""

    key: str
    rows: int | None = None


class Rule(NamedTuple):
    """How one of our tensors is made of published ones."""

    ours: str
    pieces: tuple[Piece, ...]
    scale: float = 1.0


class Converted(NamedTuple):
    """A published state dict in our names, and what our network has no place for.

    Attributes
    ----------
    weights : dict
        State dict of `CrossDNAForMaskedLM`.
    extras : dict
        EMA copies and buffers under their published names.
    gate_step : int or None
        The published step counter.
    """

    weights: dict[str, Tensor]
    extras: dict[str, Tensor]
    gate_step: int | None


def is_published_config(config: Mapping[str, Any]) -> bool:
    """Whether a config.json has the published field names."""
    return "comba_cfg" in config


def translate_config(published: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a published configuration into the fields of `CrossDNAConfig`.

    Raises
    ------
    CrossDNAError
        A missing field, or a variant of the network that nothing describes.
    """
    for path, allowed in _REQUIRED.items():
        value = _at(published, path, allowed[0])
        if value not in allowed:
            raise CrossDNAError(
                f"config.json: {'.'.join(path)} = {value!r} is not supported "
                f"(only {allowed[0]!r} has been described)"
            )
    heads = _at(published, ("transformer_cfg", "attn", "num_heads"))
    kv_heads = _at(published, ("transformer_cfg", "attn", "num_kv_heads"), heads)
    if kv_heads not in (None, heads):
        raise CrossDNAError(
            f"config.json: {kv_heads} key heads for {heads} query heads: not supported"
        )
    blocks = published.get("use_s_scan", True)
    ours = {
        "d_model": _at(published, ("d_model",)),
        "depth": _at(published, ("depth",)),
        "num_heads": _at(published, ("comba_cfg", "num_heads")),
        "head_dim": _at(published, ("comba_cfg", "head_dim")),
        "expand_v": float(_at(published, ("comba_cfg", "expand_v"), 1)),
        "conv_size": _at(published, ("comba_cfg", "conv_size"), 4),
        "correction_factor": _at(published, ("comba_cfg", "correction_factor"), 0.02),
        "attention_heads": heads,
        "window_size": _at(published, ("transformer_cfg", "attn", "window_size")),
        "rope_theta": float(
            _at(published, ("transformer_cfg", "attn", "rope_theta"), 1e4)
        ),
        "hidden_ratio": float(_at(published, ("transformer_cfg", "hidden_ratio"), 4)),
        "norm_eps": _at(published, ("transformer_cfg", "norm_eps"), 1e-5),
        "block_size": _at(published, ("block_size",)) if blocks else None,
        "strand_alignment": "sequence",
        "swap_strands": True,
        "block_context": "independent",
        "residual": False,
        "use_bridge": published.get("use_bridge", True),
        "mask_channel": False,
        "gate_temperature": float(published.get("gate_temp", 1.0)),
        "dropout": float(published.get("dropout", 0.0)),
        "alphabet_size": published.get("alphabet_size", 5),
    }
    translated = {"transformer_cfg", "comba_cfg", "use_s_scan", "gate_temp"}
    ignored = _NOT_THE_NETWORK | translated | set(ours)
    return {**{k: v for k, v in published.items() if k not in ignored}, **ours}


def _at(table: Any, path: tuple[str, ...], default: Any = None) -> Any:
    for key in path:
        if not isinstance(table, dict) or key not in table:
            if default is None:
                raise CrossDNAError(f"config.json: missing field {'.'.join(path)}")
            return default
        table = table[key]
    return table


def convert_state_dict(
    published: Mapping[str, Tensor], config: CrossDNAConfig, where: str
) -> Converted:
    """Rename and stack published tensors.

    Raises
    ------
    CrossDNAError
        A missing, unknown or misshaped key, by name.
    """
    rest = {key.removeprefix(PREFIX): tensor for key, tensor in published.items()}
    weights = {
        rule.ours: _build(rule, rest, where) for rule in list(_model_rules(config))
    }
    extras = {
        key: rest.pop(key) for key in (*BUFFERS, *_ema_keys(config)) if key in rest
    }
    if rest:
        raise CrossDNAError(f"{where}: unknown key {min(rest)!r}")
    step = extras.get("g_step")
    return Converted(weights, extras, None if step is None else int(step.max()))


def _build(rule: Rule, rest: dict[str, Tensor], where: str) -> Tensor:
    parts = []
    for piece in rule.pieces:
        if piece.key not in rest:
            raise CrossDNAError(f"{where}: missing key {PREFIX + piece.key!r}")
        tensor = rest.pop(piece.key)
        if not tensor.is_floating_point():
            raise CrossDNAError(f"{where}: {PREFIX + piece.key!r} holds {tensor.dtype}")
        if piece.rows is not None and tensor.shape[0] != piece.rows:
            raise CrossDNAError(
                f"{where}: {PREFIX + piece.key!r} has shape {tuple(tensor.shape)}, "
                f"expected {piece.rows} rows"
            )
        # Depthwise taps [C, 1, k] and 1x1 kernels [O, I, 1] lose their empty axis.
        if ".comba." in piece.key and tensor.dim() == 3:
            tensor = tensor.squeeze(1)
        elif "mix_" in piece.key and tensor.dim() == 3:
            tensor = tensor.squeeze(-1)
        parts.append(tensor)
    widths = {part.shape[1:] for part in parts}
    if len(widths) > 1:
        keys = ", ".join(repr(PREFIX + piece.key) for piece in rule.pieces)
        raise CrossDNAError(f"{where}: shapes of {keys} do not fit each other")
    whole = torch.cat(parts) if len(parts) > 1 else parts[0]
    return whole if rule.scale == 1 else whole * rule.scale


def check_shapes(
    weights: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    config: CrossDNAConfig,
    where: str,
) -> None:
    """Refuse tensors that do not fit the network, naming the published key."""
    sources = {rule.ours: rule.pieces for rule in _model_rules(config)}
    for key, tensor in weights.items():
        if tensor.shape != expected[key].shape:
            pieces = sources[key if key in sources else f"model.{key}"]
            published = ", ".join(repr(PREFIX + piece.key) for piece in pieces)
            raise CrossDNAError(
                f"{where}: {published} gives shape {tuple(tensor.shape)}, the "
                f"configuration asks for {tuple(expected[key].shape)}"
            )


def _model_rules(config: CrossDNAConfig) -> Iterator[Rule]:
    yield from _both("model.stem_forward", "linear")
    yield from _both("model.stem_reverse", "rc_linear")
    yield from _branch_rules("model.branch_a", "branchA_core", config)
    yield from _branch_rules("model.branch_b", "branchB_core", config)
    if config.use_bridge:
        yield from _bridge_rules("model.bridge", "bridge")
    for ours, theirs in (("a", "A"), ("b", "B")):
        yield from _both(f"model.project_{ours}.up", f"proj_{theirs}.linear1")
        yield from _both(f"model.project_{ours}.down", f"proj_{theirs}.linear2")
    yield from _both("model.fusion_gate", "gate_fuse")
    yield from _both("head", "out_linear")


def _ema_keys(config: CrossDNAConfig) -> list[str]:
    rules = [
        *_branch_rules("", "branchA_core_ema", config),
        *_branch_rules("", "branchB_core_ema", config),
        *_bridge_rules("", "bridge_ema"),
    ]
    return [piece.key for rule in rules for piece in rule.pieces]


def _both(ours: str, theirs: str) -> Iterator[Rule]:
    for name in ("weight", "bias"):
        yield Rule(f"{ours}.{name}", (Piece(f"{theirs}.{name}"),))


def _branch_rules(ours: str, theirs: str, config: CrossDNAConfig) -> Iterator[Rule]:
    for i in range(config.depth):
        yield from _layer_rules(f"{ours}.layers.{i}", f"{theirs}.layers.{i}", config)
    yield from _both(f"{ours}.norm", f"{theirs}.output_norm")


def _layer_rules(ours: str, theirs: str, config: CrossDNAConfig) -> Iterator[Rule]:
    keys = config.num_heads * config.head_dim
    values = config.num_heads * config.value_dim
    width, inner = config.d_model, config.mlp_dim
    comba, mixer = f"{theirs}.comba", f"{ours}.mixer"

    def stacked(template: str, rows: dict[str, int]) -> tuple[Piece, ...]:
        return tuple(Piece(template.format(name), n) for name, n in rows.items())

    qkv = {"q": keys, "k": keys, "v": values}
    gates = {"g": values, "a": config.num_heads, "b": config.num_heads}
    yield Rule(f"{mixer}.qkv_proj.weight", stacked(comba + ".{}_proj.weight", qkv))
    yield Rule(f"{mixer}.gate_proj.weight", stacked(comba + ".{}_proj.weight", gates))
    yield Rule(f"{mixer}.conv_weight", stacked(comba + ".{}_conv1d.weight", qkv))
    for name in ("A_log", "dt_bias", "decay"):
        yield Rule(f"{mixer}.{name}", (Piece(f"{comba}.{name}"),))
    yield Rule(f"{mixer}.correction", (Piece(f"{comba}.D"),))
    yield Rule(f"{mixer}.out_norm.weight", (Piece(f"{comba}.o_norm.weight"),))
    yield Rule(f"{mixer}.out_proj.weight", (Piece(f"{comba}.o_proj.weight"),))

    block, attention = f"{theirs}.transformer", f"{ours}.attention"
    thirds = dict.fromkeys("qkv", width)
    yield Rule(
        f"{attention}.qkv_proj.weight",
        stacked(block + ".mixer.{}_proj.weight", thirds),
        scale=0.5**0.5,
    )
    yield Rule(
        f"{attention}.out_proj.weight",
        (Piece(f"{block}.mixer.o_proj.weight"),),
        scale=2**0.5,
    )
    yield Rule(
        f"{attention}.attention_norm.weight", (Piece(f"{block}.mixer_norm.weight"),)
    )
    yield Rule(f"{attention}.mlp_norm.weight", (Piece(f"{block}.mlp_norm.weight"),))
    halves = {"gate": inner, "up": inner}
    yield Rule(
        f"{attention}.gate_up_proj.weight",
        stacked(block + ".mlp.{}_proj.weight", halves),
    )
    down = (Piece(f"{block}.mlp.down_proj.weight"),)
    yield Rule(f"{attention}.down_proj.weight", down)
    yield from _both(f"{ours}.blend", f"{theirs}.gate")
    yield from _both(f"{ours}.norm", f"{theirs}.out_norm")


def _bridge_rules(ours: str, theirs: str) -> Iterator[Rule]:
    for here, there in (("a", "A"), ("b", "B")):
        for i in range(5):
            yield Rule(
                f"{ours}.context_{here}.convs.{i}.weight",
                (Piece(f"{theirs}.dw_{there}.{i}.weight"),),
            )
        yield from _both(f"{ours}.context_{here}.mix", f"{theirs}.mix_{there}")
        yield from _both(f"{ours}.norm_{here}", f"{theirs}.norm{there}")
    # What A receives comes from B, hence the published names.
    for here, there in (("a", "B2A"), ("b", "A2B")):
        yield from _both(f"{ours}.local_{here}", f"{theirs}.proj_{there}")
        yield from _both(f"{ours}.global_{here}", f"{theirs}.glb_{there}")
    yield from _both(f"{ours}.gate", f"{theirs}.gate")
