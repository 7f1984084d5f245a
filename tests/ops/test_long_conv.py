import pytest
import torch
from torch.nn import functional as F

from crossdna.errors import CrossDNAError
from crossdna.ops.long_conv import long_conv
from crossdna.ops.long_conv import torch as fourier


def make(batch, length, channels, *, dtype=torch.float64):
    generator = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = normal(batch, length, channels), normal(length, channels), normal(channels)
    return [x.to(dtype) for x in inputs]


def run(backend):
    return lambda *operands: [long_conv(*operands, backend=backend)]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(fourier, "_BLOCK", 200)


@pytest.mark.parametrize("length", [1, 2, 5, 63, 64, 65, 100])
def test_float64_equals_the_reference_with_gradients(length, small_blocks, assert_same):
    assert_same(run("torch"), run("reference"), make(2, length, 5), tolerance=1e-11)


def test_float32_is_accurate_with_gradients(assert_same):
    def exact(*operands):
        return run("reference")(*(x.double() for x in operands))

    inputs = make(3, 257, 6, dtype=torch.float32)
    assert_same(run("torch"), exact, inputs, tolerance=1e-5)


def test_gradcheck(small_blocks):
    inputs = [x.requires_grad_() for x in make(2, 13, 3)]
    assert torch.autograd.gradcheck(run("torch"), inputs, fast_mode=True)


def test_reference_is_the_definition():
    u, kernel, skip = make(1, 4, 1)
    x, k = u[0, :, 0], kernel[:, 0]
    expected = k[0] * x[2] + k[1] * x[1] + k[2] * x[0] + skip[0] * x[2]
    got = long_conv(u, kernel, skip, backend="reference")[0, 2, 0]
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("pads", [(0, 5), (5, 0)])
def test_masked_positions_leave_no_trace(pads):
    u, kernel, skip = make(2, 20, 3)
    alone = long_conv(u[:, :15], kernel[:15], skip)
    padded = F.pad(u[:, :15], (0, 0, *pads), value=9.0)
    mask = F.pad(torch.ones(2, 15, dtype=torch.bool), pads)
    got = long_conv(padded, kernel, skip, mask=mask)
    torch.testing.assert_close(got[mask].view_as(alone), alone)


def test_nothing_wraps_around():
    u = torch.zeros(1, 33, 1)
    u[0, -1] = 1.0
    got = long_conv(u, torch.ones(33, 1))
    torch.testing.assert_close(got, u, atol=1e-6, rtol=0)


def test_bfloat16_is_computed_in_float32():
    u, kernel, skip = (x.bfloat16() for x in make(1, 300, 2))
    with torch.autocast("cpu", torch.bfloat16):
        got = long_conv(u, kernel, skip)
    exact = long_conv(u.double(), kernel.double(), skip.double(), backend="reference")
    assert got.dtype is torch.bfloat16
    torch.testing.assert_close(got, exact.bfloat16(), atol=1e-5, rtol=8e-3)


@pytest.mark.parametrize("length", [1, 3, 4, 5, 100, 1000, 131072, 1000002])
def test_transform_sizes_hold_the_convolution(length):
    size = fourier.fft_length(length)
    assert 2 * length - 1 <= size <= max(8, 1.34 * 2 * length)


def test_misshaped_operands_are_named():
    u, kernel, skip = make(2, 9, 4)
    with pytest.raises(CrossDNAError, match="do not fit"):
        long_conv(u, kernel[1:], skip)
    with pytest.raises(CrossDNAError, match="skip must be"):
        long_conv(u, kernel, skip[1:])
    with pytest.raises(CrossDNAError, match="mask must be"):
        long_conv(u, kernel, mask=torch.ones(2, 8))
    with pytest.raises(CrossDNAError, match="empty"):
        long_conv(u[:, :0], kernel[:0])
