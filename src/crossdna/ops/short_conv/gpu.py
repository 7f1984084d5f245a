"""The short convolutions as Triton kernels, one forward and one backward, on a GPU.

They are bound by memory: forward reads x and writes y once; backward reads x and the
gradient of y and writes that of x once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossdna.ops import fusion

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_WIDTH = 16
# A strip's last rows are in registers, as many as there are taps: with many taps, a
# program has fewer strips for its threads.
STRIPS, WIDE_STRIPS, WIDE = 8, 2, 10
CHANNELS = 64
WARPS = 4
# Rows that are loaded before any of them is used: enough to wait for all at once.
ROWS_FORWARD, ROWS_BACKWARD = 8, 4
# A strip reads a few rows of its neighbours, too: a long one relatively few.
LONGEST_STRIP = 64


def reject(x: Tensor, weight: Tensor, tail: Tensor) -> str | None:
    """Say why this call cannot run on the kernels, or None."""
    for operand in (x, weight, tail):
        if operand.device.type != "cuda":
            return f"needs CUDA tensors, got {operand.device.type}"
        if operand.dtype not in DTYPES:
            return f"{operand.dtype} is not supported by the kernels"
    if weight.shape[1] > MAX_WIDTH:
        return f"takes at most {MAX_WIDTH} taps, got {weight.shape[1]}"
    return fusion.unavailable()


def short_conv(x: Tensor, weight: Tensor, tail: Tensor, *, silu: bool) -> Tensor:
    """Convolve; arguments as in `crossdna.ops.short_conv.short_conv`."""
    return _short_conv(x, weight, tail, silu)


def reject_dilated(x: Tensor, weight: Tensor, dilation: int) -> str | None:
    """Say why this call cannot run on the kernels, or None."""
    return reject(x, weight, x)


def dilated_conv(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Convolve; arguments as in `crossdna.ops.short_conv.dilated_conv`."""
    return _dilated_conv(x, weight, dilation)


class Convolution(NamedTuple):
    """What both convolutions are to the kernels.

    Attributes
    ----------
    x : (batch, length, channels), dense along the channels
    weight : (channels, width), contiguous
    tail : (batch, before, channels), contiguous; None for zeros
    before : taps that meet earlier inputs
    dilation : positions from one tap to the next; 1 with a tail
    silu : whether SiLU follows
    """

    x: Tensor
    weight: Tensor
    tail: Tensor | None
    before: int
    dilation: int = 1
    silu: bool = False

    @property
    def strips(self) -> int:
        """How many strips a program walks along."""
        return STRIPS if self.weight.shape[1] < WIDE else WIDE_STRIPS

    def geometry(self, rows: int) -> tuple[int, int]:
        """Give the steps of a strip, a multiple of `rows`, and the strips in a row."""
        steps = -(-self.x.shape[1] // self.dilation)
        segments = -(-steps // LONGEST_STRIP)
        return -(-steps // (segments * rows)) * rows, segments

    def programs(self, segments: int) -> tuple[int, int]:
        """Give the numbers of programs along strips and channels."""
        batch, _, channels = self.x.shape
        strips = batch * segments * self.dilation
        return -(-strips // self.strips), -(-channels // CHANNELS)

    def constants(self, rows: int) -> dict[str, int]:
        """Give what a kernel is compiled for."""
        return {
            "WIDTH": self.weight.shape[1],
            "BEFORE": self.before,
            "SILU": self.silu,
            "HAS_TAIL": self.tail is not None,
            "STRIPS": self.strips,
            "CHANNELS": CHANNELS,
            "ROWS": rows,
            "num_warps": WARPS,
        }


def _causal(x: Tensor, weight: Tensor, tail: Tensor, silu: bool) -> Convolution:
    weight, tail = weight.contiguous(), tail.contiguous()
    return Convolution(_dense(x), weight, tail, tail.shape[1], silu=silu)


def _centred(x: Tensor, weight: Tensor, dilation: int) -> Convolution:
    before = weight.shape[1] // 2
    return Convolution(_dense(x), weight.contiguous(), None, before, dilation)


def _dense(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _convolve(call: Convolution) -> Tensor:
    from crossdna.ops.short_conv import kernels

    x, y = call.x, call.x.new_empty(call.x.shape)
    steps, segments = call.geometry(ROWS_FORWARD)
    along, across = call.programs(segments)
    # Triton launches on the current device.
    with torch.cuda.device_of(x):
        kernels.forward[(along * across,)](
            x,
            call.weight,
            x if call.tail is None else call.tail,
            y,
            *x.stride()[:2],
            *x.shape,
            call.dilation,
            steps,
            segments,
            **call.constants(ROWS_FORWARD),
        )
    return y


def _gradients(call: Convolution, dy: Tensor) -> list[Tensor]:
    """Give the gradients of x, of the weight and, where there is one, of the tail."""
    from crossdna.ops.short_conv import kernels

    x, dy = call.x, _dense(dy)
    steps, segments = call.geometry(ROWS_BACKWARD)
    along, across = call.programs(segments)
    dx = x.new_empty(x.shape)
    d_tail = None if call.tail is None else torch.empty_like(call.tail)
    channels, width = call.weight.shape
    # One sum for each program, added up in a fixed order.
    sums = x.new_empty((along, width, channels), dtype=torch.float32)
    with torch.cuda.device_of(x):
        kernels.backward[(along * across,)](
            x,
            call.weight,
            x if call.tail is None else call.tail,
            dy,
            dx,
            dx if d_tail is None else d_tail,
            sums,
            *x.stride()[:2],
            *dy.stride()[:2],
            *x.shape,
            call.dilation,
            steps,
            segments,
            **call.constants(ROWS_BACKWARD),
        )
    d_weight = sums.sum(0).t().contiguous().to(call.weight.dtype)
    return [dx, d_weight] if d_tail is None else [dx, d_weight, d_tail]


def _like(x: Tensor, *_others: Any) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("crossdna::short_conv_gpu", mutates_args=())
def _short_conv(x: Tensor, weight: Tensor, tail: Tensor, silu: bool) -> Tensor:
    return _convolve(_causal(x, weight, tail, silu))


@torch.library.custom_op("crossdna::short_conv_gpu_backward", mutates_args=())
def _short_conv_backward(
    x: Tensor, weight: Tensor, tail: Tensor, dy: Tensor, silu: bool
) -> list[Tensor]:
    return _gradients(_causal(x, weight, tail, silu), dy)


@_short_conv_backward.register_fake
def _(x: Tensor, weight: Tensor, tail: Tensor, *_others: Any) -> list[Tensor]:
    return [_like(x), _like(weight), _like(tail)]


def _short_conv_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _short_conv_differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    return *_short_conv_backward(*ctx.saved_tensors, dy, ctx.silu), None


_short_conv.register_fake(_like)
_short_conv.register_autograd(
    _short_conv_differentiate, setup_context=_short_conv_setup
)


@torch.library.custom_op("crossdna::dilated_conv_gpu", mutates_args=())
def _dilated_conv(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    return _convolve(_centred(x, weight, dilation))


@torch.library.custom_op("crossdna::dilated_conv_gpu_backward", mutates_args=())
def _dilated_conv_backward(
    x: Tensor, weight: Tensor, dy: Tensor, dilation: int
) -> list[Tensor]:
    return _gradients(_centred(x, weight, dilation), dy)


@_dilated_conv_backward.register_fake
def _(x: Tensor, weight: Tensor, *_others: Any) -> list[Tensor]:
    return [_like(x), _like(weight)]


def _dilated_conv_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.dilation = inputs
    ctx.save_for_backward(*tensors)


def _dilated_conv_differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    return *_dilated_conv_backward(*ctx.saved_tensors, dy, ctx.dilation), None


_dilated_conv.register_fake(_like)
_dilated_conv.register_autograd(
    _dilated_conv_differentiate, setup_context=_dilated_conv_setup
)
