"""Window attention in tiles of queries, each one call of fused attention."""

from __future__ import annotations

import bisect
import itertools

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from crossdna.ops.window_attention.reference import rotary_table, rotate, visibility


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
    """Attend; arguments as in `reference.window_attention`."""
    k, v = joined(k, v, past_keys, past_values)
    q, k = rotated(q, k, rope_theta)
    if k.shape[1] <= window and q.shape == k.shape and visible is None:
        return _attend(q, k, v, None)
    # On the CPU small tiles waste few masked scores and stay in cache; a GPU wants few
    # launches.
    tile = 128 if q.device.type == "cpu" else max(128, window)
    length, total = q.shape[1], k.shape[1]
    offset = total - length
    positions = torch.arange(total, device=q.device)
    pieces = _Pieces(k, v, offset % tile, tile)
    bands: dict[tuple[int, int], Tensor] = {}
    outputs = []
    for first, part in zip(range(offset, total, tile), q.split(tile, 1), strict=True):
        last = first + part.shape[1]
        start, keys, values = pieces.between(max(0, first - window + 1), last)
        band = (last - first, first - start)
        if visible is not None or band not in bands:
            seen = visibility(
                positions[first:last], positions[start:last], window, visible
            )[:, None]
            # Additive: a boolean mask would be turned into this at every call.
            bands[band] = q.new_zeros(seen.shape).masked_fill_(~seen, -torch.inf)
        outputs.append(_attend(part, keys, values, bands[band]))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)


class _Pieces:
    """Runs of keys and values, cut so that the backward pass stays linear.

    Overlapping slices would each send back a whole-length gradient to be added up; a
    run joined from disjoint pieces sends back one piece per piece.
    """

    def __init__(self, keys: Tensor, values: Tensor, lead: int, size: int) -> None:
        total = keys.shape[1]
        self.edges = [*({0, lead} - {total}), *range(lead + size, total, size), total]
        self.edges.sort()
        self.whole = (keys, values)
        self.cut: tuple[tuple[Tensor, ...], ...] = ()
        if torch.is_grad_enabled() and (keys.requires_grad or values.requires_grad):
            sizes = [b - a for a, b in itertools.pairwise(self.edges)]
            self.cut = (keys.split(sizes, 1), values.split(sizes, 1))

    def between(self, start: int, end: int) -> tuple[int, Tensor, Tensor]:
        """Give the position of the first key, the keys and the values of a run.

        The run starts with the piece that holds `start` and ends at `end`, an edge.
        """
        piece = bisect.bisect_right(self.edges, start) - 1
        first = self.edges[piece]
        if self.cut:
            stop = self.edges.index(end)
            keys, values = (torch.cat(x[piece:stop], 1) for x in self.cut)
        else:
            keys, values = (x[:, first:end] for x in self.whole)
        return first, keys, values


def _attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
    """Fused attention on (batch, length, heads, width); causal when `seen` is None."""
    return scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=seen,
        is_causal=seen is None,
    ).transpose(1, 2)


def joined(
    k: Tensor, v: Tensor, past_keys: Tensor, past_values: Tensor
) -> tuple[Tensor, Tensor]:
    """Put what was cached before what is new."""
    if past_keys.shape[1] == 0:
        return k, v
    return torch.cat([past_keys, k], 1), torch.cat([past_values, v], 1)


def rotated(q: Tensor, k: Tensor, rope_theta: float) -> tuple[Tensor, Tensor]:
    """Rotate q and k; the positions count from the first key."""
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    positions = torch.arange(k.shape[1], device=q.device)
    cosines, sines = rotary_table(positions, q.shape[-1], rope_theta, dtype)
    return turned(q, k, cosines, sines)


def turned(
    q: Tensor, k: Tensor, cosines: Tensor, sines: Tensor
) -> tuple[Tensor, Tensor]:
    """Rotate q, which are the last, and k by tables for all positions of k."""
    past = k.shape[1] - q.shape[1]
    return rotate(q, cosines[past:], sines[past:]), rotate(k, cosines, sines)
