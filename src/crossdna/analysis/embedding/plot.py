"""A picture of embeddings in two dimensions, coloured by a column."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

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
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

Projection = Literal["pca", "umap"]
_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK, GREY)


def project(
    vectors: NDArray[np.float32], how: Projection
) -> tuple[NDArray[np.float64], tuple[str, str]]:
    """Two coordinates for each vector, and what the axes are called.

    Raises
    ------
    CrossDNAError
        Fewer than three vectors, or UMAP without its package.
    """
    if len(vectors) < 3:
        raise CrossDNAError(f"a picture needs at least 3 sequences, not {len(vectors)}")
    if how == "umap":
        return _umap(vectors), ("UMAP 1", "UMAP 2")
    centred = np.asarray(vectors, np.float64) - vectors.mean(0)
    left, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    # A singular vector's sign is arbitrary: its largest entry is made positive.
    largest = np.abs(axes[:2]).argmax(1)
    signs = np.sign(axes[np.arange(2), largest])
    share = sizes**2 / max(float((sizes**2).sum()), 1e-12)
    names = tuple(f"component {i + 1} ({share[i]:.0%} of variance)" for i in range(2))
    return left[:, :2] * sizes[:2] * signs, (names[0], names[1])


def require_library(projection: Projection) -> None:
    """Raise a `CrossDNAError` if what a projection needs is not installed."""
    if projection == "umap" and find_spec("umap") is None:
        raise CrossDNAError(
            "--projection umap needs umap-learn: pip install 'crossdna[umap]'"
        )


def _umap(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    require_library("umap")
    with warnings.catch_warnings():
        # It says that it does without tensorflow, which nothing here asks of it.
        warnings.simplefilter("ignore", ImportWarning)
        import umap
    # A neighbourhood cannot be larger than the rest; a given state allows one job only.
    neighbours = min(15, len(vectors) - 1)
    mapper = umap.UMAP(
        n_neighbors=neighbours, random_state=0, n_jobs=1, init=_start(vectors)
    )
    return np.asarray(mapper.fit_transform(vectors), np.float64)


def _start(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Principal components; few vectors have no spectrum that UMAP would start from."""
    points, _ = project(vectors, "pca")
    return (points / max(float(np.abs(points).max()), 1e-12) * 10).astype(np.float32)


def embedding_plot(
    points: NDArray,
    axes_names: tuple[str, str],
    values: Sequence[str] | None,
    name: str,
) -> Figure:
    """Scatter plot; numbers of many values get a colour scale, others a colour each.

    Parameters
    ----------
    points : (sequences, 2)
    values
        What the column `name` holds for each; None for one colour.
    """
    with mpl.rc_context(STYLE):
        figure = new_figure(6.6, 5.2)
        axes = figure.subplots()
        axes.set(xlabel=axes_names[0], ylabel=axes_names[1])
        if values is None:
            axes.scatter(
                points[:, 0], points[:, 1], s=12, alpha=0.7, linewidths=0, color=BLUE
            )
            return figure
        axes.set_title(f"coloured by {name}")
        numbers = _numbers(values)
        if numbers is not None and len(set(values)) > len(_COLOURS):
            drawn = axes.scatter(
                points[:, 0],
                points[:, 1],
                c=numbers,
                s=12,
                cmap="cividis",
                linewidths=0,
            )
            figure.colorbar(drawn, ax=axes, label=name)
            return figure
        _classes(axes, points, np.asarray(values), name)
        return figure


def _numbers(values: Sequence[str]) -> NDArray[np.float64] | None:
    try:
        return np.array([float(value) for value in values])
    except (TypeError, ValueError):
        return None


def _classes(axes: Axes, points: NDArray, values: NDArray, name: str) -> None:
    kinds, counts = np.unique(values, return_counts=True)
    # The most common ones get a colour each; what is left is grey.
    order = kinds[np.argsort(-counts, kind="stable")]
    shown = order if len(order) <= len(_COLOURS) else order[: len(_COLOURS) - 1]
    rest = ~np.isin(values, shown)
    if rest.any():
        axes.scatter(
            points[rest, 0],
            points[rest, 1],
            s=12,
            color=GREY,
            linewidths=0,
            label="others",
        )
    for kind, colour in zip(shown, _COLOURS, strict=False):
        chosen = points[values == kind]
        axes.scatter(
            chosen[:, 0],
            chosen[:, 1],
            s=12,
            alpha=0.7,
            linewidths=0,
            color=colour,
            label=str(kind),
        )
    axes.legend(title=name, markerscale=2)
