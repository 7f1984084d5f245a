"""Gates: the kernels against torch's own operations in float64."""

import pytest
import torch

from crossdna.errors import BackendUnavailableError
from crossdna.ops.gates import blend_norm, native, rms_norm, swiglu
from crossdna.ops.native import build

EPS = 1e-5


@pytest.fixture(scope="module", autouse=True)
def kernels():
    """Build the kernels where there is a compiler."""
    if build.compiler() is None:
        pytest.skip("no C++ compiler here")
    build.build()


def compare(function, tensors, *settings, dtype=torch.float32, tolerance=1e-5):
    """Output and gradients of `native` in `dtype` against torch in float64."""
    rows = [t for t in tensors if t is not None]
    fast = [
        t.to(dtype if t.dim() > 1 else torch.float32).requires_grad_() for t in rows
    ]
    exact = [t.detach().double().requires_grad_() for t in fast]

    def call(operands, backend):
        taken = iter(operands)
        arguments = [None if t is None else next(taken) for t in tensors]
        return function(*arguments, *settings, backend=backend)

    found, expected = call(fast, "native"), call(exact, "torch")
    assert found.dtype == dtype
    assert (found - expected).norm() / expected.norm() < tolerance
    gradient = torch.randn(expected.shape)
    found.backward(gradient.to(dtype))
    expected.backward(gradient.to(dtype).double())
    for one, other in zip(fast, exact, strict=True):
        assert one.grad.dtype == one.dtype
        assert (one.grad - other.grad).norm() / other.grad.norm() < tolerance


PRECISIONS = [(torch.float32, 2e-6), (torch.bfloat16, 6e-3)]


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("shape", [(1, 1, 16), (2, 33, 64), (3, 7, 2, 32), (5, 48)])
@pytest.mark.parametrize("gated", [True, False])
def test_rms_norm(shape, gated, dtype, tolerance):
    torch.manual_seed(0)
    x, weight = torch.randn(shape), torch.randn(shape[-1])
    gate = torch.randn(shape) if gated else None

    def function(x, weight, gate, backend):
        return rms_norm(x, weight, EPS, gate, backend=backend)

    compare(function, (x, weight, gate), dtype=dtype, tolerance=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("shape", [(1, 32), (2, 33, 128), (4, 1, 96)])
def test_swiglu(shape, dtype, tolerance):
    torch.manual_seed(0)
    compare(swiglu, (torch.randn(shape),), dtype=dtype, tolerance=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("shape", [(1, 1, 16), (2, 33, 64), (5, 48)])
def test_blend_norm(shape, dtype, tolerance):
    torch.manual_seed(0)
    rows = [torch.randn(shape) for _ in range(3)]
    weights = [torch.randn(shape[-1]) for _ in range(2)]
    compare(blend_norm, (*rows, *weights), EPS, dtype=dtype, tolerance=tolerance)


def test_gate_may_be_a_slice_of_a_wider_projection():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 9, 4, 16), torch.randn(16)
    gate = torch.randn(2, 9, 80)[..., :64].view(2, 9, 4, 16)
    torch.testing.assert_close(
        rms_norm(x, weight, EPS, gate, backend="native"),
        rms_norm(x, weight, EPS, gate, backend="torch"),
    )
    for part in (x[:, 2:7], x.transpose(0, 1), x[:, :, 1:3]):
        torch.testing.assert_close(
            rms_norm(part, weight, EPS, backend="native"),
            rms_norm(part, weight, EPS, backend="torch"),
        )


def test_nothing_is_left_unwritten_and_nan_is_passed_on():
    x = torch.randn(1, 6, 32)
    x[0, 3, 5] = torch.nan
    found = rms_norm(x, torch.ones(32), EPS, backend="native")
    assert found[0, 3].isnan().all()
    assert found[0, [0, 1, 2, 4, 5]].isfinite().all()


def test_the_kernel_says_what_it_does_not_take():
    with pytest.raises(BackendUnavailableError, match="of 16 channels, got 20"):
        swiglu(torch.randn(3, 40), backend="native")
    with pytest.raises(BackendUnavailableError, match="float32 or bfloat16"):
        swiglu(torch.randn(3, 64).double(), backend="native")
    assert native.unavailable() is None
    assert swiglu(torch.randn(3, 40)).shape == (3, 20)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_autocast_leaves_dtypes_alone(backend):
    """Layers would else hand on twice the bytes."""
    x, ones = torch.randn(2, 3, 32).bfloat16(), torch.ones(32)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [
            rms_norm(x, ones, 1e-5, backend=backend),
            rms_norm(x, ones, 1e-5, x, backend=backend),
            swiglu(x, backend=backend),
            blend_norm(x, x, x, ones, ones, 1e-5, backend=backend),
        ]
    assert all(y.dtype == torch.bfloat16 for y in outputs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 33])
def test_fused_kernels_equal_the_operations(rows, dtype):
    torch.manual_seed(0)
    shape = (2, rows, 64)
    x, gate, third = (torch.randn(shape, device="cuda", dtype=dtype) for _ in range(3))
    weight, bias = (torch.randn(64, device="cuda") for _ in range(2))
    calls = [
        (rms_norm, (x, weight), (EPS, gate)),
        (rms_norm, (x, weight), (EPS,)),
        (swiglu, (x,), ()),
        (blend_norm, (x, gate, third, weight, bias), (EPS,)),
    ]
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    for function, tensors, settings in calls:
        results = []
        for backend in ("fused", "torch"):
            leaves = [t.detach().clone().requires_grad_() for t in tensors]
            output = function(*leaves, *settings, backend=backend)
            (output.float() ** 2).sum().backward()
            results.append([output, *(leaf.grad for leaf in leaves)])
        for found, expected in zip(*results, strict=True):
            assert found.dtype == expected.dtype
            error = (found.float() - expected.float()).norm()
            assert error <= tolerance * expected.float().norm()
