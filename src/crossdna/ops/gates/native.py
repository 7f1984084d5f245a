"""The gates as compiled C++ for float32 and bfloat16 on the CPU."""

from __future__ import annotations

import ctypes
import functools
import math
from typing import Any

import torch
from torch import Tensor

from crossdna.ops.gates import reference
from crossdna.ops.native import build
from crossdna.ops.native.call import (
    differentiable_gradients,
    native_operator,
    pointer,
    pointers,
    shared_dtype,
    sizes,
)

# The kernels work on whole vectors.
MULTIPLE = 16


def unavailable() -> str | None:
    """Say why the kernels cannot run on this machine, or None."""
    return build.unavailable()


def reject_rms_norm(
    x: Tensor, weight: Tensor, eps: float, gate: Tensor | None
) -> str | None:
    """Say why this call cannot run on the kernel, or None."""
    return _reject(x.shape[-1], (x,) if gate is None else (x, gate), (weight,))


def reject_swiglu(x: Tensor) -> str | None:
    """Say why this call cannot run on the kernel, or None."""
    return _reject(x.shape[-1] // 2, (x,), ())


def reject_blend_norm(
    m: Tensor, t: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> str | None:
    """Say why this call cannot run on the kernel, or None."""
    return _reject(m.shape[-1], (m, t, gate), (weight, bias))


def _reject(
    width: int, rows: tuple[Tensor, ...], weights: tuple[Tensor, ...]
) -> str | None:
    for x in (*rows, *weights):
        if x.device.type != "cpu":
            return f"needs CPU tensors, got {x.device.type}"
    if shared_dtype(*rows) is None:
        return f"needs float32 or bfloat16 throughout, got {rows[0].dtype}"
    if any(x.dtype != torch.float32 for x in weights):
        return "needs float32 weights"
    if width % MULTIPLE:
        return f"needs a multiple of {MULTIPLE} channels, got {width}"
    if torch.compiler.is_compiling():
        return "the compiler fuses these itself"
    return build.unavailable()


def rms_norm(x: Tensor, weight: Tensor, eps: float, gate: Tensor | None) -> Tensor:
    """Arguments as in `crossdna.ops.gates.rms_norm`."""
    return _rms_norm(_joined(x), weight, None if gate is None else _joined(gate), eps)


def swiglu(x: Tensor) -> Tensor:
    """Arguments as in `crossdna.ops.gates.swiglu`."""
    return _swiglu(x.contiguous())


def blend_norm(
    m: Tensor, t: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Arguments as in `crossdna.ops.gates.blend_norm`."""
    m, t, gate = (x.contiguous() for x in (m, t, gate))
    return _blend_norm(m, t, gate, weight, bias, eps)


def _settings(x: Tensor) -> tuple[ctypes.c_int, ctypes.c_int]:
    bf16 = ctypes.c_int(x.dtype == torch.bfloat16)
    return bf16, ctypes.c_int(torch.get_num_threads())


def _joined(x: Tensor) -> Tensor:
    """Make all axes behind the second one dense; (batch, length) may be strided."""
    if x.is_contiguous() or x.dim() < 3:
        return x.contiguous()
    dense = x[0, 0].is_contiguous()
    even = 1 in x.shape[:2] or x.stride(0) == x.shape[1] * x.stride(1)
    return x if dense and even else x.contiguous()


def _row(x: Tensor, width: int) -> tuple[int, int, int]:
    """Rows, runs in a row, and the stride between rows of a joined tensor."""
    if x.dim() < 3:
        return x.numel() // width, 1, width
    rows = x.shape[0] * x.shape[1]
    # What an axis of one would step by means nothing.
    stride = x.stride(0) if x.shape[1] == 1 else x.stride(1)
    return rows, math.prod(x.shape[2:]) // width, stride


def _rms_norm_call(
    x: Tensor, weight: Tensor, gate: Tensor | None
) -> tuple[Any, Any, Tensor]:
    rows, groups, stride = _row(x, weight.numel())
    gate_stride = 0 if gate is None else _row(gate, weight.numel())[2]
    geometry = sizes(rows, groups, weight.numel(), stride, gate_stride)
    address = 0 if gate is None else gate.data_ptr()
    inputs = (ctypes.c_void_p * 2)(x.data_ptr(), address)
    return geometry, inputs, weight.contiguous()


@native_operator("crossdna::rms_norm")
def _rms_norm(x: Tensor, weight: Tensor, gate: Tensor | None, eps: float) -> Tensor:
    geometry, inputs, weight = _rms_norm_call(x, weight, gate)
    output = torch.empty_like(x, memory_format=torch.contiguous_format)
    build.library().crossdna_rms_norm_forward(
        geometry,
        inputs,
        pointer(weight),
        ctypes.c_float(eps),
        pointer(output),
        *_settings(x),
    )
    return output


@_rms_norm.register_fake
def _(x: Tensor, weight: Tensor, gate: Tensor | None, eps: float) -> Tensor:
    return x.new_empty(x.shape)


def _rms_norm_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, gate, ctx.eps = inputs
    ctx.save_for_backward(x, weight, gate)


def _rms_norm_backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, gate = ctx.saved_tensors
    if torch.is_grad_enabled():
        found = differentiable_gradients(
            lambda x, weight, gate: reference.rms_norm(x, weight, ctx.eps, gate),
            ctx.saved_tensors,
            d_output,
        )
        return *found, None
    geometry, inputs, dense = _rms_norm_call(x, weight, gate)
    d_output = d_output.contiguous()
    dx = x.new_empty(x.shape)
    d_gate = None if gate is None else x.new_empty(x.shape)
    d_weight = torch.empty_like(dense)
    addresses = (dx.data_ptr(), 0 if d_gate is None else d_gate.data_ptr())
    build.library().crossdna_rms_norm_backward(
        geometry,
        inputs,
        pointer(dense),
        ctypes.c_float(ctx.eps),
        pointer(d_output),
        (ctypes.c_void_p * 2)(*addresses),
        pointer(d_weight),
        *_settings(x),
    )
    return dx, d_weight, d_gate, None


_rms_norm.register_autograd(_rms_norm_backward, setup_context=_rms_norm_setup)


@native_operator("crossdna::swiglu")
def _swiglu(x: Tensor) -> Tensor:
    width = x.shape[-1] // 2
    output = x.new_empty((*x.shape[:-1], width))
    build.library().crossdna_swiglu_forward(
        sizes(output.numel() // width, width),
        pointer(x),
        pointer(output),
        *_settings(x),
    )
    return output


@_swiglu.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))


def _swiglu_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _swiglu_backward(ctx: Any, d_output: Tensor) -> Tensor | None:
    (x,) = ctx.saved_tensors
    if torch.is_grad_enabled():
        return differentiable_gradients(reference.swiglu, (x,), d_output)[0]
    d_output, dx = d_output.contiguous(), torch.empty_like(x)
    width = x.shape[-1] // 2
    build.library().crossdna_swiglu_backward(
        sizes(d_output.numel() // width, width),
        pointer(x),
        pointer(d_output),
        pointer(dx),
        *_settings(x),
    )
    return dx


_swiglu.register_autograd(_swiglu_backward, setup_context=_swiglu_setup)


@native_operator("crossdna::blend_norm")
def _blend_norm(
    m: Tensor, t: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    output = torch.empty_like(m)
    weight, bias = weight.contiguous(), bias.contiguous()
    build.library().crossdna_blend_norm_forward(
        sizes(m.numel() // m.shape[-1], m.shape[-1]),
        pointers(m, t, gate),
        pointer(weight),
        pointer(bias),
        ctypes.c_float(eps),
        pointer(output),
        *_settings(m),
    )
    return output


@_blend_norm.register_fake
def _(m: Tensor, *_others: Any) -> Tensor:
    return m.new_empty(m.shape)


def _blend_norm_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _blend_norm_backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
    m, t, gate, weight, bias = ctx.saved_tensors
    if torch.is_grad_enabled():
        rule = functools.partial(reference.blend_norm, eps=ctx.eps)
        return *differentiable_gradients(rule, ctx.saved_tensors, d_output), None
    weight, bias = weight.contiguous(), bias.contiguous()
    d_output = d_output.contiguous()
    gradients = [m.new_empty(m.shape) for _ in range(3)]
    sums = [torch.empty_like(weight), torch.empty_like(bias)]
    build.library().crossdna_blend_norm_backward(
        sizes(m.numel() // m.shape[-1], m.shape[-1]),
        pointers(m, t, gate),
        pointer(weight),
        pointer(bias),
        ctypes.c_float(ctx.eps),
        pointer(d_output),
        pointers(*gradients),
        pointers(*sums),
        *_settings(m),
    )
    return *gradients, *sums, None


_blend_norm.register_autograd(_blend_norm_backward, setup_context=_blend_norm_setup)
