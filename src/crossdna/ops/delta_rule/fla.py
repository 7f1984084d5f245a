"""The delta rule through flash-linear-attention's `comba` kernels (extra `gpu`)."""

from __future__ import annotations

import functools
import importlib
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from crossdna.ops.delta_rule.reference import normalise
from crossdna.ops.dispatch import probe
from crossdna.ops.fusion import fused


class CombaArguments(NamedTuple):
    """The keyword arguments of `fla.ops.comba.chunk_comba`, in its layout."""

    q: Tensor
    k: Tensor
    v: Tensor
    p: Tensor
    g: Tensor
    beta: Tensor
    scale: float
    initial_state: Tensor
    output_final_state: bool = True
    use_qk_l2norm_in_kernel: bool = False


def comba_arguments(  # noqa: PLR0913 - the operator has these operands
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    feedback: Tensor,
    correction: Tensor,
    initial_state: Tensor,
    dtype: torch.dtype,
) -> CombaArguments:
    """Prepare the kernel's operands.

    q, k, p are normalised in float32 and then rounded to `dtype`: the kernels want one
    for all of them, and dense memory; decays, beta and states stay float32.
    """
    q32, k32 = q.float(), k.float()
    p32 = feedback[..., None] * k32
    q32 = q32 - correction[..., None] * p32
    return CombaArguments(
        q=normalise(q32).to(dtype),
        k=normalise(k32).to(dtype),
        v=v.to(dtype).contiguous(),
        p=normalise(p32).to(dtype),
        g=log_decay.float(),
        beta=beta.float(),
        scale=k.shape[-1] ** -0.5,
        initial_state=initial_state.float(),
    )


def kernel_dtype(v: Tensor) -> torch.dtype:
    """Say in which dtype the kernels compute: autocast's, or that of `v`."""
    if torch.is_autocast_enabled("cuda"):
        return torch.get_autocast_dtype("cuda")
    return v.dtype


def delta_rule(*operands: Tensor) -> tuple[Tensor, Tensor]:
    """Run the kernel; operands as in `crossdna.ops.delta_rule.delta_rule`."""
    from fla.ops.comba import chunk_comba

    dtype = kernel_dtype(operands[2])
    with torch.autocast("cuda", enabled=False):
        # As one kernel: a dozen would move several times its bytes.
        arguments = fused(comba_arguments)(*operands, dtype)
    return chunk_comba(**arguments._asdict())


@probe
def unavailable() -> str | None:
    """Say what is missing on this machine, or None."""
    return _missing()


@functools.cache
def _missing() -> str | None:
    # First: without a device the import below warns about it.
    if not torch.cuda.is_available():
        return "no CUDA device"
    # fla-core without triton imports as an empty package: the very modules that are
    # called are probed.
    for module in ("triton", "fla.ops.comba"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            return f"{module} cannot be imported ({error}); install crossdna[gpu]"
    return None


def trains(operands: tuple[Any, ...]) -> bool:
    """Whether gradients will be asked for."""
    return torch.is_grad_enabled() and any(
        isinstance(x, Tensor) and x.requires_grad for x in operands
    )


@probe
def untrainable() -> str | None:
    """Say why there are no gradients on this machine, or None.

    flash-linear-attention refuses what Triton 3.4 to 3.7.0 miscompiles on Hopper GPUs.
    """
    return _untrainable()


@functools.cache
def _untrainable() -> str | None:
    import triton

    hopper = torch.cuda.get_device_capability()[0] == 9
    version = TorchVersion(triton.__version__)
    if hopper and "3.4" <= version < "3.7.1":
        return f"no gradients with Triton {triton.__version__} on Hopper GPUs"
    return None


def reject(q: Tensor, k: Tensor, v: Tensor, *others: Tensor) -> str | None:
    """Say why these operands cannot run on the kernels, or None."""
    if k.device.type != "cuda":
        return f"needs CUDA tensors, got {k.device.type}"
    if torch.float64 in (q.dtype, k.dtype, v.dtype):
        return "float64 is not supported by the kernels"
    if k.shape[-1] > 256:
        return f"the kernels take at most 256 keys a head, got {k.shape[-1]}"
    if (missing := unavailable()) is not None:
        return missing
    return untrainable() if trains((q, k, v, *others)) else None
