"""Pictures of a mutagenesis: heat map with logo as PNG, and as a page of its own."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.font_manager import FontProperties

from crossdna import alphabet
from crossdna.analysis.plots import STYLE, draw_letter, new_figure
from crossdna.analysis.report import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from crossdna.analysis.mutagenesis.ism import Mutagenesis

_INCHES_PER_BASE, _MOST_INCHES = 0.105, 60.0
_LOWER, _HIGHER = (0, 114, 178), (213, 94, 0)
_CELL, _LETTER_HEIGHT, _LETTER_GAP, _MARGIN = 12, 90, 4, 56


def mutagenesis_figure(result: Mutagenesis, *, title: str, column: int = 0) -> Figure:
    """Logo of each base's importance above a heat map of all changes.

    Parameters
    ----------
    column
        Which output of a head.
    """
    with mpl.rc_context(STYLE):
        length = len(result.ids)
        width = min(_MOST_INCHES, max(7.0, 1.6 + _INCHES_PER_BASE * length))
        figure = new_figure(width, 4.2)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)
        logo, heat = figure.subplots(2, 1, sharex=True, height_ratios=[1.3, 1])
        _draw_logo(logo, result, column)
        values = _rows(result, column)
        limit = _limit(values)
        image = heat.imshow(
            values,
            cmap="RdBu_r",
            vmin=-limit,
            vmax=limit,
            aspect="auto",
            interpolation="nearest",
        )
        heat.grid(visible=False)
        labels = [*alphabet.BASES, "del"][: len(values)]
        heat.set_yticks(range(len(values)), labels)
        figure.colorbar(image, ax=heat, label=_label(result, column), pad=0.01)
        ticks, names = _ticks(result)
        heat.set_xticks(ticks, names, rotation=45, fontsize=8)
        heat.set_xlabel(f"position on {result.region.contig} (1-based)")
        heat.set_xlim(-0.5, length - 0.5)
        return figure


def _draw_logo(axes: Axes, result: Mutagenesis, column: int) -> None:
    font = FontProperties(family="DejaVu Sans", weight="bold")
    heights = np.nan_to_num(result.importance(column))
    for position, (base, height) in enumerate(zip(result.ids, heights, strict=True)):
        if base < alphabet.NUM_BASES and height:
            letter = alphabet.BASES[base]
            draw_letter(axes, letter, position, 0.0, float(height), font)
    margin = 0.05 + 0.08 * float(np.ptp(heights))
    axes.set_ylim(min(0, heights.min()) - margin, max(0, heights.max()) + margin)
    axes.axhline(0, color="#222222", linewidth=0.8)
    axes.set_ylabel("importance")
    axes.set_title("Reference against the mean of the other bases", fontsize=10)


def _rows(result: Mutagenesis, column: int) -> NDArray[np.float64]:
    """(4 or 5, length): A C G T and, when there are any, deletions."""
    rows = list(result.substitutions[:, :, column].T)
    if result.deletions is not None:
        rows.append(result.deletions[:, column])
    return np.stack(rows)


def _limit(values: NDArray[np.float64]) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(np.quantile(finite, 0.99)) or 1.0 if finite.size else 1.0


def _label(result: Mutagenesis, column: int) -> str:
    what = result.heads[column] if result.heads else ""
    return f"change of the {what}" if what else "log-likelihood ratio"


def _ticks(result: Mutagenesis) -> tuple[list[int], list[str]]:
    length, start = len(result.ids), result.region.start
    step = 10 if length <= 300 else 50 if length <= 1500 else 500
    ticks = [i for i in range(length) if (start + i + 1) % step == 0]
    return ticks, [f"{start + i + 1:,}" for i in ticks]


def mutagenesis_page(
    result: Mutagenesis, *, title: str, provenance: Mapping[str, Any], column: int = 0
) -> str:
    """Give an HTML page with the logo and heat map as SVG; every cell tells its value.

    The page loads nothing.
    """
    values = _rows(result, column)
    limit = _limit(values)
    labels = [*alphabet.BASES, "-"]
    cells = []
    for place in range(len(result.ids)):
        cells.append(_svg_letter(result, place, column))
        for row, value in enumerate(values[:, place]):
            if np.isfinite(value):
                where = f"{result.region.contig}:{result.region.start + place + 1:,}"
                base = alphabet.decode(result.ids[place : place + 1])
                cells.append(
                    f'<rect x="{place * _CELL}" y="{_LETTER_HEIGHT + row * _CELL}" '
                    f'width="{_CELL}" height="{_CELL}" fill="{_colour(value / limit)}">'
                    f"<title>{where} {base}&gt;{labels[row]} {value:.4g}</title></rect>"
                )
    names = "".join(
        f'<text x="-14" y="{_LETTER_HEIGHT + row * _CELL + 10}">{labels[row]}</text>'
        for row in range(len(values))
    )
    height = _LETTER_HEIGHT + len(values) * _CELL + 24
    ticks = "".join(
        f'<text x="{place * _CELL}" y="{height - 8}">{name}</text>'
        for place, name in zip(*_ticks(result), strict=True)
    )
    width = len(result.ids) * _CELL + 100 + _MARGIN
    return _PAGE.format(
        title=html.escape(title),
        label=html.escape(_label(result, column)),
        limit=f"{limit:.3g}",
        width=width,
        height=height,
        margin=_MARGIN,
        content=_svg_scale(result, column) + names + "".join(cells) + ticks,
        provenance=_record(provenance),
    )


def _record(provenance: Mapping[str, Any]) -> str:
    """How the page was made, as the other reports have it."""
    rows = [[key.replace("_", " "), str(value)] for key, value in provenance.items()]
    return Table("The record", ["What", "Value"], rows, kind="record").render()


def _tallest(result: Mutagenesis, column: int) -> float:
    """The importance that a letter of full height stands for."""
    return float(np.abs(np.nan_to_num(result.importance(column))).max()) or 1.0


def _svg_scale(result: Mutagenesis, column: int) -> str:
    """Heights of letters in numbers, left of them."""
    top = _tallest(result, column)
    middle, reach = _LETTER_HEIGHT / 2, _LETTER_HEIGHT / 2 - _LETTER_GAP
    # A text is placed by its foot.
    return "".join(
        f'<text x="-6" y="{middle - share * reach + 4:.0f}" text-anchor="end">'
        f"{share * top:.3g}</text>"
        f'<path d="M-4 {middle - share * reach:.0f}h4" stroke="#222"/>'
        for share in (1, 0, -1)
    )


def _svg_letter(result: Mutagenesis, place: int, column: int) -> str:
    importance = np.nan_to_num(result.importance(column))
    middle = _LETTER_HEIGHT / 2
    height = importance[place] / _tallest(result, column) * (middle - _LETTER_GAP)
    base = alphabet.decode(result.ids[place : place + 1])
    # Capital letters of the font are 0.72 em high and about 0.7 em wide.
    return (
        f'<text class="{base}" transform="translate({place * _CELL + 1} {middle:.1f}) '
        f'scale(0.9 {height / 10:.3f})" font-size="14">{base}'
        f"<title>{importance[place]:.4g}</title></text>"
    )


def _colour(share: float) -> str:
    """White at 0, blue towards -1, vermilion towards 1."""
    end = _HIGHER if share > 0 else _LOWER
    strength = min(1.0, abs(share))
    parts = [round(255 + (part - 255) * strength) for part in end]
    return "#{:02x}{:02x}{:02x}".format(*parts)


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font-family: sans-serif; margin: 2em; color: #222 }}
div {{ overflow-x: auto }}
svg text {{ font: 10px sans-serif }}
svg text[class] {{ font: bold 14px sans-serif }}
.A {{ fill: #009E73 }} .C {{ fill: #0072B2 }} .G {{ fill: #E69F00 }}
.T {{ fill: #D55E00 }} .N {{ fill: #8A8A8A }}
table {{ border-collapse: collapse; margin-top: 2em; font-size: 0.9em }}
caption {{ text-align: left; font-weight: 600 }}
th, td {{ text-align: left; padding: 0.3em 0.7em; border-bottom: 1px solid #e5e5e5 }}
td {{ overflow-wrap: anywhere }}
</style></head><body><h1>{title}</h1>
<p>Colour: {label} of the change; full colour at &plusmn;{limit}:
<b style="color:#0072B2">blue</b> lower,
<b style="color:#D55E00">orange</b> higher. Letters: the reference base against the mean
of the other three, in the same unit, with the scale on their left. Rest the pointer on
a cell for its value.</p>
<div><svg width="{width}" height="{height}" viewBox="-{margin} 0 {width} {height}">
{content}</svg></div>{provenance}</body></html>
"""
