"""Predictors judged alike: thresholds from development rows, intervals on the test."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from crossdna import alphabet
from crossdna.analysis.statistics import Interval, interval
from crossdna.data import metrics
from crossdna.data.labelled import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crossdna.analysis.supervised.classical import Predictor
    from crossdna.data.labelled import LabelledSet, Task

RESAMPLES: Final = 1000
BINS: Final = 256


class Orientation(NamedTuple):
    """What happens when the test sequences are given on their other strand.

    Attributes
    ----------
    score : float
        The task's first metric on the turned sequences.
    change : float
        Mean absolute change of the scores (probabilities, or quantities, each in units
        of the standard deviation of its labels; NaN where none has any).
    """

    score: float
    change: float


class Judged(NamedTuple):
    """A predictor's result.

    Attributes
    ----------
    scores : (rows, outputs)
        Of the test set.
    metrics : dict of str to Interval
        Of the test set.
    resampled : (resamples,)
        The task's first metric for each resample; all predictors see the same ones.
    """

    name: str
    thresholds: tuple[float, ...]
    scores: NDArray
    metrics: dict[str, Interval]
    resampled: NDArray[np.float64]
    orientation: Orientation

    def first(self, task: Task) -> Interval:
        """The metric that the task is reported by."""
        return self.metrics[metrics.PRIMARY[task.kind]]


class Answers(NamedTuple):
    """What a predictor makes of the test set; fields as in `Judged`.

    `resampled` is of the metric that was asked for.
    """

    thresholds: tuple[float, ...]
    scores: NDArray
    metrics: dict[str, Interval]
    resampled: NDArray[np.float64]
    seconds: float
    """That the predictor took for the test set."""


def ask(
    predictor: Predictor,
    valid: LabelledSet,
    test: LabelledSet,
    *,
    thresholds: tuple[float, ...] | None = None,
    metric: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Answers:
    """Score the test set once and compare with its labels.

    Parameters
    ----------
    thresholds
        Those that the predictor brings; chosen on `valid` without.
    metric
        The one whose resamples are kept; None: the task's first.
    """
    task = test.task
    if thresholds is None:
        held_out = predictor.scores(valid.table.ids)
        thresholds = metrics.choose_thresholds(task, valid.labels, held_out)
    start = time.perf_counter()
    scores = predictor.scores(test.table.ids)
    seconds = time.perf_counter() - start
    found = metrics.score(task, test.labels, scores, thresholds)
    draw = _resample_bases if task.kind == "per-base" else _resample
    resampled = draw(task, test.labels, scores, thresholds, resamples, seed)
    intervals = {
        name: interval(value, resampled[name]) for name, value in found.items()
    }
    kept = resampled[metric or metrics.PRIMARY[task.kind]]
    return Answers(thresholds, scores, intervals, kept, seconds)


def judge(
    predictor: Predictor,
    valid: LabelledSet,
    test: LabelledSet,
    *,
    thresholds: tuple[float, ...] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Judged:
    """`ask` about the test set as it is, and turned round.

    Parameters
    ----------
    thresholds
        Those that the predictor brings; chosen on `valid` without.
    """
    answers = ask(
        predictor, valid, test, thresholds=thresholds, resamples=resamples, seed=seed
    )
    return Judged(
        name=predictor.name,
        thresholds=answers.thresholds,
        scores=answers.scores,
        metrics=answers.metrics,
        resampled=answers.resampled,
        orientation=orientation(predictor, test, answers.scores, answers.thresholds),
    )


def _resample(
    task: Task,
    labels: NDArray,
    scores: NDArray,
    thresholds: tuple[float, ...],
    resamples: int,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Metrics of rows drawn with replacement; the seed alone decides the draws."""
    generator = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(resamples):
        rows = generator.integers(len(labels), size=len(labels))
        values = metrics.score(task, labels[rows], scores[rows], thresholds)
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in found.items()}


def _resample_bases(
    task: Task,
    labels: NDArray,
    scores: NDArray,
    thresholds: tuple[float, ...],
    resamples: int,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """The same for predictions per base, from counts for each sequence.

    Whole sequences are drawn, since neighbouring bases are not independent. Areas under
    curves are those of scores sorted into `BINS` steps.
    """
    sums = _base_counts(task.outputs, labels, scores)
    generator = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(resamples):
        rows = generator.integers(len(labels), size=len(labels))
        weights = np.bincount(rows, minlength=len(labels)).astype(np.float64)
        table = np.tensordot(weights, sums.confusion, 1)
        values = metrics.confusion_metrics(table)
        histograms = np.tensordot(weights, sums.histograms, 1)
        areas = np.array([_area(*histograms[n]) for n in range(task.outputs)])
        defined = areas[~np.isnan(areas)]
        values["macro_auroc"] = float(defined.mean()) if defined.size else float("nan")
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in found.items()}


class _BaseCounts(NamedTuple):
    """Counts for each sequence.

    Attributes
    ----------
    confusion : (rows, classes, classes)
    histograms : (rows, classes, 2, bins)
        Scores of a class at bases of other classes, and at its own.
    """

    confusion: NDArray[np.float64]
    histograms: NDArray[np.float64]


def _base_counts(classes: int, labels: NDArray, scores: NDArray) -> _BaseCounts:
    tables = np.zeros((len(labels), classes, classes))
    histograms = np.zeros((len(labels), classes, 2, BINS))
    flat, every = metrics.flatten_bases(scores, labels)
    edges = [_steps(flat[:, n], every == n) for n in range(classes)]
    for row, (truth, values) in enumerate(zip(labels, scores, strict=True)):
        kept = truth != IGNORED
        truth, values = truth[kept], values[kept]
        tables[row] = metrics.confusion(truth, values.argmax(1), classes)
        for number in range(classes):
            own = (truth == number).astype(int)
            steps = np.searchsorted(edges[number], values[:, number], "right")
            np.add.at(histograms[row, number], (own, steps), 1)
    return _BaseCounts(tables, histograms)


def _steps(scores: NDArray, own: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Where scores are cut into at most `BINS` steps.

    Half of the cuts share out the bases of the class, half the others: of a rare class
    all scores may lie where next to nothing else does.
    """
    shares = np.linspace(0, 1, BINS // 2 + 1)[1:-1]
    parts = [part for part in (scores[own], scores[~own]) if part.size]
    return np.unique(np.concatenate([np.quantile(part, shares) for part in parts]))


def _area(others: NDArray, own: NDArray) -> float:
    """Area under the ROC curve of two histograms; equal scores count half."""
    pairs = others.sum() * own.sum()
    if pairs == 0:
        return float("nan")
    below = np.cumsum(others) - others
    return float((own * (below + others / 2)).sum() / pairs)


def orientation(
    predictor: Predictor,
    test: LabelledSet,
    scores: NDArray,
    thresholds: tuple[float, ...],
) -> Orientation:
    """Ask about the reverse complements of the test sequences."""
    task = test.task
    turned = [alphabet.reverse_complement(ids) for ids in test.table.ids]
    other = predictor.scores(turned)
    if task.kind == "per-base":
        mirrored = np.empty(len(other), object)
        mirrored[:] = [row[::-1] for row in other]
        other = mirrored
        apart = np.abs(np.concatenate(scores) - np.concatenate(other))
    elif task.kind == "regression":
        apart = in_deviations(np.abs(scores - other), test.labels)
    else:
        apart = np.abs(scores - other)
    found = metrics.score(task, test.labels, other, thresholds)
    return Orientation(found[metrics.PRIMARY[task.kind]], float(apart.mean()))


def in_deviations(apart: NDArray, labels: NDArray) -> NDArray[np.float64]:
    """How far rows are off in units of the standard deviation of each target's labels.

    Parameters
    ----------
    apart, labels : (rows, targets)

    Returns
    -------
    (rows,)
        Mean over the targets that vary; NaN where none does.
    """
    spread = labels.std(0)
    varies = spread > 0
    if not varies.any():
        return np.full(len(apart), np.nan)
    return (apart[:, varies] / spread[varies]).mean(1)


def difference(first: Judged, second: Judged, task: Task) -> Interval:
    """By how much the first is better in the first metric, resampled as pairs."""
    gain = first.first(task).estimate - second.first(task).estimate
    return interval(gain, first.resampled - second.resampled)


def strongest(judged: Sequence[Judged], task: Task) -> Judged:
    """The one with the best first metric."""
    return max(judged, key=lambda one: np.nan_to_num(one.first(task).estimate, nan=-1))


class Calibration(NamedTuple):
    """Probabilities in bins: predicted, found, and how many; each (bins,)."""

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    rows: NDArray[np.int64]

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance, weighted by rows."""
        apart = np.abs(self.predicted - self.observed)
        return float((apart * self.rows).sum() / self.rows.sum())


def calibration(labels: NDArray, probabilities: NDArray, bins: int = 10) -> Calibration:
    """How often what is said with a probability comes true.

    Parameters
    ----------
    labels : (rows,) of 0 and 1
    probabilities : (rows,)
    """
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    rows = np.bincount(place, minlength=bins)
    kept = rows > 0
    predicted = np.bincount(place, weights=probabilities, minlength=bins)[kept]
    observed = np.bincount(place, weights=labels, minlength=bins)[kept]
    return Calibration(predicted / rows[kept], observed / rows[kept], rows[kept])


def to_json(judged: Judged) -> dict[str, Any]:
    """As plain tables."""
    return {
        "metrics": {name: value._asdict() for name, value in judged.metrics.items()},
        "thresholds": list(judged.thresholds),
        "orientation": judged.orientation._asdict(),
    }
