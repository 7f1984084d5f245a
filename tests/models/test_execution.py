"""Precision and compiled layers of models that are only asked."""

import logging

import pytest
import torch

from crossdna.analysis.inference import base_log_probabilities, embeddings
from crossdna.analysis.provenance import provenance
from crossdna.errors import CrossDNAError
from crossdna.models import execution
from crossdna.models.execution import Execution, compile_layers, precision_of
from crossdna.ops.linear import widened

from .conftest import tiny_model


@pytest.fixture
def ids(rng):
    return torch.from_numpy(rng.integers(0, 4, (3, 50)))


def test_bfloat16_answers_are_near(ids):
    model = tiny_model()
    exact = base_log_probabilities(model, ids), embeddings(model, ids)
    weights = {name: x.clone() for name, x in model.state_dict().items()}
    Execution("bf16").prepare(model)
    rough = base_log_probabilities(model, ids), embeddings(model, ids)
    for one, other in zip(exact, rough, strict=True):
        assert other.dtype == torch.float32
        assert not torch.equal(one, other)
        assert (one - other).norm() < 0.03 * one.norm()
    for name, x in model.state_dict().items():
        assert x.dtype == weights[name].dtype
        assert torch.equal(x, weights[name])
    assert not torch.is_autocast_enabled("cpu")


def test_results_say_their_precision():
    model = tiny_model()
    assert provenance(model, "x", strand="+").precision == "float32"
    Execution("bf16").prepare(model)
    assert precision_of(model) == precision_of(model.base_model) == "bf16"
    assert provenance(model, "x", strand="+").precision == "bf16"
    Execution().prepare(model)
    assert precision_of(model) == precision_of(model.base_model) == "float32"


def test_a_cpu_without_bfloat16_is_told_once(monkeypatch, caplog):
    monkeypatch.setattr(widened, "cpu_multiplies_bfloat16", lambda: False)
    execution.tell_imitated.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            Execution("bf16").prepare(tiny_model())
    assert caplog.text.count("no bfloat16 products") == 1


def test_what_cannot_be_done_is_said():
    with pytest.raises(CrossDNAError, match="float32, bf16, not 'fp8'"):
        Execution("fp8").prepare(tiny_model())
    with pytest.raises(CrossDNAError, match="CUDA devices only, not cpu"):
        Execution(compiled=True).prepare(tiny_model())


def test_compiled_layers_answer_alike_for_several_batches(rng):
    """Compiled once for the first size and once for all others; weights are ready."""
    model = tiny_model(depth=1)
    Execution().prepare(model)
    batches = [
        torch.from_numpy(rng.integers(0, 4, shape)) for shape in ((2, 16), (3, 16))
    ]
    expected = [base_log_probabilities(model, ids) for ids in batches]
    torch.compiler.reset()
    try:
        # A layer of two branches, the bridge, and a projection of each branch.
        assert compile_layers(model, dynamic=None, backend="aot_eager") == 5
        for ids, answer in zip(batches, expected, strict=True):
            torch.testing.assert_close(base_log_probabilities(model, ids), answer)
    finally:
        torch.compiler.reset()
