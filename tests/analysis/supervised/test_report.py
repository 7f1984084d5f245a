"""The report of a fine-tuning run: which rows it shows."""

import numpy as np
import pytest
from tests.labelled_sets import write_csv

from crossdna.analysis.supervised import report
from crossdna.data import labelled
from crossdna.data.sequence_tables import read_sequences


def test_worst_errors_of_several_targets_have_no_unit(tmp_path, rng):
    values = rng.normal(size=(20, 2)) * [1, 1000]
    rows = [("".join(rng.choice(list("ACGT"), 20)), *pair) for pair in values]
    path = write_csv(tmp_path / "q.csv", ["sequence", "a", "b"], rows)
    task = labelled.Task(kind="regression", columns=("a", "b"))
    test = labelled.label(read_sequences(path), task)
    scores, spread = test.labels.copy(), test.labels.std(0)
    scores[3, 0] += 2 * spread[0]
    scores[5, 1] -= spread[1]
    costs = report._costs(test, scores)
    assert costs[[3, 5]] == pytest.approx([1, 0.5])
    assert np.flatnonzero(costs > 1e-9).tolist() == [3, 5]
