"""The picture of a benchmark: every model on every task, with intervals."""

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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from crossdna.analysis.supervised.benchmark import Row

_COLOURS = (VERMILION, BLUE, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)
_MARKERS = "osD^vP*X"


def benchmark_figure(rows: Sequence[Row]) -> Figure:
    """One line per task; a marker with its interval per model."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    models = list(dict.fromkeys(row.model for row in rows))
    with mpl.rc_context(STYLE):
        figure = new_figure(9.5, 1.8 + len(tasks) * (0.3 + 0.14 * len(models)))
        axes = figure.subplots()
        for number, model in enumerate(models):
            own = [row for row in rows if row.model == model]
            shift = 0.6 * ((number + 0.5) / len(models) - 0.5)
            places = [tasks.index(row.task) + shift for row in own]
            means = np.array([row.mean for row in own])
            spread = [means - [r.low for r in own], [r.high for r in own] - means]
            axes.errorbar(
                means,
                places,
                xerr=np.nan_to_num(spread).clip(min=0),
                linestyle="none",
                marker=_MARKERS[number % len(_MARKERS)],
                color=_COLOURS[number % len(_COLOURS)],
                markersize=5,
                capsize=2,
                label=model,
            )
        axes.set_yticks(range(len(tasks)), tasks)
        axes.invert_yaxis()
        axes.set(
            title="Test sets, means over seeds, 95 % bootstrap intervals",
            xlabel=", ".join(dict.fromkeys(row.metric for row in rows)),
        )
        figure.legend(loc="outside lower center", ncols=min(4, len(models)))
        return figure
