"""Where the two branches meet: gated exchange, projection."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossdna.models.crossdna.configuration import CrossDNAConfig
from crossdna.models.linear import Linear

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
        channels_first = x.transpose(1, 2)
        views = [conv(channels_first) for conv in self.convs]
        return self.mix(torch.cat(views, dim=1).transpose(1, 2))


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
        self.up = Linear(width, 2 * width)
        self.down = Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) to the same shape."""
        return self.down(F.gelu(self.up(x))) + x
