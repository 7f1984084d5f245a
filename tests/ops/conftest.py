"""What the operator tests share: comparing a fast backend with the reference."""

import pytest
import torch

from crossdna.ops.native import build


@pytest.fixture(scope="session")
def native_kernels():
    """Build the compiled kernels; skips where no compiler is."""
    if build.library_path() is None:
        pytest.skip(build.unavailable())
    build.build()
    reason = build.unavailable()
    assert reason is None, reason


def _gradients(outputs, weights, inputs):
    total = sum(
        (x * w.to(x.dtype)).sum() for x, w in zip(outputs, weights, strict=True)
    )
    return torch.autograd.grad(total, inputs, allow_unused=True)


def _check(pairs, tolerance, floor):
    for got, expected in pairs:
        got, expected = got.detach(), expected.detach()
        assert got.shape == expected.shape
        scale = max(float(expected.abs().max()), floor, 1e-30) if got.numel() else 1.0
        error = (got.to(expected.dtype) - expected).abs() / scale
        assert bool((error <= tolerance).all()), float(error.max())


@pytest.fixture
def assert_same():
    """Compare outputs and gradients of two computations of the same function.

    Each function maps tensors to a list of tensors. Errors are relative to the largest
    value of each tensor; of a gradient far below all others (what normalisation leaves
    of the feedback's), to a tenth of the largest gradient.
    """

    def compare(fast, slow, inputs, *, tolerance, gradients=True):
        results = []
        for function in (fast, slow):
            leaves = [x.detach().clone().requires_grad_(gradients) for x in inputs]
            outputs = function(*leaves)
            results.append((leaves, outputs))
        generator = torch.Generator().manual_seed(7)
        (_, fast_outputs), (_, slow_outputs) = results
        weights = [
            torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)
            for x in slow_outputs
        ]
        _check(zip(fast_outputs, slow_outputs, strict=True), tolerance, 0.0)
        if gradients:
            grads = [_gradients(out, weights, leaves) for leaves, out in results]
            pairs = [
                x
                for x in zip(*grads, strict=True)
                if x != (None, None) and x[1].numel()
            ]
            largest = max(float(expected.abs().max()) for _, expected in pairs)
            _check(pairs, tolerance, 0.1 * largest)

    return compare
