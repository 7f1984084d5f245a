"""The short convolution as compiled C++ for float32 and bfloat16 on the CPU."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from crossdna.ops.native import build
from crossdna.ops.native.call import (
    native_operator,
    pointer,
    pointers,
    shared_dtype,
    sizes,
)

# The kernels work on whole vectors of channels and keep their rows in fixed arrays.
CHANNELS, MAX_WIDTH = 16, 16


def reject(x: Tensor, weight: Tensor, tail: Tensor) -> str | None:
    """Say why this call cannot run on the kernel, or None."""
    if {t.device.type for t in (x, weight, tail)} != {"cpu"}:
        return f"needs CPU tensors, got {x.device.type}"
    if shared_dtype(x, tail) is None:
        return f"needs float32 or bfloat16, got {x.dtype}"
    if weight.dtype == torch.float64:
        return "float64 is not supported by the kernel"
    if x.shape[2] % CHANNELS:
        return f"needs a multiple of {CHANNELS} channels, got {x.shape[2]}"
    if weight.shape[1] > MAX_WIDTH:
        return f"takes at most {MAX_WIDTH} taps, got {weight.shape[1]}"
    return build.unavailable()


def short_conv(x: Tensor, weight: Tensor, tail: Tensor, *, silu: bool) -> Tensor:
    """Convolve; arguments as in `crossdna.ops.short_conv.short_conv`."""
    return _forward(x, weight.float().t().contiguous(), tail, silu)


def reject_dilated(x: Tensor, weight: Tensor, dilation: int) -> str | None:
    """Say why this call cannot run on the kernel, or None."""
    return reject(x, weight, x)


def dilated_conv(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Convolve; arguments as in `crossdna.ops.short_conv.dilated_conv`.

    As many neighbours as the dilation, side by side, are the channels of one position
    of a plain convolution. It is causal: outputs come half a kernel late.
    """
    batch, length, channels = x.shape
    width = weight.shape[1]
    late = dilation * (width // 2)
    padded = F.pad(x, (0, 0, 0, late + -length % dilation))
    rows = padded.reshape(batch, -1, dilation * channels)
    tail = x.new_zeros(batch, width - 1, dilation * channels)
    y = short_conv(rows, weight.repeat(dilation, 1), tail, silu=False)
    return y.view(batch, -1, channels)[:, late : late + length]


def _prepared(x: Tensor, tail: Tensor, taps: Tensor, silu: bool) -> tuple[Any, ...]:
    x = x if x.stride(-1) == 1 else x.contiguous()
    tail = tail.contiguous()
    geometry = sizes(*x.shape, taps.shape[0], x.stride(0), x.stride(1), silu)
    # The tensors come along to stay alive during the call.
    return geometry, pointers(x, tail), (x, tail)


@native_operator("crossdna::short_conv")
def _forward(x: Tensor, taps: Tensor, tail: Tensor, silu: bool) -> Tensor:
    geometry, inputs, _alive = _prepared(x, tail, taps, silu)
    output = x.new_empty(x.shape)
    build.library().crossdna_short_conv_forward(
        geometry,
        inputs,
        pointer(taps),
        pointer(output),
        ctypes.c_int(x.dtype == torch.bfloat16),
        ctypes.c_int(torch.get_num_threads()),
    )
    return output


@_forward.register_fake
def _(x: Tensor, taps: Tensor, tail: Tensor, silu: bool) -> Tensor:
    return x.new_empty(x.shape)


@native_operator("crossdna::short_conv_backward")
def _backward(
    x: Tensor, taps: Tensor, tail: Tensor, d_output: Tensor, silu: bool
) -> list[Tensor]:
    geometry, inputs, _alive = _prepared(x, tail, taps, silu)
    gradients = _empty_gradients(x, taps, tail)
    d_output = d_output.contiguous()
    build.library().crossdna_short_conv_backward(
        geometry,
        inputs,
        pointer(taps),
        pointer(d_output),
        pointers(*gradients),
        ctypes.c_int(x.dtype == torch.bfloat16),
        ctypes.c_int(torch.get_num_threads()),
    )
    return gradients


def _empty_gradients(x: Tensor, taps: Tensor, tail: Tensor) -> list[Tensor]:
    return [
        x.new_empty(x.shape, dtype=torch.float32),
        torch.empty_like(taps),
        tail.new_empty(tail.shape, dtype=torch.float32),
    ]


@_backward.register_fake
def _(x: Tensor, taps: Tensor, tail: Tensor, *_others: Any) -> list[Tensor]:
    return _empty_gradients(x, taps, tail)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
    x, taps, tail = ctx.saved_tensors
    dx, d_taps, d_tail = _backward(x, taps, tail, d_output, ctx.silu)
    return dx.to(x.dtype), d_taps, d_tail.to(tail.dtype), None


_forward.register_autograd(_differentiate, setup_context=_setup)
