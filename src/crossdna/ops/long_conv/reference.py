"""The long convolution by its definition: every lag added up, length squared work."""

from __future__ import annotations

import torch
from torch import Tensor


def long_conv(u: Tensor, kernel: Tensor, skip: Tensor) -> Tensor:
    """Convolve prepared arguments; see `crossdna.ops.long_conv.long_conv`."""
    x, k = u.to(skip.dtype), kernel.to(skip.dtype)
    length = x.shape[1]
    y = skip * x
    for lag in range(length):
        y = y + torch.nn.functional.pad(x[:, : length - lag] * k[lag], (0, 0, lag, 0))
    return y
