"""Bfloat16 linear maps on CPUs that have no instruction for them.

There torch multiplies bfloat16 number by number, hundreds of times slower than float32.
Here operands are rounded to bfloat16, multiplied in float32 and the result is rounded:
what the instruction would give, at nearly the speed of float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from crossdna.ops.dispatch import probe

if TYPE_CHECKING:
    from torch import Tensor


def cpu_multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for it."""
    return bool(
        torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


@probe
def unavailable() -> str | None:
    """Say why this machine does not need it, or nothing."""
    if cpu_multiplies_bfloat16():
        return "this CPU multiplies bfloat16 itself"
    return None


def reject(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """Say why these arguments are for another backend, or nothing."""
    if x.device.type != "cpu":
        return f"computes on the CPU, not on {x.device.type}"
    autocast = (
        torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and x.dtype != torch.float64
    )
    if not (autocast or x.dtype == weight.dtype == torch.bfloat16):
        return f"multiplies bfloat16, not {x.dtype} with {weight.dtype}"
    if torch.compiler.is_compiling():
        return "the compiler chooses its own kernel"
    return unavailable()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply; arguments as in `crossdna.ops.linear.linear`."""
    with torch.autocast("cpu", enabled=False):
        offset = None if bias is None else _rounded(bias)
        return F.linear(_rounded(x), _rounded(weight), offset).bfloat16()


def _rounded(x: Tensor) -> Tensor:
    return x.bfloat16().float()
