import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdna.errors import BackendUnavailableError, CrossDNAError
from crossdna.ops.short_conv import dilated_conv, short_conv

LENGTHS = (1, 63, 64, 65, 100, 257)
# Of the GPU's kernels, with their tolerances.
DTYPES = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.003}


def make(batch, length, channels, width, *, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [
        (batch, length, channels),
        (channels, width),
        (batch, width - 1, channels),
    ]
    return [
        torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)
        for s in shapes
    ]


def run(backend, activation):
    def function(x, weight, tail):
        return short_conv(x, weight, tail=tail, activation=activation, backend=backend)

    return function


@pytest.fixture(params=["torch", "native"])
def backend(request):
    if request.param == "native":
        request.getfixturevalue("native_kernels")
    return request.param


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("width", "activation"), [(1, None), (4, "silu")])
@pytest.mark.parametrize("length", LENGTHS)
def test_gpu_kernels_equal_the_reference(length, width, activation, dtype, assert_same):
    inputs = [x.to("cuda", dtype) for x in make(2, length, 96, width)]
    inputs[1] = inputs[1].float()
    slow = run("reference", activation)

    def exact(*operands):
        return slow(*(x.double() for x in operands))

    tolerance = DTYPES[dtype]
    assert_same(run("triton", activation), exact, inputs, tolerance=tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dilation", [1, 3, 16])
@pytest.mark.parametrize("length", LENGTHS)
def test_dilated_gpu_kernels_equal_the_reference(length, dilation, dtype, assert_same):
    x, weight, _ = make(2, length, 96, 9)

    def fast(*operands):
        return [dilated_conv(*operands, dilation, backend="triton")]

    def exact(*operands):
        doubles = (t.double() for t in operands)
        return [dilated_conv(*doubles, dilation, backend="reference")]

    inputs = [x.to("cuda", dtype), weight.float().cuda()]
    assert_same(fast, exact, inputs, tolerance=DTYPES[dtype])


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("width", [1, 3, 4, 9])
@pytest.mark.parametrize("length", LENGTHS)
def test_equals_the_reference_with_gradients(
    backend, length, width, activation, assert_same
):
    inputs = make(2, length, 32, width, dtype=torch.float32)
    slow = run("reference", activation)

    def exact(*operands):
        return slow(*(x.double() for x in operands))

    assert_same(run(backend, activation), exact, inputs, tolerance=1e-5)


def test_a_hand_computed_case(backend):
    x = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1).expand(1, 3, 16)
    weight = torch.tensor([[10.0, 1.0]]).expand(16, 2)
    out = short_conv(x, weight, backend=backend)
    assert out.output[0, :, 5].tolist() == [1.0, 12.0, 23.0]
    assert out.tail[0, :, 5].tolist() == [3.0]


@pytest.mark.parametrize(
    ("length", "width", "dilation"),
    [(1, 9, 16), (5, 3, 1), (7, 9, 4), (64, 5, 3), (101, 9, 16)],
)
def test_dilated_equals_the_reference_with_gradients(
    backend, length, width, dilation, assert_same
):
    x, weight, _ = make(2, length, 16, width, dtype=torch.float32)

    def fast(*operands):
        return [dilated_conv(*operands, dilation, backend=backend)]

    def exact(*operands):
        doubles = (t.double() for t in operands)
        return [dilated_conv(*doubles, dilation, backend="reference")]

    assert_same(fast, exact, [x, weight], tolerance=1e-5)


def test_dilated_by_hand(backend):
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1).expand(1, 4, 16)
    weight = torch.tensor([[100.0, 10.0, 1.0]]).expand(16, 3)
    y = dilated_conv(x, weight, 2, backend=backend)
    assert y[0, :, 3].tolist() == [13.0, 24.0, 130.0, 240.0]


def test_gradcheck():
    inputs = [x.requires_grad_() for x in make(1, 6, 3, 4)]
    assert torch.autograd.gradcheck(run("torch", "silu"), inputs)


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(2, 20),
    width=st.integers(1, 5),
    cut=st.integers(1, 19),
    seed=st.integers(0, 2**16),
)
def test_in_pieces_equals_whole(length, width, cut, seed):
    x, weight, _ = make(2, length, 5, width, seed=seed)
    cut = min(cut, length - 1)
    whole = short_conv(x, weight, activation="silu")
    first = short_conv(x[:, :cut], weight, activation="silu")
    second = short_conv(x[:, cut:], weight, tail=first.tail, activation="silu")
    torch.testing.assert_close(
        torch.cat([first.output, second.output], 1), whole.output
    )
    assert torch.equal(second.tail, whole.tail)


@pytest.mark.parametrize("side", ["left", "right"])
def test_masked_inputs_count_as_zero_even_when_poisoned(backend, side):
    x, weight, _ = make(1, 30, 16, 4, dtype=torch.float32)
    alone = short_conv(x, weight, backend=backend)
    filler = torch.full((1, 5, 16), torch.nan)
    mask = torch.ones(1, 35, dtype=torch.bool)
    if side == "left":
        x, real = torch.cat([filler, x], 1), slice(5, 35)
        mask[:, :5] = False
    else:
        x, real = torch.cat([x, filler], 1), slice(0, 30)
        mask[:, 30:] = False
    out = short_conv(x, weight, mask=mask, backend=backend)
    torch.testing.assert_close(out.output[:, real], alone.output)
    assert bool(out.output.isfinite().all())
    expected = torch.zeros_like(alone.tail) if side == "right" else alone.tail
    assert torch.equal(out.tail, expected)


def test_bfloat16_autocast(device):
    x, weight, _ = (t.to(device) for t in make(2, 50, 8, 4, dtype=torch.float32))
    expected = short_conv(x, weight, activation="silu").output
    with torch.autocast(device.type, dtype=torch.bfloat16):
        result = short_conv(x.bfloat16(), weight, activation="silu")
    assert result.output.dtype == torch.bfloat16
    assert (result.output.float() - expected).norm() / expected.norm() < 0.02


def test_bad_calls_are_named():
    x, weight, tail = make(2, 8, 4, 3)
    with pytest.raises(CrossDNAError, match="do not fit"):
        short_conv(x, weight[:3])
    with pytest.raises(CrossDNAError, match="tail must be"):
        short_conv(x, weight, tail=tail[:, :1])
    with pytest.raises(CrossDNAError, match="unknown activation 'relu'"):
        short_conv(x, weight, activation="relu")
    with pytest.raises(CrossDNAError, match="mask must be"):
        short_conv(x, weight, mask=torch.ones(2, 9))
    with pytest.raises(CrossDNAError, match="empty"):
        short_conv(x[:, :0], weight)
    with pytest.raises(CrossDNAError, match="4 taps have no middle"):
        dilated_conv(x, torch.randn(4, 4), 2)


def test_gpu_kernels_refuse_what_they_cannot_run():
    x, weight, _ = make(2, 8, 4, 3, dtype=torch.float32)
    with pytest.raises(BackendUnavailableError, match="triton cannot run: needs CUDA"):
        short_conv(x, weight, backend="triton")
    with pytest.raises(BackendUnavailableError, match="triton cannot run: needs CUDA"):
        dilated_conv(x, weight, 2, backend="triton")
