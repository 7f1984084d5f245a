import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from crossdna.errors import BackendUnavailableError, CrossDNAError
from crossdna.ops.delta_rule import delta_rule, fla, triton
from crossdna.ops.delta_rule.reference import normalise
from crossdna.ops.fusion import fused

LENGTHS = (1, 2, 63, 64, 65, 100, 257)


def make(batch, length, heads, keys, values, *, dtype=torch.float64, seed=0):
    """Draw operands as they come out of the model: SiLU'd, decays weak to fierce."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k, v = (F.silu(normal(batch, length, heads, d)) for d in (keys, keys, values))
    rates = torch.linspace(0.01, 16.0, heads, dtype=torch.float64)
    log_decay = -rates * F.softplus(normal(batch, length, heads))
    beta = torch.sigmoid(normal(batch, length, heads))
    feedback, correction = torch.sigmoid(normal(heads)), 0.1 * normal(heads)
    state = normal(batch, heads, keys, values)
    operands = (q, k, v, log_decay, beta, feedback, correction, state)
    return [x.to(dtype) for x in operands]


def run(backend, mask=None):
    def function(*operands):
        *rest, state = operands
        return delta_rule(*rest, initial_state=state, mask=mask, backend=backend)

    return function


@pytest.fixture(params=["torch", "native"])
def backend(request):
    if request.param == "native":
        request.getfixturevalue("native_kernels")
    return request.param


@pytest.mark.parametrize("length", LENGTHS)
def test_float64_equals_the_reference_with_gradients(length, assert_same):
    inputs = make(2, length, 3, 16, 24)
    assert_same(run("torch"), run("reference"), inputs, tolerance=1e-11)


@pytest.mark.parametrize("length", LENGTHS)
def test_float32_is_accurate_with_gradients(backend, length, assert_same):
    inputs = make(2, length, 4, 64, 64, dtype=torch.float32)

    def exact(*operands):
        return run("reference")(*(x.double() for x in operands))

    assert_same(run(backend), exact, inputs, tolerance=1e-5)


def test_gradcheck_of_the_chunked_form():
    inputs = [x.requires_grad_() for x in make(1, 35, 2, 4, 4)]
    assert torch.autograd.gradcheck(run("torch"), inputs, fast_mode=True)


def test_parallel_keys_do_not_blow_up(backend, assert_same):
    """All keys alike is the worst case for the triangular solve."""
    inputs = make(1, 128, 2, 16, 16, dtype=torch.float32)
    inputs[1] = torch.ones_like(inputs[1])
    inputs[3] = torch.zeros_like(inputs[3])
    inputs[4] = torch.ones_like(inputs[4])

    def exact(*operands):
        return run("reference")(*(x.double() for x in operands))

    assert_same(run(backend), exact, inputs, tolerance=1e-5)


def test_long_segments_are_cut_without_a_trace(monkeypatch, assert_same):
    from crossdna.ops.delta_rule import torch as chunked

    monkeypatch.setattr(chunked, "SEGMENT_ELEMENTS", 2 * 3 * 24 * 64)
    inputs = make(2, 257, 3, 16, 24)
    assert_same(run("torch"), run("reference"), inputs, tolerance=1e-11)


def test_feedback_per_token_and_per_batch(backend, assert_same):
    inputs = make(2, 40, 2, 16, 16, dtype=torch.float32)
    generator = torch.Generator().manual_seed(3)
    inputs[5] = 0.1 + 0.9 * torch.rand(2, 1, 2, generator=generator)
    inputs[6] = torch.rand(2, 40, 2, generator=generator)

    def exact(*operands):
        return run("reference")(*(x.double() for x in operands))

    assert_same(run(backend), exact, inputs, tolerance=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 70),
    heads=st.integers(1, 3),
    keys=st.integers(1, 20),
    values=st.integers(1, 20),
    cut=st.integers(0, 70),
    seed=st.integers(0, 2**16),
)
def test_carried_state_equals_whole(batch, length, heads, keys, values, cut, seed):
    *operands, state = make(batch, length, heads, keys, values, seed=seed)
    whole = delta_rule(*operands, initial_state=state)
    cut = min(cut, length - 1)
    outputs = []
    for part in (slice(0, cut), slice(cut, length)):
        if part.start != part.stop:
            piece = [x[:, part] if x.ndim > 1 else x for x in operands]
            output, state = delta_rule(*piece, initial_state=state)
            outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, 1), whole.output)
    torch.testing.assert_close(state, whole.state)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(backend, side):
    *operands, _ = make(1, 50, 2, 16, 16, dtype=torch.float32)
    alone = delta_rule(*operands, backend=backend)
    pad = (7, 0) if side == "left" else (0, 7)
    padded = [
        F.pad(x, (0, 0) * (x.ndim - 2) + pad, value=3.0) if x.ndim > 1 else x
        for x in operands
    ]
    mask = F.pad(torch.ones(1, 50, dtype=torch.bool), pad)
    out = delta_rule(*padded, mask=mask, backend=backend)
    torch.testing.assert_close(out.output[mask], alone.output[0], rtol=0, atol=2e-6)
    torch.testing.assert_close(out.state, alone.state, rtol=0, atol=2e-6)


def test_masked_tokens_get_no_gradient_through_the_state(backend):
    *operands, _ = make(2, 30, 2, 16, 16, dtype=torch.float32)
    operands = [x.requires_grad_() for x in operands]
    mask = torch.ones(2, 30, dtype=torch.bool)
    mask[0, 11:14] = False
    delta_rule(*operands, mask=mask, backend=backend).state.sum().backward()
    for x in operands[1:5]:
        assert bool((x.grad[0, 11:14] == 0).all())
    assert bool((operands[1].grad[0, 10] != 0).any())


def test_batch_mates_do_not_matter(backend):
    *operands, state = make(5, 40, 2, 16, 16, dtype=torch.float32)
    together = delta_rule(*operands, initial_state=state, backend=backend)
    alone = delta_rule(
        *(x[3:4] if x.ndim > 1 else x for x in operands),
        initial_state=state[3:4],
        backend=backend,
    )
    torch.testing.assert_close(together.output[3:4], alone.output, rtol=0, atol=2e-6)


def test_a_poisoned_sample_leaves_its_batch_mates_alone(backend):
    *operands, _ = make(3, 40, 2, 16, 16, dtype=torch.float32)
    clean = delta_rule(*operands, backend=backend)
    for x in operands[:5]:
        x[1] = torch.nan
    poisoned = delta_rule(*operands, backend=backend)
    for row in (0, 2):
        assert torch.equal(poisoned.output[row], clean.output[row])
        assert torch.equal(poisoned.state[row], clean.state[row])


def test_bfloat16_autocast_keeps_states_in_float32(device):
    *operands, _ = make(2, 100, 2, 16, 16, dtype=torch.float32)
    operands = [x.to(device) for x in operands]
    expected = delta_rule(*operands)
    rounded = [x.bfloat16() for x in operands[:3]] + operands[3:]
    with torch.autocast(device.type, dtype=torch.bfloat16):
        result = delta_rule(*rounded)
    assert result.output.dtype == torch.bfloat16
    assert result.state.dtype == torch.float32
    error = (result.output.float() - expected.output).norm() / expected.output.norm()
    assert error < 0.02


def test_float64_stays_float64():
    *operands, _ = make(1, 5, 1, 4, 4)
    result = delta_rule(*operands)
    assert result.output.dtype == result.state.dtype == torch.float64


def test_shapes_that_do_not_fit_are_named():
    *operands, state = make(2, 8, 2, 4, 6)
    with pytest.raises(CrossDNAError, match="do not fit"):
        delta_rule(operands[0][:, :7], *operands[1:])
    with pytest.raises(CrossDNAError, match="initial_state must be"):
        delta_rule(*operands, initial_state=state[:1])
    with pytest.raises(CrossDNAError, match="mask must be"):
        delta_rule(*operands, mask=torch.ones(2, 9, dtype=torch.bool))
    with pytest.raises(CrossDNAError, match="empty"):
        delta_rule(*(x[:, :0] if x.ndim > 1 else x for x in operands))


def test_the_gpu_backend_refuses_the_cpu_with_a_reason():
    *operands, _ = make(1, 8, 2, 4, 4, dtype=torch.float32)
    with pytest.raises(BackendUnavailableError, match="needs CUDA tensors, got cpu"):
        delta_rule(*operands, backend="fla")


def test_what_the_gpu_kernel_is_handed():
    """The kernel's recurrence on our prepared operands is the operator."""
    operands = make(2, 33, 3, 8, 12, dtype=torch.float32)
    operands[:3] = [x.bfloat16() for x in operands[:3]]
    arguments = fla.comba_arguments(*operands, torch.bfloat16)
    for x in (arguments.q, arguments.k, arguments.p, arguments.v):
        assert x.dtype == torch.bfloat16
        assert x.shape[:3] == (2, 33, 3)
    for x in (arguments.g, arguments.beta, arguments.initial_state):
        assert x.dtype == torch.float32
    state = arguments.initial_state
    outputs = []
    for t in range(33):
        q, k, v, p = (x[:, t].float() for x in arguments[:4])
        error = v - torch.einsum("bhkv,bhk->bhv", state, p)
        u = arguments.beta[:, t, :, None] * error
        state = arguments.g[:, t].exp()[..., None, None] * state
        state = state + k[..., None] * u[..., None, :]
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, q) * arguments.scale)
    expected = run("reference")(*operands)
    output = torch.stack(outputs, 1)
    assert (output - expected.output.float()).abs().max() < 0.05
    assert (state - expected.state).abs().max() < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("function", [fla.comba_arguments, triton.kernel_operands])
def test_operands_prepared_by_the_compiler_are_the_same(function, dtype):
    """Traced once for all lengths, with gradients; on a GPU this is one kernel."""
    compiled = fused(function, "aot_eager")
    for length in (33, 70):
        operands = make(2, length, 3, 8, 12, dtype=torch.float32)
        leaves = [[x.clone().requires_grad_() for x in operands] for _ in range(2)]
        results = []
        for prepare, own in zip((function, compiled), leaves, strict=True):
            arguments = prepare(*own, dtype)
            sum(x.float().square().mean() for x in arguments[:6]).backward()
            results.append([*arguments[:6], *(x.grad for x in own[:3])])
        for one, other in zip(*results, strict=True):
            assert one.dtype == other.dtype
            torch.testing.assert_close(one, other)


def test_autocast_says_what_the_kernels_compute_in():
    v = torch.zeros(1)
    assert fla.kernel_dtype(v) == torch.float32
    # Without a GPU torch warns that it turns autocast off; its state is what counts.
    torch.set_autocast_enabled("cuda", True)
    try:
        assert fla.kernel_dtype(v) == torch.get_autocast_dtype("cuda")
    finally:
        torch.set_autocast_enabled("cuda", False)


def test_fla_naive_chunks_agree_with_our_convention():
    pytest.importorskip("triton", reason="fla.ops needs triton")
    comba = pytest.importorskip("fla.ops.comba", reason="extra gpu not installed")
    operands = make(2, 70, 3, 8, 12, dtype=torch.float32)
    arguments = fla.comba_arguments(*operands, torch.float32)
    output, state = comba.naive_chunk_comba(
        arguments.q,
        arguments.k,
        arguments.v,
        arguments.p,
        arguments.g,
        arguments.beta,
        scale=arguments.scale,
        initial_state=arguments.initial_state,
        output_final_state=True,
    )
    expected = run("reference")(*operands)
    torch.testing.assert_close(output, expected.output, rtol=0, atol=1e-5)
    torch.testing.assert_close(state, expected.state, rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("length", LENGTHS)
def test_gpu_kernel_equals_the_reference(length, assert_same):
    if (reason := fla.unavailable()) is not None:
        pytest.skip(reason)
    inputs = [x.cuda() for x in make(2, length, 3, 64, 64, dtype=torch.float32)]
    assert_same(run("fla"), run("reference"), inputs, tolerance=5e-3)


def test_normalise_leaves_zero_at_zero():
    assert bool((normalise(torch.zeros(3, 4)) == 0).all())
