"""benchmarks/shards.py: a run that travels in small files goes on where it was."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from crossdna.errors import CrossDNAError
from crossdna.training.pretrain import pretrain


@pytest.fixture
def shards(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import shards

    yield shards
    del sys.modules["shards"]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_packed_run_resumes(shards, make_recipe, tmp_path, monkeypatch, optimizer):
    recipe = make_recipe(train={"evaluate_every": 2, "optimizer": optimizer})
    state = torch.random.get_rng_state()
    whole = pretrain(recipe, tmp_path / "whole")
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    (cut / "provenance.json").unlink()
    shutil.rmtree(cut / "checkpoints" / "checkpoint-6")
    monkeypatch.setattr(shards, "LIMIT", 100_000)
    parts = shards.pack(cut, tmp_path / "parts")
    assert 1 < len(parts) <= 7
    assert all(path.stat().st_size <= 100_000 for path in parts)
    checkpoint = shards.unpack(tmp_path / "parts", tmp_path / "back")
    first = cut / "checkpoints" / "checkpoint-4"
    assert checkpoint.name == first.name
    for name in ("model.safetensors", "objective.safetensors"):
        before, after = load_file(first / name), load_file(checkpoint / name)
        assert all(torch.equal(before[key], after[key]) for key in before)
    states = (torch.load(p / "optimizer.pt")["state"] for p in (first, checkpoint))
    for before, after in zip(*(s.values() for s in states), strict=True):
        assert before.keys() == after.keys()
        for key, value in before.items():
            assert after[key].dtype == value.dtype
            error = (after[key] - value).abs()
            rounding = 0.0 if key == "step" else value.abs() / 256
            assert bool((error <= rounding).all())
    resumed = pretrain(recipe, tmp_path / "back", resume=True)
    torch.random.set_rng_state(state)
    final = [load_file(x / "model.safetensors") for x in (whole, resumed)]
    for key, value in final[0].items():
        torch.testing.assert_close(final[1][key], value, rtol=0, atol=1e-4)
    rows = [
        list(map(json.loads, (x / "training_log.jsonl").read_text().splitlines()))
        for x in (whole, resumed)
    ]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]


def test_missing_shards_and_runs_are_named(shards, tmp_path):
    with pytest.raises(CrossDNAError, match="no whole checkpoint"):
        shards.pack(tmp_path, tmp_path / "parts")
    (tmp_path / "run-1-of-3.part").touch()
    with pytest.raises(CrossDNAError, match="holds 1 shards"):
        shards.unpack(tmp_path, tmp_path / "back")
