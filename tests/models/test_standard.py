"""Channels in units of their spread: measured right, kept, and used by every head."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from crossdna import alphabet
from crossdna.data.labelled import Task
from crossdna.models.batched import pad_batch
from crossdna.models.heads import Standard
from crossdna.training.finetune_model import build_model, measure
from crossdna.training.finetune_recipe import FinetuneRecipe

BINARY = Task(kind="binary", columns=("label",), classes=("0", "1"))
BASES = Task(kind="per-base", columns=("l",), classes=("a", "b"))


def test_mean_and_spread_of_parts(rng):
    values = rng.normal(3, 2, (50, 4)).astype(np.float32)
    values[:, 2] = 1.5
    standard = Standard(4)
    x = torch.from_numpy(values)
    assert torch.equal(standard(x), x)
    standard.measure([x[:7], x[7:8], x[8:]])
    found = standard(x).numpy()
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(0), [1, 1, 0, 1], atol=1e-5)


@pytest.mark.parametrize("strands", ["both", "forward"])
@pytest.mark.parametrize("pooling", ["mean", "max_mean", "attention", "position"])
def test_what_a_head_reads_is_standard(tmp_path, rng, pooling, strands):
    torch.manual_seed(0)
    recipe = FinetuneRecipe(model="new:tiny", device="cpu")
    model = build_model(recipe, BINARY, pooling=pooling, length=30).eval()
    sequences = [rng.integers(0, 4, size).astype(np.uint8) for size in (30, 30, 21, 9)]
    measure(model, sequences, strands)
    if strands == "both":
        sequences += [alphabet.reverse_complement(ids) for ids in sequences]
    seen = []
    model.head.standard.register_forward_hook(lambda _m, _i, found: seen.append(found))
    with torch.no_grad():
        for ids in sequences:
            logits = model(torch.from_numpy(ids[None].astype(np.int64))).logits
            assert torch.isfinite(logits).all()
    rows = torch.cat([one.flatten(0, -2) for one in seen]).double()
    torch.testing.assert_close(
        rows.mean(0), torch.zeros(rows.shape[1]).double(), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        rows.std(0, correction=0), torch.ones(rows.shape[1]).double(), atol=1e-3, rtol=0
    )
    model.save_pretrained(tmp_path / "out")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    batch = pad_batch(sequences)
    with torch.no_grad():
        assert torch.equal(again(*batch).logits, model(*batch).logits)


def test_bases_are_read_in_their_own_units(tmp_path, rng):
    torch.manual_seed(0)
    recipe = FinetuneRecipe(model="new:tiny", device="cpu")
    model = build_model(recipe, BASES, pooling="mean", length=30).eval()
    sequences = [rng.integers(0, 4, size).astype(np.uint8) for size in (30, 12)]
    measure(model, sequences, "forward")
    batch = pad_batch(sequences)
    with torch.no_grad():
        hidden = model.base_model(*batch).last_hidden_state[batch.attention_mask]
        found = model.head.standard(hidden)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(found.std(0, correction=0), 1, atol=1e-3)
    model.save_pretrained(tmp_path / "out")
    again = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
    assert torch.equal(again.head.standard.scale, model.head.standard.scale)


def test_without_it_nothing_is_measured(rng):
    recipe = FinetuneRecipe(model="new:tiny", device="cpu", standard=False)
    model = build_model(recipe, BINARY, pooling="mean", length=30)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure(model, [rng.integers(0, 4, 30).astype(np.uint8)], "both")
    assert not any("standard" in name for name in before)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
