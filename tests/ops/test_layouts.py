"""Operands that lie in memory in unusual ways, or do not fit together."""

import pytest
import torch

from crossdna.errors import CrossDNAError
from crossdna.ops.gates import blend_norm, rms_norm, swiglu
from crossdna.ops.linear import linear


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("bias", [draw(64, 2)[:, 0], torch.zeros(1).expand(64)])
def test_a_bias_need_not_be_dense(bias):
    x, weight = draw(400, 64), draw(64, 64)
    expected = linear(x.double(), weight.double(), bias.double())
    torch.testing.assert_close(
        linear(x, weight, bias).double(), expected, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("gated", [False, True])
def test_an_axis_of_one_has_any_stride(gated):
    x = draw(1, 4, 32).transpose(0, 1)
    gate = draw(1, 4, 32).flip(1).transpose(0, 1) if gated else None
    found = rms_norm(x, torch.ones(32), 1e-5, gate)
    expected = rms_norm(x, torch.ones(32), 1e-5, gate, backend="torch")
    torch.testing.assert_close(found, expected)


def test_shapes_that_do_not_fit_are_refused():
    x, weight = draw(2, 5, 32), torch.ones(32)
    with pytest.raises(CrossDNAError, match="gate must be"):
        rms_norm(x, weight, 1e-5, x[..., :1])
    with pytest.raises(CrossDNAError, match="weight must be"):
        rms_norm(x, weight[:16], 1e-5)
    with pytest.raises(CrossDNAError, match="t must be"):
        blend_norm(x, x[:1], x, weight, weight, 1e-5)
    with pytest.raises(CrossDNAError, match="bias must be"):
        blend_norm(x, x, x, weight, weight[:1], 1e-5)
    with pytest.raises(CrossDNAError, match="two halves"):
        swiglu(draw(2, 33))
