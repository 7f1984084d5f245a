"""The selective scan by mamba_ssm's CUDA kernel, where that package is installed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

import torch

from crossdna.ops.dispatch import probe

if TYPE_CHECKING:
    from torch import Tensor

_INTERFACE = "mamba_ssm.ops.selective_scan_interface"


@probe
def unavailable() -> str | None:
    """Say why the kernel cannot run on this machine, or None."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    if importlib.util.find_spec("mamba_ssm") is None:
        return "mamba_ssm is not installed"
    try:
        importlib.import_module(_INTERFACE)
    except (ImportError, OSError, RuntimeError) as error:
        return f"{_INTERFACE} cannot be imported: {error}"
    return None


def reject(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
) -> str | None:
    """Say why the kernel cannot compute this call, or None."""
    if u.device.type != "cuda":
        return f"needs CUDA tensors, got {u.device.type}"
    if u.dtype is torch.float64:
        return "does not compute in float64"
    if initial_state is not None:
        return "takes no initial state"
    return unavailable()


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Run the kernel on prepared arguments; see `crossdna.ops.selective_scan`."""
    kernel = importlib.import_module(_INTERFACE).selective_scan_fn
    x, dt, b, c = (
        tensor.to(u.dtype).transpose(1, 2).contiguous() for tensor in (u, delta, B, C)
    )
    y, state = kernel(x, dt, A, b, c, D, return_last_state=True)
    return y.transpose(1, 2), state.float().detach()
