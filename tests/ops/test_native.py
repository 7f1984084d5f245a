"""What the compiled kernels must do beyond giving the right numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from crossdna.errors import BackendUnavailableError
from crossdna.ops.delta_rule import delta_rule
from crossdna.ops.short_conv import short_conv
from crossdna.ops.window_attention import window_attention

pytestmark = pytest.mark.usefixtures("native_kernels")


def _normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def delta_operands(batch=2, length=75, heads=3, keys=12, values=20, seed=0):
    q, k = (_normal(batch, length, heads, keys, seed=seed + i) for i in (1, 2))
    v = _normal(batch, length, heads, values, seed=seed + 3)
    log_decay = -_normal(batch, length, heads, seed=seed + 4).exp()
    beta = _normal(batch, length, heads, seed=seed + 5).sigmoid()
    feedback, correction = _normal(heads, seed=seed + 6).sigmoid(), _normal(heads) / 10
    return [q, k, v, log_decay, beta, feedback, correction]


def run_delta(backend, *operands):
    return delta_rule(*operands, backend=backend)


def window_operands(batch=2, length=150, heads=3, width=12, seed=0):
    return [_normal(batch, length, heads, width, seed=seed + i) for i in range(3)]


def run_window(backend, *operands):
    result = window_attention(*operands, window=40, rope_theta=1e4, backend=backend)
    return [result.output]


def conv_operands(batch=2, length=150, channels=32, width=4, seed=0):
    return [_normal(batch, length, channels, seed=seed), _normal(channels, width)]


def run_conv(backend, *operands):
    return short_conv(*operands, activation="silu", backend=backend)


CASES = [
    pytest.param(run_delta, delta_operands, id="delta_rule"),
    pytest.param(run_window, window_operands, id="window_attention"),
    pytest.param(run_conv, conv_operands, id="short_conv"),
]


def outputs_and_gradients(run, backend, operands):
    leaves = [x.detach().clone().requires_grad_() for x in operands]
    outputs = list(run(backend, *leaves))
    torch.autograd.backward(outputs, [torch.ones_like(x) for x in outputs])
    return [*(x.detach() for x in outputs), *(x.grad for x in leaves)]


@pytest.fixture
def poisoned_memory():
    """Every tensor that torch.empty gives is full of NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def threads():
    """Set the number of threads; put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("length", [1, 15, 16, 17, 130])
@pytest.mark.parametrize(("run", "operands"), CASES)
def test_nothing_uninitialised_is_read_or_left(run, operands, length):
    assert bool(torch.empty(1).isnan().all())
    for x in outputs_and_gradients(run, "native", operands(length=length)):
        assert bool(x.isfinite().all())


@pytest.mark.parametrize(("run", "operands"), CASES)
def test_the_number_of_threads_changes_no_bit(run, operands, threads):
    results = []
    for count in (1, 2, 3, 2):
        threads(count)
        results.append(outputs_and_gradients(run, "native", operands()))
    for other in results[1:]:
        assert all(map(torch.equal, results[0][:-1], other[:-1]))
    # The taps' gradient is added up thread by thread: equal for equal counts.
    assert torch.equal(results[1][-1], results[3][-1])


@pytest.mark.parametrize(("run", "operands"), CASES)
def test_strided_operands(run, operands):
    plain = operands()
    strided = []
    for x in plain:
        wide = torch.full((*x.shape[:-1], x.shape[-1] + 5), torch.nan)
        wide[..., 2 : x.shape[-1] + 2] = x
        strided.append(wide[..., 2 : x.shape[-1] + 2])
    for a, b in zip(run("native", *plain), run("native", *strided), strict=True):
        assert torch.equal(a, b)
    flipped = [x.transpose(0, -1).contiguous().transpose(0, -1) for x in plain]
    for a, b in zip(run("native", *plain), run("native", *flipped), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("run", "operands"), CASES)
def test_bfloat16_equals_float32_on_the_same_numbers(run, operands):
    rounded = operands()
    first = 3 if run is run_delta else len(rounded)
    rounded[:first] = [x.bfloat16() for x in rounded[:first]]
    exact = outputs_and_gradients(run, "native", [x.float() for x in rounded])
    result = outputs_and_gradients(run, "native", rounded)
    for got, expected in zip(result, exact, strict=True):
        error = (got.float() - expected).norm() / expected.norm()
        assert error < 0.01


@pytest.mark.parametrize(("run", "operands"), CASES)
def test_compiled_graphs_hold_the_kernel(run, operands):
    leaves = [x.requires_grad_() for x in operands()]

    def total(*leaves):
        return sum((x * x).sum() for x in run("auto", *leaves))

    expected = torch.autograd.grad(total(*leaves), leaves)
    compiled = torch.compile(total, backend="aot_eager", fullgraph=True)
    result = torch.autograd.grad(compiled(*leaves), leaves)
    for a, b in zip(result, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("run", "operands"), CASES)
def test_exported_graphs_need_no_kernel(run, operands, strict):
    class Operator(torch.nn.Module):
        def forward(self, *operands):
            return list(run("auto", *operands))

    inputs = tuple(operands(length=40))
    program = torch.export.export(Operator(), inputs, strict=strict)
    called = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    assert called
    assert not [name for name in called if "crossdna" in name]
    for a, b in zip(program.module()(*inputs), run("native", *inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_operators_are_registered_soundly():
    from crossdna.ops.delta_rule import native as delta
    from crossdna.ops.short_conv import native as conv
    from crossdna.ops.window_attention import native as window

    leaves = [x.requires_grad_() for x in delta_operands()]
    feedback = [x.detach().expand(2, 75, 3) for x in leaves[5:]]
    state = torch.zeros(2, 3, 12, 20)
    torch.library.opcheck(
        delta._forward.registered, (*leaves[:5], *feedback, state, True)
    )
    leaves = [x.requires_grad_() for x in window_operands()]
    table = torch.rand(2, 170, 6).unbind(0)
    past = [x.detach()[:, :20].clone() for x in leaves[1:]]
    torch.library.opcheck(
        window._forward.registered, (*leaves, *past, None, *table, 40, True)
    )
    x, taps = (x.requires_grad_() for x in conv_operands())
    taps = taps.detach().t().contiguous()
    torch.library.opcheck(
        conv._forward.registered, (x, taps, torch.zeros(2, 3, 32), True)
    )


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 300),
    heads=st.integers(1, 3),
    keys=st.integers(1, 40),
    values=st.integers(1, 40),
    seed=st.integers(0, 2**16),
)
def test_delta_rule_of_any_shape(batch, length, heads, keys, values, seed):
    operands = delta_operands(batch, length, heads, keys, values, seed)
    result = run_delta("native", *operands)
    expected = run_delta("torch", *(x.double() for x in operands))
    for a, b in zip(result, expected, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 1200),
    heads=st.integers(1, 2),
    half=st.integers(1, 20),
    window=st.integers(1, 700),
    masked=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_window_attention_of_any_shape(length, heads, half, window, masked, seed):
    operands = window_operands(1, length, heads, 2 * half, seed)
    mask = _normal(1, length, seed=seed) > -0.5 if masked else None
    options = {"window": window, "rope_theta": 1e4, "mask": mask}
    result = window_attention(*operands, backend="native", **options).output
    expected = window_attention(*(x.double() for x in operands), **options).output
    assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_nan_is_passed_on_not_hidden():
    operands = window_operands(1, 60, 1, 8)
    operands[1][0, 30] = torch.nan
    (output,) = run_window("native", *operands)
    assert bool(output[0, 30:].isnan().all())
    assert bool(output[0, :30].isfinite().all())


def test_slow_decays_keep_their_accuracy_over_long_sequences():
    operands = delta_operands(1, 20_000, 1, 8, 8)
    operands[3] = torch.full_like(operands[3], -1e-4)
    result = run_delta("native", *operands)
    expected = run_delta("torch", *(x.double() for x in operands))
    for a, b in zip(result, expected, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_both_languages_agree_on_sizes():
    from crossdna.ops.delta_rule import native as delta
    from crossdna.ops.native import build
    from crossdna.ops.window_attention import native as window

    library = build.library()
    assert library.crossdna_delta_rule_segment() == delta.SEGMENT
    assert library.crossdna_window_attention_block() == window.BLOCK


def test_refusals_have_reasons():
    operands = delta_operands()
    with pytest.raises(BackendUnavailableError, match="all float32 or all bfloat16"):
        run_delta("native", *(x.double() for x in operands))
    with pytest.raises(BackendUnavailableError, match="all float32 or all bfloat16"):
        run_window("native", *(x.half() for x in window_operands()))
    with pytest.raises(BackendUnavailableError, match="multiple of 16 channels"):
        run_conv("native", *conv_operands(channels=20))
    with pytest.raises(BackendUnavailableError, match="at most 16 taps"):
        run_conv("native", *conv_operands(width=17))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("width", [2, 12, 16, 40])
@pytest.mark.parametrize(("length", "window"), [(1, 1), (75, 9), (600, 33), (700, 512)])
def test_bfloat16_attention_without_gradients(length, window, width, masked):
    """Inference multiplies in bfloat16 where the CPU can, and sums in float32."""
    operands = [x.bfloat16() for x in window_operands(2, length, 2, width)]
    mask = _normal(2, length, seed=9) > -0.5 if masked else None
    options = {"window": window, "rope_theta": 1e4, "mask": mask}
    result = window_attention(*operands, backend="native", **options).output
    assert result.dtype == torch.bfloat16
    expected = window_attention(*(x.double() for x in operands), **options).output
    assert (result.double() - expected).norm() / expected.norm() < 0.01


@pytest.mark.parametrize(
    ("length", "keys", "values"),
    [(1, 12, 20), (17, 16, 16), (75, 64, 64), (300, 40, 72), (33, 2, 130)],
)
def test_bfloat16_delta_rule_without_gradients(length, keys, values):
    """Inference multiplies in bfloat16 where the CPU can; the state stays float32."""
    operands = delta_operands(2, length, 3, keys, values)
    operands[:3] = [x.bfloat16() for x in operands[:3]]
    state = _normal(2, 3, keys, values, seed=8)
    mask = _normal(2, length, seed=9) > -1
    result = delta_rule(*operands, initial_state=state, mask=mask, backend="native")
    assert result.output.dtype == torch.bfloat16
    assert result.state.dtype == torch.float32
    exact = [x.double() for x in (*operands, state)]
    expected = delta_rule(
        *exact[:-1], initial_state=exact[-1], mask=mask, backend="reference"
    )
    for got, wanted in zip(result, expected, strict=True):
        assert (got.double() - wanted).norm() / wanted.norm() < 0.005


def test_errors_of_bfloat16_do_not_pile_up():
    """What is rounded is read, never carried: long sequences are as near as short."""
    operands = delta_operands(1, 4096, 1, 32, 32)
    operands[:3] = [x.bfloat16() for x in operands[:3]]
    operands[3] = operands[3] / 1000
    got = delta_rule(*operands, backend="native").output.double()
    expected = delta_rule(*(x.double() for x in operands), backend="torch").output
    for part in (slice(0, 256), slice(-256, None)):
        error = (got - expected)[:, part].norm() / expected[:, part].norm()
        assert error < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_stays_in_its_head(dtype):
    """Keys and values are no multiple of a vector: what fills them up is cleared."""
    operands = delta_operands(length=40)
    operands[:3] = [x.to(dtype) for x in operands[:3]]
    operands[1][0, 20, 1, 0] = torch.nan
    output = delta_rule(*operands, backend="native").output
    assert bool(output[0, 20:, 1].isnan().all())
    # A chunk of 16 tokens is computed together.
    assert bool(output[0, :16].isfinite().all())
    assert bool(output[0, :, [0, 2]].isfinite().all())
    assert bool(output[1].isfinite().all())


@pytest.mark.parametrize(("run", "operands"), CASES)
def test_inference_calls_the_kernel_itself(run, operands, monkeypatch):
    inputs = operands()
    with torch.no_grad():
        expected = run("native", *inputs)

    def refused(*_arguments):
        raise AssertionError("went through the dispatcher")

    with torch.inference_mode():
        with torch.profiler.profile() as profile:
            watched = run("native", *inputs)
        monkeypatch.setattr(torch.library.CustomOpDef, "__call__", refused)
        found = run("native", *inputs)
    assert any("crossdna::" in event.key for event in profile.key_averages())
    for a, b, c in zip(found, watched, expected, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, c)


def test_counters_of_operations_see_the_kernel():
    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
            seen.append(str(function))
            return function(*arguments, **(kwargs or {}))

    seen: list[str] = []
    with torch.inference_mode(), Names():
        run_conv("native", *conv_operands())
    assert any("crossdna.short_conv" in name for name in seen)


def test_angles_that_a_tracer_made_are_not_kept():
    operands = window_operands(width=22)
    with FakeTensorMode() as mode:
        run_window("native", *(mode.from_tensor(x) for x in operands))
    expected = run_window("reference", *operands)
    for a, b in zip(run_window("native", *operands), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_training_takes_angles_that_inference_made():
    operands = [x.requires_grad_() for x in window_operands(width=14)]
    with torch.inference_mode():
        run_window("native", *(x.detach() for x in operands))
    sum(x.square().sum() for x in run_window("native", *operands)).backward()
    assert all(x.grad is not None for x in operands)
