"""Linear maps through oneDNN, forward and backward, float32 on CPUs.

torch calls oneDNN for linear layers only when float32 products may be rounded to
bfloat16, a switch for the whole process. The operator below is the same call without
the switch: plain float32. Gradients of weights are left to torch's own products.
"""

from __future__ import annotations

import torch
from torch import Tensor

FASTER = torch.backends.cpu.get_cpu_capability() != "AVX2"
"""Whether it is ahead of torch's own products here."""
# Below this many products a call costs more than it computes.
MINIMUM_PRODUCTS = 2**16


def unavailable() -> str | None:
    """Say why oneDNN cannot be called on this machine, or nothing."""
    if not torch.backends.mkldnn.is_available():
        return "this build of torch has no oneDNN"
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return "this build of torch does not export oneDNN's linear operator"
    return None


def reject(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """Say why these arguments are not for oneDNN, or nothing."""
    if x.device.type != "cpu":
        return f"computes on the CPU, not on {x.device.type}"
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return f"computes in float32, not in {x.dtype}"
    if torch.is_autocast_enabled("cpu"):
        return "autocast chooses another precision"
    if torch.compiler.is_compiling():
        return "the compiler chooses its own kernel"
    if x.numel() * weight.shape[0] < MINIMUM_PRODUCTS:
        return "too small to gain"
    return unavailable()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply; arguments as in `crossdna.ops.linear.linear`."""
    learns = any(t is not None and t.requires_grad for t in (x, weight, bias))
    if torch.is_grad_enabled() and learns:
        return _Linear.apply(x, weight, bias)
    return product(x, weight, bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Call oneDNN; the weight may be packed."""
    offset = None if bias is None else bias.contiguous()
    operands = _dense(x), _dense(weight), offset
    return torch.ops.mkldnn._linear_pointwise(*operands, "none", [], "")


def _dense(x: Tensor) -> Tensor:
    """Copy what does not lie row after row, or column after column.

    From a part of a wider tensor oneDNN takes 2 (first operand) to 500 times (second
    operand) as long.
    """
    if x.is_contiguous() or (x.ndim == 2 and x.t().is_contiguous()):
        return x
    return x.contiguous()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None  # type: ignore[attr-defined]
        return product(x, weight, bias)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        rows = gradients[0].reshape(-1, weight.shape[0])
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad  # type: ignore[attr-defined]
        return (
            # Differentiable where gradients of gradients are wanted.
            linear(rows, weight.t(), None).view(x.shape) if wants_x else None,
            # torch's own product: oneDNN's would copy both operands, which lie
            # transposed (`benchmarks/operators.py --only linear narrow_linear`).
            rows.t() @ x.reshape(-1, weight.shape[1]) if wants_weight else None,
            rows.sum(0) if wants_bias and ctx.has_bias else None,  # type: ignore[attr-defined]
        )
