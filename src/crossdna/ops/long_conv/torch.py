"""The long convolution by Fourier transforms of a few channels at a time.

A transform of the whole input needs many times its memory. Channels do not mix here, so
a block of them is transformed, multiplied and transformed back before the next one, and
the backward pass computes the transforms again instead of keeping them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Complex numbers in a block: 16 MiB, below the size from which the C library maps (and
# clears) memory anew at each call.
_BLOCK = 1 << 21


def long_conv(u: Tensor, kernel: Tensor, skip: Tensor) -> Tensor:
    """Convolve prepared arguments; see `crossdna.ops.long_conv.long_conv`."""
    return _LongConv.apply(u, kernel, skip)


def fft_length(length: int) -> int:
    """Find a fast size of transform that holds a linear convolution of `length`."""
    needed = max(8, 2 * length - 1)
    power = (needed - 1).bit_length()
    return min(
        size
        for size in (1 << power, 3 << (power - 2), 5 << (power - 3), 7 << (power - 3))
        if size >= needed
    )


def _channel_blocks(u: Tensor, size: int) -> list[slice]:
    batch, _, channels = u.shape
    width = max(1, _BLOCK // (max(1, batch) * (size // 2 + 1)))
    starts = range(0, channels, width)
    return [slice(start, min(start + width, channels)) for start in starts]


class _LongConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, kernel: Tensor, skip: Tensor) -> Tensor:
        ctx.save_for_backward(u, kernel, skip)
        length = u.shape[1]
        size = fft_length(length)
        y = torch.empty_like(u, memory_format=torch.contiguous_format)
        for block in _channel_blocks(u, size):
            x = _channels_first(u[..., block], skip)
            k = _channels_first(kernel[..., block], skip)
            spectrum = torch.fft.rfft(x, size).mul_(torch.fft.rfft(k, size))
            out = torch.fft.irfft(spectrum, size)[..., :length]
            out = out.addcmul_(x, skip[block, None])
            y[..., block] = out.transpose(1, 2)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, kernel, skip = ctx.saved_tensors
        length = u.shape[1]
        size = fft_length(length)
        grad_u, grad_kernel, grad_skip = map(torch.empty_like, (u, kernel, skip))
        for block in _channel_blocks(u, size):
            x = _channels_first(u[..., block], skip)
            k = _channels_first(kernel[..., block], skip)
            g = _channels_first(grads[0][..., block], skip)
            spectrum = torch.fft.rfft(g, size)
            lagged = (torch.fft.rfft(x, size).conj() * spectrum).sum(0)
            into_k = torch.fft.irfft(lagged, size)[..., :length]
            grad_kernel[..., block] = into_k.transpose(0, 1)
            into_x = torch.fft.irfft(
                spectrum.mul_(torch.fft.rfft(k, size).conj()), size
            )[..., :length]
            grad_u[..., block] = into_x.addcmul_(g, skip[block, None]).transpose(1, 2)
            grad_skip[block] = (g * x).sum((0, 2))
        return grad_u, grad_kernel, grad_skip


def _channels_first(tensor: Tensor, skip: Tensor) -> Tensor:
    return tensor.transpose(-1, -2).to(skip.dtype).contiguous()
