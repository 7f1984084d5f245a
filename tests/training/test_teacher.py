"""Teachers: the published auxiliary losses, what they read, and how they follow."""

import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM

from crossdna.alphabet import complement_ids
from crossdna.errors import CrossDNAError
from crossdna.models.crossdna import CrossDNAConfig, CrossDNAForMaskedLM
from crossdna.models.execution import compile_layers
from crossdna.training.pretraining_objectives import (
    CrossDNAObjective,
    ObjectiveSettings,
)
from crossdna.training.teacher import Teacher

LENGTHS = (20, 32, 33, 96, 100)


def small_model(**changes):
    torch.manual_seed(0)
    sizes = {
        "d_model": 16,
        "depth": 1,
        "num_heads": 2,
        "head_dim": 8,
        "attention_heads": 2,
        "window_size": 8,
        "block_size": 16,
        "dropout": 0.0,
    }
    return CrossDNAForMaskedLM(CrossDNAConfig(**(sizes | changes)))


def bases(batch, length):
    generator = torch.Generator().manual_seed(length)
    return torch.randint(0, 5, (batch, length), generator=generator)


@pytest.fixture(scope="module")
def golden(shared, tmp_path_factory):
    """The published fixture: objective with its stored averages, model, results."""
    folder = shared / "golden" / "crossdna_tiny"
    config = json.loads((folder / "config.json").read_text())
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    settings = ObjectiveSettings(
        semantic_weight=config["sem_max_weight"],
        semantic_warmup_steps=config["sem_warmup_steps"],
        gate_freeze_steps=config["gate_freeze_steps"],
        gate_weight=config["gate_sup_weight"],
        gate_warmup_steps=config["gate_sup_warmup_steps"],
    )
    objective = CrossDNAObjective(settings, model)
    # The averages go through the map of published names in the student's place.
    averaged = tmp_path_factory.mktemp("averages")
    shutil.copy(folder / "config.json", averaged)
    stored = load_file(folder / "model.safetensors")
    averages = {
        k.replace("_ema.", "."): v.clone() for k, v in stored.items() if "_ema." in k
    }
    assert averages
    save_file(stored | averages, averaged / "model.safetensors", {"format": "pt"})
    objective.teacher = Teacher(AutoModelForMaskedLM.from_pretrained(averaged).model)
    return objective, model, load_file(folder / "expected.safetensors")


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("aux_loss", 20_000),
        ("aux_loss_frozen_gate", 2_500),
        ("aux_loss_warming", 5_250),
    ],
)
def test_published_auxiliary_losses(golden, length, name, step):
    objective, model, expected = golden
    ids = expected[f"input_ids.{length}"]
    with torch.no_grad():
        objective.prepare(model, step)
        output = model(ids, **objective.forward_options)
        terms = objective.auxiliary_terms(model, output, ids, step)
    loss = sum(term.weight * term.value for term in terms)
    torch.testing.assert_close(
        loss, expected[f"{name}.{length}"].squeeze(), atol=1e-5, rtol=0
    )
    if name == "aux_loss_frozen_gate":
        torch.testing.assert_close(
            output.logits, expected[f"logits_frozen_gate.{length}"], atol=1e-4, rtol=0
        )


def blockwise(teacher, student, ids, branch):
    """One teacher on both strands of each block, the slow and plain way."""
    size = student.config.block_size
    forward, reverse = [], []
    for start in range(0, ids.shape[1], size):
        block = ids[:, start : start + size]
        if student.config.strand_alignment == "sequence":
            whole = complement_ids(ids).flip(1)
            partner = complement_ids(whole[:, start : start + size]).flip(1)
        else:
            partner = block
        forward.append(branch(student.features_forward(block))[0])
        read = student.features_reverse(partner).flip(1)
        reverse.append(branch(read)[0].flip(1))
    return forward, reverse


@pytest.mark.parametrize("length", [9, 16, 17, 40])
@pytest.mark.parametrize("alignment", ["locus", "sequence"])
def test_targets_read_each_block_alone(length, alignment):
    student = small_model(strand_alignment=alignment, block_context="independent").model
    teacher, ids = Teacher(student), bases(2, length)
    targets = teacher.targets(student, ids)
    a = blockwise(teacher, student, ids, teacher.branch_a)
    b = blockwise(teacher, student, ids, teacher.branch_b)
    for strand, blocks_a, blocks_b in zip(targets, a, b, strict=True):
        pairs = [teacher.bridge(*pair) for pair in zip(blocks_a, blocks_b, strict=True)]
        for got, want in zip(strand, zip(*pairs, strict=True), strict=True):
            torch.testing.assert_close(got, torch.cat(want, 1), atol=1e-5, rtol=1e-5)


def test_targets_see_what_lies_before_a_block_in_a_recurrent_model():
    student = small_model(use_bridge=False).model
    teacher, ids = Teacher(student), bases(1, 48)
    changed = ids.clone()
    changed[:, 20] = (ids[:, 20] + 1) % 4
    before, after = teacher.targets(student, ids), teacher.targets(student, changed)
    differs = [
        (one.a - other.a).abs().amax(-1).squeeze() > 1e-6
        for one, other in zip(before, after, strict=True)
    ]
    # Stems reach four bases; beyond that, each strand's effect lies downstream of it.
    assert not differs[0][:16].any()
    assert differs[0][32:].any()
    assert not differs[1][25:].any()
    assert differs[1][:16].any()


@pytest.mark.parametrize("context", ["recurrent", "independent"])
@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize("block_size", [16, None])
def test_a_branch_at_its_teacher_has_no_semantic_loss_but_for_the_bridge(
    context, block_size, swap
):
    model = small_model(
        use_bridge=False,
        block_context=context,
        block_size=block_size,
        swap_strands=swap,
    ).eval()
    objective = CrossDNAObjective(
        ObjectiveSettings(semantic_warmup_steps=0, gate_freeze_steps=0), model
    )
    for projection in (model.model.project_a, model.model.project_b):
        torch.nn.init.zeros_(projection.down.weight)
        torch.nn.init.zeros_(projection.down.bias)
    # Beyond a block, only a branch that keeps its strand sees what its teacher does.
    ids = bases(2, 16 if swap or context == "independent" else 48)
    output = model(ids, output_branches=True)
    terms = {t.name: t for t in objective.auxiliary_terms(model, output, ids, 5)}
    assert terms["semantic"].value.item() == pytest.approx(0, abs=1e-8)
    assert terms["gate"].value.item() > 0


def test_optional_terms_join_only_with_a_weight():
    model, ids = small_model(), bases(2, 32)
    plain = ObjectiveSettings()
    every = replace(
        plain,
        strand_kl_weight=0.1,
        decorrelation_weight=0.2,
        total_variation_weight=0.3,
    )
    output = model(ids, output_branches=True)
    for settings, names in (
        (plain, ["semantic", "gate"]),
        (
            every,
            ["semantic", "gate", "strand_kl", "decorrelation", "total_variation"],
        ),
    ):
        objective = CrossDNAObjective(settings, model)
        terms = objective.auxiliary_terms(model, output, ids, 10)
        assert [term.name for term in terms] == names
        for term in terms:
            assert term.value.isfinite()
            assert term.value.item() >= 0


def test_a_frozen_gate_still_has_a_gradient():
    model, ids = small_model(), bases(2, 32)
    objective = CrossDNAObjective(ObjectiveSettings(gate_freeze_steps=3), model)
    objective.prepare(model, 0)
    assert model.config.gate_frozen
    output = model(ids, output_branches=True)
    terms = objective.auxiliary_terms(model, output, ids, 0)
    (output.logits.sum() + sum(t.weight * t.value for t in terms)).backward()
    assert all(p.grad is not None for p in model.parameters())
    objective.prepare(model, 3)
    assert not model.config.gate_frozen


def test_teachers_follow_and_never_train():
    model = small_model()
    teacher = Teacher(model.model, decay=0.9)
    name, start = next(
        (name, p.clone()) for name, p in teacher.named_parameters() if p.ndim > 1
    )
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    teacher.update(model.model)
    moved = dict(teacher.named_parameters())[name]
    torch.testing.assert_close(moved, start + 0.1)
    assert not any(p.requires_grad for p in teacher.parameters())
    model.train()
    assert not any(module.training for module in teacher.modules())


def test_targets_carry_no_graph_and_no_dropout():
    model = small_model(dropout=0.5).train()
    teacher, ids = Teacher(model.model), bases(1, 32)
    first, second = (teacher.targets(model.model, ids) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert not one.a.requires_grad
        assert torch.equal(one.a, other.a)
        assert torch.equal(one.b, other.b)


def test_state_survives_saving():
    model = small_model()
    settings = ObjectiveSettings(teacher_decay=0.5)
    objective = CrossDNAObjective(settings, model)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    objective.after_update(model)
    restored = CrossDNAObjective(settings, model)
    restored.load_state_dict(objective.state_dict())
    for name, value in restored.state_dict().items():
        assert torch.equal(value, objective.state_dict()[name])
    without = CrossDNAObjective(replace(settings, semantic_weight=0.0), model)
    with pytest.raises(CrossDNAError, match="teachers"):
        without.load_state_dict(objective.state_dict())


@pytest.mark.parametrize("changes", [{"gate_weight": -1.0}, {"teacher_decay": 1.0}])
def test_impossible_settings_are_refused(changes):
    with pytest.raises(CrossDNAError, match=next(iter(changes))):
        ObjectiveSettings(**changes)


# The compiler asks every tensor that it sees for its gradient.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_layers_give_what_they_give_uncompiled():
    """Students and teachers, forward and backward; shapes are static."""
    model, ids = small_model(dropout=0.0), bases(2, 16)
    settings = ObjectiveSettings(semantic_warmup_steps=0, gate_freeze_steps=0)

    def loss_and_gradients(model, objective):
        output = model(input_ids=ids, **objective.forward_options)
        terms = objective.auxiliary_terms(model, output, ids, 5)
        loss = output.logits.square().mean() + sum(term.value for term in terms)
        return loss, torch.autograd.grad(loss, list(model.parameters()))

    twin = copy.deepcopy(model)
    objective = CrossDNAObjective(settings, twin)
    # Layers of two branches and a bridge, for teachers too; the student's projections.
    expected = 2 * (2 * twin.config.depth + 1) + 2
    assert compile_layers(twin, objective.teacher, backend="aot_eager") == expected
    torch.testing.assert_close(
        loss_and_gradients(twin, objective),
        loss_and_gradients(model, CrossDNAObjective(settings, model)),
    )
    assert twin.state_dict().keys() == model.state_dict().keys()
