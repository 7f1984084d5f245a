"""The selective scan in tiles that stay in the processor's cache, on any device.

The recurrence needs ``exp(delta A)`` for every position, channel and state: 16 times
the size of the input. Here that expansion exists for one tile of positions at a time,
laid out (time, row, state, channel), so that each step of time is one fused
multiply-add over contiguous memory. The backward pass keeps the state at the start of
every tile and computes the tile again.

Both passes are registered as PyTorch operators: ``torch.compile`` calls them instead
of unrolling their loop over time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Numbers in a step and in a tile on a CPU. PyTorch starts its threads from 32768
# numbers on, which costs more than such a step; the two or three buffers of a tile,
# 1 MiB each, fit the second and third level cache.
_CPU_STEP, _CPU_TILE = (1 << 15) - 1, 1 << 18
# Elsewhere a tile only bounds the memory: 256 MiB a buffer.
_GPU_TILE = 1 << 26
# exp below this takes a slow path for subnormal results; it is 2e-35 here.
_LOWEST_EXPONENT = -80.0


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
    if initial_state is None:
        initial_state = u.new_zeros(u.shape[0], *A.shape, dtype=kind)
    if D is None:
        D = u.new_zeros(u.shape[2], dtype=kind)
    y, state, _ = _scan(u, delta, A, B, C, D, initial_state)
    return y, state


class _Tiling(NamedTuple):
    """How many rows of the batch and positions a tile holds."""

    rows: int
    steps: int

    @classmethod
    def of(cls, u: Tensor, states: int) -> _Tiling:
        batch, length, channels = u.shape
        width = max(1, channels * states)
        on_cpu = u.device.type == "cpu"
        step, tile = (_CPU_STEP, _CPU_TILE) if on_cpu else (_GPU_TILE, _GPU_TILE)
        rows = max(1, min(batch, step // width))
        steps = max(8, tile // (rows * width))
        return cls(rows, max(1, min(length, steps)))

    def row_slices(self, batch: int) -> list[slice]:
        starts = range(0, batch, self.rows)
        return [slice(start, min(start + self.rows, batch)) for start in starts]

    def time_slices(self, length: int) -> list[slice]:
        starts = range(0, length, self.steps)
        return [slice(start, min(start + self.steps, length)) for start in starts]


class _Tile(NamedTuple):
    """The inputs of one tile, time first: (time, row, channel or state)."""

    x: Tensor
    dt: Tensor
    B: Tensor
    C: Tensor

    @classmethod
    def cut(cls, inputs: tuple[Tensor, ...], where: tuple[slice, slice]) -> _Tile:
        kind = torch.promote_types(inputs[0].dtype, torch.float32)
        return cls(*(_time_first(tensor[where], kind) for tensor in inputs))

    def expand(self, a: Tensor, state: Tensor, buffers: Tensor) -> list[Tensor]:
        """Shape buffers as (time, row, state, channel); fill decays, then states."""
        shape = (*self.dt.shape[:2], *a.shape)
        size = self.dt[..., 0].numel() * a.numel()
        shaped = [buffer[:size].view(shape) for buffer in buffers]
        decays, states = shaped[:2]
        torch.mul(self.dt.unsqueeze(2), a, out=decays)
        decays.clamp_min_(_LOWEST_EXPONENT).exp_()
        torch.mul((self.dt * self.x).unsqueeze(2), self.B.unsqueeze(3), out=states)
        for decay, step in zip(decays.unbind(0), states.unbind(0), strict=True):
            state = step.addcmul_(state, decay)
        return shaped


def _time_first(tensor: Tensor, kind: torch.dtype) -> Tensor:
    return tensor.transpose(0, 1).to(kind).contiguous()


def _buffers(count: int, a: Tensor, tiling: _Tiling) -> Tensor:
    return a.new_empty(count, tiling.steps * tiling.rows * a.numel())


@torch.library.custom_op("crossdna::selective_scan", mutates_args=())
def _scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output, the final state and the state at the start of each tile."""
    a = A.t().contiguous()
    tiling = _Tiling.of(u, a.shape[0])
    times = tiling.time_slices(u.shape[1])
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    # A copy even where one axis has size 1: it is written to.
    state = initial_state.transpose(1, 2).clone(memory_format=torch.contiguous_format)
    starts = a.new_empty(len(times), *state.shape)
    buffers = _buffers(2, a, tiling)
    with torch.autocast(u.device.type, enabled=False):
        for rows in tiling.row_slices(len(u)):
            for start, time in zip(starts, times, strict=True):
                start[rows] = state[rows]
                tile = _Tile.cut((u, delta, B, C), (rows, time))
                _, states = tile.expand(a, start[rows], buffers)
                out = torch.matmul(tile.C.unsqueeze(2), states).squeeze(2)
                y[rows, time] = out.addcmul_(tile.x, D).transpose(0, 1)
                state[rows] = states[-1]
    return y, state.transpose(1, 2).contiguous(), starts


@_scan.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, channels = u.shape
    tiles = -(-length // _Tiling.of(u, A.shape[1]).steps)
    return (
        torch.empty_like(u, memory_format=torch.contiguous_format),
        torch.empty_like(initial_state, memory_format=torch.contiguous_format),
        A.new_empty(tiles, batch, A.shape[1], channels),
    )


class _TileGradients(NamedTuple):
    x: Tensor
    dt: Tensor
    B: Tensor
    C: Tensor
    a: Tensor
    state: Tensor


def _tile_gradients(
    tile: _Tile, dy: Tensor, a: Tensor, start: Tensor, later: Tensor, buffers: Tensor
) -> _TileGradients:
    """Go back through one tile.

    Parameters
    ----------
    dy : gradient of the tile's output, (time, row, channel)
    start : state before the tile, (row, state, channel)
    later : gradient that flows into the tile's last state from what follows it
    """
    decays, states, grads = tile.expand(a, start, buffers)
    grad_C = torch.matmul(states, dy.unsqueeze(3)).squeeze(3)
    torch.mul(dy.unsqueeze(2), tile.C.unsqueeze(3), out=grads)
    grads[-1].add_(later)
    steps = grads.unbind(0)
    for t in range(len(steps) - 2, -1, -1):
        steps[t].addcmul_(steps[t + 1], decays[t + 1])
    grad_start = grads[0] * decays[0]
    grad_drive = torch.matmul(tile.B.unsqueeze(2), grads).squeeze(2)
    grad_B = torch.matmul(grads, (tile.dt * tile.x).unsqueeze(3)).squeeze(3)
    # From here `grads` is the gradient of the exponents delta A.
    grads.mul_(decays)
    grads[1:].mul_(states[:-1])
    grads[0].mul_(start)
    grad_a = torch.mul(grads, tile.dt.unsqueeze(2), out=decays).sum((0, 1))
    grad_dt = torch.mul(grads, a, out=decays).sum(2).addcmul_(grad_drive, tile.x)
    return _TileGradients(
        grad_drive * tile.dt, grad_dt, grad_B, grad_C, grad_a, grad_start
    )


@torch.library.custom_op("crossdna::selective_scan_backward", mutates_args=())
def _scan_backward(  # noqa: PLR0913
    grad_y: Tensor,
    grad_final: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of u, delta, A, B, C, D and the initial state."""
    a = A.t().contiguous()
    tiling = _Tiling.of(u, a.shape[0])
    times = tiling.time_slices(u.shape[1])
    inputs = (u, delta, B, C)
    grads = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs]
    grad_a, grad_D = torch.zeros_like(a), torch.zeros_like(D)
    carry = grad_final.transpose(1, 2).clone(memory_format=torch.contiguous_format)
    buffers = _buffers(3, a, tiling)
    with torch.autocast(u.device.type, enabled=False):
        for rows in tiling.row_slices(len(u)):
            for index in range(len(times) - 1, -1, -1):
                where = (rows, times[index])
                tile = _Tile.cut(inputs, where)
                dy = _time_first(grad_y[where], a.dtype)
                part = _tile_gradients(
                    tile, dy, a, starts[index, rows], carry[rows], buffers
                )
                part.x.addcmul_(dy, D)
                for grad, value in zip(grads, part[:4], strict=True):
                    grad[where] = value.transpose(0, 1)
                grad_a += part.a
                grad_D += (dy * tile.x).sum((0, 1))
                carry[rows] = part.state
    grad_u, grad_delta, grad_B, grad_C = grads
    grad_A, grad_state = grad_a.t().contiguous(), carry.transpose(1, 2).contiguous()
    return grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_state


@_scan_backward.register_fake
def _(  # noqa: PLR0913
    grad_y: Tensor,
    grad_final: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    like = (u, delta, A, B, C, D, grad_final)
    grads = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in like]
    return tuple(grads)  # type: ignore[return-value]


def _save(
    ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple
) -> None:
    u, delta, A, B, C, D, _ = inputs
    ctx.save_for_backward(u, delta, A, B, C, D, output[2])


def _backward(
    ctx: torch.autograd.function.FunctionCtx,
    grad_y: Tensor | None,
    grad_final: Tensor | None,
    grad_starts: Tensor | None,
) -> tuple[Tensor, ...]:
    u, delta, A, B, C, D, starts = ctx.saved_tensors  # type: ignore[attr-defined]
    if grad_y is None:
        grad_y = torch.zeros_like(u)
    if grad_final is None:
        grad_final = A.new_zeros(len(u), *A.shape)
    return _scan_backward(grad_y, grad_final, u, delta, A, B, C, D, starts)


_scan.register_autograd(_backward, setup_context=_save)
