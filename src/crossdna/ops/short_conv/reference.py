"""The short convolution as a sum over its taps, in the order of its definition."""

from __future__ import annotations

import torch
from torch import Tensor


def short_conv(x: Tensor, weight: Tensor, tail: Tensor, *, silu: bool) -> Tensor:
    """Convolve; arguments as in `crossdna.ops.short_conv.short_conv`."""
    width, length = weight.shape[1], x.shape[1]
    x = torch.cat([tail, x], 1)
    steps = []
    for t in range(length):
        steps.append((x[:, t : t + width] * weight.to(x.dtype).t()).sum(1))
    y = torch.stack(steps, 1)
    return y * torch.sigmoid(y) if silu else y
