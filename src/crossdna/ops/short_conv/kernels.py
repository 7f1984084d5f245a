# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, PLR0913 - Triton's language, not Python's
"""The short convolutions as Triton kernels.

With n and i counting in steps of the dilation, x zero (or the tail) outside,
BEFORE + 1 + AFTER = WIDTH taps w and g the gradient of what comes before SiLU:

    y[n]  = SiLU(sum over j of w[j] x[n - BEFORE + j])
    dx[i] = sum over j of w[j] g[i + BEFORE - j]
    dw[j] = sum over i of x[i] g[i + BEFORE - j]

A strip is a stretch of one sequence whose positions lie the dilation apart. A program
walks along STRIPS of them at once, for CHANNELS channels, with the last WIDTH rows in
registers: each row is read and widened once, and the sums of dw stay in registers. The
rows around a strip, its neighbours', are read again.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Compiled once for all lengths, batches and dilations.
SIZES = ("batch", "length", "dilation", "steps", "segments")


@triton.jit
def _program(channels, CHANNELS: tl.constexpr):
    """Where the program is along the strips, and along the channels."""
    blocks = tl.cdiv(channels, CHANNELS)
    return tl.program_id(0) // blocks, tl.program_id(0) % blocks


@triton.jit
def _place(
    batch,
    length,
    channels,
    dilation,
    steps,
    segments,
    WIDTH: tl.constexpr,
    STRIPS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Sequences (STRIPS, 1), first positions (STRIPS, 1), channels (1, CHANNELS)."""
    part, block = _program(channels, CHANNELS)
    strip = part * STRIPS + tl.arange(0, STRIPS)[:, None]
    channel = block * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    segment = strip // dilation
    sequence = segment // segments
    first = segment % segments * steps * dilation + strip % dilation
    # A strip of no sequence begins so late that none of its rows exists.
    first = tl.where(sequence < batch, first, length + WIDTH * dilation)
    return sequence.to(tl.int64), first, channel


@triton.jit
def _load(base, position, stride, present):
    """Rows (STRIPS, CHANNELS) in float32; 0 where not present."""
    at = base + position.to(tl.int64) * stride
    return tl.load(at, mask=present, other=0.0).to(tl.float32)


@triton.jit
def _load_inside(base, position, stride, length, exists):
    present = (position >= 0) & (position < length) & exists
    return _load(base, position, stride, present)


@triton.jit
def _load_early(
    base, ending, position, stride, length, channels, exists, HAS_TAIL: tl.constexpr
):
    """Rows at the beginning of a strip, where the tail is in reach.

    `ending` points behind the last row of the tail.
    """
    row = _load_inside(base, position, stride, length, exists)
    if HAS_TAIL:
        row += _load(ending, position, channels, (position < 0) & exists)
    return row


@triton.jit
def _taps(weight, channel, channels, WIDTH: tl.constexpr):
    """WIDTH rows (1, CHANNELS) of the weight (channels, WIDTH)."""
    taps = ()
    for j in tl.static_range(WIDTH):
        at = weight + channel * WIDTH + j
        taps += (tl.load(at, mask=channel < channels, other=0.0).to(tl.float32),)
    return taps


@triton.jit
def _convolve(taps, rows, START: tl.constexpr, WIDTH: tl.constexpr):
    """Sum of taps[j] rows[START + j]."""
    total = taps[0] * rows[START]
    for j in tl.static_range(1, WIDTH):
        total += taps[j] * rows[START + j]
    return total


@triton.jit
def _correlate(taps, rows, WIDTH: tl.constexpr):
    """Sum of taps[j] rows[WIDTH - 1 - j]: the taps reversed."""
    total = taps[0] * rows[WIDTH - 1]
    for j in tl.static_range(1, WIDTH):
        total += taps[j] * rows[WIDTH - 1 - j]
    return total


@triton.jit
def _add_products(sums, x, gradients, WIDTH: tl.constexpr):
    """Add to the taps' sums what a row of x contributes with the gradients it meets."""
    new = ()
    for j in tl.static_range(WIDTH):
        new += (sums[j] + x * gradients[WIDTH - 1 - j],)
    return new


@triton.jit
def _before_silu(dy, taps, rows, START: tl.constexpr, WIDTH: tl.constexpr):
    """The gradient of a SiLU's argument, computed anew, from that of its result."""
    a = _convolve(taps, rows, START, WIDTH)
    gate = 1.0 / (1.0 + tl.exp(-a))
    return dy * gate * (1.0 + a * (1.0 - gate))


@triton.jit(do_not_specialize=SIZES)
def forward(
    x,
    weight,
    tail,
    y,
    x_batch,
    x_length,
    batch,
    length,
    channels,
    dilation,
    steps,
    segments,
    WIDTH: tl.constexpr,
    BEFORE: tl.constexpr,
    SILU: tl.constexpr,
    HAS_TAIL: tl.constexpr,
    STRIPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Give y (batch, length, channels); x has strides x_batch, x_length, 1."""
    sequence, first, channel = _place(
        batch, length, channels, dilation, steps, segments, WIDTH, STRIPS, CHANNELS
    )
    exists = channel < channels
    x += sequence * x_batch + channel
    y += sequence * length * channels + channel
    ending = tail + (sequence + 1) * BEFORE * channels + channel
    taps = _taps(weight, channel, channels, WIDTH)
    window = ()
    for i in tl.static_range(WIDTH - 1):
        at = first + (i - BEFORE) * dilation
        window += (
            _load_early(x, ending, at, x_length, length, channels, exists, HAS_TAIL),
        )
    for step in range(0, steps, ROWS):
        # All loads come first: none may pass a store, which could be to its memory.
        rows = window
        for i in tl.static_range(ROWS):
            at = first + (step + i + WIDTH - 1 - BEFORE) * dilation
            rows += (_load_inside(x, at, x_length, length, exists),)
        for i in tl.static_range(ROWS):
            total = _convolve(taps, rows, i, WIDTH)
            if SILU:
                total = total / (1.0 + tl.exp(-total))
            at = first + (step + i) * dilation
            to = y + at.to(tl.int64) * channels
            tl.store(to, total.to(y.dtype.element_ty), mask=(at < length) & exists)
        window = rows[ROWS:]


@triton.jit(do_not_specialize=SIZES)
def backward(
    x,
    weight,
    tail,
    dy,
    dx,
    d_tail,
    d_weight,
    x_batch,
    x_length,
    dy_batch,
    dy_length,
    batch,
    length,
    channels,
    dilation,
    steps,
    segments,
    WIDTH: tl.constexpr,
    BEFORE: tl.constexpr,
    SILU: tl.constexpr,
    HAS_TAIL: tl.constexpr,
    STRIPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Give dx, d_tail and this program's part of d_weight.

    dx (batch, length, channels) and d_tail (batch, BEFORE, channels) in x's dtype;
    d_weight (programs along the strips, WIDTH, channels) float32; x and dy have
    strides along batch and length.
    """
    sequence, first, channel = _place(
        batch, length, channels, dilation, steps, segments, WIDTH, STRIPS, CHANNELS
    )
    exists = channel < channels
    x += sequence * x_batch + channel
    dy += sequence * dy_batch + channel
    dx += sequence * length * channels + channel
    ending = tail + (sequence + 1) * BEFORE * channels + channel
    d_ending = d_tail + (sequence + 1) * BEFORE * channels + channel
    taps = _taps(weight, channel, channels, WIDTH)
    # SiLU's argument is computed anew from WIDTH rows; without it, one row of x at a
    # time is enough.
    HELD: tl.constexpr = WIDTH if SILU else 1
    zeros = tl.zeros((STRIPS, CHANNELS), tl.float32)
    sums = ()
    for _ in tl.static_range(WIDTH):
        sums += (zeros,)
    inputs = ()
    for i in tl.static_range(HELD - 1):
        at = first + (i + 1 - WIDTH) * dilation
        inputs += (
            _load_early(x, ending, at, x_length, length, channels, exists, HAS_TAIL),
        )
    gradients = ()
    for _ in tl.static_range(WIDTH - 1):
        gradients += (zeros,)

    # Up to the strip's first row: fill both windows, and give what concerns the tail.
    # Not unrolled: compiling would take minutes with many taps.
    for step in range(1 - WIDTH, 0):
        at = first + (step + HELD - 1) * dilation
        inputs += (
            _load_early(x, ending, at, x_length, length, channels, exists, HAS_TAIL),
        )
        at = first + (step + BEFORE) * dilation
        g = _load_inside(dy, at, dy_length, length, exists)
        if SILU:
            g = _before_silu(g, taps, inputs, 0, WIDTH)
        gradients += (g,)
        if HAS_TAIL:
            at = first + step
            to = d_ending + at.to(tl.int64) * channels
            total = _correlate(taps, gradients, WIDTH)
            in_tail = at < 0
            tl.store(to, total.to(dx.dtype.element_ty), mask=in_tail & exists)
            own = tl.where(in_tail, inputs[0], 0.0)
            sums = _add_products(sums, own, gradients, WIDTH)
        gradients = gradients[1:]
        inputs = inputs[1:]

    for step in range(0, steps, ROWS):
        rows = inputs
        fresh = ()
        for i in tl.static_range(ROWS):
            at = first + (step + i + HELD - 1) * dilation
            rows += (_load_inside(x, at, x_length, length, exists),)
            at = first + (step + i + BEFORE) * dilation
            fresh += (_load_inside(dy, at, dy_length, length, exists),)
        for i in tl.static_range(ROWS):
            g = fresh[i]
            if SILU:
                g = _before_silu(g, taps, rows, i, WIDTH)
            gradients += (g,)
            total = _correlate(taps, gradients, WIDTH)
            at = first + (step + i) * dilation
            to = dx + at.to(tl.int64) * channels
            tl.store(to, total.to(dx.dtype.element_ty), mask=(at < length) & exists)
            sums = _add_products(sums, rows[i], gradients, WIDTH)
            gradients = gradients[1:]
        inputs = rows[ROWS:]

    part, block = _program(channels, CHANNELS)
    column = block * CHANNELS + tl.arange(0, CHANNELS)
    for j in tl.static_range(WIDTH):
        to = d_weight + (part.to(tl.int64) * WIDTH + j) * channels + column
        tl.store(to, tl.sum(sums[j], 0), mask=column < channels)
