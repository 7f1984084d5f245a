"""The delta rule token by token: slow, and as close to its definition as code gets."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-6


def normalise(x: Tensor) -> Tensor:
    """Scale the last axis to unit length; zero stays zero."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + EPSILON)


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
    """Run the recurrence; arguments as in `crossdna.ops.delta_rule.delta_rule`.

    Everything is computed in `initial_state`'s dtype.
    """
    dtype = initial_state.dtype
    q, k, v, log_decay, beta, feedback, correction = (
        x.to(dtype) for x in (q, k, v, log_decay, beta, feedback, correction)
    )
    p = feedback[..., None] * k
    q = q - correction[..., None] * p
    q, k, p = normalise(q) * q.shape[-1] ** -0.5, normalise(k), normalise(p)
    state = initial_state
    outputs = []
    steps = zip(*(x.unbind(1) for x in (q, k, p, v, log_decay, beta)), strict=True)
    for q_t, k_t, p_t, v_t, g_t, beta_t in steps:
        # The feedback reads the state before it decays.
        read = torch.einsum("bhkv,bhk->bhv", state, p_t)
        u = beta_t[..., None] * (v_t - read)
        kept = g_t.exp()[..., None, None] * state
        state = kept + torch.einsum("bhk,bhv->bhkv", k_t, u)
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, q_t))
    return torch.stack(outputs, 1), state
