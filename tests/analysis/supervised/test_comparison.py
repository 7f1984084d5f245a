"""Judging predictors: intervals, pairing, strands, calibration."""

import numpy as np
import pytest
from tests.labelled_sets import write_csv

from crossdna import alphabet
from crossdna.analysis.supervised import comparison
from crossdna.data import labelled, metrics
from crossdna.data.sequence_tables import read_sequences


class Fixed:
    """Predictor with given scores, for sequences as given and turned."""

    def __init__(self, name, data, positive, turned=None):
        self.name = name
        self.known = {
            ids.tobytes(): p for ids, p in zip(data.table.ids, positive, strict=True)
        }
        turned = positive if turned is None else turned
        for ids, p in zip(data.table.ids, turned, strict=True):
            self.known[alphabet.reverse_complement(ids).tobytes()] = p

    def scores(self, sequences):
        positive = np.array([self.known[ids.tobytes()] for ids in sequences])
        return np.stack([1 - positive, positive], axis=1)


@pytest.fixture
def data(tmp_path, rng):
    rows = [("".join(rng.choice(list("ACGT"), 20)), i % 2) for i in range(200)]
    table = read_sequences(write_csv(tmp_path / "x.csv", ["sequence", "label"], rows))
    return labelled.label(table, labelled.detect_task(table, ("label",)))


def test_intervals_hold_the_metric(data, rng):
    positive = np.clip(0.3 * data.labels + 0.7 * rng.random(200), 0, 1)
    judged = comparison.judge(Fixed("a", data, positive), data, data, resamples=200)
    expected = metrics.score(data.task, data.labels, judged.scores, judged.thresholds)
    for name, value in judged.metrics.items():
        assert value.estimate == pytest.approx(expected[name])
        assert value.low <= value.estimate <= value.high
    again = comparison.judge(Fixed("a", data, positive), data, data, resamples=200)
    assert again.metrics == judged.metrics


def test_paired_difference_sees_a_small_steady_gain(data, rng):
    positive = np.where(rng.random(200) < 0.8, data.labels, 1 - data.labels) * 0.8 + 0.1
    better = positive.copy()
    wrong = np.flatnonzero((positive > 0.5) != data.labels)
    better[wrong[:10]] = data.labels[wrong[:10]] * 0.8 + 0.1
    first, second = (
        comparison.judge(
            Fixed(n, data, p), data, data, thresholds=(0.5,), resamples=300
        )
        for n, p in (("better", better), ("worse", positive))
    )
    gain = comparison.difference(first, second, data.task)
    assert gain.low > 0
    assert gain.high - gain.low < first.metrics["mcc"].high - first.metrics["mcc"].low
    assert comparison.strongest([second, first], data.task) is first


def test_a_predictor_is_asked_once_about_the_test_set(data):
    fixed = Fixed("a", data, data.labels * 0.8 + 0.1)
    asked = []

    class Counted:
        name = "counted"

        def scores(self, sequences):
            asked.append(len(sequences))
            return fixed.scores(sequences)

    answers = comparison.ask(Counted(), data, data, thresholds=(0.5,), resamples=10)
    assert asked == [len(data)]
    assert answers.seconds > 0
    assert answers.metrics["mcc"].estimate == 1


def test_turned_sequences_are_judged(data):
    positive = data.labels * 0.8 + 0.1
    fixed = Fixed("a", data, positive, turned=1 - positive)
    judged = comparison.judge(fixed, data, data, thresholds=(0.5,), resamples=10)
    assert judged.metrics["mcc"].estimate == 1
    assert judged.orientation.score == -1
    assert judged.orientation.change == pytest.approx(0.8)


class Quantities:
    """Predictor of quantities that turns each to another one on the other strand."""

    def __init__(self, data, shift):
        self.known = {}
        rows = zip(data.table.ids, data.labels, strict=True)
        for ids, values in rows:
            self.known[ids.tobytes()] = values
            self.known[alphabet.reverse_complement(ids).tobytes()] = values + shift

    def scores(self, sequences):
        return np.stack([self.known[ids.tobytes()] for ids in sequences])


def quantities(folder, rng, values):
    rows = [("".join(rng.choice(list("ACGT"), 20)), *row) for row in values]
    path = write_csv(folder / "q.csv", ["sequence", "a", "b"], rows)
    task = labelled.Task(kind="regression", columns=("a", "b"))
    return labelled.label(read_sequences(path), task)


@pytest.mark.parametrize("target", [0, 1])
def test_change_by_strand_weighs_targets_by_their_spread(tmp_path, rng, target):
    data = quantities(tmp_path, rng, rng.normal(size=(50, 2)) * [1, 1000])
    shift = np.zeros(2)
    shift[target] = data.labels.std(0)[target]
    predictor = Quantities(data, shift)
    scores = predictor.scores(data.table.ids)
    found = comparison.orientation(predictor, data, scores, ())
    assert found.change == pytest.approx(0.5)


def test_change_by_strand_is_undefined_where_no_label_varies(tmp_path, rng):
    data = quantities(tmp_path, rng, [(1, 5)])
    predictor = Quantities(data, np.ones(2))
    scores = predictor.scores(data.table.ids)
    found = comparison.orientation(predictor, data, scores, ())
    assert np.isnan(found.change)
    one = quantities(tmp_path, rng, [(1, 5), (3, 5)])
    predictor = Quantities(one, np.ones(2))
    scores = predictor.scores(one.table.ids)
    assert comparison.orientation(predictor, one, scores, ()).change == 1


def test_counts_per_sequence_give_the_resamples_of_bases(tmp_path, rng):
    rows = [
        ("".join(rng.choice(list("ACGT"), n)), "".join(rng.choice(list("XYZ."), n)))
        for n in rng.integers(20, 60, 12)
    ]
    table = read_sequences(write_csv(tmp_path / "y.csv", ["sequence", "label"], rows))
    data = labelled.label(table, labelled.detect_task(table, ("label",)))
    scores = np.empty(12, object)
    scores[:] = [rng.dirichlet(np.ones(3), len(ids)) for ids in table.ids]
    arguments = data.task, data.labels, scores, (), 40, 5
    slow = comparison._resample(*arguments)
    fast = comparison._resample_bases(*arguments)
    for name, values in slow.items():
        atol = 5e-3 if name == "macro_auroc" else 1e-12
        np.testing.assert_allclose(fast[name], values, atol=atol)


def test_calibration_counts_what_comes_true(rng):
    probabilities = rng.random(20_000)
    labels = (rng.random(20_000) < probabilities).astype(int)
    honest = comparison.calibration(labels, probabilities)
    assert honest.error < 0.02
    assert honest.rows.sum() == 20_000
    assert comparison.calibration(labels, probabilities**3).error > 0.1


def test_areas_of_a_rare_class_lie_in_their_interval(tmp_path, rng):
    task = labelled.Task(kind="per-base", columns=("y",), classes=("none", "site"))
    labels, scores = np.empty(60, object), np.empty(60, object)
    for row in range(60):
        labels[row] = (rng.random(200) < 0.003).astype(int)
        odds = -9 + 2.0 * labels[row] + 0.7 * rng.normal(size=200)
        site = 1 / (1 + np.exp(-odds))
        scores[row] = np.stack([1 - site, site], axis=1)
    arguments = task, labels, scores, (), 100, 0
    fast = comparison._resample_bases(*arguments)["macro_auroc"]
    slow = comparison._resample(*arguments)["macro_auroc"]
    np.testing.assert_allclose(fast, slow, atol=0.005)
