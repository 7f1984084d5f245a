"""Window attention as compiled C++ for float32 and bfloat16 on the CPU."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from crossdna.ops.native import build
from crossdna.ops.native.call import (
    is_traced,
    native_operator,
    pointer,
    pointers,
    shared_dtype,
    sizes,
    strides,
)
from crossdna.ops.window_attention.reference import rotary_table

# Queries that the kernel handles together: it rotates relative to their first key, so
# the angles of this many positions beyond the window serve any length.
BLOCK = 512


def reject(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past_keys: Tensor,
    past_values: Tensor,
    *_others: Any,
) -> str | None:
    """Say why this call cannot run on the kernel, or None."""
    if {x.device.type for x in (q, k, v, past_keys, past_values)} != {"cpu"}:
        return f"needs CPU tensors, got {q.device.type}"
    if shared_dtype(q, k, v, past_keys, past_values) is None:
        return f"needs q, k, v all float32 or all bfloat16, got {q.dtype}"
    return build.unavailable()


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past_keys: Tensor,
    past_values: Tensor,
    visible: Tensor | None,
    window: int,
    rope_theta: float,
) -> Tensor:
    """Attend; arguments as in `reference.window_attention`."""
    angles = rotary_angles if is_traced() else kept_angles
    table = angles(window + BLOCK, q.shape[-1], rope_theta)
    operands = (q, k, v, past_keys, past_values)
    train = torch.is_grad_enabled() and any(x.requires_grad for x in operands)
    return _forward(*operands, visible, *table, window, train)[0]


def rotary_angles(count: int, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Give `rotary_table` of the first positions."""
    positions = torch.arange(count, device="cpu")
    return rotary_table(positions, width, theta, torch.float32)


@functools.lru_cache(maxsize=64)
def kept_angles(count: int, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Give `rotary_angles`, made once; nobody may write to them."""
    # What is made in inference mode could not be saved for a backward pass later.
    with torch.inference_mode(mode=False):
        return rotary_angles(count, width, theta)


def _rows(*tensors: Tensor) -> list[Tensor]:
    """Make the last axis of the operands contiguous; other strides are free."""
    return [x if x.stride(-1) == 1 else x.contiguous() for x in tensors]


def _geometry(q: Tensor, past_keys: Tensor, window: int) -> Any:
    batch, length, heads, width = q.shape
    return sizes(batch, length, past_keys.shape[1] + length, heads, width, window)


@native_operator("crossdna::window_attention")
def _forward(  # noqa: PLR0913 - the operator has these operands
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past_keys: Tensor,
    past_values: Tensor,
    visible: Tensor | None,
    cosines: Tensor,
    sines: Tensor,
    window: int,
    train: bool,
) -> tuple[Tensor, Tensor]:
    operands = _rows(q, k, v, past_keys, past_values)
    output, log_sums = _empty(q, train)
    visible = None if visible is None else visible.contiguous()
    build.library().crossdna_window_attention_forward(
        _geometry(q, past_keys, window),
        strides(*operands),
        pointers(*operands),
        None if visible is None else pointer(visible),
        pointer(cosines),
        pointer(sines),
        pointer(output),
        pointer(log_sums) if train else None,
        ctypes.c_int(q.dtype == torch.bfloat16),
        ctypes.c_int(torch.get_num_threads()),
    )
    return output, log_sums


def _empty(q: Tensor, train: bool) -> tuple[Tensor, Tensor]:
    batch, length, heads, _ = q.shape
    log_sums = (batch, heads, length if train else 0)
    return q.new_empty(q.shape), q.new_empty(log_sums, dtype=torch.float32)


@_forward.register_fake
def _(q: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return _empty(q, others[-1])


@native_operator("crossdna::window_attention_backward")
def _backward(  # noqa: PLR0913 - the operator has these operands
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past_keys: Tensor,
    past_values: Tensor,
    visible: Tensor | None,
    cosines: Tensor,
    sines: Tensor,
    output: Tensor,
    log_sums: Tensor,
    d_output: Tensor,
    window: int,
) -> list[Tensor]:
    operands = _rows(q, k, v, past_keys, past_values)
    gradients = _empty_gradients(q, past_keys)
    d_output = d_output.contiguous()
    visible = None if visible is None else visible.contiguous()
    build.library().crossdna_window_attention_backward(
        _geometry(q, past_keys, window),
        strides(*operands),
        pointers(*operands),
        None if visible is None else pointer(visible),
        pointer(cosines),
        pointer(sines),
        pointer(output),
        pointer(d_output),
        pointer(log_sums),
        pointers(*gradients),
        ctypes.c_int(q.dtype == torch.bfloat16),
        ctypes.c_int(torch.get_num_threads()),
    )
    return gradients


def _empty_gradients(q: Tensor, past_keys: Tensor) -> list[Tensor]:
    batch, length, *others = q.shape
    joined = (batch, past_keys.shape[1] + length, *others)
    # Overlapping blocks of queries add to the same keys and values.
    return [
        q.new_empty(q.shape, dtype=torch.float32),
        q.new_zeros(joined, dtype=torch.float32),
        q.new_zeros(joined, dtype=torch.float32),
    ]


@_backward.register_fake
def _(
    q: Tensor, _k: Tensor, _v: Tensor, past_keys: Tensor, *_others: Any
) -> list[Tensor]:
    return _empty_gradients(q, past_keys)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.window, _ = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate(
    ctx: Any, d_output: Tensor, _d_log_sums: Tensor
) -> tuple[Tensor | None, ...]:
    *tensors, log_sums = ctx.saved_tensors
    gradients = _backward(*tensors, log_sums, d_output, ctx.window)
    past = tensors[3].shape[1]
    dq, dk, dv = (g.to(tensors[0].dtype) for g in gradients)
    operands = (dq, dk[:, past:], dv[:, past:], dk[:, :past], dv[:, :past])
    return *operands, None, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_setup)
