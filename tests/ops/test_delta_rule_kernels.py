"""The delta rule's Triton kernels, in Triton's interpreter on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.library import opcheck

from crossdna.ops.delta_rule import delta_rule, reference
from crossdna.ops.delta_rule import triton as kernels

from .test_delta_rule import LENGTHS, make

ROOT = Path(__file__).resolve().parents[2]


def run(*operands):
    return kernels.delta_rule(*operands)


def exact(*operands):
    return reference.delta_rule(*(x.double() for x in operands))


@pytest.mark.parametrize("length", LENGTHS)
def test_equals_the_reference_with_gradients(length, interpreter, assert_same):
    inputs = make(1, length, 2, 16, 24, dtype=torch.float32)
    # Sums of decays reach a thousand, of which float32 knows four decimals.
    assert_same(run, exact, inputs, tolerance=3e-4)


@pytest.mark.parametrize("widths", [(16, 16), (16, 32), (16, 24)])
def test_vectors_cut_out_of_rows_are_read_where_they_lie(
    widths, interpreter, assert_same
):
    """As the model has them, one projection's q, k and v side by side."""
    _, _, _, *others = make(2, 70, 2, *widths, dtype=torch.float32)
    keys, values = widths
    rows = torch.randn(2, 70, 2 * (2 * keys + values), dtype=torch.float32)

    def cut(rule):
        def function(rows, *others):
            parts = rows.split((2 * keys, 2 * keys, 2 * values), dim=-1)
            return rule(*(x.unflatten(-1, (2, -1)) for x in parts), *others)

        return function

    assert_same(cut(run), cut(exact), (rows, *others), tolerance=3e-4)


@pytest.mark.parametrize("programs", [1, 256])
def test_columns_of_a_state_are_independent(
    programs, interpreter, assert_same, monkeypatch
):
    """Few sequences are split among more programs."""
    monkeypatch.setattr(kernels, "PROGRAMS", programs)
    inputs = make(1, 70, 2, 40, 64, dtype=torch.float32)
    assert_same(run, exact, inputs, tolerance=1e-4)


@pytest.mark.parametrize("length", [256, 330])
def test_segments_side_by_side_equal_the_reference(
    length, interpreter, assert_same, monkeypatch
):
    monkeypatch.setattr(kernels, "SEGMENT", 1)
    monkeypatch.setattr(kernels, "PIECES", 2)
    taken = []
    in_segments = kernels.Rule.run_in_segments
    monkeypatch.setattr(
        kernels.Rule,
        "run_in_segments",
        lambda rule, *a: taken.append(a[1]) or in_segments(rule, *a),
    )
    inputs = make(2, length, 2, 16, 24, dtype=torch.float32)
    assert_same(run, exact, inputs, tolerance=3e-4)
    assert set(taken) == {length // kernels.CHUNK}


def test_only_few_long_sequences_are_cut():
    assert kernels.segments(8, 15_625) == 32
    assert kernels.segments(8, 64 * 8) == 8
    assert kernels.segments(8, 64 * 8 - 1) == 1
    assert kernels.segments(64, 15_625) == 1
    assert kernels.segments(1024, 16) == 1


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", kernels.DTYPES)
def test_the_check_before_the_first_call_passes(dtype, training, interpreter):
    check = kernels._miscomputed.__wrapped__
    assert check(dtype, 64, 64, training, 16, "cpu") is None


@pytest.mark.parametrize("columns", [16, 32, 64])
def test_the_check_tries_the_code_that_will_run(columns, interpreter, monkeypatch):
    seen = []
    split = kernels.columns_at_once
    monkeypatch.setattr(
        kernels, "columns_at_once", lambda *a: seen.append(split(*a)) or seen[-1]
    )
    check = kernels._miscomputed.__wrapped__
    assert check(torch.float32, 64, 64, True, columns, "cpu") is None
    assert set(seen) >= {columns}
    assert kernels.PROGRAMS == 256
    # As many sequences as small, usual and large steps of training have.
    wanted = {2: 16, 128: 32, 256: 64}
    assert all(split(n, 64) == size for n, size in wanted.items())


@pytest.mark.parametrize("kernel", ["solve", "run", "run_backward", "gradients"])
def test_the_check_finds_a_wrong_kernel(kernel, interpreter, monkeypatch, caplog):
    from crossdna.ops.delta_rule import kernels as compiled

    class Silent:
        """A kernel that leaves its results as they were."""

        def __getitem__(self, grid):
            return lambda *_arguments, **_settings: None

    monkeypatch.setattr(torch, "empty_like", lambda x: torch.zeros_like(x))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda x, *a, **k: x.new_zeros(*a))
    monkeypatch.setattr(compiled, kernel, Silent())
    check = kernels._miscomputed.__wrapped__
    message = check(torch.float32, 16, 16, True, 16, "cpu")
    assert "wrong by" in message
    assert "another backend computes it" in caplog.text


def test_the_check_runs_while_a_larger_graph_is_traced(interpreter, monkeypatch):
    check, asked = kernels._miscomputed.__wrapped__, []

    def on_the_cpu(*arguments):
        asked.append(arguments)
        return check(*arguments, "cpu")

    monkeypatch.setattr(kernels, "_miscomputed", on_the_cpu)

    def step(x):
        reason = kernels.miscomputed(torch.float32, x.shape[-1], 16, True, 16)
        return x + (1 if reason is None else 2)

    x = torch.zeros(3, 16, requires_grad=True)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    assert bool((compiled(x) == 1).all())
    assert asked == [(torch.float32, 16, 16, True, 16)]


@pytest.mark.parametrize("pieces", [1000, 4])
def test_bfloat16_errs_by_its_rounding(pieces, interpreter, monkeypatch):
    monkeypatch.setattr(kernels, "SEGMENT", 2)
    monkeypatch.setattr(kernels, "PIECES", pieces)
    operands = make(1, 600, 2, 64, 64, dtype=torch.float32)
    operands[:3] = [x.bfloat16() for x in operands[:3]]
    output, state = run(*operands)
    expected, expected_state = exact(*operands)
    assert output.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert (output - expected).norm() < 0.015 * expected.norm()
    assert (state - expected_state).norm() < 0.015 * expected_state.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parallel_keys_do_not_blow_up(dtype, interpreter):
    """All keys alike, as in a repeat, is the worst case for the triangular solve."""
    operands = make(1, 128, 2, 64, 64, dtype=torch.float32)
    operands[1] = torch.ones_like(operands[1])
    operands[3] = torch.zeros_like(operands[3])
    operands[4] = torch.ones_like(operands[4])
    operands[5] = torch.tensor([0.3, 0.9])
    operands[:3] = [x.to(dtype) for x in operands[:3]]
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    for found, expected in zip(run(*operands), exact(*operands), strict=True):
        assert (found - expected).norm() < tolerance * expected.norm()


def test_the_operators_are_what_torch_wants_of_them(interpreter):
    given = kernels.kernel_operands(*make(1, 70, 2, 16, 16), torch.float32)
    *operands, start = (x.detach().requires_grad_() for x in given)
    of = [operands[i].detach() for i in (1, 3, 5)]
    opcheck(kernels._inverses, of, test_utils=("test_schema", "test_faketensor"))
    arguments = (*operands, kernels._inverses(*of), start, 0.25, True)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    opcheck(kernels._chunks, arguments, test_utils=tests)


@pytest.mark.slow
def test_the_kernels_compile_for_hopper():
    """Without a GPU, for one; the interpreter accepts what the compiler does not."""
    pytest.importorskip("triton", reason="the kernels need triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(ROOT / "benchmarks/kernels.py"), "--dtypes", "bf16"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert {row[0] for row in rows} == {
        *(f"delta_rule.{name}" for name in ("solve", "run", "run_backward")),
        "delta_rule.gradients",
        "short_conv.forward",
        "short_conv.backward",
    }
    spilled = [int(row[-3]) for row in rows]
    assert max(spilled) < 100, done.stdout


@pytest.mark.gpu
@pytest.mark.parametrize("programs", [256, 8, 1])
@pytest.mark.parametrize("length", LENGTHS)
def test_on_a_gpu_it_equals_the_reference(length, programs, assert_same, monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    # Larger batches run other code, which this makes small ones run.
    monkeypatch.setattr(kernels, "PROGRAMS", programs)
    inputs = [x.cuda() for x in make(2, length, 3, 64, 64, dtype=torch.float32)]

    def on_gpu(*operands):
        *rest, state = operands
        return delta_rule(*rest, initial_state=state, backend="triton")

    assert_same(on_gpu, exact, inputs, tolerance=5e-3)
