"""Derivatives beyond gradients: second ones, and tangents carried forward."""

import pytest
import torch

from crossdna.ops.delta_rule import delta_rule
from crossdna.ops.gates import blend_norm, rms_norm, swiglu
from crossdna.ops.linear import linear
from crossdna.ops.short_conv import dilated_conv, short_conv
from crossdna.ops.window_attention import window_attention


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


WEIGHT, BIAS = draw(64) + 2, draw(64)
TOKENS = draw(2, 40, 64)
GATES = {
    "rms_norm": lambda x, **k: rms_norm(x, WEIGHT, 1e-5, x.flip(1), **k),
    "swiglu": swiglu,
    "blend_norm": lambda x, **k: blend_norm(
        x, x.flip(0), x.flip(1), WEIGHT, BIAS, 1e-5, **k
    ),
}
VECTORS, SCALARS = draw(1, 40, 2, 32), draw(1, 40, 2)
OPERATORS = {name: (rule, TOKENS) for name, rule in GATES.items()} | {
    "linear": (lambda x, **k: linear(x, draw(512, 64), draw(512), **k), TOKENS),
    "short_conv": (lambda x, **k: short_conv(x, draw(64, 4), **k)[0], TOKENS),
    "dilated_conv": (lambda x, **k: dilated_conv(x, draw(64, 7), 4, **k), TOKENS),
    "window_attention": (
        lambda x, **k: window_attention(
            x, x.flip(1), x.flip(2), window=8, rope_theta=1e4, **k
        )[0],
        VECTORS,
    ),
    "delta_rule": (
        lambda x, **k: delta_rule(
            x, x.flip(1), x.flip(2), -SCALARS.abs(), SCALARS.sigmoid(),
            draw(2).sigmoid(), draw(2), **k,
        )[0],
        VECTORS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GATES)
def test_second_derivatives_of_gates(name):
    def second(backend):
        x = TOKENS.clone().requires_grad_()
        y = GATES[name](x, backend=backend)
        (gradient,) = torch.autograd.grad((y * y.sin()).sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), x)[0]

    found, expected = second("auto"), second("torch")
    assert (found - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("name", OPERATORS)
def test_tangents_are_those_of_plain_operations(name):
    rule, x = OPERATORS[name]
    tangent = draw(*x.shape).flip(0)

    def carried(backend):
        return torch.func.jvp(lambda x: rule(x, backend=backend), (x,), (tangent,))[1]

    if name in ("window_attention", "delta_rule"):
        # Their plain versions have gradients of their own, too, and say so.
        with pytest.raises(RuntimeError, match=r"setup_context|forward AD"):
            carried("auto")
        return
    found, expected = carried("auto"), carried("torch")
    assert expected.norm() > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
