"""How good predictions are: metrics by kind of task, their chance level, thresholds.

Scores are (rows, outputs): probabilities of each class (two for a binary task), or
predicted quantities. Of a per-base task they are an object array of (length, classes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.stats import rankdata

from crossdna.data.labelled import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crossdna.data.labelled import Task

PRIMARY: Final = {
    "binary": "mcc",
    "multiclass": "mcc",
    "multilabel": "macro_auroc",
    "regression": "pearson",
    "per-base": "mcc",
}
"""The metric that a task is reported by first."""

SELECTING: Final = {**PRIMARY, "binary": "auroc"}
"""The metric of the development set that decides between models: of a binary task the
area under the curve, which needs no threshold and is less noisy than the MCC."""

SCALED_RMSE: Final = "rmse_in_deviations"
"""RMSE of several targets: each is divided by the standard deviation of its labels."""


def flatten_bases(values: NDArray, labels: NDArray) -> tuple[NDArray, NDArray]:
    """Lay the labelled bases of all rows end to end: (bases, ...) of values, labels."""
    every = np.concatenate(list(labels))
    counted = every != IGNORED
    return np.concatenate(list(values))[counted], every[counted]


def best_judgement(scores: Sequence[float], losses: Sequence[float]) -> int:
    """Which of several judgements on a development set is the best.

    Of equal scores (all right, or none defined) the one with the lowest loss.
    """
    return max(range(len(scores)), key=lambda place: (scores[place], -losses[place]))


def all_alike(task: Task, labels: NDArray) -> bool:
    """Whether all labels of a set are the same: then no score tells models apart."""
    if task.kind == "per-base":
        labels = np.concatenate(list(labels))
        labels = labels[labels != IGNORED]
    return bool((labels == labels[:1]).all())


def choose_thresholds(
    task: Task, labels: NDArray, scores: NDArray
) -> tuple[float, ...]:
    """Thresholds with a good MCC, to be chosen on the development set.

    One for a binary task, one per label for several; empty for other kinds. Of those
    whose MCC lies within a standard error of the best, (1 - MCC^2) / sqrt(rows - 1),
    the one nearest to 0.5 is taken: the very best one of a small set is mostly luck.
    """
    if task.kind == "binary":
        return (_best_threshold(labels, scores[:, 1]),)
    if task.kind == "multilabel":
        return tuple(
            _best_threshold(labels[:, i], scores[:, i]) for i in range(scores.shape[1])
        )
    return ()


def _best_threshold(labels: NDArray, scores: NDArray) -> float:
    values, counts = np.unique(scores, return_counts=True)
    positives = np.bincount(
        np.searchsorted(values, scores), weights=labels, minlength=len(values)
    )
    # Threshold i lies below values[i]: everything from there on is called positive.
    called = np.append(counts[::-1].cumsum()[::-1], 0)
    right = np.append(positives[::-1].cumsum()[::-1], 0)
    merit = _mcc_of_counts(right, called, float(np.sum(labels)), len(labels))
    edges = np.concatenate([[0.0], (values[:-1] + values[1:]) / 2, [1.0]])
    top = float(merit.max())
    slack = (1 - top**2) / max(len(labels) - 1, 1) ** 0.5
    # A threshold may stand anywhere between two scores that follow each other.
    low, high = np.append(0.0, values), np.append(values, 1.0)
    nearest = np.clip(0.5, low, high)
    # Scores equal to a threshold are positive, so it must lie above the lower one.
    nearest = np.where(nearest == low, edges, nearest)
    good = np.flatnonzero(merit >= top - slack - 1e-12)
    return float(nearest[good[np.abs(nearest[good] - 0.5).argmin()]])


def _mcc_of_counts(
    right: NDArray, called: NDArray, positives: float, rows: int
) -> NDArray[np.float64]:
    spread = called * (rows - called) * positives * (rows - positives)
    top = right * rows - called * positives
    return np.divide(top, np.sqrt(spread), out=np.zeros(len(top)), where=spread > 0)


def decide(task: Task, scores: NDArray, thresholds: tuple[float, ...]) -> NDArray:
    """What the scores decide: class numbers, 0 and 1 per label, or the quantities."""
    if task.kind == "binary":
        return (scores[:, 1] >= thresholds[0]).astype(np.int64)
    if task.kind == "multiclass":
        return scores.argmax(1)
    if task.kind == "multilabel":
        return (scores >= np.asarray(thresholds)).astype(np.int64)
    if task.kind == "regression":
        return scores
    decided = np.empty(len(scores), object)
    decided[:] = [bases.argmax(1) for bases in scores]
    return decided


def score(
    task: Task, labels: NDArray, scores: NDArray, thresholds: tuple[float, ...]
) -> dict[str, float]:
    """All metrics of a task; NaN where one is undefined (an absent class)."""
    if task.kind == "binary":
        decided = decide(task, scores, thresholds)
        return _binary_metrics(labels, scores[:, 1], decided)
    if task.kind == "multiclass":
        return _class_metrics(labels, scores)
    if task.kind == "per-base":
        flat, truth = flatten_bases(scores, labels)
        return _class_metrics(truth, flat)
    if task.kind == "multilabel":
        decided = decide(task, scores, thresholds)
        parts = [
            _binary_metrics(labels[:, i], scores[:, i], decided[:, i])
            for i in range(scores.shape[1])
        ]
        return {f"macro_{name}": _mean([p[name] for p in parts]) for name in parts[0]}
    targets = [
        _quantity_metrics(labels[:, i], scores[:, i]) for i in range(scores.shape[1])
    ]
    found = {name: _mean([part[name] for part in targets]) for name in targets[0]}
    if len(targets) > 1:
        # Targets may have units that have nothing to do with each other.
        del found["rmse"]
        pairs = zip(targets, labels.std(0), strict=True)
        scaled = [part["rmse"] / sd if sd else np.nan for part, sd in pairs]
        found[SCALED_RMSE] = _mean(scaled)
    return found


def deciding(task: Task, found: dict[str, float]) -> float:
    """Of what `score` found, the metric that choices are made by.

    An undefined one (a class that the development set lacks) is never best.
    """
    return float(np.nan_to_num(found[SELECTING[task.kind]], nan=-1.0))


def selecting(task: Task, labels: NDArray, scores: NDArray) -> float:
    """What a development set says of scores, at thresholds chosen on it."""
    thresholds = choose_thresholds(task, labels, scores)
    return deciding(task, score(task, labels, scores, thresholds))


def chance(task: Task, labels: NDArray) -> dict[str, float]:
    """What each metric is for a predictor that knows the class shares, nothing else."""
    if task.kind == "regression":
        found = {"pearson": 0.0, "spearman": 0.0, "r2": 0.0}
        if labels.shape[1] > 1:
            return {**found, SCALED_RMSE: 1.0}
        return {**found, "rmse": float(labels.std())}
    if task.kind == "multilabel":
        parts = [_binary_chance(labels[:, i]) for i in range(labels.shape[1])]
        return {f"macro_{name}": _mean([p[name] for p in parts]) for name in parts[0]}
    if task.kind == "binary":
        return _binary_chance(labels)
    truth = labels
    if task.kind == "per-base":
        every = np.concatenate(list(labels))
        truth = every[every != IGNORED]
    shares = np.bincount(truth, minlength=task.outputs) / len(truth)
    f1 = 2 * shares.max() / (1 + shares.max()) / int((shares > 0).sum())
    return {
        "mcc": 0.0,
        "accuracy": float(shares.max()),
        "macro_f1": float(f1),
        "macro_auroc": 0.5,
    }


def mcc(labels: NDArray, decided: NDArray) -> float:
    """Matthews correlation of two or more classes (Gorodkin, 2004).

    0 where one class only is called, NaN where there is no other.
    """
    classes = int(max(labels.max(), decided.max())) + 1
    return _mcc_of_confusion(confusion(labels, decided, classes))


def confusion(labels: NDArray, decided: NDArray, classes: int) -> NDArray[np.int64]:
    """(classes, classes) rows by true and predicted class."""
    pairs = labels.astype(np.int64) * classes + decided.astype(np.int64)
    counts = np.bincount(pairs, minlength=classes * classes)
    return counts.reshape(classes, classes)


def confusion_metrics(table: NDArray) -> dict[str, float]:
    """``mcc``, ``accuracy`` and ``macro_f1`` (of the classes that occur)."""
    right, truth, called = np.diagonal(table), table.sum(1), table.sum(0)
    present = truth > 0
    f1 = 2 * right[present] / (truth + called)[present]
    return {
        "mcc": _mcc_of_confusion(table),
        "accuracy": float(right.sum() / table.sum()),
        "macro_f1": float(f1.mean()),
    }


def _mcc_of_confusion(table: NDArray) -> float:
    rows, truth, called = float(table.sum()), table.sum(1), table.sum(0)
    if truth.max() == rows:
        return float("nan")
    top = float(np.trace(table)) * rows - float(truth @ called)
    spread = (rows**2 - float(truth @ truth)) * (rows**2 - float(called @ called))
    return top / spread**0.5 if spread > 0 else 0.0


def auroc(labels: NDArray, scores: NDArray) -> float:
    """Area under the ROC curve: how often a positive scores above a negative."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(scores)[labels == 1].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(labels: NDArray, scores: NDArray) -> float:
    """Area under the precision-recall curve, a sum of steps; ties are one step."""
    positives = labels.sum()
    if not positives:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    right = np.cumsum(labels[order])[ends]
    precision = right / (ends + 1)
    return float((np.diff(np.append(0, right)) * precision).sum() / positives)


def _binary_metrics(
    labels: NDArray, scores: NDArray, decided: NDArray
) -> dict[str, float]:
    both = float((decided * labels).sum())
    either = float(decided.sum() + labels.sum())
    return {
        "mcc": mcc(labels, decided),
        "auroc": auroc(labels, scores),
        "auprc": average_precision(labels, scores),
        "accuracy": float((labels == decided).mean()),
        "f1": 2 * both / either if labels.any() else float("nan"),
        "brier": float(((scores - labels) ** 2).mean()),
    }


def _binary_chance(labels: NDArray) -> dict[str, float]:
    share = float(labels.mean())
    return {
        "mcc": 0.0,
        "auroc": 0.5,
        "auprc": share,
        "accuracy": max(share, 1 - share),
        "f1": 2 * share / (1 + share) if share else float("nan"),
        "brier": share * (1 - share),
    }


def _class_metrics(labels: NDArray, scores: NDArray) -> dict[str, float]:
    table = confusion(labels, scores.argmax(1), scores.shape[1])
    areas = [
        auroc((labels == number).astype(int), scores[:, number])
        for number in np.unique(labels)
    ]
    return {**confusion_metrics(table), "macro_auroc": _mean(areas)}


def _quantity_metrics(labels: NDArray, scores: NDArray) -> dict[str, float]:
    error = labels - scores
    spread = float(((labels - labels.mean()) ** 2).sum())
    return {
        "pearson": _correlation(labels, scores),
        "spearman": _correlation(rankdata(labels), rankdata(scores)),
        "r2": 1 - float((error**2).sum()) / spread if spread else float("nan"),
        "rmse": float(np.sqrt((error**2).mean())),
    }


def _correlation(first: NDArray, second: NDArray) -> float:
    a, b = _centred(first), _centred(second)
    size = float(np.sqrt((a @ a) * (b @ b)))
    # A constant prediction tells nothing apart: that is no correlation, not an unknown.
    return float(a @ b) / size if size else 0.0


def _centred(values: NDArray) -> NDArray[np.float64]:
    """Less their mean, at most 1 in size; zeros where they differ by rounding alone."""
    apart = values - values.mean()
    largest = np.abs(apart).max()
    alike = largest <= 1e-12 * np.abs(values).max()
    return np.zeros_like(apart) if alike else apart / largest


def _mean(values: list[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
