import pytest
import torch
from torch.nn import functional as F

from crossdna.errors import CrossDNAError
from crossdna.ops.head_scan import head_scan
from crossdna.ops.head_scan.torch import CHUNK

# Batch, length, heads, width, groups, states.
SHAPES = (
    (1, 1, 1, 1, 1, 1),
    (2, 7, 6, 5, 2, 3),
    (3, CHUNK, 4, 3, 4, 2),
    (2, CHUNK + 1, 4, 3, 1, 2),
    (2, 4 * CHUNK + 5, 8, 30, 1, 32),
)


def make(shape, *, dtype=torch.float64, seed=0):
    """Draw operands as they come out of a model; decays from weak to total."""
    batch, length, heads, width, groups, states = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes):
        return torch.randn(*sizes, generator=generator, dtype=torch.float64)

    u = normal(batch, length, heads, width)
    delta = F.softplus(normal(batch, length, heads) - 2)
    A = -torch.linspace(0.01, 300, heads).double()
    B, C = normal(2, batch, length, groups, states).unbind(0)
    state = normal(batch, heads, width, states)
    return [x.to(dtype) for x in (u, delta, A, B, C, normal(heads), state)]


def run(backend):
    def function(*operands):
        *rest, state = operands
        return head_scan(*rest, initial_state=state, backend=backend)

    return function


@pytest.mark.parametrize("shape", SHAPES)
def test_float64_equals_the_reference_with_gradients(shape, assert_same):
    assert_same(run("torch"), run("reference"), make(shape), tolerance=1e-11)


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_is_accurate_with_gradients(shape, assert_same):
    def exact(*operands):
        return run("reference")(*(x.double() for x in operands))

    inputs = make(shape, dtype=torch.float32)
    assert_same(run("torch"), exact, inputs, tolerance=1e-5)


def test_gradcheck():
    inputs = [x.requires_grad_() for x in make((2, CHUNK + 3, 4, 2, 2, 3))]
    assert torch.autograd.gradcheck(run("torch"), inputs, fast_mode=True)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_the_state_carries_a_sequence_over_a_cut(backend):
    u, delta, A, B, C, D, state = make((2, 100, 6, 4, 2, 3))
    whole = head_scan(u, delta, A, B, C, D, initial_state=state, backend=backend)
    pieces = []
    for part in (slice(0, 45), slice(45, 46), slice(46, 100)):
        piece = head_scan(
            u[:, part], delta[:, part], A, B[:, part], C[:, part], D,
            initial_state=state, backend=backend,
        )  # fmt: skip
        pieces.append(piece.output)
        state = piece.state
    torch.testing.assert_close(torch.cat(pieces, 1), whole.output)
    torch.testing.assert_close(state, whole.state)


def test_bfloat16_keeps_its_state_in_float32():
    inputs = [x.bfloat16() for x in make((1, 300, 4, 3, 1, 2))]
    with torch.autocast("cpu", torch.bfloat16):
        got = run("torch")(*inputs)
    exact = run("reference")(*(x.float() for x in inputs))
    assert got.output.dtype is torch.bfloat16
    assert got.state.dtype is torch.float32
    torch.testing.assert_close(got.state, exact.state)
    torch.testing.assert_close(
        got.output, exact.output.bfloat16(), atol=1e-3, rtol=8e-3
    )


def test_without_skip_and_state():
    u, delta, A, B, C, D, state = make((2, 9, 4, 3, 2, 2))
    bare = head_scan(u, delta, A, B, C)
    full = run("reference")(u, delta, A, B, C, 0 * D, 0 * state)
    torch.testing.assert_close(bare.output, full.output)


def test_misshaped_operands_are_named():
    u, delta, A, B, C, D, _ = make((2, 9, 4, 3, 2, 2))
    with pytest.raises(CrossDNAError, match=r"C must be \(2, 9, 2, 2\), got"):
        head_scan(u, delta, A, B, C[:, 1:], D)
    with pytest.raises(CrossDNAError, match="u is"):
        head_scan(u[0], delta, A, B, C, D)
    with pytest.raises(CrossDNAError, match="4 heads cannot share 3 groups"):
        head_scan(u, delta, A, B[:, :, [0, 0, 1]], C, D)
    with pytest.raises(CrossDNAError, match="empty"):
        head_scan(u[:, :0], delta[:, :0], A, B[:, :0], C[:, :0], D)
