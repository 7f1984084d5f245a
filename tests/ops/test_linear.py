"""Linear maps: every backend against torch's own."""

import pytest
import torch

from crossdna.errors import BackendUnavailableError
from crossdna.ops.linear import linear, onednn, widened

needs_onednn = pytest.mark.skipif(
    onednn.unavailable() is not None, reason=str(onednn.unavailable())
)


@needs_onednn
@pytest.mark.parametrize("shape", [(300, 64), (2, 100, 64), (1, 1, 64)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_onednn_equals_torch(shape, with_bias):
    torch.manual_seed(0)
    tensors = [torch.randn(shape), torch.randn(1100, 64)]
    tensors += [torch.randn(1100)] if with_bias else []
    found, expected = ([t.clone().requires_grad_() for t in tensors] for _ in range(2))
    fast = linear(*found, backend="onednn")
    slow = linear(*expected, backend="torch")
    exact = linear(*(t.double() for t in tensors), backend="torch")
    assert (fast - exact).norm() / exact.norm() < 1e-6
    gradient = torch.randn(slow.shape)
    fast.backward(gradient)
    slow.backward(gradient)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-5)


@needs_onednn
def test_strided_inputs():
    torch.manual_seed(0)
    x = torch.randn(4, 200, 64)[:, 50:150].transpose(0, 1)
    weight = torch.randn(600, 64)
    torch.testing.assert_close(
        linear(x, weight, backend="onednn"), linear(x, weight, backend="torch")
    )


@needs_onednn
def test_gradients_only_where_wanted():
    x, weight = torch.randn(300, 64), torch.randn(600, 64, requires_grad=True)
    linear(x, weight, backend="onednn").sum().backward()
    assert x.grad is None
    torch.testing.assert_close(weight.grad, x.sum(0).expand(600, 64))


@needs_onednn
def test_a_bias_alone_learns():
    bias = torch.zeros(600, requires_grad=True)
    x, weight = torch.randn(300, 64), torch.randn(600, 64)
    linear(x, weight, bias, backend="onednn").sum().backward()
    assert torch.equal(bias.grad, torch.full((600,), 300.0))


@needs_onednn
def test_gradients_of_gradients():
    torch.manual_seed(0)
    tensors = [torch.randn(300, 64), torch.randn(600, 64), torch.randn(600)]
    found = []
    for backend in "onednn", "torch":
        own = [t.clone().requires_grad_() for t in tensors]
        first = torch.autograd.grad(
            linear(*own, backend=backend).pow(2).mean(), own, create_graph=True
        )
        penalty = sum(one.pow(2).sum() for one in first)
        found.append(torch.autograd.grad(penalty, own))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_onednn_says_why_not():
    x, weight = torch.randn(300, 64).double(), torch.randn(600, 64).double()
    with pytest.raises(
        BackendUnavailableError, match=r"float32, not in torch\.float64"
    ):
        linear(x, weight, backend="onednn")
    assert linear(x, weight).dtype == torch.float64


def test_autocast_keeps_its_precision():
    x, weight = torch.randn(300, 64), torch.randn(600, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16


@pytest.fixture
def without_bfloat16(monkeypatch):
    """A CPU that has no instruction for bfloat16 products."""
    monkeypatch.setattr(widened, "unavailable", lambda: None)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("rows", [3, 300])
def test_widened_is_what_bfloat16_products_give(without_bfloat16, rows, with_bias):
    torch.manual_seed(0)
    tensors = [torch.randn(rows, 64), torch.randn(110, 64)]
    tensors += [torch.randn(110)] if with_bias else []
    found, expected = ([t.clone().requires_grad_() for t in tensors] for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        ours = linear(*found, backend="widened")
    exact = linear(*(t.bfloat16().double() for t in expected), backend="torch")
    assert ours.dtype == torch.bfloat16
    # One rounding of the result, to eight bits.
    torch.testing.assert_close(ours.double(), exact, atol=1e-5, rtol=2**-8)
    gradient = torch.randn(ours.shape)
    ours.backward(gradient.bfloat16())
    exact.backward(gradient.bfloat16().double())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=0.05, rtol=0.01)


def test_widened_serves_bfloat16_alone(without_bfloat16):
    x, weight = torch.randn(300, 64), torch.randn(600, 64)
    assert "not torch.float32" in widened.reject(x, weight, None)
    assert widened.reject(x.bfloat16(), weight.bfloat16(), None) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert widened.reject(x, weight, None) is None
        assert widened.reject(x.double(), weight.double(), None) is not None


@needs_onednn
def test_parts_of_wider_tensors_are_copied_first(monkeypatch):
    """OneDNN has no fast path for them, forward or backward."""
    torch.manual_seed(0)
    whole, wide = torch.randn(300, 96), torch.randn(512, 64)
    leaves = [whole[:, 8:24].requires_grad_(), wide[:, :16].requires_grad_()]
    given = []

    def recorded(x, weight, bias, *_others):
        given.extend((x, weight))
        return torch.nn.functional.linear(x, weight, bias)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", recorded)
    y = linear(*leaves, backend="onednn")
    y.backward(torch.randn(300, 600)[:, :512])
    # Forward, and the gradient of x; that of the weight is torch's.
    assert len(given) == 4
    assert all(x.is_contiguous() or x.t().is_contiguous() for x in given)
    expected = [x.detach().clone().requires_grad_() for x in leaves]
    torch.testing.assert_close(y, linear(*expected, backend="torch"))
