"""The delta rule as compiled C++ for float32 and bfloat16 on the CPU."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from crossdna.ops.native import build
from crossdna.ops.native.call import (
    native_operator,
    pointer,
    pointers,
    shared_dtype,
    sizes,
    strides,
)


def reject(*operands: Tensor) -> str | None:
    """Say why these operands cannot run on the kernel, or None."""
    q, k, v, *others = operands
    for x in operands:
        if x.device.type != "cpu":
            return f"needs CPU tensors, got {x.device.type}"
    if shared_dtype(q, k, v) is None:
        return f"needs q, k, v all float32 or all bfloat16, got {q.dtype}"
    if any(x.dtype != torch.float32 for x in others):
        return "needs float32 decays and state"
    return build.unavailable()


def delta_rule(*operands: Tensor) -> tuple[Tensor, Tensor]:
    """Run the recurrence; operands as in `crossdna.ops.delta_rule.delta_rule`."""
    *tokens, feedback, correction, initial_state = operands
    shape = tokens[3].shape
    per_token = (x.expand(shape) for x in (feedback, correction))
    train = torch.is_grad_enabled() and any(x.requires_grad for x in operands)
    output, state, _ = _forward(*tokens, *per_token, initial_state, train)
    return output, state


def _rows(*tensors: Tensor) -> list[Tensor]:
    """Make the last axis of q, k, v contiguous; other strides are free."""
    return [x if x.stride(-1) == 1 else x.contiguous() for x in tensors]


def _geometry(q: Tensor, v: Tensor) -> Any:
    return sizes(*q.shape, v.shape[-1])


@native_operator("crossdna::delta_rule")
def _forward(  # noqa: PLR0913 - the operator has these operands
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    feedback: Tensor,
    correction: Tensor,
    initial_state: Tensor,
    train: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = _rows(q, k, v)
    operands = (q, k, v, log_decay, beta, feedback, correction)
    output, state, saved = _empty(q, v, train)
    initial_state = initial_state.contiguous()
    build.library().crossdna_delta_rule_forward(
        _geometry(q, v),
        strides(*operands),
        pointers(*operands),
        pointer(initial_state),
        pointer(output),
        pointer(state),
        pointer(saved) if train else None,
        ctypes.c_int(v.dtype == torch.bfloat16),
        ctypes.c_int(torch.get_num_threads()),
    )
    return output, state, saved


def _empty(q: Tensor, v: Tensor, train: bool) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, heads, keys = q.shape
    # One state per this many tokens is kept for the backward pass.
    segments = -(-length // SEGMENT) if train else 0
    state = (batch, heads, keys, v.shape[-1])
    return (
        v.new_empty(v.shape),
        v.new_empty(state, dtype=torch.float32),
        v.new_empty((batch, heads, segments, *state[2:]), dtype=torch.float32),
    )


SEGMENT = 128


@_forward.register_fake
def _(q: Tensor, _k: Tensor, v: Tensor, *others: Any) -> tuple[Tensor, ...]:
    return _empty(q, v, others[-1])


@native_operator("crossdna::delta_rule_backward")
def _backward(  # noqa: PLR0913 - the operator has these operands
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    feedback: Tensor,
    correction: Tensor,
    saved: Tensor,
    d_output: Tensor,
    d_state: Tensor,
) -> list[Tensor]:
    q, k, v = _rows(q, k, v)
    operands = (q, k, v, log_decay, beta, feedback, correction)
    gradients = _empty_gradients(q, v, log_decay)
    d_output, d_state = d_output.contiguous(), d_state.contiguous()
    build.library().crossdna_delta_rule_backward(
        _geometry(q, v),
        strides(*operands),
        pointers(*operands),
        pointer(saved),
        pointer(d_output),
        pointer(d_state),
        pointers(*gradients),
        ctypes.c_int(v.dtype == torch.bfloat16),
        ctypes.c_int(torch.get_num_threads()),
    )
    return gradients


def _empty_gradients(q: Tensor, v: Tensor, log_decay: Tensor) -> list[Tensor]:
    batch, _, heads, keys = q.shape
    state = (batch, heads, keys, v.shape[-1])
    shapes = [q.shape, q.shape, v.shape, *[log_decay.shape] * 4, state]
    return [v.new_empty(shape, dtype=torch.float32) for shape in shapes]


@_backward.register_fake
def _(
    q: Tensor, _k: Tensor, v: Tensor, log_decay: Tensor, *_others: Tensor
) -> list[Tensor]:
    return _empty_gradients(q, v, log_decay)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:7], output[2])


def _differentiate(
    ctx: Any, d_output: Tensor, d_state: Tensor, _d_saved: Tensor
) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    gradients = _backward(*tensors, d_output, d_state)
    typed = [g.to(x.dtype) for g, x in zip(gradients, tensors[:7], strict=False)]
    return *typed, gradients[7], None


_forward.register_autograd(_differentiate, setup_context=_setup)
