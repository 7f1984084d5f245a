"""Weights that a layer rounds and lays out once, for a model that is only asked."""

import copy
import pickle

import pytest
import torch
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.prune import random_unstructured

from crossdna.analysis.inference import base_log_probabilities, load_model
from crossdna.models.execution import Execution
from crossdna.models.linear import Linear
from crossdna.ops.linear import packed

from .conftest import tiny_model

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}


@pytest.fixture(params=PRECISIONS)
def precision(request):
    """One that this machine packs weights in."""
    if reason := packed.unavailable(PRECISIONS[request.param]):
        pytest.skip(reason)
    return request.param


@pytest.fixture
def dtype(precision):
    return PRECISIONS[precision]


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


def change_data(layer):
    """No version tells of it."""
    layer.weight.data += 1


def change_one_row(layer):
    layer.weight.data[17] += 1


def change_one_column(layer):
    layer.weight.data[:, 23] = 0


def prune(layer):
    random_unstructured(layer, "weight", 0.5)


def parametrize(layer):
    weight_norm(layer)
    with torch.no_grad():
        layer.parametrizations.weight.original0.mul_(2)


@pytest.mark.parametrize(
    "change",
    [
        change_in_place,
        change_bias,
        replace,
        load,
        set_data,
        change_data,
        change_one_row,
        change_one_column,
        prune,
        parametrize,
    ],
)
def test_changed_weights_are_noticed(dtype, change):
    torch.manual_seed(0)
    layer, x = Linear(64, 112), torch.randn(20, 64)
    layer.make_ready(dtype)
    before = asked(layer, x, dtype)
    change(layer)
    after = asked(layer, x, dtype)
    layer._ready = None
    assert torch.equal(after, asked(layer, x, dtype))
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


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_merged_adapters_count(precision, dtype, rng):
    """Peft adds them to the weights where no version tells."""
    peft = pytest.importorskip("peft")
    model = tiny_model()
    Execution(precision).prepare(model)
    ids = torch.from_numpy(rng.integers(0, 4, (3, 50)))
    before = base_log_probabilities(model, ids)
    torch.manual_seed(0)
    config = peft.LoraConfig(target_modules=["qkv_proj"], init_lora_weights=False)
    merged = peft.get_peft_model(model, config).merge_and_unload()
    found = base_log_probabilities(merged, ids)
    for module in merged.modules():
        if isinstance(module, Linear):
            module._ready = None
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    expected = base_log_probabilities(merged, ids)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    assert (found - before).abs().max() > 3 * tolerance


def test_loaded_models_are_ready(precision, dtype, tmp_path, rng):
    tiny_model().save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu", execution=Execution(precision))
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


def test_what_is_not_packed_says_why():
    assert "float64" in packed.unavailable(torch.float64)
