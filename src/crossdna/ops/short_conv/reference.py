"""The short convolution as a sum over its taps, in the order of its definition."""

from __future__ import annotations

import torch
from torch import Tensor


def short_conv(x: Tensor, weight: Tensor, *, silu: bool) -> Tensor:
    """Convolve; `x` (batch, width - 1 + length, channels) starts with the tail."""
    width = weight.shape[1]
    length = x.shape[1] - width + 1
    steps = []
    for t in range(length):
        steps.append((x[:, t : t + width] * weight.to(x.dtype).t()).sum(1))
    y = torch.stack(steps, 1)
    return y * torch.sigmoid(y) if silu else y
