"""How long a window suits a model."""

import shutil

import pytest
from tests.family_checkpoints import save

from crossdna.analysis.inference import default_window, load_model
from crossdna.data.labelled import Task
from crossdna.data.task_card import TaskCard


@pytest.mark.parametrize(
    ("task", "window"), [("classification", 48), ("embedding", 20)]
)
def test_only_a_head_with_a_weight_for_each_base_decides(tiny_checkpoint, task, window):
    path = tiny_checkpoint(
        "CrossDNAForSequenceClassification", head_pooling="position", head_length=48
    )
    assert default_window(load_model(path, task, "cpu"), 20) == window


def test_never_more_than_a_model_reads_at_once(tmp_path):
    model = load_model(save("dnabert", tmp_path), "masked-lm", "cpu")
    longest = default_window(model, 10_000)
    assert longest < 10_000
    assert default_window(model, longest - 1) == longest - 1


@pytest.mark.parametrize(("usual", "window"), [(20, 300), (1000, 300)])
def test_a_fine_tuned_head_gets_what_it_was_trained_on(
    tiny_checkpoint, tmp_path, usual, window
):
    path = tiny_checkpoint("CrossDNAForSequenceClassification", num_labels=2)
    shutil.copytree(path, tmp_path / "tuned")
    task = Task(kind="binary", columns=("label",), classes=("0", "1"))
    TaskCard(task=task, strands="both", max_length=300).write(tmp_path / "tuned")
    tuned = load_model(tmp_path / "tuned", "classification", "cpu")
    assert default_window(tuned, usual) == window
    assert default_window(load_model(path, "classification", "cpu"), usual) == usual
