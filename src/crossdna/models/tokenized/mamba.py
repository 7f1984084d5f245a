"""Mamba and Mamba-2 of transformers on the operators of this package.

Without mamba-ssm, which needs CUDA, transformers walks over every position in Python
(Mamba: its backward pass takes time that grows with the square of the length) or
builds large matrices for every head (Mamba-2). Modules, weights and names stay as
transformers made them; only the mixers of the network at hand get a class that
computes the same with `crossdna.ops`. A float64 network is computed in float64
throughout, where transformers rounds to float32 in places, and under bfloat16 step
sizes and states stay float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn import functional as F
from transformers.integrations.accelerate import force_accelerate_hooks
from transformers.models.mamba.modeling_mamba import MambaMixer
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from crossdna.ops.head_scan import head_scan
from crossdna.ops.selective_scan import gpu, selective_scan
from crossdna.ops.short_conv import short_conv

if TYPE_CHECKING:
    from torch import Tensor, nn


class OperatorMambaMixer(MambaMixer):
    """A mixer of Mamba on our operators.

    With a cache (step by step, as in `generate`) and where mamba-ssm's kernels are, it
    does what transformers does.
    """

    @force_accelerate_hooks(["conv1d", "dt_proj"])
    def forward(self, hidden_states: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Mix (batch, length, channels) over positions, those before only."""
        attention_mask, others = _mask_and_others(arguments, options)
        if _is_left_to_transformers(hidden_states, others):
            return super().forward(hidden_states, *arguments, **options)
        projected = self.in_proj(_without_padding(hidden_states, attention_mask))
        x, gate = projected.chunk(2, dim=-1)
        u = _without_padding(_convolved(self, x), attention_mask)
        sizes = [self.time_step_rank, self.ssm_state_size, self.ssm_state_size]
        steps, B, C = self.x_proj(u).split(sizes, dim=-1)
        # The bias is far larger than what it is added to: not in bfloat16.
        steps = F.linear(steps, self.dt_proj.weight)
        delta = _step_sizes(steps, self.dt_proj.bias)
        scanned = selective_scan(u, delta, _rates(self.A_log), B, C, self.D).output
        mixed = scanned * F.silu(gate)
        return self.out_proj(mixed.to(hidden_states.dtype))


class OperatorMamba2Mixer(Mamba2Mixer):
    """A mixer of Mamba-2 on our operators; see `OperatorMambaMixer`."""

    @force_accelerate_hooks("conv1d")
    def forward(self, hidden_states: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Mix (batch, length, channels) over positions, those before only."""
        attention_mask, others = _mask_and_others(arguments, options)
        if _is_left_to_transformers(hidden_states, others):
            return super().forward(hidden_states, *arguments, **options)
        projected = self.in_proj(_without_padding(hidden_states, attention_mask))
        sizes = [self.intermediate_size, self.conv_dim, self.num_heads]
        gate, x, steps = projected.split(sizes, dim=-1)
        x = _without_padding(_convolved(self, x), attention_mask)
        states = self.n_groups * self.ssm_state_size
        u, B, C = x.split([self.intermediate_size, states, states], dim=-1)
        scanned = head_scan(
            u.unflatten(-1, (self.num_heads, self.head_dim)),
            _step_sizes(steps, self.dt_bias).clamp(*self.time_step_limit),
            _rates(self.A_log),
            B.unflatten(-1, (self.n_groups, self.ssm_state_size)),
            C.unflatten(-1, (self.n_groups, self.ssm_state_size)),
            self.D,
        ).output
        mixed = self.norm(scanned.flatten(2), gate)
        return self.out_proj(mixed.to(hidden_states.dtype))


_MIXERS: Final[dict[type[nn.Module], type[nn.Module]]] = {
    MambaMixer: OperatorMambaMixer,
    Mamba2Mixer: OperatorMamba2Mixer,
}


def exchange_mixers(net: nn.Module) -> None:
    """Let the mixers of a network compute with our operators.

    Mixers that are no longer as transformers made them stay as they are.
    """
    for module in net.modules():
        if type(module) in _MIXERS:
            module.__class__ = _MIXERS[type(module)]


def _mask_and_others(
    arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Tensor | None, dict[str, Any]]:
    """What a mixer is called with beside its hidden states, less a cache of None."""
    others = dict(zip(("cache", "attention_mask"), arguments, strict=False)) | options
    # The name since transformers 5.24, and before.
    for name in ("cache", "cache_params"):
        if others.get(name) is None:
            others.pop(name, None)
    return others.pop("attention_mask", None), others


def _is_left_to_transformers(hidden_states: Tensor, others: dict[str, Any]) -> bool:
    """Whether a call has a cache, options that we do not know, or faster kernels."""
    if others:
        return True
    return hidden_states.is_cuda and gpu.unavailable() is None


def _without_padding(states: Tensor, attention_mask: Tensor | None) -> Tensor:
    if attention_mask is None:
        return states
    return states * attention_mask[..., None].to(states.dtype)


def _convolved(mixer: Any, x: Tensor) -> Tensor:
    y = short_conv(x, mixer.conv1d.weight.squeeze(1)).output
    return mixer.act(y if mixer.conv1d.bias is None else y + mixer.conv1d.bias)


def _step_sizes(steps: Tensor, bias: Tensor) -> Tensor:
    kind = torch.promote_types(steps.dtype, torch.float32)
    return F.softplus(steps.to(kind) + bias.to(kind))


def _rates(A_log: Tensor) -> Tensor:
    kind = torch.promote_types(A_log.dtype, torch.float32)
    return -torch.exp(A_log.to(kind))
