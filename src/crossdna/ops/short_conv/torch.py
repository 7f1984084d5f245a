"""The short convolutions as one depthwise convolution, on any device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def short_conv(x: Tensor, weight: Tensor, tail: Tensor, *, silu: bool) -> Tensor:
    """Convolve; arguments as in `crossdna.ops.short_conv.short_conv`."""
    # A (batch, channels, 1, length) view of channels-last memory: the kernels for it
    # need no transposed copy of x.
    image = torch.cat([tail, x], 1).transpose(1, 2).unsqueeze(2)
    taps = weight.to(x.dtype)[:, None, None, :]
    y = F.conv2d(image, taps, groups=x.shape[2]).squeeze(2).transpose(1, 2)
    return F.silu(y) if silu else y


def dilated_conv(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Convolve; arguments as in `crossdna.ops.short_conv.dilated_conv`."""
    channels, width = weight.shape
    y = F.conv1d(
        x.transpose(1, 2),
        weight.to(x.dtype)[:, None],
        padding=dilation * (width // 2),
        dilation=dilation,
        groups=channels,
    )
    return y.transpose(1, 2)
