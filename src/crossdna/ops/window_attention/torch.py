"""Window attention in tiles of queries, each one call of fused attention."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from crossdna.ops.window_attention.reference import rotary_table, rotate, visibility


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor | None,
    window: int,
    rope_theta: float,
) -> Tensor:
    """Attend; arguments as in `reference.window_attention`."""
    q, k, v = rotated(q, k, v, rope_theta)
    if k.shape[2] <= window and q.shape == k.shape and visible is None:
        output = scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        output = _tiles(q, k, v, visible, window)
    return output.transpose(1, 2)


def rotated(
    q: Tensor, k: Tensor, v: Tensor, rope_theta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate q and k and put heads before positions, all in one dtype."""
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    length, total = q.shape[1], k.shape[1]
    positions = torch.arange(total, device=q.device)
    cosines, sines = rotary_table(positions, q.shape[-1], rope_theta, dtype)
    k = rotate(k, cosines, sines)
    q = rotate(q, cosines[total - length :], sines[total - length :])
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _tiles(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, window: int
) -> Tensor:
    # On the CPU small tiles waste few masked scores and stay in cache; a GPU wants few
    # launches.
    tile = 128 if q.device.type == "cpu" else max(128, window)
    total = k.shape[2]
    offset = total - q.shape[2]
    starts = range(offset - offset % tile, total, tile)
    edges = [max(start, offset) for start in starts] + [total]
    queries = q.split([b - a for a, b in itertools.pairwise(edges)], 2)
    blocks = k.split(tile, 2), v.split(tile, 2)
    positions = torch.arange(total, device=q.device)
    bands: dict[tuple[int, int, int], Tensor] = {}
    outputs = []
    for part, first, last in zip(queries, edges, edges[1:], strict=False):
        block, end = max(0, first - window + 1) // tile, (last - 1) // tile + 1
        start = block * tile
        band = (first - start, last - start, 0 if visible is None else first)
        if band not in bands:
            seen = visibility(
                positions[first:last], positions[start:last], window, visible
            )
            bands[band] = seen[:, None]
        # Joined blocks, not slices: the backward of overlapping slices adds up one
        # whole-length tensor per tile.
        keys, values = (torch.cat(x[block:end], 2) for x in blocks)
        outputs.append(
            scaled_dot_product_attention(part, keys, values, attn_mask=bands[band])
        )
    return torch.cat(outputs, 2)
