# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, PLR0913 - Triton's language, not Python's
"""The delta rule in chunks of tokens, as Triton kernels.

Within a chunk, with G the sum of log decays up to a token and G' the same without its
own, S the state at the chunk's beginning, and s < t two tokens:

    (I + A) u = r,  A[t, s] = erase[t] exp(G'[t] - G[s]) (k[t] . k[s])
                    r[t]    = beta[t] v[t] - erase[t] exp(G'[t]) k[t] S
    o[t] = scale (exp(G[t]) q[t] S
                  + sum over s <= t of exp(G[t] - G[s]) (q[t] . k[s]) u[s])
    S at the end = exp(G[last]) S + sum over s of exp(G[last] - G[s]) k[s] u[s]^T

`solve` inverts I + A for all chunks at once, `run` passes the state from chunk to
chunk; `run_backward` passes its gradient back, and `gradients` has those of the
operands for all chunks at once. Yang et al., Gated delta networks (2025); the feedback
key of Comba (2025) is a multiple of k, so that `erase` holds it beside beta. Sums are
float32; products read the operands' dtype.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Compiled once for all lengths.
SIZES = ("length",)


@triton.jit
def _tokens(sequence, chunk, length, heads, row, CHUNK: tl.constexpr):
    """Numbers of a chunk's tokens in (batch, length, row), and which exist.

    `row` is `heads`, or more where a token has other vectors beside them.
    """
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    first = (sequence // heads).to(tl.int64) * length
    return (first + token) * row + sequence % heads, token < length


@triton.jit
def _rows(x, at, present, width, first, WIDTH: tl.constexpr):
    """Pointers to WIDTH columns of the tokens' rows, and which there are."""
    column = first + tl.arange(0, WIDTH)
    return x + at[:, None] * width + column, present[:, None] & (column < width)


@triton.jit
def _load_rows(x, at, present, width, first, WIDTH: tl.constexpr):
    pointers, mask = _rows(x, at, present, width, first, WIDTH)
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def _store_rows(x, rows, at, present, width, first, WIDTH: tl.constexpr):
    pointers, mask = _rows(x, at, present, width, first, WIDTH)
    tl.store(pointers, rows.to(x.dtype.element_ty), mask=mask)


@triton.jit
def _state(x, number, keys, values, first, KEYS: tl.constexpr, VALUES: tl.constexpr):
    """Pointers to VALUES columns of a state, and which there are."""
    key = tl.arange(0, KEYS)[:, None]
    value = first + tl.arange(0, VALUES)
    pointers = x + number.to(tl.int64) * keys * values + key * values + value
    return pointers, (key < keys) & (value < values)


@triton.jit
def _load_state(
    x, number, keys, values, first, KEYS: tl.constexpr, VALUES: tl.constexpr
):
    pointers, mask = _state(x, number, keys, values, first, KEYS, VALUES)
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def _store_state(
    x, S, number, keys, values, first, KEYS: tl.constexpr, VALUES: tl.constexpr
):
    pointers, mask = _state(x, number, keys, values, first, KEYS, VALUES)
    tl.store(pointers, S.to(x.dtype.element_ty), mask=mask)


@triton.jit
def _decays(later, earlier, kept):
    """exp(later[t] - earlier[s]) where kept[t, s], else 0."""
    difference = later[:, None] - earlier[None, :]
    return tl.exp(tl.where(kept, difference, float("-inf")))


@triton.jit
def _inverse(N, CHUNK: tl.constexpr, PRECISION: tl.constexpr):
    """Invert I - N, N strictly lower triangular (64, 64) float32.

    Of blocks of two tokens the inverse is I + N; then, from blocks of half the size,
    T <- T + T (N between the halves) T, five times.
    """
    token = tl.arange(0, CHUNK)
    pair = (token[:, None] // 2) == (token[None, :] // 2)
    T = tl.where(token[:, None] == token[None, :], 1.0, tl.where(pair, N, 0.0))
    # float16 has the digits of tf32, and products read it without shuffles.
    dtype: tl.constexpr = tl.float16 if PRECISION == "tf32" else tl.float32
    N = N.to(dtype)
    for doubling in tl.static_range(5):
        half = token // (2 << doubling)
        pair = (half[:, None] // 2) == (half[None, :] // 2)
        between = tl.where(pair & (half[:, None] > half[None, :]), N, 0.0)
        rounded = T.to(dtype)
        left = tl.dot(rounded, between.to(dtype), input_precision=PRECISION).to(dtype)
        T = tl.dot(left, rounded, T, input_precision=PRECISION)
    return T


@triton.jit(do_not_specialize=SIZES)
def solve(
    k, g, erase, inverse,
    length, heads, keys,
    CHUNK: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write (I + A)^-1 of every chunk to (batch, length, heads, CHUNK)."""
    at, present = _tokens(
        tl.program_id(0), tl.program_id(1), length, heads, heads, CHUNK
    )
    k_rows = _load_rows(k, at, present, keys, 0, KEYS)
    decay = tl.load(g + at, mask=present, other=0.0)
    erased = tl.load(erase + at, mask=present, other=0.0)
    G = tl.cumsum(decay, axis=0)
    place = tl.arange(0, CHUNK)
    before = place[:, None] > place[None, :]
    N = tl.dot(k_rows, tl.trans(k_rows), input_precision=PRECISION)
    N *= -erased[:, None] * _decays(G - decay, G, before)
    T = _inverse(N, CHUNK, PRECISION)
    _store_rows(inverse, T, at, present, CHUNK, 0, CHUNK)


@triton.jit(do_not_specialize=SIZES)
def run(
    q, k, v, g, beta, erase, inverse, start, output, end, states, written,
    scale, length, heads, keys, values, v_heads,
    CHUNK: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr,
    KEEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Pass the state along a sequence; a program has VALUES columns of it.

    Writes `output` (batch, length, heads, values) and the state at the `end`; with KEEP
    also each chunk's first `states` (batch, heads, chunks, keys, values) and u, as
    `written`, for the backward pass.
    """
    sequence, first = tl.program_id(0), tl.program_id(1) * VALUES
    chunks = tl.cdiv(length, CHUNK)
    dtype = q.dtype.element_ty
    place = tl.arange(0, CHUNK)
    seen = place[:, None] >= place[None, :]
    S = _load_state(start, sequence, keys, values, first, KEYS, VALUES)
    for chunk in range(chunks):
        if KEEP:
            number = sequence.to(tl.int64) * chunks + chunk
            _store_state(states, S, number, keys, values, first, KEYS, VALUES)
        at, present = _tokens(sequence, chunk, length, heads, heads, CHUNK)
        q_rows = _load_rows(q, at, present, keys, 0, KEYS)
        k_rows = _load_rows(k, at, present, keys, 0, KEYS)
        v_at, _ = _tokens(sequence, chunk, length, heads, v_heads, CHUNK)
        v_rows = _load_rows(v, v_at, present, values, first, VALUES)
        T = _load_rows(inverse, at, present, CHUNK, 0, CHUNK)
        decay = tl.load(g + at, mask=present, other=0.0)
        strength = tl.load(beta + at, mask=present, other=0.0)
        erased = tl.load(erase + at, mask=present, other=0.0)
        G = tl.cumsum(decay, axis=0)
        last = tl.sum(decay, axis=0)
        rounded = S.to(dtype)
        read = tl.dot(k_rows, rounded, input_precision=PRECISION)
        r = strength[:, None] * v_rows - (erased * tl.exp(G - decay))[:, None] * read
        u = tl.dot(T, r.to(dtype), input_precision=PRECISION).to(dtype)
        if KEEP:
            _store_rows(written, u, at, present, values, first, VALUES)
        M = tl.dot(q_rows, tl.trans(k_rows), input_precision=PRECISION)
        M *= _decays(G, G, seen)
        o = tl.exp(G)[:, None] * tl.dot(q_rows, rounded, input_precision=PRECISION)
        o += tl.dot(M.to(dtype), u, input_precision=PRECISION)
        _store_rows(output, scale * o, at, present, values, first, VALUES)
        kept = (k_rows * tl.exp(last - G)[:, None]).to(dtype)
        S = S * tl.exp(last)
        S += tl.dot(tl.trans(kept), u, input_precision=PRECISION)
    _store_state(end, S, sequence, keys, values, first, KEYS, VALUES)


@triton.jit(do_not_specialize=SIZES)
def run_backward(
    q, k, g, erase, inverse, d_output, d_end, d_start, d_states, d_solved,
    scale, length, heads, keys, values,
    CHUNK: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Pass the state's gradient back along a sequence.

    Writes the gradient of the state behind each chunk, `d_states`, of r, `d_solved`
    (batch, length, heads, values), and of the state at the start.
    """
    sequence, first = tl.program_id(0), tl.program_id(1) * VALUES
    chunks = tl.cdiv(length, CHUNK)
    dtype = q.dtype.element_ty
    place = tl.arange(0, CHUNK)
    seen = place[:, None] >= place[None, :]
    dS = _load_state(d_end, sequence, keys, values, first, KEYS, VALUES)
    for back in range(chunks):
        chunk = chunks - 1 - back
        number = sequence.to(tl.int64) * chunks + chunk
        _store_state(d_states, dS, number, keys, values, first, KEYS, VALUES)
        at, present = _tokens(sequence, chunk, length, heads, heads, CHUNK)
        q_rows = _load_rows(q, at, present, keys, 0, KEYS)
        k_rows = _load_rows(k, at, present, keys, 0, KEYS)
        do = _load_rows(d_output, at, present, values, first, VALUES)
        T = _load_rows(inverse, at, present, CHUNK, 0, CHUNK)
        decay = tl.load(g + at, mask=present, other=0.0)
        erased = tl.load(erase + at, mask=present, other=0.0)
        G = tl.cumsum(decay, axis=0)
        last = tl.sum(decay, axis=0)
        M = tl.dot(q_rows, tl.trans(k_rows), input_precision=PRECISION)
        M *= scale * _decays(G, G, seen)
        kept = (k_rows * tl.exp(last - G)[:, None]).to(dtype)
        du = tl.dot(tl.trans(M.to(dtype)), do, input_precision=PRECISION)
        du += tl.dot(kept, dS.to(dtype), input_precision=PRECISION)
        dr = tl.dot(tl.trans(T), du.to(dtype), input_precision=PRECISION).to(dtype)
        _store_rows(d_solved, dr, at, present, values, first, VALUES)
        read = (q_rows * (scale * tl.exp(G))[:, None]).to(dtype)
        fed = (k_rows * (erased * tl.exp(G - decay))[:, None]).to(dtype)
        dS = dS * tl.exp(last)
        dS += tl.dot(tl.trans(read), do, input_precision=PRECISION)
        dS -= tl.dot(tl.trans(fed), dr, input_precision=PRECISION)
    _store_state(d_start, dS, sequence, keys, values, first, KEYS, VALUES)


@triton.jit(do_not_specialize=SIZES)
def gradients(
    q, k, v, g, beta, erase, written, states, d_output, d_states, d_solved,
    dq, dk, dv, dg, dbeta, derase,
    scale, length, heads, keys, values, v_heads,
    CHUNK: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the operands, each chunk for itself."""
    sequence, chunk = tl.program_id(0), tl.program_id(1)
    at, present = _tokens(sequence, chunk, length, heads, heads, CHUNK)
    number = sequence.to(tl.int64) * tl.cdiv(length, CHUNK) + chunk
    dtype = q.dtype.element_ty
    decay = tl.load(g + at, mask=present, other=0.0)
    G = tl.cumsum(decay, axis=0)
    last = tl.sum(decay, axis=0)
    place = tl.arange(0, CHUNK)
    k_rows = _load_rows(k, at, present, keys, 0, KEYS)
    u = _load_rows(written, at, present, values, 0, VALUES)
    S = _load_state(states, number, keys, values, 0, KEYS, VALUES)

    # Through the state at the chunk's end.
    dS = _load_state(d_states, number, keys, values, 0, KEYS, VALUES)
    dk_rows = tl.dot(u, tl.trans(dS), input_precision=PRECISION)
    dk_rows *= tl.exp(last - G)[:, None]
    d_last = tl.exp(last) * tl.sum(S.to(tl.float32) * dS.to(tl.float32))
    d_last += tl.sum(dk_rows * k_rows)

    # Through the output.
    q_rows = _load_rows(q, at, present, keys, 0, KEYS)
    do = _load_rows(d_output, at, present, values, 0, VALUES)
    N = tl.dot(do, tl.trans(u), input_precision=PRECISION)
    N *= scale * _decays(G, G, place[:, None] >= place[None, :])
    N = N.to(dtype)
    dq_rows = tl.dot(do, tl.trans(S), input_precision=PRECISION)
    dq_rows *= (scale * tl.exp(G))[:, None]
    dq_rows = tl.dot(N, k_rows, dq_rows, input_precision=PRECISION)
    _store_rows(dq, dq_rows, at, present, keys, 0, KEYS)
    dG = tl.sum(dq_rows * q_rows, axis=1)
    dk_rows = tl.dot(tl.trans(N), q_rows, dk_rows, input_precision=PRECISION)

    # Through what was written.
    dr = _load_rows(d_solved, at, present, values, 0, VALUES)
    v_at, _ = _tokens(sequence, chunk, length, heads, v_heads, CHUNK)
    v_rows = _load_rows(v, v_at, present, values, 0, VALUES)
    d_strength = tl.sum(dr.to(tl.float32) * v_rows, axis=1)
    tl.store(dbeta + at, d_strength, mask=present)
    strength = tl.load(beta + at, mask=present, other=0.0)
    _store_rows(dv, dr * strength[:, None], at, present, values, 0, VALUES)
    B = tl.dot(dr, tl.trans(u), input_precision=PRECISION)
    B *= -_decays(G - decay, G, place[:, None] > place[None, :])
    B = B.to(dtype)
    d_fed = tl.dot(dr, tl.trans(S), input_precision=PRECISION)
    d_fed *= -tl.exp(G - decay)[:, None]
    d_fed = tl.dot(B, k_rows, d_fed, input_precision=PRECISION)
    tl.store(derase + at, tl.sum(d_fed * k_rows, axis=1), mask=present)
    erased = tl.load(erase + at, mask=present, other=0.0)
    fed = (k_rows * erased[:, None]).to(dtype)
    dG_before = tl.sum(d_fed * fed, axis=1)
    dk_rows = tl.dot(tl.trans(B), fed, dk_rows, input_precision=PRECISION)
    dG -= tl.sum(dk_rows * k_rows, axis=1)
    _store_rows(dk, dk_rows + d_fed * erased[:, None], at, present, keys, 0, KEYS)

    # exp(G) stands beside q and, without the token's own decay, beside a key that
    # reads, exp(-G) beside a key that wrote; what these products share is rounded
    # alike, so that it still cancels. Each decay is part of all later sums.
    both = dG + dG_before
    later = tl.sum(both, axis=0) - tl.cumsum(both, axis=0) + both
    tl.store(dg + at, later - dG_before + d_last, mask=present)
