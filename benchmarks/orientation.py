"""What happens to predictions when test sequences are given on their other strand.

    python benchmarks/orientation.py --suite gue --data DIR --work orientation

Binding sites have no direction: a sequence and its reverse complement are the same
molecule, and a model should say the same of both. For each task this trains CrossDNA
(random weights) with and without strands averaged, convolutional nets with and without
the other strand shown in training, and the k-mer model; asks each about the test set as
it is and turned round; and writes results/orientation.json and docs/orientation.png.
Every model that is done is kept in --work.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from machine import RESULTS, save_results

from crossdna import alphabet
from crossdna.analysis.plots import (
    BLUE,
    GREY,
    STYLE,
    VERMILION,
    new_figure,
    save_figure,
)
from crossdna.analysis.supervised.baselines import BASELINES
from crossdna.analysis.supervised.finetuned import FinetunedModel
from crossdna.data import metrics
from crossdna.data.named_suites import choose_suite
from crossdna.data.suites import read_task
from crossdna.files import atomic_open
from crossdna.training.finetune import finetune
from crossdna.training.finetune_recipe import FinetuneRecipe

NETS = ("kmer", "cnn-position", "cnn-position-augmented", "cnn-symmetric")
FIGURE = RESULTS.parents[1] / "docs" / "orientation.png"


def ask(predictor, sets, thresholds=None):
    """Accuracy and MCC on both orientations, and how far the predictions move."""
    task, test = sets.task, sets.test
    if thresholds is None:
        held_out = predictor.scores(sets.valid.table.ids)
        thresholds = metrics.choose_thresholds(task, sets.valid.labels, held_out)
    turned = [alphabet.reverse_complement(ids) for ids in test.table.ids]
    found, decided = {}, []
    every = predictor.scores(test.table.ids), predictor.scores(turned)
    for name, scores in zip(("as given", "turned"), every, strict=True):
        values = metrics.score(task, test.labels, scores, thresholds)
        found[name] = {key: values[key] for key in ("accuracy", "mcc", "auroc")}
        decided.append(metrics.decide(task, scores, thresholds))
    moved = np.abs(every[0][:, 1] - every[1][:, 1])
    return {
        **found,
        "mean_change": float(moved.mean()),
        "largest_change": float(moved.max()),
        "decisions_changed": float((decided[0] != decided[1]).mean()),
    }


def trained(sets, strands, options, folder):
    """CrossDNA from random weights under one strand policy."""
    recipe = FinetuneRecipe(
        model=options.model,
        head="max_mean",
        strands=strands,
        epochs=options.epochs,
        precision="auto",
        device="cpu",
    )
    result = finetune(recipe, sets.train, sets.valid, folder / f"crossdna-{strands}")
    return FinetunedModel.load(result.best.folder, "cpu")


def models(sets, options, folder):
    """What each model is called, and how it is made and asked."""

    def averaged():
        model = trained(sets, "both", options, folder)
        return model, model.card.thresholds

    def one_strand():
        return trained(sets, "both", options, folder).on_strands("forward"), None

    def forward():
        model = trained(sets, "forward", options, folder)
        return model, model.card.thresholds

    found = {
        "CrossDNA, both strands shown and averaged": averaged,
        "CrossDNA, both strands shown, one read": one_strand,
        "CrossDNA, one strand shown and read": forward,
    }
    for name in NETS:
        baseline = BASELINES[name]
        found[baseline.title] = lambda own=baseline: (
            own.fit(sets.train, sets.valid, 0),
            None,
        )
    return found


def run_task(task, options):
    """Rows of one task; those that are there are read back."""
    sets = read_task(task)
    folder = options.work / task.name.replace("/", "-")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (name, make) in enumerate(models(sets, options, folder).items()):
        path = folder / f"{number}.json"
        if not path.is_file():
            predictor, thresholds = make()
            row = {
                "task": task.name,
                "model": name,
                "train_rows": len(sets.train),
                "test_rows": len(sets.test),
                **ask(predictor, sets, thresholds),
            }
            with atomic_open(path) as handle:
                json.dump(row, handle, indent=1)
        rows.append(json.loads(path.read_text()))
        print(json.dumps(rows[-1]))
    return rows


def draw(rows):
    """Accuracy on both orientations, and how far predictions move, by task."""
    import matplotlib as mpl

    tasks = list(dict.fromkeys(row["task"] for row in rows))
    with mpl.rc_context(STYLE):
        figure = new_figure(12, 3.4 * len(tasks) + 0.4)
        panels = figure.subplots(len(tasks), 2, sharey="row", squeeze=False)
        for (left, right), task in zip(panels, tasks, strict=True):
            own = [row for row in rows if row["task"] == task]
            places = np.arange(len(own))[::-1]
            for place, row in zip(places, own, strict=True):
                ends = [row[name]["accuracy"] for name in ("as given", "turned")]
                colour = VERMILION if "CrossDNA" in row["model"] else BLUE
                left.plot(ends, [place, place], color=GREY, linewidth=1)
                left.plot(ends[0], place, "o", color=colour)
                left.plot(ends[1], place, "x", color=colour, markersize=8)
                change = row["mean_change"]
                right.barh(place, change, height=0.5, color=colour)
                shown = f"{change:.1e}" if change < 1e-3 else f"{change:.3f}"
                right.annotate(
                    f"{shown}, {row['decisions_changed']:.0%} of decisions",
                    (change, place),
                    (4, -3),
                    textcoords="offset points",
                    fontsize=9,
                )
            left.set_yticks(places, [row["model"] for row in own])
            left.set_title(f"{task}: accuracy as given (o) and turned (x)")
            right.set_title("Mean change of the probability")
            largest = max(row["mean_change"] for row in own)
            right.set_xlim(0, 1.6 * max(largest, 0.02))
        save_figure(figure, FIGURE)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="gue")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=["mouse/3"])
    parser.add_argument("--model", default="new:tiny")
    parser.add_argument("--epochs", type=int, default=20)
    return parser.parse_args()


if __name__ == "__main__":
    options = parse()
    torch.set_num_threads(1)
    chosen = choose_suite(options.suite, options.tasks, data=options.data)
    found = [row for task in chosen.tasks for row in run_task(task, options)]
    draw(found)
    used = {"model": options.model, "epochs": options.epochs}
    print(save_results("orientation", found, **used))
