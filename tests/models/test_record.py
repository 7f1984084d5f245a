"""How long a window suits a model."""

import pytest

from crossdna.analysis.inference import load_model
from crossdna.models.record import default_window
from tests.family_checkpoints import save


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
