"""The GPU's kernels on the CPU, in Triton's interpreter."""

import functools

import pytest
import torch

from crossdna.ops.short_conv import dilated_conv, gpu, short_conv

pytestmark = pytest.mark.usefixtures("interpreter")

DTYPES = {torch.float32: 1e-5, torch.bfloat16: 0.02}


def make(batch, length, width, dtype=torch.float32, channels=72):
    """x and tail in `dtype`, the weight in float32."""
    generator = torch.Generator().manual_seed(0)
    draw = functools.partial(torch.randn, generator=generator)
    x = draw(batch, length, channels).to(dtype)
    weight = draw(channels, width)
    return x, weight, draw(batch, width - 1, channels).to(dtype)


def causal(silu):
    """The kernels, and the reference in float64."""

    def fast(*operands):
        return [gpu.short_conv(*operands, silu=silu)]

    def exact(*operands):
        x, weight, tail = (t.double() for t in operands)
        activation = "silu" if silu else None
        return short_conv(
            x, weight, tail=tail, activation=activation, backend="reference"
        )[:1]

    return fast, exact


def centred(dilation):
    """The kernels, and the reference in float64."""

    def fast(*operands):
        return [gpu.dilated_conv(*operands, dilation)]

    def exact(*operands):
        doubles = (t.double() for t in operands)
        return [dilated_conv(*doubles, dilation, backend="reference")]

    return fast, exact


# 72 channels are no multiple of a program's.
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("length", [1, 2, 3, 65])
def test_equal_the_reference_with_gradients(length, width, silu, dtype, assert_same):
    inputs = make(2, length, width, dtype)
    assert_same(*causal(silu), inputs, tolerance=DTYPES[dtype])


@pytest.mark.parametrize("width", [9, 16])
def test_wide_kernels(width, assert_same):
    assert_same(*causal(True), make(1, 70, width), tolerance=1e-5)


def test_more_strips_than_a_program_walks_along(assert_same):
    assert_same(*causal(True), make(3, 200, 4, channels=8), tolerance=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("length", "dilation"), [(1, 16), (7, 1), (7, 4), (70, 3), (70, 16), (130, 1)]
)
def test_dilated_equal_the_reference_with_gradients(
    length, dilation, dtype, assert_same
):
    x, weight, _ = make(2, length, 9, dtype)
    assert_same(*centred(dilation), [x, weight], tolerance=DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_results_have_their_operands_dtypes(dtype):
    x, weight, tail = (t.requires_grad_() for t in make(1, 5, 4, dtype))
    y = gpu.short_conv(x, weight, tail, silu=True)
    y.sum().backward()
    assert (y.dtype, x.grad.dtype, tail.grad.dtype) == (dtype, dtype, dtype)
    assert weight.grad.dtype == torch.float32


def test_operands_may_be_slices(assert_same):
    """Of a wider tensor, as a projection leaves them; and with channels far apart."""
    fast, exact = causal(True)
    x, weight, tail = make(2, 12, 4)

    def inside(function):
        return lambda x, weight, tail: function(x[:, 2:9, 8:48], weight[8:48], tail)

    assert_same(
        inside(fast), inside(exact), [x, weight, tail[..., 8:48]], tolerance=1e-5
    )

    def apart(function):
        return lambda x, weight, tail: function(x.mT, weight, tail)

    channels_first = x.mT.contiguous()
    assert_same(
        apart(fast), apart(exact), [channels_first, weight, tail], tolerance=1e-5
    )


def test_gradients_may_be_strided():
    x, weight, tail = make(2, 6, 4)
    x.requires_grad_()
    wide = torch.cat([gpu.short_conv(x, weight, tail, silu=True), x], -1)
    (strided,) = torch.autograd.grad(wide.square().sum(), x)
    y = gpu.short_conv(x, weight, tail, silu=True)
    (dense,) = torch.autograd.grad(y, x, 2 * y.detach())
    torch.testing.assert_close(strided, dense + 2 * x)


@pytest.mark.parametrize("silu", [False, True])
def test_custom_operators_keep_torchs_rules(silu):
    x, weight, tail = (t.requires_grad_() for t in make(1, 3, 3, channels=8))
    torch.library.opcheck(gpu._short_conv, (x, weight, tail, silu))
    torch.library.opcheck(gpu._dilated_conv, (x, weight, 2))


def test_inside_a_compiled_function():
    def layer(x, weight, tail):
        y = gpu.short_conv(2 * x, weight, tail, silu=True)
        return gpu.dilated_conv(y, weight, 2).square().sum()

    inputs = [t.requires_grad_() for t in make(1, 5, 3, channels=8)]
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    expected = torch.autograd.grad(layer(*inputs), inputs)
    for found, one in zip(
        torch.autograd.grad(compiled(*inputs), inputs), expected, strict=True
    ):
        torch.testing.assert_close(found, one)
