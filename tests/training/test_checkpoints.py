"""Checkpoint directories: whole ones are found, others are not and go away."""

import pytest

from crossdna.errors import CrossDNAError
from crossdna.training.checkpoints import (
    best_path,
    checkpoint_path,
    complete_checkpoints,
    partial_path,
    prune,
    publish,
    start_partial,
)


def fill(folder, step):
    final = checkpoint_path(folder, step)
    (start_partial(final) / "weights").write_text(str(step))
    return final


def test_only_published_ones_are_found_in_order_of_steps(tmp_path):
    for step in (9, 100, 20):
        publish(fill(tmp_path, step))
    fill(tmp_path, 200)
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-300").write_text("a file")
    found = complete_checkpoints(tmp_path)
    assert [path.name for path in found] == [f"checkpoint-{n}" for n in (9, 20, 100)]
    assert (found[0] / "weights").read_text() == "9"
    assert complete_checkpoints(tmp_path / "absent") == []


def test_a_partial_one_is_started_anew(tmp_path):
    final = fill(tmp_path, 1)
    (partial_path(final) / "stale").write_text("")
    publish(fill(tmp_path, 1))
    assert [path.name for path in final.iterdir()] == ["weights"]


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    for step in (1, 2, 3):
        publish(fill(tmp_path, step))
        best_path(tmp_path, step).mkdir()
    fill(tmp_path, 4)
    (tmp_path / ".old-checkpoint-0").mkdir()
    prune(tmp_path, 2, best_step=1)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["best-1", "checkpoint-2", "checkpoint-3"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        CrossDNAError, match=r"cannot write .*file/\.partial-checkpoint-1"
    ):
        start_partial(checkpoint_path(tmp_path / "file", 1))
    with pytest.raises(CrossDNAError, match="cannot write"):
        publish(checkpoint_path(tmp_path, 1))
