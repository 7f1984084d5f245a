"""Temperature scaling: what it finds, and what it leaves alone."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from crossdna.data.labelled import Task
from crossdna.data.temperature import HIGHEST, fit_temperature

ROWS = 4000


def drawn(rng, probabilities):
    """A class for each row."""
    return (probabilities.cumsum(1) > rng.random((len(probabilities), 1))).argmax(1)


@pytest.mark.parametrize("outputs", [2, 5])
@pytest.mark.parametrize("truth", [1.5, 4.0])
def test_the_temperature_that_made_the_labels_is_found(rng, outputs, truth):
    kind = "binary" if outputs == 2 else "multiclass"
    task = Task(kind=kind, columns=("y",), classes=tuple(map(str, range(outputs))))
    logits = 6 * rng.normal(size=(ROWS, outputs))
    labels = drawn(rng, softmax(logits / truth, 1))
    assert fit_temperature(task, labels, logits) == pytest.approx(truth, rel=0.1)


def test_of_several_labels(rng):
    task = Task(kind="multilabel", columns=("a", "b"), classes=("a", "b"))
    logits = 5 * rng.normal(size=(ROWS, 2))
    labels = (rng.random(logits.shape) < expit(logits / 2.5)).astype(float)
    assert fit_temperature(task, labels, logits) == pytest.approx(2.5, rel=0.1)


def test_of_bases_without_those_that_have_no_label(rng):
    task = Task(kind="per-base", columns=("y",), classes=("0", "1", "2"))
    logits, labels = np.empty(2, object), np.empty(2, object)
    for row, length in enumerate((ROWS, ROWS // 2)):
        logits[row] = 5 * rng.normal(size=(length, 3))
        labels[row] = drawn(rng, softmax(logits[row] / 3, 1))
        # As sure and wrong as can be, but not counted.
        logits[row][::2] = [50, 0, 0]
        labels[row][::2] = -100
    assert fit_temperature(task, labels, logits) == pytest.approx(3, rel=0.1)


def test_logits_are_never_made_surer(rng):
    task = Task(kind="binary", columns=("y",), classes=("0", "1"))
    labels = rng.integers(2, size=30)
    apart = np.stack([-labels, labels], 1).astype(float)
    assert fit_temperature(task, labels, apart) == 1
    assert fit_temperature(task, 1 - labels, 50 * apart) > 0.9 * HIGHEST


def test_quantities_have_none(rng):
    task = Task(kind="regression", columns=("y",), classes=())
    assert fit_temperature(task, rng.normal(size=(9, 1)), rng.normal(size=(9, 1))) == 1
