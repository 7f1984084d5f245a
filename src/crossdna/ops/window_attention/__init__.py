"""Causal sliding-window attention with rotary positions and a cache of keys and values.

Rotary embedding: Su et al., RoFormer (2021), half-split form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import bool as bool_
from torch import cat

from crossdna.errors import CrossDNAError
from crossdna.ops import fusion
from crossdna.ops.dispatch import Backend, always, choose
from crossdna.ops.native import build
from crossdna.ops.window_attention import gpu, native, reference
from crossdna.ops.window_attention import torch as tiled

if TYPE_CHECKING:
    from torch import Tensor


class WindowCache(NamedTuple):
    """The keys and values that later queries may still see.

    Attributes
    ----------
    keys, values : (batch, cached, heads, width), not rotated, at most window - 1
    mask : (batch, cached) bool, False where a key must not be seen; None: all are seen
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None


class WindowAttentionOutput(NamedTuple):
    """What window attention gives.

    Attributes
    ----------
    output : (batch, length, heads, width)
    cache : what the next piece of the sequence needs
    """

    output: Tensor
    cache: WindowCache


def _accepts(*_arguments: object) -> None:
    return None


BACKENDS = (
    Backend("flex", gpu.window_attention, gpu.reject, fusion.unavailable),
    Backend("native", native.window_attention, native.reject, build.unavailable),
    Backend("torch", tiled.window_attention, _accepts, always),
    Backend("reference", reference.window_attention, _accepts, always, automatic=False),
)


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int,
    rope_theta: float,
    cache: WindowCache | None = None,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> WindowAttentionOutput:
    """Attend to the last `window` keys, the query's own included.

    Key j is visible to query i when 0 <= i - j < window. Positions count from the first
    cached key: only their differences matter, so they need not grow with a stream.

    Parameters
    ----------
    q, k, v : (batch, length, heads, width), before rotary
    window : visible keys, at least 1
    rope_theta : base of the rotary frequencies
    cache : keys and values from before this piece
    mask : (batch, length) bool; a key at False is seen by no other query, and a query
        at False sees only its own key. q, k, v must be finite there too
    backend : "auto" or one of `BACKENDS`

    Returns
    -------
    WindowAttentionOutput
        Time and memory are linear in the length.

    Raises
    ------
    CrossDNAError
        Shapes or a window that make no sense.
    BackendUnavailableError
        The named backend cannot run this call.
    """
    _check(q, k, v, window, cache, mask)
    if cache is None:
        cache = WindowCache(k[:, :0], v[:, :0], None)
    past_keys, past_values = cache.keys.to(k.dtype), cache.values.to(v.dtype)
    visible = _joined_mask(cache, k, mask)
    arguments = (q, k, v, past_keys, past_values, visible, window, rope_theta)
    chosen = choose("window_attention", BACKENDS, backend, arguments)
    output = chosen.kernel(*arguments)
    kept = WindowCache(
        _last(past_keys, k, window - 1),
        _last(past_values, v, window - 1),
        None if visible is None else _last(visible[:, :0], visible, window - 1),
    )
    return WindowAttentionOutput(output, kept)


def _joined_mask(cache: WindowCache, k: Tensor, mask: Tensor | None) -> Tensor | None:
    if cache.mask is None and mask is None:
        return None
    old, new = cache.mask, mask
    if old is None:
        old = k.new_ones(cache.keys.shape[:2], dtype=bool_)
    if new is None:
        new = k.new_ones(k.shape[:2], dtype=bool_)
    return cat([old.bool(), new.bool()], 1)


def _last(past: Tensor, new: Tensor, count: int) -> Tensor:
    """Give the last `count` of past and new, or all if there are fewer.

    A copy: a view would keep the whole piece alive between two calls.
    """
    length = new.shape[1]
    if length >= count:
        return new[:, length - count :].clone()
    return cat([past[:, max(0, past.shape[1] + length - count) :], new], 1)


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    cache: WindowCache | None,
    mask: Tensor | None,
) -> None:
    if q.ndim != 4 or q.shape != k.shape or q.shape != v.shape:
        raise CrossDNAError(
            "window_attention: q, k, v must share one shape (batch, length, heads, "
            f"width), not {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        )
    if q.shape[1] == 0 or q.shape[-1] % 2:
        raise CrossDNAError(
            "window_attention: needs at least one token and an even width, got "
            f"{tuple(q.shape)}"
        )
    if window < 1:
        raise CrossDNAError(
            f"window_attention: window must be at least 1, got {window}"
        )
    if mask is not None and mask.shape != q.shape[:2]:
        raise CrossDNAError(
            f"window_attention: mask must be {tuple(q.shape[:2])}, not "
            f"{tuple(mask.shape)}"
        )
    if cache is not None and (
        cache.keys.shape[::2] != q.shape[::2]
        or cache.keys.shape[-1] != q.shape[-1]
        or cache.keys.shape != cache.values.shape
        or (cache.mask is not None and cache.mask.shape != cache.keys.shape[:2])
        or cache.keys.shape[1] >= window
    ):
        raise CrossDNAError(
            f"window_attention: a cache of shape {tuple(cache.keys.shape)} does not "
            f"fit tokens of shape {tuple(q.shape)} and a window of {window}"
        )
