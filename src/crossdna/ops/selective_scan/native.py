"""The selective scan as compiled C++ on the CPU."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from crossdna.ops.native import build
from crossdna.ops.native.call import native_operator, pointer, pointers, sizes

# The kernel keeps the states of a vector of channels in fixed arrays.
MAX_STATES = 64
# One state per this many positions is kept for the backward pass.
SEGMENT = 32


def reject(*operands: Tensor | None) -> str | None:
    """Say why this call cannot run on the kernel, or None."""
    tensors = [x for x in operands if x is not None]
    for x in tensors:
        if x.device.type != "cpu":
            return f"needs CPU tensors, got {x.device.type}"
        if x.dtype not in (torch.float32, torch.bfloat16):
            return f"needs float32 or bfloat16, got {x.dtype}"
    states = tensors[2].shape[1]
    if states > MAX_STATES:
        return f"takes at most {MAX_STATES} states a channel, got {states}"
    return build.unavailable()


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence on prepared arguments; see `crossdna.ops.selective_scan`."""
    batch, _, channels = u.shape
    if D is None:
        D = A.new_zeros(channels)
    if initial_state is None:
        initial_state = A.new_zeros(batch, *A.shape)
    # The kernel has channels last everywhere.
    operands = (u, delta, A.t(), B, C, D, initial_state.transpose(1, 2))
    train = torch.is_grad_enabled() and any(x.requires_grad for x in operands)
    y, state, _ = _forward(*(x.float().contiguous() for x in operands), train)
    return y.to(u.dtype), state.transpose(1, 2).contiguous()


def _geometry(u: Tensor, A: Tensor) -> Any:
    return sizes(*u.shape, A.shape[0], SEGMENT)


@native_operator("crossdna::selective_scan_native")
def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor,
    train: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    outputs = _empty(u, initial_state, train)
    inputs = pointers(u, delta, A, B, C, D, initial_state)
    build.library().crossdna_selective_scan_forward(
        _geometry(u, A),
        inputs,
        pointers(*outputs),
        ctypes.c_int(torch.get_num_threads()),
    )
    return outputs


def _empty(
    u: Tensor, initial_state: Tensor, train: bool
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, _ = u.shape
    # Without elements its address is null, which tells the kernel to save nothing.
    segments = -(-length // SEGMENT) if train else 0
    saved = u.new_empty(batch, segments, *initial_state.shape[1:])
    return torch.empty_like(u), torch.empty_like(initial_state), saved


@_forward.register_fake
def _(u: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(u, others[-2], others[-1])


@native_operator("crossdna::selective_scan_native_backward")
def _backward(  # noqa: PLR0913 - the operator has these operands
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor,
    saved: Tensor,
    d_output: Tensor,
    d_state: Tensor,
) -> list[Tensor]:
    gradients = _empty_gradients(u, A, B, D, initial_state)
    d_output, d_state = d_output.contiguous(), d_state.contiguous()
    build.library().crossdna_selective_scan_backward(
        _geometry(u, A),
        pointers(u, delta, A, B, C, D, initial_state),
        pointer(saved),
        pointer(d_output),
        pointer(d_state),
        pointers(*gradients),
        ctypes.c_int(torch.get_num_threads()),
    )
    return gradients


def _empty_gradients(
    u: Tensor, A: Tensor, B: Tensor, D: Tensor, initial_state: Tensor
) -> list[Tensor]:
    batch = len(u)
    return [
        torch.empty_like(u),
        torch.empty_like(u),
        A.new_empty(batch, *A.shape),
        torch.zeros_like(B),
        torch.zeros_like(B),
        D.new_empty(batch, *D.shape),
        torch.empty_like(initial_state),
    ]


@_backward.register_fake
def _(u: Tensor, _delta: Tensor, A: Tensor, B: Tensor, *others: Tensor) -> list[Tensor]:
    _C, D, initial_state, *_ = others
    return _empty_gradients(u, A, B, D, initial_state)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:7], output[2])


def _differentiate(
    ctx: Any, d_output: Tensor, d_state: Tensor, _d_saved: Tensor
) -> tuple[Tensor | None, ...]:
    u, delta, d_A, d_B, d_C, d_D, d_start = _backward(
        *ctx.saved_tensors, d_output, d_state
    )
    return u, delta, d_A.sum(0), d_B, d_C, d_D.sum(0), d_start, None


_forward.register_autograd(_differentiate, setup_context=_setup)
