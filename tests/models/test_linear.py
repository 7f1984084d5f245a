"""Weights that a layer rounds and lays out once, for a model that is only asked."""

import copy
import pickle

import pytest
import torch

from crossdna.analysis.inference import base_log_probabilities, load_model
from crossdna.models.execution import Execution
from crossdna.models.linear import Linear
from crossdna.ops.linear import packed

from .conftest import tiny_model

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}


@pytest.fixture(params=PRECISIONS)
def dtype(request):
    """A precision that this machine packs weights in."""
    chosen = PRECISIONS[request.param]
    if reason := packed.unavailable(chosen):
        pytest.skip(reason)
    return chosen


def asked(layer, x, dtype):
    with torch.inference_mode(), torch.autocast("cpu", dtype, dtype != torch.float32):
        return layer(x)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 64), (7, 64), (3, 100, 64), (2, 0, 64)])
def test_ready_layers_answer_alike(dtype, shape, with_bias):
    torch.manual_seed(0)
    layer, x = Linear(64, 112, bias=with_bias), torch.randn(shape)
    expected = asked(layer, x, dtype)
    layer.make_ready(dtype)
    found = asked(layer, x, dtype)
    assert layer._ready is not None
    assert found.dtype == expected.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 8e-3
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("strided", [True, False])
def test_inputs_of_any_layout_and_precision(dtype, strided):
    torch.manual_seed(0)
    layer = Linear(64, 112)
    layer.make_ready(dtype)
    x = torch.randn(4, 200, 64, dtype=dtype)
    x = x[:, 50:150].transpose(0, 1) if strided else x
    expected = x.double() @ layer.weight.double().T + layer.bias.double()
    error = (asked(layer, x, dtype).double() - expected).norm() / expected.norm()
    assert error < (1e-6 if dtype == torch.float32 else 1e-2)


def change_in_place(layer):
    with torch.no_grad():
        layer.weight.mul_(2)


def change_bias(layer):
    with torch.no_grad():
        layer.bias.add_(1)


def replace(layer):
    layer.weight = torch.nn.Parameter(torch.ones_like(layer.weight))


def load(layer):
    layer.load_state_dict({k: x + 1 for k, x in layer.state_dict().items()})


def set_data(layer):
    layer.weight.data = torch.ones_like(layer.weight)


@pytest.mark.parametrize(
    "change", [change_in_place, change_bias, replace, load, set_data]
)
def test_changed_weights_are_noticed(dtype, change):
    torch.manual_seed(0)
    layer, x = Linear(64, 112), torch.randn(20, 64)
    layer.make_ready(dtype)
    before = asked(layer, x, dtype)
    change(layer)
    plain = Linear(64, 112)
    plain.load_state_dict(layer.state_dict())
    after = asked(layer, x, dtype)
    assert torch.equal(after, asked(plain, x, dtype))
    assert not torch.equal(after, before)


def test_gradients_and_other_precisions_take_the_weights_themselves(dtype):
    torch.manual_seed(0)
    layer, x = Linear(64, 112), torch.randn(20, 64)
    layer.make_ready(dtype)
    layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(112, 64))
    other = torch.float32 if dtype == torch.bfloat16 else torch.bfloat16
    assert asked(layer, x, other).dtype == other
    layer.double()
    with torch.inference_mode():
        assert layer(x.double()).dtype == torch.float64


def test_ready_layers_are_copied_and_stored(dtype):
    torch.manual_seed(0)
    layer, x = Linear(64, 112), torch.randn(20, 64)
    expected = asked(layer, x, dtype)
    layer.make_ready(dtype)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin._ready is None
        assert torch.equal(asked(twin, x, dtype), expected)
    assert set(layer.state_dict()) == {"weight", "bias"}


def test_weights_without_versions_are_left_as_they_are(dtype):
    with torch.inference_mode():
        layer = Linear(64, 112)
    layer.make_ready(dtype)
    assert layer._ready is None


def test_loaded_models_are_ready(dtype, tmp_path, rng):
    tiny_model().save_pretrained(tmp_path)
    name = next(name for name, kind in PRECISIONS.items() if kind == dtype)
    model = load_model(tmp_path, device="cpu", execution=Execution(name))
    layers = [x for x in model.modules() if isinstance(x, Linear)]
    assert layers
    assert all(x._ready.dtype == dtype for x in layers)
    ids = torch.from_numpy(rng.integers(0, 4, (3, 50)))
    found = base_log_probabilities(model, ids)
    for layer in layers:
        layer._ready = None
    expected = base_log_probabilities(model, ids)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_reads_rounded_weights():
    torch.manual_seed(0)
    layer, x = Linear(64, 112).cuda(), torch.randn(20, 64).cuda()
    layer.make_ready(torch.float32)
    assert layer._ready is None
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        expected = layer(x)
        layer.make_ready(torch.bfloat16)
        assert layer._ready.weight.dtype == torch.bfloat16
        assert torch.equal(layer(x), expected)


def test_what_is_not_packed_says_why():
    assert "float64" in packed.unavailable(torch.float64)
