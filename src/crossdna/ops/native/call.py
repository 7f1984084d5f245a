"""Calling C: operators, addresses, sizes and strides."""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING, Any

import torch

from crossdna.ops.dispatch import has_tangents

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class NativeOperator:
    """An operator of torch's that inference calls as the function that it is.

    The dispatcher's way to a Python function takes longer than a kernel does on a short
    sequence. It is needed for gradients, for tracing and for those who watch.

    Parameters
    ----------
    name
        Namespace and name, ``crossdna::...``.
    function
        Annotated as `torch.library.custom_op` asks; it changes none of its arguments.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.function = function
        self.registered = torch.library.custom_op(name, function, mutates_args=())
        self.register_fake = self.registered.register_fake
        self.register_autograd = self.registered.register_autograd

    def __call__(self, *arguments: Any) -> Any:
        """Compute; gradients flow where they are recorded."""
        return (self.registered if _is_seen() else self.function)(*arguments)


def native_operator(name: str) -> Callable[[Callable[..., Any]], NativeOperator]:
    """Make a function the operator of that name."""
    return functools.partial(NativeOperator, name)


def is_traced() -> bool:
    """Whether what is called is seen by a tracer, whose tensors may hold nothing."""
    return bool(
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._get_tracing_state()
        or has_tangents()
    )


def differentiable_gradients(
    function: Callable[..., Tensor],
    operands: tuple[Tensor | None, ...],
    d_output: Tensor,
) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again, by torch's own operations.

    Parameters
    ----------
    function
        What a kernel computes.
    operands
        Of the function; None for those that have no gradient.
    d_output
        Gradient of what it gives.
    """
    # Operands may depend on each other: views cut what is behind them off.
    views = [None if x is None else x.view_as(x) for x in operands]
    learn = [x for x in views if x is not None and x.requires_grad]
    output = function(*views)
    found = iter(torch.autograd.grad(output, learn, d_output, create_graph=True))
    return tuple(
        next(found) if x is not None and x.requires_grad else None for x in views
    )


def _is_seen() -> bool:
    """Whether anything traces, records or counts what is called."""
    return bool(
        is_traced()
        or not torch.is_inference_mode_enabled()
        or torch.autograd._profiler_enabled()  # type: ignore[attr-defined]
    )


def pointer(x: Tensor) -> ctypes.c_void_p:
    """Give the address of a tensor's first element."""
    return ctypes.c_void_p(x.data_ptr())


def pointers(*tensors: Tensor) -> Any:
    """Give a C array of addresses."""
    return (ctypes.c_void_p * len(tensors))(*(x.data_ptr() for x in tensors))


@functools.lru_cache(maxsize=4096)
def sizes(*numbers: int) -> Any:
    """Give a C array of 64-bit integers, which nobody may write to."""
    return (ctypes.c_int64 * len(numbers))(*numbers)


def strides(*tensors: Tensor) -> Any:
    """Give the strides of the first three axes of each tensor, in elements."""
    return sizes(*(s for x in tensors for s in x.stride()[:3]))


def shared_dtype(*tensors: Tensor) -> torch.dtype | None:
    """Give the one dtype of all tensors if kernels can read it, else None."""
    dtypes = {x.dtype for x in tensors}
    if dtypes == {torch.float32} or dtypes == {torch.bfloat16}:
        return dtypes.pop()
    return None
