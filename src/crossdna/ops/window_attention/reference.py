"""Window attention with its whole mask: slow, and plain to read."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(
    positions: Tensor, width: int, theta: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Give cosines and sines (positions, width / 2) of the rotary angles.

    The angles are float64: at position 1,000,000 float32 ones are wrong by 0.03.
    """
    exponents = torch.arange(0, width, 2, device=positions.device) / width
    angles = positions.double()[:, None] * theta ** -exponents.double()
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn the pairs (i, i + width / 2) of x (batch, length, heads, width)."""
    first, second = x.unflatten(-1, (2, -1)).unbind(-2)
    cosines, sines = cosines[:, None], sines[:, None]
    turned = torch.stack(
        [first * cosines - second * sines, second * cosines + first * sines], -2
    )
    return turned.flatten(-2).to(x.dtype)


def visibility(
    queries: Tensor, keys: Tensor, window: int, visible: Tensor | None
) -> Tensor:
    """Say which of the keys (positions) each query sees, (1 or batch, queries, keys).

    `visible` (batch, all keys) is False at keys that only they themselves see.
    """
    distance = queries[:, None] - keys[None, :]
    seen = ((distance >= 0) & (distance < window))[None]
    if visible is None:
        return seen
    both = visible[:, queries, None] & visible[:, None, keys]
    return (seen & both) | (distance == 0)


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past_keys: Tensor,
    past_values: Tensor,
    visible: Tensor | None,
    window: int,
    rope_theta: float,
) -> Tensor:
    """Attend to what was cached (batch, past, heads, width) and what is new.

    `visible` (batch, past + length) covers both, where it is given. Other arguments as
    in `crossdna.ops.window_attention.window_attention`.
    """
    k, v = torch.cat([past_keys, k], 1), torch.cat([past_values, v], 1)
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    total, width = k.shape[1], q.shape[-1]
    positions = torch.arange(total, device=q.device)
    own = positions[total - q.shape[1] :]
    q = rotate(q.to(dtype), *rotary_table(own, width, rope_theta, dtype))
    k = rotate(k.to(dtype), *rotary_table(positions, width, rope_theta, dtype))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * width**-0.5
    seen = visibility(own, positions, window, visible)
    weights = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
    return torch.einsum("bhij,bjhd->bihd", weights, v.to(dtype)).to(v.dtype)
