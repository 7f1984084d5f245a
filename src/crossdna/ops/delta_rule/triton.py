"""The delta rule on GPUs through this package's own kernels (kernels.py).

They need nothing but the Triton that torch brings along, are compiled in a few seconds
without trying configurations, and work for training on Hopper with every Triton.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from crossdna.ops import fusion
from crossdna.ops.delta_rule import torch as chunked
from crossdna.ops.delta_rule.fla import kernel_dtype, trains
from crossdna.ops.delta_rule.reference import EPSILON, normalise
from crossdna.ops.dispatch import probe
from crossdna.ops.fusion import fused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

logger = logging.getLogger(__name__)

CHUNK = 64
MOST = {2: 128, 4: 64}
"""Keys or values a head that shared memory holds, by the bytes of a number."""
# Programs that keep a GPU busy: a state is split by columns where there are fewer, and
# sequences into segments of at least so many chunks where there are far fewer.
PROGRAMS = 256
SEGMENT = 64
PIECES = 8
SMALL_HEADS = 2
"""Of the problem that kernels are tried on."""
DTYPES = {torch.float32, torch.float16, torch.bfloat16}
SOLVE = RUN = {"num_warps": 4, "num_stages": 2}
GRADIENTS = {"num_warps": 4, "num_stages": 1}


def delta_rule(*operands: Tensor) -> tuple[Tensor, Tensor]:
    """Run the kernels; operands as in `crossdna.ops.delta_rule.delta_rule`."""
    dtype = kernel_dtype(operands[2])
    with torch.autocast(operands[2].device.type, enabled=False):
        # As one kernel: a dozen would move several times its bytes.
        *prepared, start = fused(kernel_operands)(*operands, dtype)
        batch, length, heads, keys = operands[1].shape
        rule = Rule(prepared, keys**-0.5, trains(operands))
        count = segments(batch * heads, length // CHUNK)
        if count == 1:
            return rule.run(start)
        return rule.run_in_segments(start, count)


def kernel_operands(  # noqa: PLR0913 - the operator has these operands
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    feedback: Tensor,
    correction: Tensor,
    initial_state: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, ...]:
    """Give the kernels' q, k, v, g, beta, erase and the state at the start.

    q and k are normalised in float32 and then rounded to `dtype`. The feedback key is
    a multiple of the normalised k, which `erase` has beside beta.
    """
    q32, k32, feedback = q.float(), k.float(), feedback.float()
    q32 = q32 - (correction * feedback)[..., None] * k32
    squares = k32.square().sum(-1)
    feedback = feedback * torch.rsqrt(feedback.square() * squares + EPSILON)
    erase = beta.float() * feedback * torch.sqrt(squares + EPSILON)
    return (
        normalise(q32).to(dtype),
        normalise(k32).to(dtype),
        v.to(dtype),
        log_decay.float(),
        beta.float(),
        erase,
        initial_state.float(),
    )


def segments(sequences: int, chunks: int) -> int:
    """Say into how many pieces to cut sequences, side by side on the GPU; 1: none.

    A state passes from chunk to chunk: a few long sequences keep few programs busy. In
    pieces they are read three times, which as many programs do in less than a third of
    the time.
    """
    count = min(PROGRAMS // sequences, chunks // SEGMENT)
    return count if count >= PIECES else 1


class Rule:
    """Prepared operands (batch, length, heads, ...) and their chunks' inverses."""

    def __init__(
        self,
        operands: Sequence[Tensor],
        scale: float,
        keep: bool,
        inverse: Tensor | None = None,
    ) -> None:
        self.operands, self.scale, self.keep = operands, scale, keep
        if inverse is None:
            # The backward pass of `_chunks` differentiates the inverses too.
            _, k, _, g, _, erase = (x.detach() for x in operands)
            inverse = _inverses(k, g, erase)
        self.inverse = inverse

    def run(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Give output (batch, length, heads, values) and the state at the end."""
        found = _chunks(*self.operands, self.inverse, start, self.scale, self.keep)
        return found[0], found[1]

    def run_in_segments(self, start: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Do the same, with `count` pieces of each sequence read at once.

        A piece makes of a state S the state M S + N. N is where a state of zeros ends;
        M is where the identity ends while nothing is written.
        """
        batch, length, heads, keys = self.operands[1].shape
        size = length // CHUNK // count * CHUNK
        pieces = self._changed(
            lambda x: x[:, : count * size].reshape(batch * count, size, *x.shape[2:])
        )
        shape = (batch * count, heads, keys)
        identity = torch.eye(keys, dtype=start.dtype, device=start.device)
        empty = pieces._writing_nothing()
        transition = empty.run(identity.expand(*shape, keys))[1].unflatten(
            0, (batch, count)
        )
        nothing = start.new_zeros(*shape, start.shape[-1])
        written = pieces.run(nothing)[1].unflatten(0, (batch, count))
        states = [start]
        for i in range(count - 1):
            states.append(transition[:, i] @ states[-1] + written[:, i])
        output, ends = pieces.run(torch.stack(states, 1).flatten(0, 1))
        output = output.reshape(batch, count * size, *output.shape[2:])
        end = ends.unflatten(0, (batch, count))[:, -1]
        if count * size == length:
            return output, end
        rest, end = self._changed(lambda x: x[:, count * size :]).run(end)
        return torch.cat([output, rest], 1), end

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Rule:
        operands = [change(x) for x in self.operands]
        return Rule(operands, self.scale, self.keep, change(self.inverse))

    def _writing_nothing(self) -> Rule:
        q, k, v, *others = self.operands
        nothing = v.new_zeros(k.shape)
        operands = (q, k, nothing, *others)
        return Rule(operands, self.scale, self.keep, self.inverse)


@torch.library.custom_op("crossdna::delta_rule_inverses", mutates_args=())
def _inverses(k: Tensor, g: Tensor, erase: Tensor) -> Tensor:
    """Give each chunk's triangular inverse, (batch, length, heads, CHUNK)."""
    from crossdna.ops.delta_rule import kernels

    k, g, erase = (x.contiguous() for x in (k, g, erase))
    inverse = _empty_inverses(k)
    sizes = Sizes(k, k)
    # Triton launches on the current device.
    with torch.cuda.device_of(k):
        kernels.solve[sizes.sequences, sizes.chunks](
            k, g, erase, inverse, *sizes.lengths[:3], **sizes.solve, **SOLVE
        )
    return inverse


@_inverses.register_fake
def _(k: Tensor, g: Tensor, erase: Tensor) -> Tensor:
    return _empty_inverses(k)


def _empty_inverses(k: Tensor) -> Tensor:
    return k.new_empty((*k.shape[:3], CHUNK))


@torch.library.custom_op("crossdna::delta_rule_chunks", mutates_args=())
def _chunks(  # noqa: PLR0913 - the operator has these operands
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    erase: Tensor,
    inverse: Tensor,
    start: Tensor,
    scale: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give output, end, and for the backward pass states and u."""
    from crossdna.ops.delta_rule import kernels

    q, k, g, beta, erase, inverse, start = (
        x.contiguous() for x in (q, k, g, beta, erase, inverse, start)
    )
    v, v_heads = _beside_others(v)
    sizes = Sizes(k, v)
    output, end, states, written = _empty(q, v, start, keep)
    # Triton launches on the current device.
    with torch.cuda.device_of(k):
        kernels.run[sizes.sequences, sizes.columns](
            *(q, k, v, g, beta, erase, inverse, start, output, end, states, written),
            scale,
            *sizes.lengths,
            v_heads,
            **sizes.run,
            KEEP=keep,
            **RUN,
        )
    return output, end, states, written


@_chunks.register_fake
def _(  # noqa: PLR0913 - the operator has these operands
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    erase: Tensor,
    inverse: Tensor,
    start: Tensor,
    scale: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty(q, v, start, keep)


def _beside_others(v: Tensor) -> tuple[Tensor, int]:
    """Give v (batch, length, heads, values) and how many vectors a token's row holds.

    Cut out of a projection's rows, v has q's and k's beside it: it is read where it
    lies, not copied.
    """
    _, length, heads, width = v.shape
    row = v.stride(1)
    if v.stride()[2:] == (width, 1) and v.stride(0) == length * row and not row % width:
        return v, row // width
    return v.contiguous(), heads


def _empty(
    q: Tensor, v: Tensor, start: Tensor, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, length, heads, values = v.shape
    chunks = -(-length // CHUNK)
    states = (batch, heads, chunks, q.shape[-1], values) if keep else (0,)
    return (
        v.new_empty(v.shape),
        start.new_empty(start.shape),
        q.new_empty(states),
        v.new_empty(v.shape if keep else (0,)),
    )


@torch.library.custom_op("crossdna::delta_rule_chunks_backward", mutates_args=())
def _backward(  # noqa: PLR0913 - the operator has these operands
    d_output: Tensor,
    d_end: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    erase: Tensor,
    inverse: Tensor,
    states: Tensor,
    written: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Give the gradients of q, k, v, g, beta, erase and of the state at the start."""
    from crossdna.ops.delta_rule import kernels

    d_output, d_end = d_output.to(q.dtype).contiguous(), d_end.float().contiguous()
    q, k, g, beta, erase, inverse = (
        x.contiguous() for x in (q, k, g, beta, erase, inverse)
    )
    v, v_heads = _beside_others(v)
    sizes = Sizes(k, v)
    d_start, d_states, d_solved = (
        torch.empty_like(x) for x in (d_end, states, written)
    )
    dq, dk, dv, dg, dbeta, derase = (
        x.new_empty(x.shape) for x in (q, k, v, g, beta, erase)
    )
    # Triton launches on the current device.
    with torch.cuda.device_of(k):
        kernels.run_backward[sizes.sequences, sizes.columns](
            *(q, k, g, erase, inverse, d_output, d_end, d_start, d_states, d_solved),
            scale,
            *sizes.lengths,
            **sizes.run,
            **RUN,
        )
        kernels.gradients[sizes.sequences, sizes.chunks](
            *(q, k, v, g, beta, erase, written, states, d_output, d_states, d_solved),
            *(dq, dk, dv, dg, dbeta, derase),
            scale,
            *sizes.lengths,
            v_heads,
            **sizes.gradients,
            **GRADIENTS,
        )
    return dq, dk, dv, dg, dbeta, derase, d_start


@_backward.register_fake
def _(  # noqa: PLR0913 - the operator has these operands
    d_output: Tensor,
    d_end: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    erase: Tensor,
    inverse: Tensor,
    states: Tensor,
    written: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    q, k, v, g, beta, erase, end = (
        x.new_empty(x.shape) for x in (q, k, v, g, beta, erase, d_end)
    )
    return q, k, v, g, beta, erase, end.float()


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *operands, _start, ctx.scale, _keep = inputs
    ctx.save_for_backward(*operands, *output[2:])
    # Nobody differentiates states and u, which are as large as everything else.
    ctx.set_materialize_grads(False)
    ctx.shapes = [x.shape for x in output[:2]]


def _differentiate(
    ctx: Any, d_output: Tensor | None, d_end: Tensor | None, *_: Any
) -> Any:
    q, erase = ctx.saved_tensors[0], ctx.saved_tensors[5]
    if d_output is None:
        d_output = q.new_zeros(ctx.shapes[0])
    if d_end is None:
        d_end = erase.new_zeros(ctx.shapes[1])
    *found, d_start = _backward(d_output, d_end, *ctx.saved_tensors, ctx.scale)
    return (*found, None, d_start, None, None)


_chunks.register_autograd(_differentiate, setup_context=_setup)


class Sizes:
    """What the kernels are told of operands k (batch, length, heads, keys) and v.

    Sequences and heads are the first axis of a grid, the only one that may be longer
    than 65,535.
    """

    def __init__(self, k: Tensor, v: Tensor) -> None:
        batch, length, heads, keys = k.shape
        self.lengths = (length, heads, keys, v.shape[-1])
        self.sequences = batch * heads
        self.chunks = -(-length // CHUNK)
        # Three products of rounded halves are as good as float32, and far faster.
        precision = "tf32x3" if k.dtype == torch.float32 else "tf32"
        shared = {"CHUNK": CHUNK, "KEYS": _block(keys), "PRECISION": precision}
        values = _block(v.shape[-1])
        columns = columns_at_once(self.sequences, values)
        self.columns = -(-v.shape[-1] // columns)
        self.solve: dict[str, Any] = shared
        self.run: dict[str, Any] = shared | {"VALUES": columns}
        self.gradients: dict[str, Any] = shared | {"VALUES": values}


def columns_at_once(sequences: int, values: int) -> int:
    """Say how many of a state's columns a program has, a power of two."""
    columns = values
    while columns > 16 and sequences * values // columns < PROGRAMS:
        columns //= 2
    return columns


def _block(width: int) -> int:
    """The power of two that holds it; products want 16."""
    return max(16, 1 << (width - 1).bit_length())


def reject(q: Tensor, k: Tensor, v: Tensor, *others: Any) -> str | None:
    """Say why these operands cannot run on the kernels, or None."""
    if k.device.type != "cuda":
        return f"needs CUDA tensors, got {k.device.type}"
    if not {q.dtype, k.dtype, v.dtype} <= DTYPES:
        return f"{v.dtype} is not supported by the kernels"
    keys, values = k.shape[-1], v.shape[-1]
    most = MOST[kernel_dtype(v).itemsize]
    if max(keys, values) > most:
        return f"the kernels take at most {most} keys or values a head"
    missing = fusion.unavailable()
    if missing is not None:
        return missing
    training = trains((q, k, v, *others))
    batch, length, heads, _ = k.shape
    count = segments(batch * heads, length // CHUNK)
    for sequences in {batch * heads, batch * heads * count}:
        columns = columns_at_once(sequences, _block(values))
        wrong = miscomputed(kernel_dtype(v), keys, values, training, columns)
        if wrong is not None:
            return wrong
    return None


@probe
def miscomputed(
    dtype: torch.dtype, keys: int, values: int, training: bool, columns: int
) -> str | None:
    """Say how wrong the compiled kernels are on this machine, or None.

    Triton 3.4 to 3.7 miscompiled products like these on Hopper GPUs, without an error:
    before the first call of a kind a small one is compared with PyTorch's operations.
    With so many columns of a state at once: for each number other code is compiled.
    """
    return _miscomputed(dtype, keys, values, training, columns)


@contextlib.contextmanager
def _programs(count: int) -> Iterator[None]:
    """Let as many programs be enough; what runs meanwhile is split otherwise, too."""
    global PROGRAMS
    before, PROGRAMS = PROGRAMS, count
    try:
        yield
    finally:
        PROGRAMS = before


@functools.cache
def _miscomputed(
    dtype: torch.dtype,
    keys: int,
    values: int,
    training: bool,
    columns: int,
    device: str = "cuda",
) -> str | None:
    with (
        _disable_current_modes(),
        torch.inference_mode(False),
        torch.autocast(device, enabled=False),
        torch.set_grad_enabled(training),
        _programs(SMALL_HEADS * _block(values) // columns),
    ):
        found, expected = (
            _small_problem(rule, dtype, keys, values, training, device)
            for rule in (delta_rule, chunked.delta_rule)
        )
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    for one, other in zip(found, expected, strict=True):
        error = float((one - other).norm() / other.norm())
        if not error < tolerance:
            reason = (
                f"compiled for this device the kernels are wrong by {error:.2g} in "
                f"{dtype}: another version of triton may help"
            )
            logger.warning("delta_rule: %s; another backend computes it", reason)
            return reason
    return None


def _small_problem(
    rule: Any,
    dtype: torch.dtype,
    keys: int,
    values: int,
    training: bool,
    device: str,
) -> list[Tensor]:
    """Output, state and, for training, gradients of two chunks and a half."""
    chance = torch.Generator().manual_seed(0)
    heads, tokens = SMALL_HEADS, (1, 2 * CHUNK + CHUNK // 2, SMALL_HEADS)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=chance)

    vectors = [draw(*tokens, width).to(dtype) for width in (keys, keys, values)]
    scalars = [
        -draw(*tokens).abs() / 8,
        draw(*tokens).sigmoid(),
        draw(heads).sigmoid(),
        draw(heads) / 8,
        draw(1, heads, keys, values),
    ]
    operands = [x.to(device).requires_grad_(training) for x in (*vectors, *scalars)]
    # Of the parameters' gradients next to nothing is left when errors cancel.
    of = [*operands[:5], operands[-1]]
    output, state = rule(*operands)
    results = [output, state]
    if training:
        loss = (output.float() * draw(*output.shape).to(device)).sum()
        loss = loss + (state * draw(*state.shape).to(device)).sum()
        results += torch.autograd.grad(loss, of)
    return [x.detach().float() for x in results]
