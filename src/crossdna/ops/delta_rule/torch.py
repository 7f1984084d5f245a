"""The delta rule in chunks of matrix products, on any device, differentiable.

With G the inclusive cumulative sum of the log decays in a chunk and G' = G - g,
M_ij = beta_i (p_i . k_j) exp(G'_i - G_j) for j < i and T = (I + M)^-1, the written
vectors are U = T diag(beta) V - T diag(beta exp G') P S, with S the state at the
chunk's start; outputs and the next state follow from U by matrix products. Only the
short loop over chunks is sequential.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from crossdna.ops.delta_rule.reference import EPSILON

CHUNK = 32
# Segments keep every intermediate tensor below glibc's 32 MiB threshold, above which
# each allocation is mapped and zeroed anew (4 to 11 times slower).
SEGMENT_ELEMENTS = 2**22


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    feedback: Tensor,
    correction: Tensor,
    initial_state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence; arguments as in `crossdna.ops.delta_rule.delta_rule`."""
    batch, length, heads, keys = k.shape
    dtype = initial_state.dtype
    shape = (batch, length, heads)
    feedback, correction = (x.expand(shape) for x in (feedback, correction))
    row = batch * heads * max(keys, v.shape[-1])
    segment = max(CHUNK, SEGMENT_ELEMENTS // row // CHUNK * CHUNK)
    state = initial_state.reshape(batch * heads, keys, v.shape[-1])
    outputs = []
    # split, not slices: its backward is one concatenation.
    operands = (q, k, v, log_decay, beta, feedback, correction)
    with torch.autocast(k.device.type, enabled=False):
        for parts in zip(*(x.split(segment, 1) for x in operands), strict=True):
            output, state = _segment(*(x.to(dtype) for x in parts), state=state)
            outputs.append(output)
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)
    return output, state.view_as(initial_state)


def _segment(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    feedback: Tensor,
    correction: Tensor,
    *,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    batch, length, heads, keys = k.shape
    values = v.shape[-1]
    chunk = min(CHUNK, 1 << (length - 1).bit_length())
    padding = -length % chunk
    chunks = (length + padding) // chunk

    def chunked(x: Tensor) -> Tensor:
        # (batch, length, heads, *) -> (batch * heads * chunks, chunk, *)
        if padding:
            x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, padding))
        return x.transpose(1, 2).reshape(-1, chunk, *x.shape[3:])

    q, k, v, g, beta, feedback, correction = map(
        chunked, (q, k, v, log_decay, beta, feedback, correction)
    )
    # p = feedback k is never formed: it is k times a scalar per token.
    q = q - (correction * feedback)[..., None] * k
    k_square = k.square().sum(-1)
    k_scale = torch.rsqrt(k_square + EPSILON)
    p_scale = feedback * torch.rsqrt(feedback.square() * k_square + EPSILON)
    q_scale = torch.rsqrt(q.square().sum(-1) + EPSILON) * keys**-0.5

    decay = _pairwise_decay(g)
    total = g.cumsum(-1)
    lower = decay.tril() * k_scale[:, None, :]
    # Row i of M decays by G'_i = G_(i-1): the rows of `lower` moved down by one.
    before = F.pad(lower[:, :-1], (0, 0, 1, 0))
    k_t = k.transpose(1, 2)
    solved = _UnitLowerInverse.apply(
        torch.bmm(k, k_t) * before * (beta * p_scale)[..., None]
    )
    written = torch.bmm(solved * beta[:, None, :], v)
    read = torch.bmm(solved * (beta * p_scale * (total - g).exp())[:, None, :], k)
    scores = torch.bmm(q, k_t) * lower * q_scale[..., None]
    q = q * (total.exp() * q_scale)[..., None]
    k_t = k_t * (decay[:, -1] * k_scale)[:, None, :]
    kept = total[:, -1].exp()[:, None, None]

    def steps(x: Tensor) -> tuple[Tensor, ...]:
        # unbind, not indexing: its backward is one stack.
        return x.view(batch * heads, chunks, *x.shape[1:]).unbind(1)

    outputs = []
    for written_t, read_t, scores_t, q_t, k_tt, kept_t in zip(
        *map(steps, (written, read, scores, q, k_t, kept)), strict=True
    ):
        u = torch.baddbmm(written_t, read_t, state, alpha=-1)
        outputs.append(torch.baddbmm(torch.bmm(q_t, state), scores_t, u))
        state = torch.baddbmm(kept_t * state, k_tt, u)
    output = torch.stack(outputs, 1).view(batch, heads, chunks * chunk, values)
    return output[:, :, :length].transpose(1, 2), state


def _pairwise_decay(g: Tensor) -> Tensor:
    """Give exp(sum of g_l over j < l <= i) at (i, j); 1 above the diagonal.

    The sums are taken term by term: differences of cumulative sums lose the small
    decays that follow a large one.
    """
    chunk = g.shape[-1]
    terms = g[:, :, None].expand(-1, -1, chunk).tril(-1)
    return terms.cumsum(1).exp()


class _UnitLowerInverse(torch.autograd.Function):
    """(I + M)^-1 for strictly lower triangular M (count, size, size)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, matrix: Tensor) -> Tensor:
        inverse = _unit_lower_inverse(matrix)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor
    ) -> Tensor:
        (inverse,) = ctx.saved_tensors  # type: ignore[attr-defined]
        transposed = inverse.transpose(1, 2)
        return -torch.bmm(torch.bmm(transposed, gradients[0]), transposed)


def _unit_lower_inverse(matrix: Tensor) -> Tensor:
    count, size, _ = matrix.shape
    if size <= 4:
        # M^4 = 0, and sums this short lose nothing to cancellation.
        identity = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
        square = torch.bmm(matrix, matrix)
        return torch.baddbmm(identity - matrix, identity - matrix, square)
    half = size // 2
    corners = torch.cat([matrix[:, :half, :half], matrix[:, half:, half:]])
    upper, lower = _unit_lower_inverse(corners).split(count)
    inverse = torch.zeros_like(matrix)
    inverse[:, :half, :half] = upper
    inverse[:, half:, half:] = lower
    inverse[:, half:, :half] = -torch.bmm(
        lower, torch.bmm(matrix[:, half:, :half], upper)
    )
    return inverse
