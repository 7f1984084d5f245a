"""Window attention through PyTorch's flex_attention, compiled, on CUDA devices."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crossdna.ops import fusion
from crossdna.ops.fusion import fused
from crossdna.ops.window_attention import reference
from crossdna.ops.window_attention.torch import joined, turned

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = 128
# Visible blocks are listed in a (query blocks, key blocks) table: beyond this many
# keys tiles of fused attention take less memory.
MAX_KEYS = 2**18


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
    from torch.nn.attention.flex_attention import flex_attention

    k, v = joined(k, v, past_keys, past_values)
    q, k = rotated(q, k, rope_theta)
    return attend(fused(flex_attention), q, k, v, visible, window)


def rotated(q: Tensor, k: Tensor, theta: float) -> tuple[Tensor, Tensor]:
    """Turn q and k by their rotary angles; q stands at the last positions of k."""
    # Nothing flows back to where the angles' device and width came from.
    cosines, sines = rotary_table(k.detach(), k.shape[1], theta)
    return fused(turned)(q, k, cosines, sines)


@torch.library.custom_op("crossdna::rotary_table", mutates_args=())
def rotary_table(x: Tensor, length: int, theta: float) -> tuple[Tensor, Tensor]:
    """Give cosines and sines (length, width / 2) float32 for the vectors of `x`.

    An operator of its own: fused with what it turns, the compiler would compute the
    float64 angles anew for every sequence and head.
    """
    positions = torch.arange(length, device=x.device)
    return reference.rotary_table(positions, x.shape[-1], theta, torch.float32)


@rotary_table.register_fake
def _(x: Tensor, length: int, theta: float) -> tuple[Tensor, Tensor]:
    shape = (length, x.shape[-1] // 2)
    return x.new_empty(shape, dtype=torch.float32), x.new_empty(
        shape, dtype=torch.float32
    )


def attend(
    kernel: Callable[..., Any],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor | None,
    window: int,
) -> Tensor:
    """Call `kernel` (flex_attention, compiled or not) with this window's block mask.

    q and k are rotated; k and v start with what was cached.
    """
    offset = k.shape[1] - q.shape[1]
    geometry = (q.shape[1], offset, window)
    if visible is None and type(q) is Tensor and not torch.compiler.is_compiling():
        mask = _kept_block_mask(*geometry, q.device)
    else:
        mask = block_mask(*geometry, visible, q.device)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v.to(q.dtype)))
    return kernel(q, k, v, block_mask=mask).transpose(1, 2)


@functools.lru_cache(maxsize=16)
def _kept_block_mask(
    length: int, offset: int, window: int, device: torch.device
) -> Any:
    """Build it once: all layers of a network ask for the same."""
    with torch.inference_mode(False):
        return block_mask(length, offset, window, None, device)


def block_mask(
    length: int, offset: int, window: int, visible: Tensor | None, device: torch.device
) -> Any:
    """Build flex_attention's BlockMask from the geometry, never from a dense mask."""
    from torch.nn.attention.flex_attention import BlockMask

    def seen(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = query + offset - key
        return (distance >= 0) & (distance < window)

    def seen_unpadded(
        batch: Tensor, head: Tensor, query: Tensor, key: Tensor
    ) -> Tensor:
        both = visible[batch, query + offset] & visible[batch, key]  # type: ignore[index]
        return (seen(batch, head, query, key) & both) | (query + offset == key)

    total = offset + length
    first = torch.arange(0, length, BLOCK, device=device) + offset
    last = (first + BLOCK).clamp(max=total) - 1
    low = (first - window + 1).clamp(min=0) // BLOCK
    count = last // BLOCK - low + 1
    columns = torch.arange(-(-total // BLOCK), device=device)
    # Visible blocks first, then the others in any order: only `count` are read.
    indices = (low[:, None] + columns) % columns.numel()
    return BlockMask.from_kv_blocks(
        count.to(torch.int32)[None, None],
        indices.to(torch.int32)[None, None],
        BLOCK_SIZE=BLOCK,
        mask_mod=seen if visible is None else seen_unpadded,
        seq_lengths=(length, total),
    )


def reject(
    q: Tensor,
    k: Tensor,
    _v: Tensor,
    past_keys: Tensor,
    *_others: Any,
) -> str | None:
    """Say why this call cannot run on flex_attention, or None."""
    if q.device.type != "cuda":
        return f"needs CUDA tensors, got {q.device.type}"
    if q.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"{q.dtype} is not supported by the kernels"
    if q.shape[-1] < 16:
        return f"needs heads of at least 16, got {q.shape[-1]}"
    if past_keys.shape[1] + k.shape[1] > MAX_KEYS:
        return f"more than {MAX_KEYS} keys in one call"
    return fusion.unavailable()
