"""The selective scan, one position after another: slow, and plain to check."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence on prepared arguments; see `crossdna.ops.selective_scan`."""
    kind = torch.promote_types(u.dtype, torch.float32)
    x, dt, A, B, C = (tensor.to(kind) for tensor in (u, delta, A, B, C))
    if initial_state is None:
        state = x.new_zeros(x.shape[0], x.shape[2], A.shape[1])
    else:
        state = initial_state.to(kind)
    outputs = []
    for t in range(x.shape[1]):
        decay = torch.exp(dt[:, t, :, None] * A)
        drive = (dt[:, t] * x[:, t])[:, :, None] * B[:, t, None, :]
        state = decay * state + drive
        outputs.append(torch.einsum("ben,bn->be", state, C[:, t]))
    y = torch.stack(outputs, 1)
    if D is not None:
        y = y + D.to(kind) * x
    return y.to(u.dtype), state
