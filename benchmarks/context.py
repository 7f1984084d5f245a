"""Bits per base against context length: does a model use what lies far away?

    python benchmarks/context.py --name crossdna-small \
        recurrent=weights/crossdna-small independent=runs/independent

Around each of many places of the held-out regions the same hidden bases of the central
1,024 are predicted from the central 256 bases to the central 65,536 (contexts below
1,024 cut the centre into pieces). What is hidden depends on the place alone, so that
all lengths and models answer the same questions. `LABEL=PATH@independent` reads a
model's blocks without carrying context. Writes benchmarks/results/context-NAME.json
and docs/context.png; the first length is what gains are counted from. Without models
the picture is drawn again from what was measured.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from machine import RESULTS, describe_machine

from crossdna.analysis.evaluation.hidden import hide_random, masked_log_probabilities
from crossdna.analysis.evaluation.run import write_json
from crossdna.analysis.inference import load_model
from crossdna.analysis.plots import save_figure
from crossdna.analysis.statistics import Interval, interval, resampled_ratios
from crossdna.config import read_recipe
from crossdna.data.windows import evaluation_windows
from crossdna.files import atomic_path
from crossdna.training.pretraining_data import open_genomes
from crossdna.training.pretraining_recipe import PretrainRecipe

CENTRE = 1024
PICTURE = RESULTS.parents[1] / "docs" / "context.png"
_PANELS = 3
# Labels of measurements, in a reader's words.
_NAMES = {
    "recurrent": "context carried across blocks",
    "independent": "each block read alone",
    "first-stage": "before training on long windows",
}


def places(part, longest, count):
    """Windows of the test regions, spread evenly."""
    tiles = [
        tile
        for tile in evaluation_windows(part.regions["test"], longest)
        if part.genome.fetch(*ends(tile.region)).max() < 4
    ]
    chosen = np.linspace(0, len(tiles) - 1, min(count, len(tiles))).round().astype(int)
    return [tiles[number].region for number in np.unique(chosen)] if tiles else []


def ends(region):
    return region.contig, region.start, region.end


def bits_by_length(model, window, index, lengths):
    """Bits spent on the hidden bases of the centre, for each context length.

    Parameters
    ----------
    window : (longest,) uint8

    Returns
    -------
    bits : (lengths,) sum over the hidden bases
    count : int
    """
    hidden = hide_random(window[None], np.array([index]), share=0.15, seed=0)
    middle = len(window) // 2
    first, last = middle - CENTRE // 2, middle + CENTRE // 2
    inside = (hidden.columns >= first) & (hidden.columns < last)
    columns = hidden.columns[inside]
    sums = []
    for length in lengths:
        start = middle - max(length, CENTRE) // 2
        part = hidden.masked[0, start : start + max(length, CENTRE)]
        logs = masked_log_probabilities(
            model, part.reshape(-1, length), strand="+"
        ).reshape(-1, 4)
        sums.append(-logs[columns - start, window[columns]].sum() / np.log(2))
    return np.array(sums), len(columns)


def measure(model, parts, lengths, count):
    """Bits per base for each species and length, and the gain over the first."""
    rows = []
    for part in parts:
        regions = places(part, lengths[-1], count)
        if not regions:
            continue
        found = [
            bits_by_length(model, part.genome.fetch(*ends(region)), index, lengths)
            for index, region in enumerate(regions)
        ]
        bits = np.stack([sums for sums, _ in found])
        hidden = np.array([[hidden] for _, hidden in found])
        ratios = resampled_ratios(bits, hidden)
        for place, length in enumerate(lengths):
            estimate, resampled = ratios.estimate, ratios.resampled
            row = {
                "species": part.name,
                "places": len(regions),
                "length": length,
                "bits": interval(float(estimate[place]), resampled[:, place]),
                "gain": interval(
                    float(estimate[0] - estimate[place]),
                    resampled[:, 0] - resampled[:, place],
                ),
            }
            rows.append(row)
        print(part.name, [f"{value:.4f}" for value in ratios.estimate], flush=True)
    return rows


def plot(rows, path):
    """A panel for each species, a line for each model."""
    from matplotlib.figure import Figure

    species = list(dict.fromkeys(row["species"] for row in rows))
    lines = -(-len(species) // _PANELS)
    size = (3.2 * _PANELS, 2.8 * lines + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(lines, _PANELS, squeeze=False, sharex=True)
    for axes in panels.flat[len(species) :]:
        axes.set_axis_off()
    for axes, name in zip(panels.flat, species, strict=False):
        for model in dict.fromkeys(row["model"] for row in rows):
            line = [r for r in rows if r["species"] == name and r["model"] == model]
            x = [row["length"] for row in line]
            label = _NAMES.get(model, model)
            axes.plot(x, [row["gain"].estimate for row in line], "o-", label=label)
            low, high = ([getattr(r["gain"], e) for r in line] for e in ("low", "high"))
            axes.fill_between(x, low, high, alpha=0.2)
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [f"{length:,}" for length in x], rotation=45)
        axes.set_title(name)
    figure.supxlabel("bases of context")
    figure.supylabel("bits per base gained")
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3, frameon=False)
    with atomic_path(path) as temporary:
        save_figure(figure, temporary)


def drawn_again(name):
    """Draw the stored results of a measurement."""
    rows = json.loads((RESULTS / f"context-{name}.json").read_text())["rows"]
    plot([{**row, "gain": Interval(**row["gain"])} for row in rows], PICTURE)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="LABEL=PATH[@independent]")
    parser.add_argument("--name", required=True)
    parser.add_argument("--recipe", type=Path, help="default: first PATH/recipe.toml")
    parser.add_argument("--longest", type=int, default=65536)
    parser.add_argument("--places", type=int, default=30, help="of each species")
    options = parser.parse_args()
    if not options.models:
        drawn_again(options.name)
        return
    torch.set_num_threads(1)
    models = dict(text.split("=", 1) for text in options.models)
    first = next(iter(models.values())).split("@")[0]
    recipe = read_recipe(options.recipe or Path(first) / "recipe.toml", PretrainRecipe)
    parts = [part for part in open_genomes(recipe.genome) if part.regions["test"]]
    lengths = [256 << step for step in range((options.longest // 256).bit_length())]
    rows = []
    for label, text in models.items():
        path, _, how = text.partition("@")
        model = load_model(path, "masked-lm")
        if how:
            model.config.block_context = how
        found = measure(model, parts, lengths, options.places)
        rows += [{"model": label, **row} for row in found]
    path = RESULTS / f"context-{options.name}.json"
    write_json({"machine": describe_machine(models=models), "rows": rows}, path)
    plot(rows, PICTURE)


if __name__ == "__main__":
    main()
