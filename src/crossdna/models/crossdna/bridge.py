"""Where the two branches meet: gated exchange, projection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossdna.models.crossdna.configuration import CrossDNAConfig
from crossdna.models.linear import Linear
from crossdna.ops.short_conv import dilated_conv

BRIDGE_KERNEL = 9
BRIDGE_DILATIONS = (1, 2, 4, 8, 16)


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
        self.mix = Linear(len(BRIDGE_DILATIONS) * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) to the same shape."""
        convs: Any = self.convs
        views = [
            dilated_conv(x, conv.weight[:, 0], dilation)
            for conv, dilation in zip(convs, BRIDGE_DILATIONS, strict=True)
        ]
        return self.mix(torch.cat(views, dim=-1))


class TokenBridge(nn.Module):
    """Gated exchange between the two branches, base by base and block-wide."""

    def __init__(self, config: CrossDNAConfig) -> None:
        super().__init__()
        width = config.d_model
        self.context_a, self.context_b = BridgeContext(width), BridgeContext(width)
        self.local_a, self.local_b = Linear(width, width), Linear(width, width)
        self.global_a, self.global_b = Linear(width, width), Linear(width, width)
        self.gate = Linear(4 * width, 2 * width)
        self.norm_a = nn.LayerNorm(width, eps=config.norm_eps)
        self.norm_b = nn.LayerNorm(width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, a: Tensor, b: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Exchange what each branch has around each base and in the whole block."""
        to_a = self.around_b(b, mask) + self.global_a(_mean(b, mask))
        to_b = self.around_a(a, mask) + self.global_b(_mean(a, mask))
        return self.receive(a, b, to_a, to_b)

    def around_a(self, a: Tensor, mask: Tensor | None = None) -> Tensor:
        """What B receives from the bases around each base of A."""
        a = _present(a, mask)
        return self.local_b(a + self.context_a(a))

    def around_b(self, b: Tensor, mask: Tensor | None = None) -> Tensor:
        """What A receives from the bases around each base of B."""
        b = _present(b, mask)
        return self.local_a(b + self.context_b(b))

    def receive(
        self, a: Tensor, b: Tensor, to_a: Tensor, to_b: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add, through a gate, what was sent to each branch."""
        gate = self.gate(torch.cat([a, b, a - b, a * b], dim=-1)).sigmoid()
        gate_a, gate_b = gate.chunk(2, dim=-1)
        return (
            self.norm_a(a + self.dropout(gate_a * to_a)),
            self.norm_b(b + self.dropout(gate_b * to_b)),
        )


def _present(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask.unsqueeze(-1)


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
        self.up = Linear(width, 2 * width)
        self.down = Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) to the same shape."""
        return self.down(F.gelu(self.up(x))) + x
