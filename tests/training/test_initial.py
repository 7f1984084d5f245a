"""Runs that start from the weights of another."""

import json

import pytest
import torch
from safetensors.torch import load_file

from crossdna.errors import CrossDNAError
from crossdna.training.pretrain import pretrain


@pytest.fixture(autouse=True)
def no_side_effects():
    """Trainer seeds global generators; give them back as they were."""
    state = torch.random.get_rng_state()
    yield
    torch.random.set_rng_state(state)


def first_loss(folder):
    lines = (folder / "training_log.jsonl").read_text().splitlines()
    return next(row["loss"] for row in map(json.loads, lines) if "loss" in row)


def test_a_run_goes_on_from_the_weights_of_another(make_recipe, tmp_path):
    pretrain(make_recipe(), tmp_path / "first")
    still = {"initial": str(tmp_path / "first"), "lr": 1e-12, "steps": 1}
    # Longer blocks are another reading of the same weights.
    blocks = {"block_size": 32}
    pretrain(make_recipe(train=still, model=blocks), tmp_path / "second")
    one = load_file(tmp_path / "first" / "model.safetensors")
    two = load_file(tmp_path / "second" / "model.safetensors")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("model", "where", "message"),
    [
        ({"depth": 3}, "first", "has .*layers.1.* of shape None"),
        ({}, "nowhere", "no checkpoint directory"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    make_recipe, tmp_path, model, where, message
):
    pretrain(make_recipe(train={"steps": 1}), tmp_path / "first")
    other = make_recipe(train={"initial": str(tmp_path / where)}, model=model)
    with pytest.raises(CrossDNAError, match=message):
        pretrain(other, tmp_path / "second")
    assert not (tmp_path / "second").exists()
