"""The paths for GPUs, in shapes and dtypes, where torch knows CUDA but has no device.

Fake tensors have a device, a shape and a dtype, but no values: whatever asks for a
value (`.item()`, `.cpu()`, a boolean index) raises.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.flex_attention import flex_attention

from crossdna.models.crossdna import CrossDNAConfig, CrossDNAForMaskedLM
from crossdna.ops.delta_rule.triton import kernel_operands
from crossdna.ops.window_attention.gpu import attend
from crossdna.training.pretraining_objectives import (
    CrossDNAObjective,
    ObjectiveSettings,
)

pytestmark = pytest.mark.skipif(
    not torch.backends.cuda.is_built(), reason="this torch was built without CUDA"
)


@pytest.fixture(autouse=True)
def autocast_allowed(monkeypatch):
    """torch turns autocast off where it sees no device."""
    common = torch.cuda.amp.common
    monkeypatch.setattr(common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)


def move(network):
    """Give a network weights without values on a GPU that is not there."""
    for module in network.modules():
        for name, p in module._parameters.items():
            if p is not None:
                fake = torch.empty(p.shape, dtype=p.dtype, device="cuda")
                module._parameters[name] = torch.nn.Parameter(fake, False)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("bf16", [True, False])
def test_the_network_with_teachers_and_all_losses(bf16, residual):
    config = CrossDNAConfig(depth=1, residual=residual)
    model = CrossDNAForMaskedLM(config).train().requires_grad_(False)
    settings = ObjectiveSettings(
        semantic_warmup_steps=0,
        gate_freeze_steps=0,
        strand_kl_weight=0.1,
        decorrelation_weight=0.1,
        total_variation_weight=0.1,
    )
    objective = CrossDNAObjective(settings, model)
    autocast = torch.autocast("cuda", torch.bfloat16, enabled=bf16)
    with FakeTensorMode(), torch.no_grad(), autocast:
        assert torch.is_autocast_enabled("cuda") is bf16
        move(model)
        move(objective.teacher)
        ids = torch.zeros(2, 2100, dtype=torch.long, device="cuda")
        output = model(input_ids=ids, **objective.forward_options)
        terms = objective.auxiliary_terms(model, output, ids, 5)
        objective.after_update(model)
        padded = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert output.logits.shape == padded.logits.shape == (2, 2100, 5)
    assert output.logits.device.type == "cuda"
    assert len(terms) == 5
    for term in terms:
        assert term.value.shape == ()
        assert term.value.dtype == torch.float32
        assert term.value.device.type == "cuda"


def test_what_the_kernels_are_handed():
    with FakeTensorMode():
        tokens = torch.empty(2, 300, 8, 64, device="cuda", dtype=torch.bfloat16)
        gates = torch.empty(2, 300, 8, device="cuda")
        heads = torch.empty(8, device="cuda")
        state = torch.empty(2, 8, 64, 64, device="cuda")
        operands = kernel_operands(
            *[tokens] * 3, *[gates] * 2, *[heads] * 2, state, torch.bfloat16
        )
    for x in operands:
        assert x.device.type == "cuda"
        assert x.is_contiguous()


# Only the compiled form is ever run; uncompiled it says so.
@pytest.mark.filterwarnings("ignore:flex_attention called without:UserWarning")
@pytest.mark.parametrize("cached", [0, 100])
def test_attention_blocks_on_a_gpu(cached):
    with FakeTensorMode():
        keys = torch.empty(2, cached + 300, 8, 16, device="cuda", dtype=torch.bfloat16)
        queries = keys[:, cached:]
        output = attend(flex_attention, queries, keys, keys, None, 128)
    assert output.shape == (2, 300, 8, 16)
    assert output.dtype == torch.bfloat16
