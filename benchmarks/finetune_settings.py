"""Which settings suit pretrained weights in fine-tuning? No test set is read.

    python benchmarks/finetune_settings.py weights/crossdna-tiny --work runs/settings \
        --data ../shared/data/benchmarks --tasks gue/prom/prom_core_tata gue/mouse/3

A fifth of each training file is put aside by a seed and judges; the rest is trained on,
and the development file stops training early, as the verb does. Of the judges' rows:
log-loss (nats a row), MCC at .5, and how much the log-loss is beyond that of the first
variant, with an interval over rows (negative is better). Finished cells in --work are
not repeated; results go to benchmarks/results/finetune-settings.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from finetune_quality import LISTS
from machine import save_results

from crossdna.analysis.evaluation.run import write_json
from crossdna.analysis.statistics import interval, resampled_ratios
from crossdna.analysis.supervised.finetuned import FinetunedModel
from crossdna.data import metrics
from crossdna.data.suites import find_tasks, read_task
from crossdna.training.finetune import finetune
from crossdna.training.finetune_recipe import FinetuneRecipe

# Names after the first tell what differs from the verb's defaults for that model.
VARIANTS = {
    "pretrained": {},
    "pretrained, dropout .15": {"dropout": 0.15},
    "pretrained, rate 1e-3": {"lr": 1e-3, "head_lr": 2e-3},
    "pretrained, dropout .15, rate 1e-3": {
        "dropout": 0.15, "lr": 1e-3, "head_lr": 2e-3,
    },
    "random start": {},
    "random start, dropout .15": {"dropout": 0.15},
    "new:tiny": {},
}  # fmt: skip
SMALLEST = 1e-6
"""Probabilities are kept so far from 0 and 1."""


def model_of(variant, checkpoint):
    """What a recipe calls it."""
    if variant.startswith("new:"):
        return variant
    return f"random:{checkpoint}" if variant.startswith("random") else str(checkpoint)


def halves(task, options):
    """Training rows, development rows, and the rows that judge."""
    (found,) = find_tasks(options.data, [task], reduced_train=True)
    sets = read_task(found)
    order = np.random.default_rng(0).permutation(len(sets.train))
    judges, rest = np.split(order, [len(order) // 5])
    rest = rest[: options.train_rows] if options.train_rows else rest
    return sets.train.take(np.sort(rest)), sets.valid, sets.train.take(np.sort(judges))


def run_cell(task, variant, seed, options):
    """Probabilities of the judging rows, from a model or from a finished cell."""
    folder = options.work / task.replace("/", "__") / f"{variant}, seed {seed}"
    done = folder / "judged.json"
    if done.is_file():
        return json.loads(done.read_text())
    train, valid, judges = halves(task, options)
    recipe = FinetuneRecipe(
        model=model_of(variant, options.checkpoint),
        seeds=(seed,),
        epochs=options.epochs,
        precision="auto",
        device="cpu",
        **LISTS["main"][task],
        **VARIANTS[variant],
    )
    best = finetune(recipe, train, valid, folder).best
    model = FinetunedModel.load(best.folder, "cpu", variant)
    scores = model.scores(judges.table.ids)
    cell = {
        "scores": scores[:, 1].tolist(),
        "labels": judges.labels.tolist(),
        "best_epoch": best.best_epoch,
        "train_rows": len(train),
    }
    write_json(cell, done)
    return cell


def log_loss(cell):
    """Nats of each row."""
    scores = np.clip(cell["scores"], SMALLEST, 1 - SMALLEST)
    return -np.log(np.where(np.asarray(cell["labels"]) == 1, scores, 1 - scores))


def mean_interval(values):
    """The mean of rows, resampled."""
    ratios = resampled_ratios(values, np.ones_like(values))
    return interval(float(ratios.estimate), ratios.resampled)


def summary(options, tasks):
    """A row for each task and variant that has a finished cell."""
    rows = []
    for task in tasks:
        place = options.work / task.replace("/", "__")
        losses = {}
        for variant in options.variants:
            paths = sorted(place.glob(f"{variant}, seed *[0-9]/judged.json"))
            cells = [json.loads(path.read_text()) for path in paths]
            if not cells:
                continue
            losses[variant] = np.mean([log_loss(cell) for cell in cells], axis=0)
            beyond = losses[variant] - losses[next(iter(losses))]
            rows.append(
                {
                    "task": task,
                    "variant": variant,
                    "settings": VARIANTS[variant],
                    "seeds": len(cells),
                    "train_rows": cells[0]["train_rows"],
                    "judging_rows": len(beyond),
                    "best_epochs": [cell["best_epoch"] for cell in cells],
                    "log_loss": float(losses[variant].mean()),
                    "beyond_first": mean_interval(beyond)._asdict(),
                    "mcc": [
                        metrics.mcc(
                            np.asarray(cell["labels"]),
                            (np.asarray(cell["scores"]) > 0.5).astype(int),
                        )
                        for cell in cells
                    ],
                }
            )
    return rows


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=[*VARIANTS])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--train-rows", type=int, default=0, help="0: all")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    options = parse()
    torch.set_num_threads(options.threads)
    for seed in range(options.seeds):
        for task in options.tasks:
            for variant in options.variants:
                cell = run_cell(task, variant, seed, options)
                loss = log_loss(cell).mean()
                print(f"{task} | {variant} | {seed} | {loss:.4f}", flush=True)
    print(save_results("finetune-settings", summary(options, options.tasks)))
