"""Which settings suit pretrained weights in fine-tuning? No test set is read.

    python benchmarks/finetune_settings.py weights/crossdna-tiny --work runs/settings \
        --data ../shared/data/benchmarks --tasks gue/prom/prom_core_tata gue/mouse/3

A fifth of each training file is put aside by a seed and judges; the rest is trained on,
and the development file stops training early, as the verb does. Of the judges' rows:
log-loss (nats a row; also without the temperature), MCC at .5, and how much the
log-loss is beyond that of the first variant, with an interval over rows (negative is
better). Finished cells in --work are not repeated; all of them together go to
benchmarks/results/finetune-settings.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from finetune_quality import LISTS
from machine import save_results
from scipy.special import log_expit, logit

from crossdna.analysis.evaluation.run import write_json
from crossdna.analysis.statistics import interval, resampled_ratios
from crossdna.analysis.supervised.finetuned import FinetunedModel
from crossdna.data import metrics
from crossdna.data.suites import find_tasks, read_task
from crossdna.training.finetune import finetune
from crossdna.training.finetune_recipe import FinetuneRecipe

# What differs from the verb's defaults for that model.
VARIANTS = {
    "pretrained": {"dropout": 0.0},
    "pretrained, dropout .15": {"dropout": 0.15},
    "pretrained, dropout .3": {"dropout": 0.3},
    "pretrained, dropout .5": {"dropout": 0.5},
    "new:tiny": {},
}
JUDGED = "judged.json"
SMALLEST = 1e-6
"""Probabilities are kept so far from 0 and 1."""


def halves(task, options):
    """Training rows, development rows, and the rows that judge."""
    (found,) = find_tasks(options.data, [task], reduced_train=True)
    sets = read_task(found)
    order = np.random.default_rng(0).permutation(len(sets.train))
    judges, rest = np.split(order, [len(order) // 5])
    rest = rest[: options.train_rows] if options.train_rows else rest
    return sets.train.take(np.sort(rest)), sets.valid, sets.train.take(np.sort(judges))


def run_cell(task, variant, seed, options):
    """Train, and write what the model makes of the rows that judge."""
    rows = options.train_rows or "all"
    group = f"{task.replace('/', '__')}, {rows} rows, {options.epochs} epochs"
    folder = options.work / group / f"{variant}, seed {seed}"
    done = folder / JUDGED
    if done.is_file():
        return
    train, valid, judges = halves(task, options)
    recipe = FinetuneRecipe(
        model=variant if variant.startswith("new:") else str(options.checkpoint),
        seeds=(seed,),
        epochs=options.epochs,
        precision="auto",
        device="cpu",
        **LISTS["main"][task],
        **VARIANTS[variant],
    )
    best = finetune(recipe, train, valid, folder).best
    model = FinetunedModel.load(best.folder, "cpu", variant)
    cell = {
        "task": task,
        "variant": variant,
        "epochs": options.epochs,
        "train_rows": len(train),
        "best_epoch": best.best_epoch,
        "temperature": best.temperature,
        "labels": judges.labels.tolist(),
        "scores": model.scores(judges.table.ids)[:, 1].tolist(),
    }
    write_json(cell, done)
    loss = log_loss(cell).mean()
    print(f"{task} | {variant} | seed {seed} | {loss:.4f} nats", flush=True)


def log_loss(cell, temperature=1.0):
    """Nats of each row; with logits multiplied by a temperature, as if without it."""
    logits = temperature * logit(np.clip(cell["scores"], SMALLEST, 1 - SMALLEST))
    return -log_expit(np.where(np.asarray(cell["labels"]) == 1, logits, -logits))


def mean_interval(values):
    """The mean of rows, resampled."""
    ratios = resampled_ratios(values, np.ones_like(values))
    return interval(float(ratios.estimate), ratios.resampled)._asdict()


def summary(work):
    """A row for each group of cells that differ in their seed, from all of `work`."""
    groups = {}
    for path in sorted(work.glob(f"*/*/{JUDGED}")):
        cell = json.loads(path.read_text())
        same = cell["task"], cell["train_rows"], cell["epochs"]
        groups.setdefault(same, {}).setdefault(cell["variant"], []).append(cell)
    return [
        row
        for same in sorted(groups)
        for row in rows_of(*same, [groups[same].get(name, []) for name in VARIANTS])
    ]


def rows_of(task, train_rows, epochs, variants):
    """Rows of one task; `variants` has the cells of each, which may be none."""
    losses = [[log_loss(cell) for cell in cells] for cells in variants]
    for variant, cells, each in zip(VARIANTS, variants, losses, strict=True):
        if not cells:
            continue
        # Paired seed by seed, as far as the first variant has been.
        pairs = zip(each, losses[0], strict=False)
        beyond = [own - first for own, first in pairs]
        yield {
            "task": task,
            "train_rows": train_rows,
            "epochs": epochs,
            "variant": variant,
            "settings": VARIANTS[variant],
            "seeds": len(cells),
            "judging_rows": len(cells[0]["labels"]),
            "best_epochs": [cell["best_epoch"] for cell in cells],
            "temperatures": [cell["temperature"] for cell in cells],
            "log_loss": float(np.mean(each)),
            "log_loss_without_temperature": float(
                np.mean([log_loss(cell, cell["temperature"]) for cell in cells])
            ),
            "beyond_first": mean_interval(np.mean(beyond, axis=0)) if beyond else None,
            "mcc": [mcc_of(cell) for cell in cells],
        }


def mcc_of(cell):
    """MCC at .5."""
    decided = (np.asarray(cell["scores"]) > 0.5).astype(int)
    return metrics.mcc(np.asarray(cell["labels"]), decided)


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
                run_cell(task, variant, seed, options)
    print(save_results("finetune-settings", summary(options.work)))
