"""The short convolutions as sums over taps, in the order of their definition."""

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


def dilated_conv(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Convolve; arguments as in `crossdna.ops.short_conv.dilated_conv`."""
    width, length = weight.shape[1], x.shape[1]
    y = torch.zeros_like(x)
    for tap in range(width):
        offset = dilation * (tap - width // 2)
        for t in range(max(0, -offset), min(length, length - offset)):
            step = torch.zeros_like(y)
            step[:, t] = x[:, t + offset] * weight[:, tap].to(x.dtype)
            y = y + step
    return y
