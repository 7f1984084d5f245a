"""The short convolutions as sums of shifted rows, which the compiler fuses on a GPU.

Libraries compute depthwise convolutions as convolutions: a pass of their own over the
memory, another one for the activation, and slow sums for the gradient of the taps.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from crossdna.ops.fusion import fused


def short_conv(x: Tensor, weight: Tensor, tail: Tensor, *, silu: bool) -> Tensor:
    """Convolve; arguments as in `crossdna.ops.short_conv.short_conv`."""
    return fused(shifted_sum)(x, weight, tail, silu)


def dilated_conv(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Convolve; arguments as in `crossdna.ops.short_conv.dilated_conv`."""
    return fused(dilated_sum)(x, weight, dilation)


def shifted_sum(x: Tensor, weight: Tensor, tail: Tensor, silu: bool) -> Tensor:
    """Give `short_conv` in operations that read neighbours where they lie."""
    before, length = weight.shape[1] - 1, x.shape[1]
    # Zeros before x, and what the tail adds to the first positions: to join both would
    # copy x.
    y = _sum_of_taps(F.pad(x, (0, 0, before, 0)), weight, 1, length)
    if before:
        early = _sum_of_taps(F.pad(tail, (0, 0, 0, before)), weight, 1, before)
        y = y + F.pad(early, (0, 0, 0, length - before))
    return F.silu(y) if silu else y


def dilated_sum(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Give `dilated_conv` in operations that read neighbours where they lie."""
    around = dilation * (weight.shape[1] // 2)
    padded = F.pad(x, (0, 0, around, around))
    return _sum_of_taps(padded, weight, dilation, x.shape[1])


def _sum_of_taps(x: Tensor, weight: Tensor, dilation: int, length: int) -> Tensor:
    taps = weight.to(x.dtype).unbind(1)
    y = taps[0] * x[:, :length]
    for place, tap in enumerate(taps[1:], 1):
        start = place * dilation
        y = y + tap * x[:, start : start + length]
    return y
