"""Metrics against scikit-learn, thresholds against trying them all."""

import numpy as np
import pytest
from sklearn import metrics as sk

from crossdna.data import metrics
from crossdna.data.labelled import IGNORED, Task

BINARY = Task(kind="binary", columns=("y",), classes=("0", "1"))


def binary_scores(rng, rows=300, ties=False):
    labels = rng.integers(0, 2, rows)
    positive = np.clip(0.3 * labels + 0.7 * rng.random(rows), 0, 1)
    if ties:
        positive = positive.round(1)
    return labels, np.stack([1 - positive, positive], axis=1)


@pytest.mark.parametrize("ties", [False, True])
def test_binary_metrics(rng, ties):
    labels, scores = binary_scores(rng, ties=ties)
    found = metrics.score(BINARY, labels, scores, (0.6,))
    decided = scores[:, 1] >= 0.6
    assert found == pytest.approx(
        {
            "mcc": sk.matthews_corrcoef(labels, decided),
            "auroc": sk.roc_auc_score(labels, scores[:, 1]),
            "auprc": sk.average_precision_score(labels, scores[:, 1]),
            "accuracy": sk.accuracy_score(labels, decided),
            "f1": sk.f1_score(labels, decided),
            "brier": sk.brier_score_loss(labels, scores[:, 1]),
        }
    )


@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("ties", [False, True])
def test_threshold_is_nearly_the_best_and_nearest_to_half(rng, share, ties):
    labels = (rng.random(300) < share).astype(int)
    positive = np.clip(0.3 * labels + 0.6 * rng.random(300) - 0.1, 0, 1)
    positive = positive.round(1) if ties else positive
    scores = np.stack([1 - positive, positive], axis=1)
    (chosen,) = metrics.choose_thresholds(BINARY, labels, scores)

    def merit(threshold):
        return sk.matthews_corrcoef(labels, positive >= threshold)

    grid = np.linspace(0, 1, 401)
    best = max(merit(threshold) for threshold in grid)
    enough = best - (1 - best**2) / np.sqrt(299)
    assert merit(chosen) >= enough - 1e-9
    nearer = grid[np.abs(grid - 0.5) < abs(chosen - 0.5) - 1e-9]
    for threshold in nearer:
        same = np.array_equal(positive >= threshold, positive >= chosen)
        assert same or merit(threshold) < enough


def test_perfect_scores_give_a_perfect_threshold(rng):
    labels, _ = binary_scores(rng)
    positive = 0.1 + 0.2 * labels
    scores = np.stack([1 - positive, positive], axis=1)
    (chosen,) = metrics.choose_thresholds(BINARY, labels, scores)
    assert np.array_equal(positive >= chosen, labels == 1)


def test_separable_classes_around_a_half_get_it():
    labels = np.array([0, 0, 1, 1])
    scores = np.array([0.1, 0.2, 0.9, 0.95])
    scores = np.stack([1 - scores, scores], axis=1)
    assert metrics.choose_thresholds(BINARY, labels, scores) == (0.5,)


def test_multiclass_metrics(rng):
    labels = rng.integers(0, 4, 400)
    scores = rng.random((400, 4)) + 0.5 * np.eye(4)[labels]
    scores /= scores.sum(1, keepdims=True)
    task = Task(kind="multiclass", columns=("y",), classes=tuple("abcd"))
    found = metrics.score(task, labels, scores, ())
    decided = scores.argmax(1)
    areas = [sk.roc_auc_score(labels == n, scores[:, n]) for n in range(4)]
    assert found == pytest.approx(
        {
            "mcc": sk.matthews_corrcoef(labels, decided),
            "accuracy": sk.accuracy_score(labels, decided),
            "macro_f1": sk.f1_score(labels, decided, average="macro"),
            "macro_auroc": np.mean(areas),
        }
    )


def test_multilabel_is_the_mean_of_labels(rng):
    labels = rng.integers(0, 2, (200, 3)).astype(float)
    scores = np.clip(0.4 * labels + 0.6 * rng.random((200, 3)), 0, 1)
    task = Task(kind="multilabel", columns=tuple("abc"), classes=tuple("abc"))
    thresholds = metrics.choose_thresholds(task, labels, scores)
    assert len(thresholds) == 3
    found = metrics.score(task, labels, scores, thresholds)
    expected = [sk.roc_auc_score(labels[:, i], scores[:, i]) for i in range(3)]
    assert found["macro_auroc"] == pytest.approx(np.mean(expected))


def test_regression_metrics(rng):
    labels = rng.normal(size=(200, 1))
    scores = labels + rng.normal(size=(200, 1))
    task = Task(kind="regression", columns=("y",))
    found = metrics.score(task, labels, scores, ())
    assert found["pearson"] == pytest.approx(np.corrcoef(labels.T, scores.T)[0, 1])
    assert found["r2"] == pytest.approx(sk.r2_score(labels, scores))
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(labels, scores))
    constant = metrics.score(task, labels, np.zeros_like(labels), ())
    assert constant["pearson"] == constant["spearman"] == 0


def test_errors_of_several_targets_have_no_unit(rng):
    labels = rng.normal(size=(200, 2)) * [1, 1000]
    scores = labels + rng.normal(size=(200, 2)) * [0.1, 300]
    task = Task(kind="regression", columns=("a", "b"))
    found = metrics.score(task, labels, scores, ())
    errors = np.sqrt(((labels - scores) ** 2).mean(0)) / labels.std(0)
    assert found["rmse_in_deviations"] == pytest.approx(errors.mean())
    assert "rmse" not in found
    mean = np.tile(labels.mean(0), (200, 1))
    level = metrics.chance(task, labels)
    by_chance = metrics.score(task, labels, mean, ())
    assert by_chance.keys() == level.keys()
    for name, value in level.items():
        assert by_chance[name] == pytest.approx(value), name


def test_labels_that_are_all_alike(rng):
    kinds = {
        "binary": ([0, 0, 0], [0, 1, 0]),
        "multilabel": ([[0, 1], [0, 1]], [[0, 1], [0, 0]]),
    }
    for kind, (same, other) in kinds.items():
        task = Task(kind=kind, columns=("y",), classes=("a", "b"))
        assert metrics.all_alike(task, np.array(same))
        assert not metrics.all_alike(task, np.array(other))
    task = Task(kind="per-base", columns=("y",), classes=("a", "b"))
    bases = np.empty(2, object)
    bases[:] = [np.array([1, 1, IGNORED]), np.array([1])]
    assert metrics.all_alike(task, bases)
    bases[1] = np.array([0])
    assert not metrics.all_alike(task, bases)


def test_per_base_counts_labelled_bases_only(rng):
    labels, scores = np.empty(3, object), np.empty(3, object)
    for row, length in enumerate((5, 9, 7)):
        labels[row] = rng.integers(0, 3, length)
        scores[row] = rng.random((length, 3))
    labels[1][:4] = IGNORED
    task = Task(kind="per-base", columns=("y",), classes=tuple("abc"))
    flat = np.concatenate(labels)
    decided = np.concatenate(scores).argmax(1)[flat != IGNORED]
    found = metrics.score(task, labels, scores, ())
    assert found["accuracy"] == pytest.approx((decided == flat[flat != IGNORED]).mean())
    assert [len(row) for row in metrics.decide(task, scores, ())] == [5, 9, 7]


def test_one_class_in_the_sample_is_undefined_not_wrong():
    scores = np.array([[0.2, 0.8], [0.6, 0.4]])
    found = metrics.score(BINARY, np.array([1, 1]), scores, (0.5,))
    assert np.isnan(found["auroc"])
    assert np.isnan(found["mcc"])


def test_chance_is_what_a_constant_gets(rng):
    labels = (rng.random(4000) < 0.3).astype(int)
    scores = rng.random(4000)
    found = metrics.score(BINARY, labels, np.stack([1 - scores, scores], 1), (0.0,))
    chance = metrics.chance(BINARY, labels)
    assert found["auroc"] == pytest.approx(chance["auroc"], abs=0.03)
    assert found["auprc"] == pytest.approx(chance["auprc"], abs=0.03)
    assert found["f1"] == pytest.approx(chance["f1"])


def test_a_label_that_nothing_has_is_left_out_of_the_means():
    task = Task(kind="multilabel", columns=("a", "b", "c"), classes=("a", "b", "c"))
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]], float)
    scores = np.clip(labels, 0.1, 0.9)
    found = metrics.score(task, labels, scores, (0.5, 0.5, 0.5))
    assert found["macro_mcc"] == found["macro_f1"] == found["macro_auroc"] == 1
    assert metrics.chance(task, labels)["macro_f1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_correlations_do_not_depend_on_units(rng, unit):
    labels = rng.normal(size=(50, 1))
    scores = labels + rng.normal(size=(50, 1))
    task = Task(kind="regression", columns=("y",))
    expected = np.corrcoef(labels[:, 0], scores[:, 0])[0, 1]
    found = metrics.score(task, unit * labels, unit * scores, ())
    assert found["pearson"] == pytest.approx(expected)
    alike = np.full((50, 1), 0.1 * unit) * (1 + 1e-15 * scores)
    assert metrics.score(task, labels, alike, ())["pearson"] == 0
