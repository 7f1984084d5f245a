"""Ensembles of every kind of task against their members asked one by one."""

import numpy as np
import pytest
import torch

from crossdna.analysis.supervised import finetuned
from crossdna.analysis.supervised.ensemble import read_ensemble
from crossdna.data.labelled import Task
from crossdna.data.task_card import TaskCard
from crossdna.errors import CrossDNAError
from crossdna.models.crossdna import (
    CrossDNAConfig,
    CrossDNAForSequenceClassification,
    CrossDNAForTokenClassification,
)

TASKS = {
    "binary": Task(kind="binary", columns=("label",), classes=("no", "yes")),
    "multiclass": Task(kind="multiclass", columns=("c",), classes=("a", "b", "c")),
    "multilabel": Task(kind="multilabel", columns=("x", "y"), classes=("x", "y")),
    "regression": Task(kind="regression", columns=("x", "y"), classes=()),
    "one target": Task(kind="regression", columns=("x",), classes=()),
    "per-base": Task(kind="per-base", columns=("l",), classes=("none", "exon")),
}
COLUMNS = {
    "binary": ["probability", "probability_sd", "prediction"],
    "multiclass": [
        "probability_a", "probability_a_sd", "probability_b", "probability_b_sd",
        "probability_c", "probability_c_sd", "prediction",
    ],
    "multilabel": [
        "probability_x", "probability_x_sd", "prediction_x",
        "probability_y", "probability_y_sd", "prediction_y",
    ],
    "regression": [
        "prediction_x", "prediction_x_sd", "prediction_y", "prediction_y_sd",
    ],
    "one target": ["prediction", "prediction_sd"],
    "per-base": ["probability", "probability_sd", "prediction"],
}  # fmt: skip


def member(task, seed):
    torch.manual_seed(seed)
    config = CrossDNAConfig(
        d_model=16, depth=1, num_heads=2, head_dim=4, attention_heads=2,
        window_size=16, use_bridge=False, num_labels=task.outputs,
    )  # fmt: skip
    kind = CrossDNAForSequenceClassification
    if task.kind == "per-base":
        kind = CrossDNAForTokenClassification
    thresholds = (0.5,) * {"binary": 1, "multilabel": 2}.get(task.kind, 0)
    targets = len(task.columns) if task.kind == "regression" else 0
    card = TaskCard(
        task=task, strands="both", max_length=30, thresholds=thresholds,
        means=(1.0,) * targets, scales=(2.0,) * targets,
    )  # fmt: skip
    return finetuned.FinetunedModel("x", (kind(config).eval(),), card)


def joined(members):
    networks = tuple(one.networks[0] for one in members)
    return finetuned.FinetunedModel("x", networks, members[0].card)


@pytest.mark.parametrize("kind", TASKS)
def test_ensemble_is_the_mean_of_its_members(kind, rng):
    task = TASKS[kind]
    members = [member(task, seed) for seed in range(3)]
    joint = joined(members)
    # One sequence is longer than the card allows and read in windows.
    sequences = [rng.integers(0, 4, size).astype(np.uint8) for size in (30, 20, 70)]
    found = joint.scored(sequences)
    each = [one.scores(sequences) for one in members]
    for row in range(len(sequences)):
        values = np.stack([scores[row] for scores in each])
        np.testing.assert_allclose(found.scores[row], values.mean(0), atol=1e-6)
        np.testing.assert_allclose(found.spread[row], values.std(0, ddof=1), atol=1e-6)
    table = finetuned.prediction_columns(joint.card, found)
    assert table.columns == COLUMNS[kind]
    assert len(table) == 3
    nothing = finetuned.nothing_scored(joint.card.task, len(members))
    nothing = finetuned.prediction_columns(joint.card, nothing)
    assert nothing.columns == table.columns
    if task.kind == "per-base":
        assert [len(row) for row in table["probability_sd"]] == [30, 20, 70]
        place = found.scores[2][41].argmax()
        expected = np.std([scores[2][41, place] for scores in each], ddof=1)
        assert table["probability_sd"][2][41] == pytest.approx(expected, abs=1e-6)
    alone = finetuned.prediction_columns(joint.card, members[0].scored(sequences))
    assert alone.columns == [n for n in table.columns if not n.endswith("_sd")]


@pytest.mark.parametrize("kind", ["binary", "per-base"])
def test_chunks_of_an_ensemble_are_put_together(kind, rng):
    joint = joined([member(TASKS[kind], seed) for seed in range(2)])
    sequences = [rng.integers(0, 4, size).astype(np.uint8) for size in (9, 20, 7)]
    whole = joint.scored(sequences)
    chunks = [
        finetuned.packed(joint.scored(part)) for part in (sequences[:2], sequences[2:])
    ]
    found = finetuned.unpack_scored(chunks)
    for row in range(3):
        np.testing.assert_allclose(found.scores[row], whole.scores[row], atol=1e-6)
        np.testing.assert_allclose(found.spread[row], whole.spread[row], atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"members": ["a", "b"]}', "damaged"),
        ("[", "damaged"),
        ('{"members": ["a", "b"], "thresholds": []}', "its model a is not there"),
    ],
)
def test_damaged_ensembles_are_refused(tmp_path, text, message):
    (tmp_path / "ensemble.json").write_text(text)
    with pytest.raises(CrossDNAError, match=message):
        read_ensemble(tmp_path)
