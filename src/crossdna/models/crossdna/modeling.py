"""CrossDNA: two causal branches read the two strands and exchange what they saw.

Written from the paper (Explicit dynamic cross-strand interactions for DNA sequence
language modelling, Nature Machine Intelligence 2026). The file reads from the smallest
part to the whole: mixer, attention, branch, bridge, fusion, model, heads.

Two behaviours differ from the published network and are chosen in the configuration:
``strand_alignment`` (which reverse-strand slice meets a forward slice) and
``block_context`` (whether anything crosses a block boundary).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from crossdna import alphabet
from crossdna.errors import CrossDNAError
from crossdna.models.crossdna import published
from crossdna.models.crossdna.configuration import CrossDNAConfig
from crossdna.models.crossdna.padding import Alignment, align_left, flip_valid
from crossdna.models.heads import SequenceHead, TokenHead, sequence_loss, token_loss
from crossdna.models.loading import StrictLoadingMixin, read_weights
from crossdna.ops.delta_rule import delta_rule
from crossdna.ops.short_conv import short_conv
from crossdna.ops.window_attention import WindowCache, window_attention

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

STEM_KERNEL = 9
STEM_REACH = STEM_KERNEL // 2
BRIDGE_KERNEL = 9
BRIDGE_DILATIONS = (1, 2, 4, 8, 16)


class LayerState(NamedTuple):
    """What a layer carries from the bases it has read to those that follow.

    Attributes
    ----------
    conv : (batch, conv_size - 1, channels)
        Last inputs of the short convolution.
    delta : (batch, heads, key width, value width) float32
        State of the delta rule.
    window : WindowCache
        Last keys and values of the attention window.
    """

    conv: Tensor
    delta: Tensor
    window: WindowCache


BranchState = tuple[LayerState, ...]


class StrandContext(NamedTuple):
    """Everything that lies outside a piece of a longer sequence and matters inside.

    Attributes
    ----------
    forward : BranchState or None
        State of the forward stream at the piece's left end.
    reverse : BranchState or None
        State of the reverse-complement stream at the piece's right end.
    left, right : (batch, up to 4) int64 or None
        The bases that touch the piece, for the stems' convolutions.
    first_block : int
        How many blocks lie to the left of the piece.
    """

    forward: BranchState | None = None
    reverse: BranchState | None = None
    left: Tensor | None = None
    right: Tensor | None = None
    first_block: int = 0


@dataclass
class CrossDNAModelOutput(ModelOutput):
    """What the network computes for each base, in the order of the forward strand.

    Attributes
    ----------
    last_hidden_state : (batch, length, d_model)
        The fused representation.
    hidden_states : tuple of (batch, length, d_model), optional
        Stems, each layer (mean of the two strands), and last the fused representation.
    branch_a, branch_b : (batch, length, d_model)
        The two branches after bridge and projection.
    fusion_logits : (batch, length, d_model)
        Logits of the fusion gate, after the temperature.
    context : StrandContext, optional
        States at the far end of each stream, when a context was given.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    branch_a: Tensor | None = None
    branch_b: Tensor | None = None
    fusion_logits: Tensor | None = None
    context: StrandContext | None = None


@dataclass
class CrossDNAPredictionOutput(ModelOutput):
    """A head's output; `logits_branch_a` and `logits_branch_b` for masked models only."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    logits_branch_a: Tensor | None = None
    logits_branch_b: Tensor | None = None


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class DeltaRuleMixer(nn.Module):
    """Gated delta rule with a feedback key parallel to the key (Comba)."""

    def __init__(self, config: CrossDNAConfig) -> None:
        super().__init__()
        self.heads, self.key_dim = config.num_heads, config.head_dim
        self.value_dim = config.value_dim
        self.correction_factor = config.correction_factor
        keys, values = self.heads * self.key_dim, self.heads * self.value_dim
        self.sizes = [keys, keys, values]
        self.qkv_proj = nn.Linear(config.d_model, sum(self.sizes), bias=False)
        # Output gate, decay and writing strength.
        self.gate_sizes = [values, self.heads, self.heads]
        self.gate_proj = nn.Linear(config.d_model, sum(self.gate_sizes), bias=False)
        self.conv_weight = nn.Parameter(torch.empty(sum(self.sizes), config.conv_size))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.decay = nn.Parameter(torch.empty(self.heads))
        self.correction = nn.Parameter(torch.empty(self.heads))
        self.out_norm = RMSNorm(self.value_dim, config.norm_eps)
        self.out_proj = nn.Linear(values, config.d_model, bias=False)
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        """Draw the parameters that belong to no submodule."""
        nn.init.uniform_(self.conv_weight, -1, 1)
        with torch.no_grad():
            self.conv_weight.mul_(self.conv_weight.shape[1] ** -0.5)
            # A of zero would be a head that never forgets, with a logarithm of -inf.
            self.A_log.uniform_(1e-4, 16).log_()
            # Time steps are log-uniform; the bias is their inverse softplus.
            step = self.dt_bias.uniform_(math.log(1e-3), math.log(1e-1)).exp_()
            step.clamp_(min=1e-4)
            step.add_((-(-step).expm1()).log())
            self.decay.fill_(1.0)
            self.correction.fill_(self.correction_factor)

    def forward(
        self, x: Tensor, mask: Tensor | None, state: LayerState | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mix along the length; returns output, convolution tail and delta state."""
        batch, length, _ = x.shape
        qkv = short_conv(
            self.qkv_proj(x),
            self.conv_weight,
            tail=None if state is None else state.conv,
            mask=mask,
            activation="silu",
        )
        q, k, v = (
            part.view(batch, length, self.heads, -1)
            for part in qkv.output.split(self.sizes, dim=-1)
        )
        gate, rate, strength = self.gate_proj(x).split(self.gate_sizes, dim=-1)
        # Decays stay float32: their sums are exponentiated.
        log_decay = -self.A_log.float().exp() * F.softplus(rate.float() + self.dt_bias)
        mixed = delta_rule(
            q,
            k,
            v,
            log_decay,
            strength.float().sigmoid(),
            self.decay.float().sigmoid(),
            self.correction.float(),
            initial_state=None if state is None else state.delta,
            mask=mask,
        )
        o = self.out_norm(mixed.output) * gate.view_as(mixed.output).sigmoid()
        return self.out_proj(o.flatten(2)), qkv.tail, mixed.state


class WindowAttentionBlock(nn.Module):
    """Pre-norm transformer block whose causal attention sees a sliding window."""

    def __init__(self, config: CrossDNAConfig) -> None:
        super().__init__()
        width = config.d_model
        self.heads, self.window = config.attention_heads, config.window_size
        self.rope_theta = config.rope_theta
        self.attention_norm = RMSNorm(width, config.norm_eps)
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)
        self.mlp_norm = RMSNorm(width, config.norm_eps)
        self.gate_up_proj = nn.Linear(width, 2 * config.mlp_dim, bias=False)
        self.down_proj = nn.Linear(config.mlp_dim, width, bias=False)

    def forward(
        self, x: Tensor, mask: Tensor | None, cache: WindowCache | None
    ) -> tuple[Tensor, WindowCache]:
        batch, length, _ = x.shape
        qkv = self.qkv_proj(self.attention_norm(x))
        q, k, v = qkv.view(batch, length, 3, self.heads, -1).unbind(2)
        attended = window_attention(
            q,
            k,
            v,
            window=self.window,
            rope_theta=self.rope_theta,
            cache=cache,
            mask=mask,
        )
        x = x + self.out_proj(attended.output.flatten(2))
        gate, up = self.gate_up_proj(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down_proj(F.silu(gate) * up), attended.cache


class BranchLayer(nn.Module):
    """Delta rule, window attention on its output, and a learned blend of both."""

    def __init__(self, config: CrossDNAConfig) -> None:
        super().__init__()
        self.mixer = DeltaRuleMixer(config)
        self.attention = WindowAttentionBlock(config)
        self.blend = nn.Linear(2 * config.d_model, config.d_model)
        self.norm = nn.LayerNorm(config.d_model, eps=config.norm_eps)

    def forward(
        self, x: Tensor, mask: Tensor | None, state: LayerState | None
    ) -> tuple[Tensor, LayerState]:
        m, conv, delta = self.mixer(x, mask, state)
        t, window = self.attention(m, mask, None if state is None else state.window)
        g = self.blend(torch.cat([m, t], dim=-1)).sigmoid()
        return self.norm(torch.lerp(m, t, g)), LayerState(conv, delta, window)


class Branch(nn.Module):
    """A causal stack that reads one strand in its own 5' to 3' direction."""

    def __init__(self, config: CrossDNAConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(BranchLayer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.d_model, eps=config.norm_eps)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        state: BranchState | None = None,
        collect: list[Tensor] | None = None,
    ) -> tuple[Tensor, BranchState]:
        """Read a stretch of one strand.

        Parameters
        ----------
        x : (batch, length, d_model)
            Stem features in reading order.
        mask : (batch, length) bool, optional
            False where there is no base; states pass over such positions unchanged.
        state : BranchState, optional
            Where the stretch before ended.
        collect : list, optional
            Receives each layer's output.
        """
        states = []
        for i, layer in enumerate(self.layers):
            x, carried = layer(x, mask, None if state is None else state[i])
            states.append(carried)
            if collect is not None:
                collect.append(x)
        return self.norm(x), tuple(states)


class BridgeContext(nn.Module):
    """Dilated depthwise convolutions around each base of one strand's output."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(
                width,
                width,
                BRIDGE_KERNEL,
                padding=dilation * (BRIDGE_KERNEL // 2),
                dilation=dilation,
                groups=width,
                bias=False,
            )
            for dilation in BRIDGE_DILATIONS
        )
        self.mix = nn.Linear(len(BRIDGE_DILATIONS) * width, width)

    def forward(self, x: Tensor) -> Tensor:
        channels_first = x.transpose(1, 2)
        views = [conv(channels_first) for conv in self.convs]
        return self.mix(torch.cat(views, dim=1).transpose(1, 2))


class TokenBridge(nn.Module):
    """Gated exchange between the two branches, base by base and block-wide."""

    def __init__(self, config: CrossDNAConfig) -> None:
        super().__init__()
        width = config.d_model
        self.context_a, self.context_b = BridgeContext(width), BridgeContext(width)
        self.local_a, self.local_b = nn.Linear(width, width), nn.Linear(width, width)
        self.global_a, self.global_b = nn.Linear(width, width), nn.Linear(width, width)
        self.gate = nn.Linear(4 * width, 2 * width)
        self.norm_a = nn.LayerNorm(width, eps=config.norm_eps)
        self.norm_b = nn.LayerNorm(width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, a: Tensor, b: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Exchange; `local_a` and `global_a` carry what A receives from B."""
        to_a = self.local_a(self._around(b, self.context_b, mask)) + self.global_a(
            _mean(b, mask)
        )
        to_b = self.local_b(self._around(a, self.context_a, mask)) + self.global_b(
            _mean(a, mask)
        )
        gate = self.gate(torch.cat([a, b, a - b, a * b], dim=-1)).sigmoid()
        gate_a, gate_b = gate.chunk(2, dim=-1)
        return (
            self.norm_a(a + self.dropout(gate_a * to_a)),
            self.norm_b(b + self.dropout(gate_b * to_b)),
        )

    @staticmethod
    def _around(x: Tensor, context: BridgeContext, mask: Tensor | None) -> Tensor:
        if mask is not None:
            x = x * mask.unsqueeze(-1)
        return x + context(x)


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the length (over its bases where there is a mask), kept as one."""
    if mask is None:
        return x.mean(dim=1, keepdim=True)
    weights = mask.unsqueeze(-1).to(x.dtype)
    return (x * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(
        min=1
    )


class BranchProjection(nn.Module):
    """Residual MLP between bridge and fusion."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x))) + x


class _Block(NamedTuple):
    """One block of a piece: where it lies and which branch reads its forward strand."""

    start: int
    end: int
    a_reads_forward: bool


class FusedBlock(NamedTuple):
    """What bridge, projection and fusion make of a block, each (batch, length, d_model)."""

    hidden: Tensor
    branch_a: Tensor
    branch_b: Tensor
    logits: Tensor


class CrossDNAPreTrainedModel(StrictLoadingMixin, PreTrainedModel):
    """Loading and initialisation shared by all CrossDNA classes."""

    config_class = CrossDNAConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = False
    _no_split_modules = ["BranchLayer"]  # noqa: RUF012 - transformers' own form

    @classmethod
    def is_published_layout(cls, config: dict[str, Any]) -> bool:
        """Whether config.json has the published field names."""
        return published.is_published_config(config)

    @classmethod
    def load_published(
        cls, name: str | Path, hub: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Load a checkpoint in the published layout.

        Parameters
        ----------
        name, hub
            Where it lies, and options for a hub.
        **kwargs
            ``config`` (else read from the checkpoint) and ``dtype``.
        """
        config = kwargs.pop("config", None)
        dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
        if config is None:
            config = cls.config_class.from_pretrained(name, **hub, **kwargs)
        raw, _ = cls.config_class.get_config_dict(name, **hub)
        weights, where = read_weights(name, hub)
        converted = published.convert_state_dict(weights, config, where)
        if converted.gate_step is not None:
            freeze = raw.get("gate_freeze_steps", 0)
            config.gate_frozen = converted.gate_step < freeze
        model = cls(config, *args)
        info = model._take_published(converted.weights, where)
        if dtype not in (None, "auto"):
            model = model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
        return model.eval(), info

    def _take_published(
        self, weights: dict[str, Tensor], where: str
    ) -> dict[str, list[str]]:
        """Copy converted weights in; returns transformers' loading info."""
        if isinstance(self, CrossDNAModel):
            weights = {key.removeprefix("model."): t for key, t in weights.items()}
        own = self.state_dict()
        shared = {key: tensor for key, tensor in weights.items() if key in own}
        if not isinstance(self, CrossDNAForMaskedLM):
            shared = {k: t for k, t in shared.items() if not k.startswith("head.")}
        published.check_shapes(shared, own, self.config, where)
        result = self.load_state_dict(shared, strict=False)
        return {
            "missing_keys": result.missing_keys,
            "unexpected_keys": [key for key in weights if key not in own],
        }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, DeltaRuleMixer):
            module.reset_own_parameters()
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.LayerNorm):
            module.reset_parameters()


class CrossDNAModel(CrossDNAPreTrainedModel):
    """The bare network: bases in, a fused representation of both strands out."""

    def __init__(self, config: CrossDNAConfig) -> None:
        super().__init__(config)
        channels = config.alphabet_size + config.mask_channel
        self.stem_forward = nn.Conv1d(
            channels, config.d_model, STEM_KERNEL, padding=STEM_REACH
        )
        self.stem_reverse = nn.Conv1d(
            channels, config.d_model, STEM_KERNEL, padding=STEM_REACH
        )
        self.branch_a = Branch(config)
        self.branch_b = Branch(config)
        self.bridge = TokenBridge(config) if config.use_bridge else None
        self.project_a = BranchProjection(config.d_model)
        self.project_b = BranchProjection(config.d_model)
        self.fusion_gate = nn.Linear(2 * config.d_model, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_branches: bool = False,
        context: StrandContext | None = None,
        return_dict: bool | None = None,
    ) -> CrossDNAModelOutput:
        """Represent each base.

        Parameters
        ----------
        input_ids : (batch, length) int64
            Ids of `crossdna.alphabet`.
        attention_mask : (batch, length), optional
            Non-zero at bases. Padding may stand left or right, not in between; each
            sequence gets what it gets alone.
        output_hidden_states : bool, optional
            Also return every layer.
        output_branches : bool
            Also return both branches and the fusion logits, as pretraining needs them.
        context : StrandContext, optional
            Read `input_ids` as a piece of a longer sequence; without a mask only. The
            output then has the states at the piece's ends.

        Raises
        ------
        CrossDNAError
            No bases, a mask of another shape or with gaps, or a context that the
            configured behaviour does not allow.
        """
        _check_inputs(self.config, input_ids, attention_mask, context)
        aligned = align_left(input_ids, attention_mask)
        want_layers = bool(
            self.config.output_hidden_states
            if output_hidden_states is None
            else output_hidden_states
        )
        run = _Run(self, aligned, context or StrandContext(), want_layers)
        output = CrossDNAModelOutput()
        if output_branches:
            fields = run.fused_fields(FusedBlock._fields)
            output.branch_a = aligned.restore(fields["branch_a"])
            output.branch_b = aligned.restore(fields["branch_b"])
            output.fusion_logits = aligned.restore(fields["logits"])
        else:
            fields = run.fused_fields(("hidden",))
        output.last_hidden_state = aligned.restore(fields["hidden"])
        if want_layers:
            layers = run.layer_means(fields["hidden"])
            output.hidden_states = tuple(aligned.restore(layer) for layer in layers)
        if context is not None:
            output.context = run.context_at_ends()
        return output if return_dict in (None, True) else output.to_tuple()

    def features_forward(
        self, ids: Tensor, left: Tensor | None = None, right: Tensor | None = None
    ) -> Tensor:
        """Forward stem, before dropout: (batch, length) ids to (batch, length, d_model).

        `left` and `right` are the neighbouring bases; nothing is there without them.
        """
        return self._stem(ids, left, right, self.stem_forward.weight, self.stem_forward)

    def features_reverse(
        self, ids: Tensor, left: Tensor | None = None, right: Tensor | None = None
    ) -> Tensor:
        """Reverse-complement stem, mirrored: position i is the base of forward locus i.

        Takes the ids and neighbours of the forward strand.
        """
        flanks = [
            None if side is None else alphabet.complement_ids(side)
            for side in (left, right)
        ]
        # Reading the complement with a mirrored kernel gives what the stem gives on the
        # reverse complement, in forward order, without flipping the features.
        weight = self.stem_reverse.weight.flip(-1)
        ids = alphabet.complement_ids(ids)
        return self._stem(ids, flanks[0], flanks[1], weight, self.stem_reverse)

    def _stem(
        self,
        ids: Tensor,
        left: Tensor | None,
        right: Tensor | None,
        weight: Tensor,
        conv: nn.Conv1d,
    ) -> Tensor:
        if not self.config.mask_channel:
            ids = ids.masked_fill(ids == alphabet.MASK, alphabet.N)
        parts = [part for part in (left, ids, right) if part is not None]
        whole = torch.cat(parts, dim=1) if len(parts) > 1 else ids
        channels = torch.arange(weight.shape[1], device=ids.device)
        one_hot = (whole.unsqueeze(1) == channels[:, None]).to(weight.dtype)
        y = F.gelu(F.conv1d(one_hot, weight, conv.bias, padding=STEM_REACH))
        start = 0 if left is None else left.shape[1]
        return y[:, :, start : start + ids.shape[1]].transpose(1, 2)

    def fuse(self, a: Tensor, b: Tensor, mask: Tensor | None = None) -> FusedBlock:
        """Bridge, project and blend the aligned outputs of both branches in one block."""
        if self.bridge is not None:
            a, b = self.bridge(a, b, mask)
        a, b = self.project_a(a), self.project_b(b)
        gate_input = torch.cat([a, b], dim=-1)
        logits = self.fusion_gate(gate_input) / self.config.gate_temperature
        weight = 0.5 if self.config.gate_frozen else logits.sigmoid()
        blended = b + weight * (a - b)
        hidden = F.layer_norm(blended, (a.shape[-1],), eps=self.config.norm_eps)
        return FusedBlock(hidden, a, b, logits)


class _Run:
    """One pass over a piece: first the reverse stream, then the forward one, by block."""

    def __init__(
        self,
        model: CrossDNAModel,
        aligned: Alignment,
        context: StrandContext,
        want_layers: bool,
    ) -> None:
        self.model, self.config = model, model.config
        self.ids, self.mask, self.lengths = aligned.ids, aligned.mask, aligned.lengths
        self.context = context
        self.forward_state = context.forward
        self.reverse_state = context.reverse
        self.forward_layers: list[list[Tensor]] | None = [] if want_layers else None
        self.reverse_layers: list[list[Tensor]] | None = [] if want_layers else None

    def fused_fields(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Run everything and keep the named fields of `FusedBlock`, blocks joined."""
        reverse = self._read_reverse()
        kept: dict[str, list[Tensor]] = {name: [] for name in names}
        for block, forward in self._read_forward():
            mirrored = reverse.pop(block.start)
            a, b = forward, mirrored
            if not block.a_reads_forward:
                a, b = b, a
            fused = self.model.fuse(a, b, self._mask(block))
            for name, parts in kept.items():
                parts.append(getattr(fused, name))
        return {name: _join(parts) for name, parts in kept.items()}

    def layer_means(self, fused: Tensor) -> list[Tensor]:
        """Stems, each layer's mean over the strands, and the fused representation."""
        assert self.forward_layers is not None
        assert self.reverse_layers is not None
        streams = [
            [_join(list(parts)) for parts in zip(*stream, strict=True)]
            for stream in (self.forward_layers, self.reverse_layers)
        ]
        means = [(f + r) / 2 for f, r in zip(*streams, strict=True)]
        return [*means, fused]

    def context_at_ends(self) -> StrandContext:
        return self.context._replace(
            forward=self.forward_state, reverse=self.reverse_state
        )

    def _blocks(self) -> list[_Block]:
        length = self.ids.shape[1]
        size = self.config.block_size or length
        first = self.context.first_block
        return [
            _Block(start, min(start + size, length), (first + i) % 2 == 0)
            for i, start in enumerate(range(0, length, size))
        ]

    def _mask(self, block: _Block) -> Tensor | None:
        return None if self.mask is None else self.mask[:, block.start : block.end]

    def _read_forward(self) -> Iterator[tuple[_Block, Tensor]]:
        model, context = self.model, self.context
        features = model.features_forward(self.ids, context.left, context.right)
        features = model.dropout(features)
        for block in self._blocks():
            branch = model.branch_a if block.a_reads_forward else model.branch_b
            x = features[:, block.start : block.end]
            y, self.forward_state = self._read(
                branch, x, self._mask(block), self.forward_state, self.forward_layers
            )
            yield block, y

    def _read_reverse(self) -> dict[int, Tensor]:
        """Outputs of the reverse stream in forward order, by the block's start."""
        if self.config.strand_alignment == "sequence":
            return self._read_reverse_by_sequence()
        model, context = self.model, self.context
        features = model.features_reverse(self.ids, context.left, context.right)
        features = model.dropout(features)
        outputs: dict[int, Tensor] = {}
        for block in reversed(self._blocks()):
            branch = model.branch_b if block.a_reads_forward else model.branch_a
            x = features[:, block.start : block.end].flip(1)
            mask = self._mask(block)
            mask = None if mask is None else mask.flip(1)
            y, self.reverse_state = self._read(
                branch, x, mask, self.reverse_state, self.reverse_layers, mirror=_flip
            )
            outputs[block.start] = y.flip(1)
        if self.reverse_layers is not None:
            self.reverse_layers.reverse()
        return outputs

    def _read_reverse_by_sequence(self) -> dict[int, Tensor]:
        """Published alignment: block t of the whole sequence's reverse complement."""
        model = self.model
        ids = flip_valid(alphabet.complement_ids(self.ids), self.lengths)
        features = model._stem(
            ids, None, None, model.stem_reverse.weight, model.stem_reverse
        )
        features = model.dropout(features)
        outputs: dict[int, Tensor] = {}
        for block in self._blocks():
            branch = model.branch_b if block.a_reads_forward else model.branch_a
            size = block.end - block.start
            valid = self.lengths
            valid = None if valid is None else (valid - block.start).clamp(0, size)

            def mirror(x: Tensor, valid: Tensor | None = valid) -> Tensor:
                return flip_valid(x, valid)

            y, self.reverse_state = self._read(
                branch,
                features[:, block.start : block.end],
                self._mask(block),
                self.reverse_state,
                self.reverse_layers,
                mirror=mirror,
            )
            outputs[block.start] = mirror(y)
        return outputs

    def _read(
        self,
        branch: Branch,
        x: Tensor,
        mask: Tensor | None,
        state: BranchState | None,
        layers: list[list[Tensor]] | None,
        mirror: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, BranchState | None]:
        collect = None if layers is None else [x]
        y, state = branch(x, mask, state, collect)
        if layers is not None and collect is not None:
            layers.append([mirror(part) for part in collect] if mirror else collect)
        return y, state if self.config.block_context == "recurrent" else None


def _flip(x: Tensor) -> Tensor:
    return x.flip(1)


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _check_inputs(
    config: CrossDNAConfig,
    ids: Tensor,
    mask: Tensor | None,
    context: StrandContext | None,
) -> None:
    if ids.dim() != 2 or ids.shape[1] == 0:
        raise CrossDNAError(
            f"input_ids must be (batch, length) with bases, got {tuple(ids.shape)}"
        )
    if mask is not None and mask.shape != ids.shape:
        raise CrossDNAError(
            f"attention_mask {tuple(mask.shape)} does not fit input_ids "
            f"{tuple(ids.shape)}"
        )
    if context is None:
        return
    if mask is not None or config.strand_alignment != "locus":
        raise CrossDNAError(
            "a piece of a longer sequence is read without padding, by a model with "
            'strand_alignment "locus"'
        )


class CrossDNAForMaskedLM(CrossDNAPreTrainedModel):
    """CrossDNA that predicts the base at each position: logits over A C G T N."""

    def __init__(self, config: CrossDNAConfig) -> None:
        super().__init__(config)
        self.model = CrossDNAModel(config)
        self.head = nn.Linear(config.d_model, config.alphabet_size)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_branches: bool = False,
        return_dict: bool | None = None,
    ) -> CrossDNAPredictionOutput:
        """Predict bases.

        Parameters
        ----------
        input_ids, attention_mask, output_hidden_states
            As for `CrossDNAModel.forward`.
        labels : (batch, length) int64, optional
            The true ids, -100 where the prediction does not count.
        output_branches : bool
            Also return the logits of each branch alone.
        """
        output = self.model(
            input_ids,
            attention_mask,
            output_hidden_states=output_hidden_states,
            output_branches=output_branches,
        )
        logits = self.head(output.last_hidden_state)
        prediction = CrossDNAPredictionOutput(
            loss=None if labels is None else token_loss(logits, labels),
            logits=logits,
            hidden_states=output.hidden_states,
        )
        if output_branches:
            prediction.logits_branch_a = self.head(output.branch_a)
            prediction.logits_branch_b = self.head(output.branch_b)
        return prediction if return_dict in (None, True) else prediction.to_tuple()


class CrossDNAForSequenceClassification(CrossDNAPreTrainedModel):
    """CrossDNA with one prediction per sequence; `problem_type` as in transformers."""

    def __init__(self, config: CrossDNAConfig) -> None:
        super().__init__(config)
        self.model = CrossDNAModel(config)
        self.head = SequenceHead(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> CrossDNAPredictionOutput:
        """Predict per sequence.

        Parameters
        ----------
        input_ids, attention_mask, output_hidden_states
            As for `CrossDNAModel.forward`.
        labels : (batch,) int64, or (batch, num_labels) float, optional
            Classes; targets for a regression or several labels.
        """
        output = self.model(
            input_ids, attention_mask, output_hidden_states=output_hidden_states
        )
        logits = self.head(output.last_hidden_state, attention_mask)
        prediction = CrossDNAPredictionOutput(
            loss=sequence_loss(self.config, logits, labels),
            logits=logits,
            hidden_states=output.hidden_states,
        )
        return prediction if return_dict in (None, True) else prediction.to_tuple()


class CrossDNAForTokenClassification(CrossDNAPreTrainedModel):
    """CrossDNA with a prediction per base."""

    def __init__(self, config: CrossDNAConfig) -> None:
        super().__init__(config)
        self.model = CrossDNAModel(config)
        self.head = TokenHead(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> CrossDNAPredictionOutput:
        """Predict per base.

        Parameters
        ----------
        input_ids, attention_mask, output_hidden_states
            As for `CrossDNAModel.forward`.
        labels : (batch, length) int64, optional
            Class of each base, -100 where it does not count.
        """
        output = self.model(
            input_ids, attention_mask, output_hidden_states=output_hidden_states
        )
        logits = self.head(output.last_hidden_state)
        prediction = CrossDNAPredictionOutput(
            loss=None if labels is None else token_loss(logits, labels),
            logits=logits,
            hidden_states=output.hidden_states,
        )
        return prediction if return_dict in (None, True) else prediction.to_tuple()
