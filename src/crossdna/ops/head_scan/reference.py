"""The head scan, one position after another: slow, and plain to check."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def head_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence on prepared arguments; see `crossdna.ops.head_scan`."""
    sharing = u.shape[2] // B.shape[2]
    B, C = (x.repeat_interleave(sharing, 2) for x in (B, C))
    state, outputs = initial_state, []
    for t in range(u.shape[1]):
        decay = torch.exp(delta[:, t] * A)[..., None, None]
        drive = delta[:, t, :, None] * u[:, t]
        state = decay * state + drive[..., None] * B[:, t, :, None]
        outputs.append((state * C[:, t, :, None]).sum(-1))
    return torch.stack(outputs, 1) + D[:, None] * u, state
