"""A branch of CrossDNA: delta rule, window attention, and the state they carry."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossdna.models.crossdna.configuration import CrossDNAConfig
from crossdna.models.linear import Linear
from crossdna.ops.delta_rule import delta_rule
from crossdna.ops.gates import blend_norm, rms_norm, swiglu
from crossdna.ops.short_conv import short_conv
from crossdna.ops.window_attention import WindowCache, window_attention

# Positions of all rows that pass through a branch at once without gradients: what a
# CPU's cache holds, what fills a GPU.
TILE_ROWS = 2048
GPU_TILE_ROWS = 2**17
# Tiles begin at multiples of this. Attention turns its keys relative to the beginning
# of a block of as many queries: tiles of other lengths would round otherwise.
TILE = 512
# The last tile may be longer by this share.
REST = 4


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


def _wide(x: Tensor) -> Tensor:
    """In float32, or in float64 where the network is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a weight and, on request, a gate."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """Normalise the last dimension, then multiply by the sigmoid of a gate."""
        return rms_norm(x, self.weight, self.eps, gate)


class DeltaRuleMixer(nn.Module):
    """Gated delta rule with a feedback key parallel to the key (Comba)."""

    def __init__(self, config: CrossDNAConfig) -> None:
        super().__init__()
        self.heads, self.key_dim = config.num_heads, config.head_dim
        self.value_dim = config.value_dim
        self.correction_factor = config.correction_factor
        keys, values = self.heads * self.key_dim, self.heads * self.value_dim
        self.sizes = [keys, keys, values]
        self.qkv_proj = Linear(config.d_model, sum(self.sizes), bias=False)
        # Output gate, decay and writing strength.
        self.gate_sizes = [values, self.heads, self.heads]
        self.gate_proj = Linear(config.d_model, sum(self.gate_sizes), bias=False)
        self.conv_weight = nn.Parameter(torch.empty(sum(self.sizes), config.conv_size))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.decay = nn.Parameter(torch.empty(self.heads))
        self.correction = nn.Parameter(torch.empty(self.heads))
        self.out_norm = RMSNorm(self.value_dim, config.norm_eps)
        self.out_proj = Linear(values, config.d_model, bias=False)
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
        # At least float32: sums of decays are exponentiated.
        log_decay = -_wide(self.A_log).exp() * F.softplus(_wide(rate) + self.dt_bias)
        mixed = delta_rule(
            q,
            k,
            v,
            log_decay,
            _wide(strength).sigmoid(),
            _wide(self.decay).sigmoid(),
            _wide(self.correction),
            initial_state=None if state is None else state.delta,
            mask=mask,
        )
        o = self.out_norm(mixed.output, gate.view_as(mixed.output))
        return self.out_proj(o.flatten(2)), qkv.tail, mixed.state


class WindowAttentionBlock(nn.Module):
    """Pre-norm transformer block whose causal attention sees a sliding window."""

    def __init__(self, config: CrossDNAConfig) -> None:
        super().__init__()
        width = config.d_model
        self.heads, self.window = config.attention_heads, config.window_size
        self.rope_theta = config.rope_theta
        self.attention_norm = RMSNorm(width, config.norm_eps)
        self.qkv_proj = Linear(width, 3 * width, bias=False)
        self.out_proj = Linear(width, width, bias=False)
        self.mlp_norm = RMSNorm(width, config.norm_eps)
        self.gate_up_proj = Linear(width, 2 * config.mlp_dim, bias=False)
        self.down_proj = Linear(config.mlp_dim, width, bias=False)

    def forward(
        self, x: Tensor, mask: Tensor | None, cache: WindowCache | None
    ) -> tuple[Tensor, WindowCache]:
        """Attend and transform; also returns the last keys and values."""
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
        inner = swiglu(self.gate_up_proj(self.mlp_norm(x)))
        return x + self.down_proj(inner), attended.cache


class BranchLayer(nn.Module):
    """Delta rule, window attention on its output, and a learned blend of both.

    With ``config.residual`` the layer adds to what it reads (pre-norm, as the attention
    block does); without, as published, only its normalised blend goes on.
    """

    def __init__(self, config: CrossDNAConfig) -> None:
        super().__init__()
        self.mixer = DeltaRuleMixer(config)
        self.attention = WindowAttentionBlock(config)
        self.blend = Linear(2 * config.d_model, config.d_model)
        self.input_norm: RMSNorm | None = None
        self.norm: nn.LayerNorm | None = None
        if config.residual:
            self.input_norm = RMSNorm(config.d_model, config.norm_eps)
        else:
            self.norm = nn.LayerNorm(config.d_model, eps=config.norm_eps)

    def forward(
        self, x: Tensor, mask: Tensor | None, state: LayerState | None
    ) -> tuple[Tensor, LayerState]:
        """Mix, attend and blend; also returns the state behind the last base."""
        norm = self.norm
        read = x if self.input_norm is None else self.input_norm(x)
        m, conv, delta = self.mixer(read, mask, state)
        if self.input_norm is not None:
            m = x + m
        t, window = self.attention(m, mask, None if state is None else state.window)
        gate = self.blend(torch.cat([m, t], dim=-1))
        if norm is None:
            y = torch.lerp(m, t, gate.sigmoid().to(m.dtype))
        else:
            y = blend_norm(m, t, gate, norm.weight, norm.bias, norm.eps)
        return y, LayerState(conv, delta, window)


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
        batch, length, _ = x.shape
        if collect is not None or torch.is_grad_enabled():
            return self._read(x, mask, state, collect)
        # A CPU is fastest when a layer's intermediates fit its cache, and a GPU's
        # memory must hold them, so inference passes tiles through the stack and
        # carries the states along; training keeps them anyway. The size of the batch
        # must not decide how a row is cut.
        tile_rows = TILE_ROWS if x.device.type == "cpu" else GPU_TILE_ROWS
        rows = max(1, tile_rows // min(length, TILE))
        if batch > rows:
            parts = [
                self.forward(
                    x[here],
                    None if mask is None else mask[here],
                    None if state is None else _rows(state, here),
                )
                for here in (slice(i, i + rows) for i in range(0, batch, rows))
            ]
            return torch.cat([y for y, _ in parts]), _stacked([s for _, s in parts])
        tile = max(TILE, tile_rows // batch // TILE * TILE)
        outputs = []
        # A short rest goes with the tile before it.
        starts = range(0, max(1, length - tile // REST), tile)
        for start, end in zip(starts, (*starts[1:], length), strict=True):
            here = slice(start, end)
            y, state = self._read(
                x[:, here], None if mask is None else mask[:, here], state, None
            )
            outputs.append(y)
        assert state is not None
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1), state

    def _read(
        self,
        x: Tensor,
        mask: Tensor | None,
        state: BranchState | None,
        collect: list[Tensor] | None,
    ) -> tuple[Tensor, BranchState]:
        states = []
        for i, layer in enumerate(self.layers):
            x, carried = layer(x, mask, None if state is None else state[i])
            states.append(carried)
            if collect is not None:
                collect.append(x)
        return self.norm(x), tuple(states)


def _rows(state: BranchState, rows: slice) -> BranchState:
    """The states of some sequences of a batch."""
    return tuple(
        LayerState(
            layer.conv[rows],
            layer.delta[rows],
            WindowCache(
                layer.window.keys[rows],
                layer.window.values[rows],
                None if layer.window.mask is None else layer.window.mask[rows],
            ),
        )
        for layer in state
    )


def _stacked(parts: list[BranchState]) -> BranchState:
    """The states of the sequences of several batches."""
    return tuple(
        LayerState(
            torch.cat([layer.conv for layer in layers]),
            torch.cat([layer.delta for layer in layers]),
            _stacked_windows([layer.window for layer in layers]),
        )
        for layers in zip(*parts, strict=True)
    )


def _stacked_windows(windows: list[WindowCache]) -> WindowCache:
    masks = [window.mask for window in windows if window.mask is not None]
    return WindowCache(
        torch.cat([window.keys for window in windows]),
        torch.cat([window.values for window in windows]),
        torch.cat(masks) if masks else None,
    )
