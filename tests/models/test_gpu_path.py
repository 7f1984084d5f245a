"""What a GPU runs, on the CPU: the same calls, fused by a compiler without kernels.

Kernels run in Triton's interpreter; fused operators, flex_attention, strands read in
one go and modules compiled for training are as on a device.
"""

import pytest
import torch

from crossdna.models.crossdna import streams
from crossdna.models.execution import compile_layers
from crossdna.ops import delta_rule, fusion, gates, short_conv, window_attention
from crossdna.ops.delta_rule import triton as chunks
from crossdna.ops.dispatch import Backend, always
from crossdna.ops.short_conv import gpu as taps
from crossdna.ops.window_attention import gpu as flex
from crossdna.ops.window_attention.torch import joined
from crossdna.training.pretraining_objectives import (
    CrossDNAObjective,
    ObjectiveSettings,
)

from .conftest import tiny_model

# The compiler looks whether intermediate results have gradients of their own.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


def random_ids(rng, batch, length):
    return torch.from_numpy(rng.integers(0, 5, (batch, length)))


def accepts(*_arguments):
    return None


def flex_with_gradients(q, k, v, past_keys, past_values, visible, window, theta):
    """The operator with a dense product: flex_attention has no gradients on a CPU."""
    k, v = joined(k, v, past_keys, past_values)
    q, k = flex.rotated(q, k, theta)
    return flex.attend(dense_product, q, k, v, visible, window)


def dense_product(q, k, v, block_mask):
    queries, keys = torch.arange(q.shape[2]), torch.arange(k.shape[2])
    batch, head = torch.arange(q.shape[0]), torch.arange(q.shape[1])
    seen = block_mask.mask_mod(
        batch[:, None, None, None], head[:, None, None], queries[:, None], keys
    )
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)


@pytest.fixture
def gpu_path(interpreter, monkeypatch):
    """Switch it on; the fixture's value is a function that does."""

    def switch(attention=flex.window_attention):
        tables = [
            (delta_rule, "BACKENDS", chunks.delta_rule),
            (window_attention, "BACKENDS", attention),
            (short_conv, "BACKENDS", taps.short_conv),
            (short_conv, "DILATED_BACKENDS", taps.dilated_conv),
            (gates, "RMS_NORM", gates.gpu.rms_norm),
            (gates, "SWIGLU", gates.gpu.swiglu),
            (gates, "BLEND_NORM", gates.gpu.blend_norm),
        ]
        for place, name, kernel in tables:
            backend = Backend("gpu", kernel, accepts, always)
            monkeypatch.setattr(place, name, (backend,))
        monkeypatch.setattr(streams, "joins_blocks", lambda device: True)
        torch.compiler.reset()
        compiled = {}

        def compile_without_kernels(function, _backend):
            if function not in compiled:
                compiled[function] = torch.compile(
                    function, dynamic=True, backend="aot_eager"
                )
            return compiled[function]

        monkeypatch.setattr(fusion, "_compiled", compile_without_kernels)

    yield switch
    torch.compiler.reset()


def make(residual=True):
    # Heads of at least 16, as the kernels want them.
    return tiny_model(
        d_model=16,
        depth=1,
        num_heads=1,
        attention_heads=1,
        head_dim=16,
        block_size=16,
        window_size=20,
        dropout=0.0,
        residual=residual,
    )


@pytest.mark.parametrize("residual", [True, False])
def test_inference(rng, gpu_path, residual):
    model = make(residual)
    ids = random_ids(rng, 2, 40)
    mask = torch.ones_like(ids)
    mask[1, 25:] = 0
    with torch.inference_mode():
        expected = model(ids, mask).logits
        whole = model(ids).logits
        gpu_path()
        found = model(ids, mask).logits
        torch.testing.assert_close(model(ids).logits, whole, atol=1e-4, rtol=1e-3)
    real = mask.bool()
    torch.testing.assert_close(found[real], expected[real], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("compiled", [False, True])
def test_pretraining_steps(rng, gpu_path, compiled):
    """Losses and gradients with teachers; modules compiled, or operators."""
    settings = ObjectiveSettings(semantic_warmup_steps=1, gate_freeze_steps=0)
    ids = random_ids(rng, 1, 32)
    results = []
    for on_gpu in (False, True):
        model = make().train()
        objective = CrossDNAObjective(settings, model)
        if on_gpu:
            gpu_path(attention=flex_with_gradients)
            if compiled:
                compile_layers(model, objective.teacher, backend="aot_eager")
        objective.prepare(model, 1000)
        output = model(input_ids=ids, **objective.forward_options)
        terms = objective.auxiliary_terms(model, output, ids, 1000)
        loss = output.logits.float().square().mean()
        for term in terms:
            loss = loss + term.weight * term.value
        loss.backward()
        objective.after_update(model)
        results.append((loss.detach(), [p.grad for p in model.parameters()]))
    (one, slow), (other, fast) = results
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    for a, b in zip(slow, fast, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert (a - b).norm() <= 2e-3 * a.norm() + 1e-6
