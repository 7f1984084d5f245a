import pytest
import torch
from torch.nn import functional as F

from crossdna.errors import BackendUnavailableError, CrossDNAError
from crossdna.ops.selective_scan import gpu, selective_scan
from crossdna.ops.selective_scan import torch as tiled

LENGTHS = (1, 2, 7, 63, 100)


def make(batch, length, channels, states, *, dtype=torch.float64, seed=0):
    """Draw operands as they come out of a model; decays from weak to total."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    u = normal(batch, length, channels)
    B, C = normal(2, batch, length, states).unbind(0)
    delta = F.softplus(normal(batch, length, channels) - 2)
    A = -torch.linspace(0.01, 300, channels * states).view(channels, states).double()
    state = normal(batch, channels, states)
    return [x.to(dtype) for x in (u, delta, A, B, C, normal(channels), state)]


def run(backend, mask=None):
    def function(*operands):
        *rest, state = operands
        return selective_scan(*rest, initial_state=state, mask=mask, backend=backend)

    return function


@pytest.fixture
def small_tiles(monkeypatch):
    """Make tiles so small that tests cross their borders in time and batch."""
    monkeypatch.setattr(tiled, "_CPU_STEP", 2 * 5 * 3)
    monkeypatch.setattr(tiled, "_CPU_TILE", 9 * 2 * 5 * 3)


@pytest.mark.parametrize("length", LENGTHS)
def test_float64_equals_the_reference_with_gradients(length, small_tiles, assert_same):
    inputs = make(3, length, 5, 3)
    assert_same(run("torch"), run("reference"), inputs, tolerance=1e-11)


@pytest.fixture(params=["torch", "native"])
def backend(request):
    if request.param == "native":
        request.getfixturevalue("native_kernels")
    return request.param


@pytest.mark.parametrize(
    "shape", [(2, 100, 24, 16), (5, 33, 520, 16), (3, 65, 7, 5), (1, 1, 1, 1)]
)
def test_float32_is_accurate_with_gradients(backend, shape, assert_same):
    inputs = make(*shape, dtype=torch.float32)

    def exact(*operands):
        return run("reference")(*(x.double() for x in operands))

    assert_same(run(backend), exact, inputs, tolerance=1e-5)


def test_gradcheck(small_tiles):
    inputs = [x.requires_grad_() for x in make(3, 11, 5, 3)]
    assert torch.autograd.gradcheck(run("torch"), inputs, fast_mode=True)


def test_the_state_carries_a_sequence_over_a_cut():
    u, delta, A, B, C, D, state = make(2, 50, 6, 4)
    whole = selective_scan(u, delta, A, B, C, D, initial_state=state)
    pieces = []
    for part in (slice(0, 13), slice(13, 14), slice(14, 50)):
        piece = selective_scan(
            u[:, part], delta[:, part], A, B[:, part], C[:, part], D,
            initial_state=state,
        )  # fmt: skip
        pieces.append(piece.output)
        state = piece.state
    torch.testing.assert_close(torch.cat(pieces, 1), whole.output)
    torch.testing.assert_close(state, whole.state)


@pytest.mark.parametrize("side", ["left", "right"])
def test_masked_positions_leave_no_trace(side):
    u, delta, A, B, C, D, _ = make(2, 20, 4, 3)
    alone = selective_scan(*(u[:, :14], delta[:, :14]), A, B[:, :14], C[:, :14], D)
    pads = [0, 0, 6, 0] if side == "left" else [0, 0, 0, 6]
    padded = [F.pad(x[:, :14], pads, value=3.0) for x in (u, delta, B, C)]
    mask = F.pad(torch.ones(2, 14, dtype=torch.bool), pads[2:])
    got = selective_scan(*padded[:2], A, *padded[2:], D, mask=mask)
    torch.testing.assert_close(got.output[mask].view_as(alone.output), alone.output)
    torch.testing.assert_close(got.state, alone.state)


def test_bfloat16_keeps_its_state_in_float32(backend):
    inputs = [x.bfloat16() for x in make(1, 300, 4, 3)]
    inputs[2] = inputs[2].float()
    with torch.autocast("cpu", torch.bfloat16):
        got = run(backend)(*inputs)
    exact = run("reference")(*(x.float() for x in inputs))
    assert got.output.dtype is torch.bfloat16
    assert got.state.dtype is torch.float32
    torch.testing.assert_close(got.state, exact.state)
    torch.testing.assert_close(got.output, exact.output.bfloat16(), atol=0, rtol=8e-3)


def test_rows_do_not_depend_on_their_batch(backend):
    inputs = make(7, 40, 300, 16, dtype=torch.float32)
    whole = run(backend)(*inputs)
    u, delta, A, B, C, D, state = inputs
    alone = run(backend)(u[4:5], delta[4:5], A, B[4:5], C[4:5], D, state[4:5])
    torch.testing.assert_close(whole.output[4:5], alone.output)


def test_without_skip_and_state():
    u, delta, A, B, C, D, state = make(2, 9, 4, 3)
    bare = selective_scan(u, delta, A, B, C)
    full = run("reference")(u, delta, A, B, C, 0 * D, 0 * state)
    torch.testing.assert_close(bare.output, full.output)


def test_operator_is_fit_for_compilation():
    u, delta, A, B, C, D, state = make(2, 9, 4, 3)
    inputs = tuple(x.requires_grad_() for x in (u, delta, A, B, C, D, state))
    torch.library.opcheck(torch.ops.crossdna.selective_scan.default, inputs)


def test_the_native_operator_is_fit_for_compilation(native_kernels):
    operands = [x.float() for x in make(2, 9, 4, 3)]
    operands[2], operands[6] = operands[2].t(), operands[6].transpose(1, 2)
    inputs = tuple(x.contiguous().requires_grad_() for x in operands)
    operator = torch.ops.crossdna.selective_scan_native.default
    torch.library.opcheck(operator, (*inputs, True))


def test_what_the_native_kernel_refuses(native_kernels):
    *operands, state = make(1, 4, 2, 65, dtype=torch.float32)
    with pytest.raises(BackendUnavailableError, match="at most 64 states"):
        selective_scan(*operands, initial_state=state, backend="native")
    *operands, _ = make(1, 4, 2, 2)
    with pytest.raises(BackendUnavailableError, match=r"got torch\.float64"):
        selective_scan(*operands, backend="native")


@pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of machines without CUDA")
def test_the_kernel_is_refused_with_a_reason():
    *operands, _ = make(1, 4, 2, 2)
    with pytest.raises(BackendUnavailableError, match="needs CUDA tensors, got cpu"):
        selective_scan(*operands, backend="mamba_ssm")
    assert gpu.unavailable() == "no CUDA device"


@pytest.mark.gpu
@pytest.mark.skipif(gpu.unavailable() is not None, reason=str(gpu.unavailable()))
def test_the_kernel_equals_the_reference():
    operands = [x.float().cuda() for x in make(2, 100, 16, 16)[:-1]]
    fast = selective_scan(*operands, backend="mamba_ssm").output
    slow = selective_scan(*operands, backend="reference").output
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-4)


def test_misshaped_operands_are_named():
    u, delta, A, B, C, D, _ = make(2, 9, 4, 3)
    with pytest.raises(CrossDNAError, match=r"B must be \(2, 9, 3\), got \(2, 8, 3\)"):
        selective_scan(u, delta, A, B[:, 1:], C, D)
    with pytest.raises(CrossDNAError, match="A \\(channels, states\\)"):
        selective_scan(u, delta, A[0], B, C, D)
    with pytest.raises(CrossDNAError, match="empty"):
        selective_scan(u[:, :0], delta[:, :0], A, B[:, :0], C[:, :0], D)
