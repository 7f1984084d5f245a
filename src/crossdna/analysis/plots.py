"""Figures of the evaluation, the probe, a locus and a training run.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; figures say
what they show without their caption.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import Affine2D

from crossdna import alphabet
from crossdna.analysis.evaluation.measure import (
    ALL,
    predictor_label,
    strongest_baselines,
)
from crossdna.data.annotation import CDS, CLASSES, INTERGENIC, REPEAT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from crossdna.analysis.evaluation.locus import LocusPrediction
    from crossdna.analysis.evaluation.measure import Condition, Group
    from crossdna.analysis.probe.linear import Projection
    from crossdna.analysis.statistics import Interval

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY, BLACK = "#CC79A7", "#56B4E9", "#8A8A8A", "#222222"
BASE_COLOURS = dict(zip(alphabet.BASES, (GREEN, BLUE, ORANGE, VERMILION), strict=True))
CLASS_COLOURS = dict(
    zip(CLASSES, ("#E4E4E4", SKY, PURPLE, "#BDBDBD", GREEN, BLUE), strict=True)
)
FIGURE_KINDS: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Date": None, "Creator": None},
}
"""What files of pictures can be, and what is left out of each: dates and versions."""
# Classes with fewer hidden bases have intervals too wide to be worth a row.
_MIN_POSITIONS = 100
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E8E8E8",
    "legend.frameon": False,
    "figure.facecolor": "white",
}


def save_figure(figure: Figure, path: Path) -> None:
    """Write what the suffix says: a PNG (144 dots per inch), a PDF or an SVG.

    The same figure gives the same bytes.
    """
    FigureCanvasAgg(figure)
    kind = path.suffix.removeprefix(".")
    # Letters stay letters, and shapes are not named at random.
    with (
        mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "crossdna"}),
        path.open("wb") as handle,
    ):
        figure.savefig(handle, format=kind, dpi=144, metadata=FIGURE_KINDS[kind])


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, whose parts keep out of each other's way."""
    return Figure(figsize=(width, height), layout="constrained")


def evaluation_figure(
    conditions: Sequence[Condition], *, model_name: str = "CrossDNA"
) -> Figure:
    """Bits per base and accuracy of every predictor, and the gain by region class."""
    with mpl.rc_context(STYLE):
        figure = new_figure(12.4, 5.4)
        left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.15])
        everything = [
            (condition, next(g for g in condition.groups if g.name == ALL))
            for condition in conditions
        ]
        names = list(everything[0][1].scores)
        rows = np.arange(len(names))[::-1]
        labels = [predictor_label(name, model_name) for name in names]
        _compare(left, everything, rows, "bits")
        _compare(middle, everything, rows, "accuracy")
        left.set(title="Bits per base (lower is better)", yticks=rows)
        left.set_yticklabels(labels)
        left.get_yticklabels()[0].set(fontweight="bold", color=VERMILION)
        left.set_xlabel("bits per predicted base\n(2 = blind guess)")
        middle.set(title="Accuracy (higher is better)", yticks=rows)
        middle.set_yticklabels([])
        middle.set_xlabel("bases predicted right\n(25 % = blind guess)")
        for axes in (left, middle):
            axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        middle.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        _gains(right, conditions[-1], model_name)
        figure.legend(
            *left.get_legend_handles_labels(), loc="outside lower center", ncols=2
        )
        return figure


def _compare(
    axes: Axes, everything: list[tuple[Condition, Group]], rows: NDArray, what: str
) -> None:
    """One row for each predictor, one marker for each condition."""
    styles = [("o", 0.14, "full"), ("s", -0.14, "none")]
    for (condition, group), (marker, shift, fill) in zip(
        everything, styles, strict=False
    ):
        intervals = [getattr(score, what) for score in group.scores.values()]
        if (condition, group) == everything[0]:
            ours = intervals[0].estimate
            axes.axvline(ours, color=VERMILION, alpha=0.35, zorder=0.5)
        for index, (row, value) in enumerate(zip(rows, intervals, strict=True)):
            _error_bar(
                axes,
                value,
                row + shift,
                color=VERMILION if index == 0 else BLUE,
                marker=marker,
                fillstyle=fill,
                label=condition.description if index == 1 else None,
            )


def _gains(axes: Axes, condition: Condition, model_name: str) -> None:
    """Bits saved against the strongest baselines, for each class of bases."""
    everywhere = next(group for group in condition.groups if group.name == ALL)
    groups = [
        group
        for group in condition.groups
        if group is everywhere or group.positions >= _MIN_POSITIONS
    ]
    rows = np.arange(len(groups))[::-1]
    for name, colour, shift in zip(
        strongest_baselines(everywhere.bits()),
        (ORANGE, GREEN),
        (0.14, -0.14),
        strict=False,
    ):
        for row, group in zip(rows, groups, strict=True):
            label = f"against {predictor_label(name, model_name)}"
            _error_bar(
                axes,
                group.scores[name].bits_gain,
                row + shift,
                color=colour,
                marker="D",
                label=label if group is groups[0] else None,
            )
    axes.axvline(0, color=BLACK, linewidth=1)
    labels = [f"{group.name}\n(n = {group.positions:,})" for group in groups]
    axes.set(title=f"Bits that {model_name} saves, by class", yticks=rows)
    axes.set_yticklabels(labels, fontsize=9.5)
    axes.set_xlabel(f"bits per base, {condition.description}\n(right of 0 = better)")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    # Room above the first row for the legend, which must hide no point.
    axes.set_ylim(-0.5, len(groups) + 0.1)
    axes.legend(
        loc="upper left", fontsize=9.5, frameon=True, framealpha=1, edgecolor="white"
    )


def _error_bar(
    axes: Axes,
    value: Interval,
    row: float,
    *,
    label: str | None = None,
    **style: Any,
) -> None:
    spread = [[value.estimate - value.low], [value.high - value.estimate]]
    axes.errorbar(
        [value.estimate],
        [row],
        xerr=spread,
        linestyle="none",
        markersize=5.5,
        capsize=2,
        elinewidth=1.3,
        label=label,
        **style,
    )


def loss_figure(
    training: Sequence[tuple[float, float]],
    held_out: Sequence[tuple[float, float]],
    *,
    best_step: float | None = None,
) -> Figure:
    """Loss curve in bits per base.

    Parameters
    ----------
    training, held_out
        (step, cross-entropy in bits per base).
    best_step
        Step of the checkpoint that was kept.
    """
    with mpl.rc_context(STYLE):
        figure = new_figure(7.4, 3.9)
        axes = figure.subplots()
        if training:
            axes.plot(
                *zip(*training, strict=True),
                color=SKY,
                marker=".",
                markersize=4,
                label="training windows",
            )
        if held_out:
            axes.plot(
                *zip(*held_out, strict=True),
                color=VERMILION,
                marker="o",
                markersize=5,
                label="validation windows",
            )
        axes.axhline(2, color=GREY, linestyle="--", linewidth=1)
        axes.annotate(
            "blind guess",
            (0.5, 2),
            xycoords=("axes fraction", "data"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            color=GREY,
        )
        if best_step is not None:
            axes.axvline(best_step, color=GREEN, linestyle=":", label="kept checkpoint")
        axes.set(
            title="Pretraining",
            xlabel="optimiser step",
            ylabel="bits per masked base",
        )
        axes.legend(loc="upper right", frameon=True, framealpha=1, edgecolor="white")
        values = [y for _, y in [*training, *held_out]]
        if values:
            # The first steps may lie far above; the line of a blind guess is shown.
            low, high = min(values), max(2.0, np.quantile(values, 0.98))
            margin = 0.08 * (high - low)
            axes.set_ylim(low - margin, high + 2.5 * margin)
        return figure


def embedding_figure(projections: Mapping[str, Projection], labels: NDArray) -> Figure:
    """Principal components of embeddings, coding against intergenic.

    Parameters
    ----------
    projections
        One panel each, under its title.
    labels : (windows,)
        1 for coding.
    """
    with mpl.rc_context(STYLE):
        figure = new_figure(4.9 * len(projections), 4.6)
        panels = np.atleast_1d(figure.subplots(1, len(projections)))
        classes = [(0, "intergenic", ORANGE, "s"), (1, "coding (CDS)", BLUE, "o")]
        for axes, (title, (points, explained)) in zip(
            panels, projections.items(), strict=True
        ):
            for value, name, colour, marker in classes:
                axes.scatter(
                    *points[labels == value].T,
                    s=14,
                    alpha=0.6,
                    linewidths=0,
                    color=colour,
                    marker=marker,
                    label=name,
                )
            limits = np.quantile(points, [0.005, 0.995], axis=0)
            span = 0.08 * (limits[1] - limits[0])
            axes.set_xlim(limits[0, 0] - span[0], limits[1, 0] + span[0])
            axes.set_ylim(limits[0, 1] - span[1], limits[1, 1] + span[1])
            axes.set(
                title=title[0].upper() + title[1:],
                xlabel=f"component 1 ({explained[0]:.0%} of variance)",
                ylabel=f"component 2 ({explained[1]:.0%})",
            )
        figure.legend(
            *panels[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=2,
            markerscale=1.8,
        )
        return figure


def locus_figure(
    prediction: LocusPrediction, classes: NDArray[np.uint8], *, title: str
) -> Figure:
    """Expected bases along a locus: probabilities, information and annotation.

    Parameters
    ----------
    classes : (length,)
        Class of each base; see `crossdna.data.annotation.CLASSES`.
    """
    with mpl.rc_context(STYLE):
        length = len(prediction.ids)
        figure = new_figure(max(8.0, 0.11 * length), 6.2)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)
        logo, heat, truth, track = figure.subplots(
            4, 1, sharex=True, height_ratios=[1.7, 1.7, 1.1, 0.35]
        )
        _draw_logo(logo, prediction)
        _draw_heat(figure, heat, prediction)
        _draw_truth(truth, prediction)
        _draw_track(track, classes)
        start = prediction.region.start
        ticks = [i for i in range(length) if (start + i + 1) % 10 == 0]
        track.set_xticks(ticks, [f"{start + i + 1:,}" for i in ticks], fontsize=8)
        track.tick_params(axis="x", rotation=45)
        track.set_xlabel(f"position on {prediction.region.contig} (1-based)")
        track.set_xlim(-0.5, length - 0.5)
        return figure


def _draw_logo(axes: Axes, prediction: LocusPrediction) -> None:
    heights = prediction.probabilities * prediction.information[:, None]
    font = FontProperties(family="DejaVu Sans", weight="bold")
    for position, stack in enumerate(heights):
        bottom = 0.0
        for base in np.argsort(stack):
            letter = alphabet.BASES[base]
            draw_letter(axes, letter, position, bottom, float(stack[base]), font)
            bottom += float(stack[base])
    axes.set_ylim(0, max(0.05, 1.08 * float(prediction.information.max())))
    axes.set_ylabel("expected\n(bits)")
    axes.set_title("What the model expects (letter height = information)", fontsize=10)


def draw_letter(
    axes: Axes,
    letter: str,
    position: int,
    bottom: float,
    height: float,
    font: FontProperties,
) -> None:
    """Draw a base's letter over a position, from `bottom` up (or down, upside down)."""
    path = TextPath((0, 0), letter, size=1, prop=font)
    box = path.get_extents()
    fit = (
        Affine2D()
        .translate(-box.x0, -box.y0)
        .scale(0.9 / box.width, height / box.height)
        .translate(position - 0.45, bottom)
    )
    patch = PathPatch(
        fit.transform_path(path), facecolor=BASE_COLOURS[letter], linewidth=0
    )
    axes.add_patch(patch)


def _draw_heat(figure: Figure, axes: Axes, prediction: LocusPrediction) -> None:
    image = axes.imshow(
        prediction.probabilities.T,
        aspect="auto",
        cmap="cividis",
        vmin=0,
        vmax=_top(prediction),
        interpolation="nearest",
    )
    for position, base in enumerate(prediction.ids):
        if base < alphabet.NUM_BASES:
            corner = (position - 0.5, base - 0.5)
            axes.add_patch(
                Rectangle(corner, 1, 1, fill=False, edgecolor="white", linewidth=0.9)
            )
    axes.set_yticks(range(alphabet.NUM_BASES), list(alphabet.BASES))
    axes.set_title("Probability of each base (white frame = the genome)", fontsize=10)
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label="P", pad=0.01, fraction=0.03)


def _top(prediction: LocusPrediction) -> float:
    """Upper limit of a probability axis on which a weak model still shows something."""
    return max(0.5, float(np.ceil(10 * prediction.probabilities.max()) / 10))


def _draw_truth(axes: Axes, prediction: LocusPrediction) -> None:
    known = np.flatnonzero(prediction.ids < alphabet.NUM_BASES)
    right = prediction.probabilities[known, prediction.ids[known]]
    colours = [BASE_COLOURS[alphabet.BASES[base]] for base in prediction.ids[known]]
    axes.bar(known, right, width=0.9, color=colours)
    axes.axhline(0.25, color=BLACK, linewidth=0.8, linestyle="--")
    axes.set(ylim=(0, _top(prediction)), ylabel="P(genome\nbase)")
    axes.set_title("Probability of the genome's base (dashed = guess)", fontsize=10)


def _draw_track(axes: Axes, classes: NDArray[np.uint8]) -> None:
    edges = [0, *(np.flatnonzero(np.diff(classes)) + 1), len(classes)]
    for first, last in itertools.pairwise(edges):
        name = CLASSES[classes[first]]
        axes.add_patch(
            Rectangle((first - 0.5, 0), last - first, 1, facecolor=CLASS_COLOURS[name])
        )
        if last - first >= len(name):
            dark = classes[first] not in (INTERGENIC, REPEAT)
            axes.text(
                (first + last - 1) / 2,
                0.45,
                name,
                ha="center",
                va="center",
                fontsize=9,
                color="white" if dark and classes[first] == CDS else BLACK,
            )
    axes.set(ylim=(0, 1), yticks=[])
    axes.grid(visible=False)
