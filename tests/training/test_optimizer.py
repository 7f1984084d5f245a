"""Muon beside AdamW: whose parameters are whose, sizes of updates, steps that skip."""

import copy
import math

import pytest
import torch
from safetensors.torch import load_file

from crossdna.models.building import new_language_model
from crossdna.models.crossdna import CrossDNAConfig, CrossDNAForMaskedLM
from crossdna.training import optimizer as module
from crossdna.training.checkpoints import complete_checkpoints
from crossdna.training.optimizer import Muon, orthogonalized, parameter_groups
from crossdna.training.pretrain import pretrain


def small_model():
    torch.manual_seed(0)
    sizes = {"d_model": 16, "depth": 2, "num_heads": 2, "head_dim": 8}
    return CrossDNAForMaskedLM(CrossDNAConfig(**sizes, attention_heads=2))


def give_gradients(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 24, 8), (2, 8, 40), (1, 1, 7)])
def test_directions_stay_and_singular_values_come_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    matrices = matrices * torch.logspace(-6, 6, shape[0]).view(-1, 1, 1)
    found = orthogonalized(matrices)
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    values = torch.linalg.svdvals(found)
    seen = s > 0.02 * s.sum(1, keepdim=True)
    assert values[seen].min() > 0.6
    assert values.max() < 1.3
    # The nearest orthogonal matrix has these directions, too.
    cosine = torch.nn.functional.cosine_similarity(
        found.flatten(1), (u @ vh).flatten(1)
    )
    assert (cosine > 0.9).all()


def test_no_gradient_no_change_of_direction():
    assert not orthogonalized(torch.zeros(2, 4, 6)).any()


def test_every_parameter_has_one_place():
    model = small_model()
    groups = parameter_groups(model, 0.1)
    places = [id(p) for group in groups for p in group["params"]]
    assert sorted(places) == sorted(id(p) for p in model.parameters())
    names = {id(p): name for name, p in model.named_parameters()}
    for group in groups:
        muon = group.get("stacked") is not None
        for p in group["params"]:
            name = names[id(p)]
            assert muon <= (p.ndim == 2)
            assert group["weight_decay"] == (0.1 if p.ndim > 1 else 0.0)
            if any(part in name for part in ("stem", "conv", "head.")):
                assert not muon, name
            elif p.ndim == 2:
                assert muon, name
            if muon:
                stacked = 3 if "qkv" in name else 2 if "gate_up" in name else 1
                assert group["stacked"] == stacked, name


@pytest.mark.parametrize("family", ["bert", "gpt2", "hyenadna", "caduceus"])
def test_every_family_can_be_trained_by_it(family):
    sizes = {
        "bert": {
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2},
        "hyenadna": {"d_model": 16, "n_layer": 1, "d_inner": 32, "max_seq_len": 64},
        "caduceus": {"d_model": 16, "n_layer": 1},
    }  # fmt: skip
    from crossdna.training.pretraining_recipe import model_config

    model = new_language_model(model_config({"type": family, **sizes[family]}))
    groups = parameter_groups(model, 0.1)
    places = [id(p) for group in groups for p in group["params"]]
    own = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(places) == sorted(own)
    give_gradients(model)
    Muon(groups, 1e-3).step()
    assert all(p.isfinite().all() for p in model.parameters())


def test_updates_are_as_large_as_adamw_makes_them():
    """A fifth of the rate is what AdamW comes to; its first step is five times that."""
    model = small_model()
    before = copy.deepcopy(model)
    give_gradients(model)
    optimizer = Muon(parameter_groups(model, 0.0), lr=1e-2)
    optimizer.step()
    for group in optimizer.param_groups:
        if group["stacked"] is None:
            continue
        for p in group["params"]:
            name = next(n for n, q in model.named_parameters() if q is p)
            change = p - before.get_parameter(name)
            size = change.square().mean().sqrt().item() / 1e-2
            assert 0.1 < size < 0.3, (name, size)


def test_the_rest_moves_as_under_adamw():
    ours, theirs = small_model(), small_model()
    groups = parameter_groups(ours, 0.1)
    optimizer = Muon(groups, 1e-2, betas=(0.9, 0.95))
    rest = [g for g in parameter_groups(theirs, 0.1) if "stacked" not in g]
    reference = torch.optim.AdamW(rest, lr=1e-2, betas=(0.9, 0.95))
    for step in range(3):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        optimizer.step()
        reference.step()
    for group, other in zip(groups[-2:], rest, strict=True):
        for p, q in zip(group["params"], other["params"], strict=True):
            torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-6)


def test_matrices_move_against_their_gradients_and_decay():
    weight = torch.nn.Parameter(torch.full((4, 4), 2.0))
    gradient = torch.eye(4)
    optimizer = Muon([{"params": [weight], "stacked": 1, "weight_decay": 0.5}], lr=0.1)
    weight.grad = gradient.clone()
    optimizer.step()
    change = weight.detach() - 2.0 * (1 - 0.1 * 0.5)
    off = change - torch.diag(change.diagonal())
    assert off.abs().max() < 1e-6
    expected = -0.1 * 0.2 * math.sqrt(4)
    assert change.diagonal().mean().item() == pytest.approx(expected, rel=0.3)


def test_a_step_told_of_a_bad_value_changes_nothing():
    model = small_model()
    optimizer = Muon(parameter_groups(model, 0.1), 1e-2)
    give_gradients(model)
    optimizer.step()
    before = copy.deepcopy(model.state_dict())
    for p in model.parameters():
        p.grad = torch.full_like(p, math.nan)
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    optimizer.found_inf = torch.zeros(())
    give_gradients(model, 1)
    optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())


def test_runs_learn_and_resume(make_recipe, tmp_path):
    recipe = make_recipe(
        train={"optimizer": "muon", "steps": 6, "save_every": 3, "evaluate_every": 3}
    )
    whole = pretrain(recipe, tmp_path / "whole")
    again = pretrain(recipe, tmp_path / "again")
    for checkpoint in complete_checkpoints(again / "checkpoints"):
        if checkpoint.name == "checkpoint-6":
            checkpoint.rename(checkpoint.with_name("away"))
    (again / "checkpoints" / "away").rename(tmp_path / "away")
    (again / "provenance.json").unlink()
    pretrain(recipe, again, resume=True)
    weights = [load_file(f / "model.safetensors") for f in (whole, again)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-6, rtol=0)
    adamw = pretrain(make_recipe(train={"optimizer": "adamw"}), tmp_path / "adamw")
    other = load_file(adamw / "model.safetensors")
    assert any(
        (other[name] - value).abs().max() > 1e-4 for name, value in weights[0].items()
    )


def test_a_run_read_back_counts_steps_where_its_parameters_are(monkeypatch):
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    before = Muon([{"params": [weight]}], 1e-3)
    before.step()
    # Any other device than the one that a file is read to.
    elsewhere = torch.nn.Parameter(torch.ones(3, device="meta"))
    elsewhere.grad = torch.ones(3, device="meta")
    after = Muon([{"params": [elsewhere]}], 1e-3)
    after.load_state_dict(before.state_dict())
    counts = []
    monkeypatch.setattr(module, "adamw", lambda *a, **_: counts.extend(a[5]))
    after.step()
    assert [count.device.type for count in counts] == ["meta"]


@pytest.mark.parametrize("expand_v", [0.5, 1.0, 2.0, 4.0])
def test_values_wider_than_keys(expand_v):
    config = CrossDNAConfig(
        d_model=16, depth=1, num_heads=2, head_dim=8, attention_heads=2,
        window_size=8, block_size=16, expand_v=expand_v,
    )  # fmt: skip
    model = CrossDNAForMaskedLM(config)
    give_gradients(model)
    groups = parameter_groups(model, 0.0)
    mixer = model.model.branch_a.layers[0].mixer.qkv_proj.weight
    (found,) = (g for g in groups if any(p is mixer for p in g["params"]))
    assert found["stacked"] == (3 if expand_v == 1 else 1)
    Muon(groups, 1e-3).step()
    assert all(p.isfinite().all() for p in model.parameters())
