"""A frozen network that is asked once answers as one that is asked each time."""

import numpy as np
import pytest
import torch
from tests.family_checkpoints import save
from tests.labelled_sets import rows_with_motif, write_csv
from transformers import AutoModelForSequenceClassification

from crossdna import alphabet
from crossdna.data import labelled
from crossdna.data.sequence_tables import read_sequences
from crossdna.models.batched import pad_batch, predict_logits
from crossdna.models.crossdna import CrossDNAModel
from crossdna.training import finetune as verb
from crossdna.training import frozen
from crossdna.training.finetune_model import build_model
from crossdna.training.finetune_recipe import FinetuneRecipe

TASKS = {
    "binary": labelled.Task(kind="binary", columns=("label",), classes=("0", "1")),
    "per-base": labelled.Task(kind="per-base", columns=("l",), classes=("a", "b", "c")),
}
MODELS = ["new:tiny", "dnabert", "gena-roberta", "plant-esm", "gpt2-kmer", "mamba"]


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("name", MODELS)
def test_answers_are_the_same(tmp_path, rng, name, kind):
    source = name if name.startswith("new:") else str(save(name, tmp_path))
    torch.manual_seed(0)
    made = FinetuneRecipe(model=source, method="head", device="cpu")
    model = build_model(made, TASKS[kind], pooling="mean", length=40).eval()
    sequences = [rng.integers(0, 4, size).astype(np.uint8) for size in (40, 31, 40, 22)]
    sequences.append(sequences[0])
    for strand in alphabet.STRANDS:
        asked = {"strand": strand, "per_base": kind == "per-base"}
        expected = predict_logits(model, sequences, **asked)
        with frozen.asked_once(model, frozen.Kept()):
            for _ in range(2):
                found = predict_logits(model, sequences, **asked)
                for one, other in zip(found, expected, strict=True):
                    np.testing.assert_allclose(one, other, atol=2e-5)
    assert "forward" not in vars(model.base_model)


@pytest.fixture
def asked_rows(monkeypatch):
    """How many rows each forward of a CrossDNA network was given."""
    asked = []
    forward = CrossDNAModel.forward

    def counted(self, input_ids, *arguments, **options):
        asked.append(len(input_ids))
        return forward(self, input_ids, *arguments, **options)

    monkeypatch.setattr(CrossDNAModel, "forward", counted)
    return asked


def test_each_sequence_is_computed_once(rng, asked_rows):
    torch.manual_seed(0)
    made = FinetuneRecipe(model="new:tiny", method="head", device="cpu")
    model = build_model(made, TASKS["binary"], pooling="mean", length=40)
    sequences = [rng.integers(0, 4, 40).astype(np.uint8) for _ in range(6)]
    with frozen.asked_once(model, frozen.Kept()):
        predict_logits(model, sequences, strand="both")
        assert asked_rows == [6, 6]
        predict_logits(model, sequences[::-1], strand="both")
        assert asked_rows == [6, 6]
        # What is kept may be trained on, though it was first asked for in inference.
        logits = model(**pad_batch(sequences)._asdict()).logits
        logits.square().sum().backward()
        assert model.head.linear.weight.grad.abs().sum() > 0
    assert asked_rows == [6, 6]
    each = 40 * model.config.d_model * 4
    with frozen.asked_once(model, frozen.Kept(limit=2 * each)):
        predict_logits(model, sequences, strand="+")
        predict_logits(model, sequences, strand="+")
    # Two of six were kept.
    assert asked_rows == [6, 6, 6, 4]


@pytest.fixture
def sets(tmp_path, rng):
    """48 training and 24 development rows."""
    parts = []
    for name, count in (("train", 48), ("valid", 24)):
        rows = rows_with_motif(rng, count)
        path = write_csv(tmp_path / f"{name}.csv", ["sequence", "label"], rows)
        parts.append(labelled.label(read_sequences(path), TASKS["binary"]))
    return parts


def test_all_runs_of_a_pretrained_network_share_what_it_made(
    tmp_path, sets, tiny_checkpoint, asked_rows
):
    settings = FinetuneRecipe(
        model=str(tiny_checkpoint()), method="head", epochs=3, seeds=(0, 1),
        device="cpu",
    )  # fmt: skip
    result = verb.finetune(settings, *sets, tmp_path / "out")
    assert len(result.trials) == 3
    # Both strands of every row once; at the end of each of the five runs its
    # development set, and one sequence for the record beside the checkpoint.
    at_ends = 24 * (2 + 2 + 1) + 2 * 24 * (1 + (result.recipe.strands == "both"))
    assert sum(asked_rows) == 2 * (48 + 24) + at_ends + 5


def test_training_of_a_head_is_the_same(tmp_path, sets, monkeypatch):
    settings = FinetuneRecipe(
        model="new:tiny", method="head", head="max_mean", epochs=3, device="cpu"
    )
    kept = verb.finetune(settings, *sets, tmp_path / "kept").best
    monkeypatch.setattr(frozen, "Headed", type(None))
    anew = verb.finetune(settings, *sets, tmp_path / "anew").best
    weights = [
        dict(
            AutoModelForSequenceClassification.from_pretrained(run.folder).state_dict()
        )
        for run in (kept, anew)
    ]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=1e-5, rtol=0)
    scores = [[epoch["score"] for epoch in run.history] for run in (kept, anew)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
