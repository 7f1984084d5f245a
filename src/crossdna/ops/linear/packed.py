"""Weights that oneDNN lays out once, not at every call, for layers only asked.

A product first brings its weight into the layout that it reads, and autocast rounds it
before: on short sequences that shows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crossdna.ops.linear import onednn, widened


def unavailable(dtype: torch.dtype) -> str | None:
    """Say why weights of this precision are not packed on this machine, or nothing."""
    reason = onednn.unavailable()
    if reason is not None:
        return reason
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return "this build of torch does not export oneDNN's layout of weights"
    if dtype == torch.bfloat16:
        fitting = widened.cpu_multiplies_bfloat16()
        return None if fitting else "this CPU does not multiply bfloat16"
    if dtype != torch.float32:
        return f"packs float32 and bfloat16, not {dtype}"
    return None if onednn.FASTER else "torch's own float32 products are faster here"


def pack(weight: Tensor) -> Tensor:
    """Lay a weight (outputs, inputs) out; only `linear` can read what comes back."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return packed


def linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply by a packed weight, in its precision, without gradients."""
    return onednn.product(x.to(packed.dtype), packed, bias)
