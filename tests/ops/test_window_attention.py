import itertools
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from crossdna.errors import BackendUnavailableError, CrossDNAError
from crossdna.ops import fusion
from crossdna.ops.window_attention import WindowCache, gpu, window_attention
from crossdna.ops.window_attention.gpu import rotary_table
from crossdna.ops.window_attention.torch import turned

LENGTHS = (1, 63, 64, 65, 100, 257)
THETA = 10000.0


def make(batch, length, heads, width, *, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, length, heads, width)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for _ in range(3)
    ]


def run(backend, window, mask=None, cached=0):
    """Attend to tokens whose first `cached` are handed over as a cache."""

    def function(q, k, v):
        cache = None
        if cached:
            cache = WindowCache(k[:, :cached], v[:, :cached], None)
            q, k, v = q[:, cached:], k[:, cached:], v[:, cached:]
        result = window_attention(
            q, k, v, window=window, rope_theta=THETA, cache=cache, mask=mask,
            backend=backend,
        )  # fmt: skip
        return [result.output, result.cache.keys, result.cache.values]

    return function


def exact(window, **options):
    def function(*operands):
        return run("reference", window, **options)(*(x.double() for x in operands))

    return function


@pytest.fixture(params=["torch", "native"])
def backend(request):
    if request.param == "native":
        request.getfixturevalue("native_kernels")
    return request.param


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("window", [1, 16, 100, 512])
def test_equals_the_reference_with_gradients(backend, length, window, assert_same):
    inputs = make(2, length, 2, 16, dtype=torch.float32)
    assert_same(run(backend, window), exact(window), inputs, tolerance=1e-5)


@pytest.mark.parametrize("width", [2, 12, 20, 64])
def test_any_even_width(backend, width, assert_same):
    inputs = make(2, 70, 3, width, dtype=torch.float32)
    assert_same(run(backend, 24), exact(24), inputs, tolerance=1e-5)


@pytest.mark.parametrize("cached", [1, 30, 63])
def test_cached_keys_with_gradients(backend, cached, assert_same):
    inputs = make(2, 200, 2, 16, dtype=torch.float32)
    assert_same(
        run(backend, 64, cached=cached),
        exact(64, cached=cached),
        inputs,
        tolerance=1e-5,
    )


def test_float64_with_mask_and_gradients(assert_same):
    inputs = make(3, 150, 2, 8)
    mask = torch.rand(3, 150, generator=torch.Generator().manual_seed(1)) > 0.3
    assert_same(
        run("torch", 40, mask), run("reference", 40, mask), inputs, tolerance=1e-11
    )


def test_float32_with_mask_and_gradients(backend, assert_same):
    inputs = make(3, 150, 2, 16, dtype=torch.float32)
    mask = torch.rand(3, 150, generator=torch.Generator().manual_seed(1)) > 0.3
    assert_same(run(backend, 40, mask), exact(40, mask=mask), inputs, tolerance=1e-5)


def test_gradcheck_of_tiles():
    inputs = [x.requires_grad_() for x in make(1, 140, 1, 2)]
    assert torch.autograd.gradcheck(run("torch", 20), inputs, fast_mode=True)


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(2, 300),
    window=st.integers(1, 200),
    pieces=st.lists(st.integers(1, 300), max_size=4),
    masked=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_in_pieces_equals_whole(length, window, pieces, masked, seed):
    q, k, v = make(2, length, 1, 4, seed=seed)
    mask = None
    if masked:
        mask = (
            torch.rand(2, length, generator=torch.Generator().manual_seed(seed)) > 0.4
        )
    options = {"window": window, "rope_theta": THETA}
    whole = window_attention(q, k, v, mask=mask, **options)
    edges = sorted({0, length, *(p for p in pieces if p < length)})
    cache, outputs = None, []
    for start, end in itertools.pairwise(edges):
        part = slice(start, end)
        result = window_attention(
            *(x[:, part] for x in (q, k, v)),
            mask=None if mask is None else mask[:, part],
            cache=cache,
            **options,
        )
        cache = result.cache
        assert cache.keys.shape[1] == min(window - 1, end)
        outputs.append(result.output)
    torch.testing.assert_close(torch.cat(outputs, 1), whole.output)
    torch.testing.assert_close(cache.keys, whole.cache.keys)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(backend, side):
    q, k, v = make(1, 90, 2, 16, dtype=torch.float32)
    alone = window_attention(q, k, v, window=32, rope_theta=THETA, backend=backend)
    pad = (45, 0) if side == "left" else (0, 45)
    padded = [F.pad(x, (0, 0, 0, 0, *pad), value=5.0) for x in (q, k, v)]
    mask = F.pad(torch.ones(1, 90, dtype=torch.bool), pad)
    out = window_attention(
        *padded, window=32, rope_theta=THETA, mask=mask, backend=backend
    )
    torch.testing.assert_close(out.output[mask], alone.output[0], rtol=0, atol=2e-6)
    # A padded query sees itself alone.
    torch.testing.assert_close(out.output[~mask], padded[2][~mask])


def test_a_poisoned_sample_leaves_its_batch_mates_alone(backend):
    operands = make(3, 140, 2, 16, dtype=torch.float32)
    options = {"window": 32, "rope_theta": THETA, "backend": backend}
    clean = window_attention(*operands, **options).output
    for x in operands:
        x[1] = torch.nan
    poisoned = window_attention(*operands, **options).output
    assert torch.equal(poisoned[::2], clean[::2])


def test_huge_scores_stay_finite(backend):
    q, k, v = make(1, 140, 1, 16, dtype=torch.float32)
    out = window_attention(
        100 * q, 100 * k, v, window=50, rope_theta=THETA, backend=backend
    ).output
    assert bool(out.isfinite().all())
    assert bool((out.abs() <= v.abs().max() * 1.001).all())


def test_far_positions_are_as_good_as_near_ones(backend):
    """The rotary angles of a long call lose no accuracy at its end."""
    length, window = 20_000, 8
    q, k, v = make(1, 40, 1, 4, dtype=torch.float32)
    near = window_attention(q, k, v, window=window, rope_theta=THETA, backend=backend)
    far = [torch.cat([x.new_zeros(1, length, 1, 4), x], 1) for x in (q, k, v)]
    mask = torch.arange(length + 40)[None] >= length
    out = window_attention(
        *far, window=window, rope_theta=THETA, mask=mask, backend=backend
    )
    torch.testing.assert_close(out.output[:, length:], near.output, rtol=0, atol=2e-6)


def test_cache_and_mask_combine():
    q, k, v = make(1, 12, 1, 4)
    options = {"window": 6, "rope_theta": THETA}
    mask = torch.ones(1, 12, dtype=torch.bool)
    mask[:, :3] = False
    whole = window_attention(q, k, v, mask=mask, **options)
    first = window_attention(q[:, :5], k[:, :5], v[:, :5], mask=mask[:, :5], **options)
    second = window_attention(
        q[:, 5:], k[:, 5:], v[:, 5:], cache=first.cache, **options
    )
    torch.testing.assert_close(second.output, whole.output[:, 5:])
    assert second.cache.mask is not None


def test_bfloat16(device):
    operands = [x.to(device) for x in make(2, 300, 2, 16, dtype=torch.float32)]
    expected = window_attention(*operands, window=64, rope_theta=THETA).output
    with torch.autocast(device.type, dtype=torch.bfloat16):
        result = window_attention(
            *(x.bfloat16() for x in operands), window=64, rope_theta=THETA
        )
    assert result.output.dtype == torch.bfloat16
    assert (result.output.float() - expected).norm() / expected.norm() < 0.02


@pytest.mark.parametrize("cached", [0, 37])
@pytest.mark.parametrize("masked", [False, True])
def test_flex_attention_is_given_the_right_blocks(cached, masked):
    """Run uncompiled on the CPU, where flex_attention is plain PyTorch."""
    from torch.nn.attention.flex_attention import flex_attention

    q, k, v = make(2, 300 + cached, 2, 16)
    visible = None
    if masked:
        visible = torch.rand(2, 300 + cached) > 0.3
    table = rotary_table(k, k.shape[1], THETA)
    arguments = (*turned(q[:, cached:], k, *table), v, visible, 100)
    past = (k[:, :cached], v[:, :cached])
    pieces = (q[:, cached:], k[:, cached:], v[:, cached:], *past, visible, 100, THETA)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        output = gpu.attend(flex_attention, *arguments)
    from crossdna.ops.window_attention import reference

    torch.testing.assert_close(output, reference.window_attention(*pieces))


def test_flex_attention_skips_blocks_outside_the_window():
    mask = gpu.block_mask(1024, 512, 512, None, torch.device("cpu"))
    assert mask.kv_num_blocks.flatten().tolist() == [5] * 8
    assert mask.kv_indices[0, 0, :, 0].tolist() == list(range(8))
    dense = mask.to_dense()[0, 0].bool()
    wanted = torch.zeros(8, 12, dtype=torch.bool)
    for row in range(8):
        wanted[row, row : row + 5] = True
    assert torch.equal(dense, wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("length", LENGTHS)
def test_gpu_kernel_equals_the_reference(length, assert_same):
    if (reason := fusion.unavailable()) is not None:
        pytest.skip(reason)
    inputs = [x.cuda() for x in make(2, length, 2, 16, dtype=torch.float32)]
    assert_same(run("flex", 48), run("reference", 48), inputs, tolerance=5e-3)


def test_bad_calls_are_named():
    q, k, v = make(1, 8, 1, 4)
    options = {"window": 4, "rope_theta": THETA}
    with pytest.raises(CrossDNAError, match="must share one shape"):
        window_attention(q, k[:, 1:], v, **options)
    with pytest.raises(CrossDNAError, match="window must be at least 1"):
        window_attention(q, k, v, window=0, rope_theta=THETA)
    with pytest.raises(CrossDNAError, match="even width"):
        window_attention(q[..., :3], k[..., :3], v[..., :3], **options)
    with pytest.raises(CrossDNAError, match="does not fit"):
        window_attention(q, k, v, cache=WindowCache(k, v, None), **options)
    with pytest.raises(CrossDNAError, match="mask must be"):
        window_attention(q, k, v, mask=torch.ones(1, 7), **options)
    with pytest.raises(BackendUnavailableError, match="needs CUDA tensors, got cpu"):
        window_attention(q, k, v, backend="flex", **options)
