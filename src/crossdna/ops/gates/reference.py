"""The gates from torch's own operations, on any device.

torch sums in float32 whatever the operands are; autocast would also widen what these
functions give, and every layer would then move twice the bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def rms_norm(x: Tensor, weight: Tensor, eps: float, gate: Tensor | None) -> Tensor:
    """Arguments as in `crossdna.ops.gates.rms_norm`."""
    with torch.autocast(x.device.type, enabled=False):
        y = F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)
        return y if gate is None else y * gate.sigmoid()


def swiglu(x: Tensor) -> Tensor:
    """Arguments as in `crossdna.ops.gates.swiglu`."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def blend_norm(
    m: Tensor, t: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Arguments as in `crossdna.ops.gates.blend_norm`."""
    with torch.autocast(m.device.type, enabled=False):
        blend = torch.lerp(m, t.to(m.dtype), gate.sigmoid().to(m.dtype))
        weight, bias = (x.to(blend.dtype) for x in (weight, bias))
        return F.layer_norm(blend, weight.shape, weight, bias, eps)
