"""Handing tensors to C: addresses, sizes and strides."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


def pointer(x: Tensor) -> ctypes.c_void_p:
    """Give the address of a tensor's first element."""
    return ctypes.c_void_p(x.data_ptr())


def pointers(*tensors: Tensor) -> Any:
    """Give a C array of addresses."""
    return (ctypes.c_void_p * len(tensors))(*(x.data_ptr() for x in tensors))


def sizes(*numbers: int) -> Any:
    """Give a C array of 64-bit integers."""
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
