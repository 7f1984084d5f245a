"""Figures of a fine-tuning report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

from crossdna.analysis.plots import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    STYLE,
    VERMILION,
    new_figure,
)
from crossdna.analysis.supervised.comparison import calibration
from crossdna.data import metrics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from crossdna.analysis.supervised.comparison import Judged
    from crossdna.data.labelled import Task

_COLOURS = (VERMILION, BLUE, GREEN, ORANGE, PURPLE, SKY, GREY, BLACK)


def learning_figure(runs: Sequence[tuple[str, Sequence[dict[str, float]]]]) -> Figure:
    """Loss and deciding metric for each epoch; one colour per seed.

    Parameters
    ----------
    runs
        Name and history of each.
    """
    with mpl.rc_context(STYLE):
        figure = new_figure(11, 4)
        left, right = figure.subplots(1, 2)
        for (name, history), colour in zip(runs, _cycle(len(runs)), strict=True):
            epochs = [row["epoch"] for row in history]
            training = [row["training_loss"] for row in history]
            left.plot(epochs, training, color=colour, linestyle=":")
            held_out = [row["loss"] for row in history]
            left.plot(epochs, held_out, color=colour, label=name)
            scores = [row["score"] for row in history]
            right.plot(epochs, scores, color=colour, marker="o", markersize=3)
            best = metrics.best_judgement(scores, held_out)
            right.plot(epochs[best], scores[best], "*", color=colour, markersize=12)
        left.set(title="Loss (dotted: training)", xlabel="epoch", ylabel="loss")
        right.set(title="Development set (star: kept)", xlabel="epoch", ylabel="score")
        left.legend()
        return figure


def _cycle(number: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(number)]


def comparison_figure(judged: Sequence[Judged], task: Task, chance: float) -> Figure:
    """The first metric of all predictors with intervals; the first one is ours."""
    with mpl.rc_context(STYLE):
        figure = new_figure(9, 0.5 * len(judged) + 1.6)
        axes = figure.subplots()
        for row, one in enumerate(reversed(judged)):
            value = one.first(task)
            spread = [[value.estimate - value.low], [value.high - value.estimate]]
            axes.errorbar(
                [value.estimate],
                [row],
                xerr=np.nan_to_num(spread),
                fmt="o",
                capsize=3,
                color=VERMILION if one is judged[0] else BLUE,
            )
        axes.set_yticks(range(len(judged)), [one.name for one in reversed(judged)])
        axes.axvline(chance, color=GREY, linestyle="--", linewidth=1)
        axes.set(
            title="Test set, 95 % bootstrap intervals (dashed: chance)",
            xlabel=metrics.PRIMARY[task.kind].upper(),
        )
        return figure


def ranking_figure(labels: NDArray, judged: Sequence[Judged]) -> Figure:
    """ROC and precision-recall curves of a binary task."""
    with mpl.rc_context(STYLE):
        figure = new_figure(11, 4.6)
        roc, recall = figure.subplots(1, 2)
        for one, colour in zip(judged, _cycle(len(judged)), strict=True):
            order = np.argsort(-one.scores[:, 1], kind="stable")
            ranked = one.scores[order, 1]
            # Equal scores are one step: their order means nothing.
            ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
            right = np.append(0, np.cumsum(labels[order])[ends])
            wrong = np.append(0, np.cumsum(1 - labels[order])[ends])
            roc.plot(wrong / wrong[-1], right / right[-1], color=colour)
            precision = right[1:] / (right[1:] + wrong[1:])
            recall.plot(right[1:] / right[-1], precision, color=colour, label=one.name)
        roc.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
        recall.axhline(labels.mean(), color=GREY, linestyle="--", linewidth=1)
        roc.set(title="ROC", xlabel="false positive rate", ylabel="true positive rate")
        recall.set(title="Precision and recall", xlabel="recall", ylabel="precision")
        figure.legend(loc="outside lower center", ncols=3, fontsize=9)
        return figure


def calibration_figure(labels: NDArray, probabilities: NDArray) -> Figure:
    """How often what is said with a probability comes true, for a binary task."""
    found = calibration(labels, probabilities)
    with mpl.rc_context(STYLE):
        figure = new_figure(5.4, 4.6)
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
        axes.plot(found.predicted, found.observed, "o-", color=VERMILION)
        for x, y, rows in zip(*found, strict=True):
            axes.annotate(str(rows), (x, y), (4, -11), textcoords="offset points",
                          fontsize=8, color=GREY)  # fmt: skip
        axes.set(
            title=f"Calibration (expected error {found.error:.3f})",
            xlabel="predicted probability (small: rows)",
            ylabel="share of positives",
            xlim=(0, 1),
            ylim=(0, 1),
        )
        return figure


def confusion_figure(labels: NDArray, decided: NDArray, names: Sequence[str]) -> Figure:
    """True classes (rows) against predicted ones."""
    table = np.zeros((len(names), len(names)), int)
    np.add.at(table, (labels.astype(int), decided.astype(int)), 1)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    with mpl.rc_context(STYLE):
        size = 3.4 + 0.45 * len(names)
        figure = new_figure(size + 0.8, size)
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        if len(names) <= 20:
            for (row, column), count in np.ndenumerate(table):
                colour = "white" if shares[row, column] > 0.6 else BLACK
                axes.text(column, row, count, ha="center", va="center", color=colour)
        axes.set_xticks(range(len(names)), names, rotation=45)
        axes.set_yticks(range(len(names)), names)
        axes.grid(visible=False)
        axes.set(title="Confusion", xlabel="predicted", ylabel="true")
        return figure


def scatter_figure(labels: NDArray, scores: NDArray, names: Sequence[str]) -> Figure:
    """Measured against predicted quantities; a panel per target."""
    with mpl.rc_context(STYLE):
        figure = new_figure(4.8 * len(names), 4.6)
        panels = np.atleast_1d(figure.subplots(1, len(names)))
        for number, (axes, name) in enumerate(zip(panels, names, strict=True)):
            truth, found = labels[:, number], scores[:, number]
            axes.scatter(truth, found, s=10, alpha=0.5, color=BLUE, linewidths=0)
            ends = [min(truth.min(), found.min()), max(truth.max(), found.max())]
            axes.plot(ends, ends, color=GREY, linestyle="--", linewidth=1)
            axes.set(title=name, xlabel="measured", ylabel="predicted")
        return figure


def orientation_figure(judged: Sequence[Judged], task: Task) -> Figure:
    """What turning the test sequences round does to every predictor."""
    with mpl.rc_context(STYLE):
        figure = new_figure(11, 0.5 * len(judged) + 1.8)
        left, right = figure.subplots(1, 2, sharey=True)
        rows = np.arange(len(judged))[::-1]
        _arrows(left, judged, rows, task)
        changes = [one.orientation.change for one in judged]
        lengths = np.nan_to_num(changes)
        right.barh(rows, lengths, height=0.5, color=BLUE)
        for row, change, length in zip(rows, changes, lengths, strict=True):
            says = "undefined" if np.isnan(change) else f"{change:.2g}"
            right.annotate(says, (length, row), (4, -3), textcoords="offset points",
                           fontsize=9)  # fmt: skip
        left.set_yticks(rows, [one.name for one in judged])
        left.set_title("As given (o) and reverse complemented (x)")
        left.set_xlabel(metrics.PRIMARY[task.kind].upper())
        right.set_title("Mean change of the prediction")
        right.set_xlabel("absolute change (0: same answer for both strands)")
        right.set_xlim(0, max(0.05, 1.15 * max(lengths)))
        return figure


def _arrows(axes: Axes, judged: Sequence[Judged], rows: NDArray, task: Task) -> None:
    for row, one in zip(rows, judged, strict=True):
        before, after = one.first(task).estimate, one.orientation.score
        colour = VERMILION if one is judged[0] else BLUE
        axes.plot([before, after], [row, row], color=GREY, linewidth=1)
        axes.plot(before, row, "o", color=colour)
        axes.plot(after, row, "x", color=colour, markersize=8)
