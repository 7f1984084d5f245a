"""The head scan in chunks of matrix products, on any device, differentiable.

With s the inclusive cumulative sum of delta A in a chunk, what position j writes is
read at i >= j by C_i . B_j exp(s_i - s_j), and the chunk's start state by
C_i exp(s_i). C_i . B_j is one product for all heads of a group. Only the short loop
over chunks is sequential.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 32


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
    length, groups = u.shape[1], B.shape[2]
    chunk = min(CHUNK, length)

    def chunked(x: Tensor) -> Tensor:
        # (batch, length, groups, *) -> (batch, chunks, groups, chunk, *); padding
        # neither writes nor forgets, since its delta is 0.
        x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, -length % chunk))
        return x.unflatten(1, (-1, chunk)).transpose(2, 3)

    with torch.autocast(u.device.type, enabled=False):
        drive = chunked((u * delta[..., None]).unflatten(2, (groups, -1)))
        # float64: between neighbours s differs by far less than it amounts to.
        steps = chunked((delta.double() * A.double()).unflatten(2, (groups, -1)))
        sums = steps.cumsum(3).transpose(3, 4)
        output, state = _scan(drive, sums, chunked(B), chunked(C), initial_state)
        output = output.transpose(2, 3).flatten(1, 2).flatten(2, 3)[:, :length]
        return output + D[:, None] * u, state


def _scan(
    drive: Tensor, sums: Tensor, B: Tensor, C: Tensor, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """Scan chunks.

    Parameters
    ----------
    drive : (batch, chunks, groups, chunk, heads, width), heads being those of a group
    sums : (batch, chunks, groups, heads, chunk) float64
    B, C : (batch, chunks, groups, chunk, states)
    initial_state : (batch, groups * heads, width, states)

    Returns
    -------
    output : as `drive`
    state : as `initial_state`
    """
    kind, (heads, width) = drive.dtype, drive.shape[4:]
    # What is read in the chunk in which it was written.
    ahead = torch.ones(2 * sums.shape[-1:], dtype=torch.bool, device=drive.device)
    between = (sums[..., None] - sums[..., None, :]).to(kind)
    decay = between.masked_fill(ahead.triu(1), -torch.inf).exp()
    weights = (C @ B.mT)[:, :, :, None] * decay
    within = (weights @ drive.transpose(3, 4)).transpose(3, 4)
    # What each chunk leaves behind, and its start state from all those before.
    left = (sums[..., -1:] - sums).to(kind).exp().mT
    written = B.mT @ (drive * left[..., None]).flatten(4)
    whole = sums[..., -1].to(kind).exp().repeat_interleave(width, 3)[..., None, :]
    state = initial_state.unflatten(1, (-1, heads)).flatten(2, 3).mT
    starts = []
    for kept, new in zip(whole.unbind(1), written.unbind(1), strict=True):
        starts.append(state)
        state = kept * state + new
    before = (C @ torch.stack(starts, 1)).unflatten(4, (heads, width))
    output = within + before * sums.to(kind).exp().mT[..., None]
    return output, state.mT.unflatten(2, (heads, width)).flatten(1, 2)
