"""Which settings suit pretrained weights in fine-tuning? No test set is read.

    python benchmarks/finetune_settings.py weights/crossdna-tiny --work runs/settings \
        --data ../shared/data/benchmarks --tasks gue/prom/prom_core_tata gue/mouse/3

A fifth of each training file is put aside and judges; the rest is trained on, and the
development file stops training early, as the verb does. --folds 5 lets every fifth
judge once (cross-validation). Of the judges' rows, mean over seeds: log-loss (nats a
row; also without the temperature) and MCC at .5, and how far both are beyond those of
the first variant, with intervals over rows. Finished cells in --work are not repeated;
all of them together go to benchmarks/results/finetune-settings.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from finetune_quality import LISTS
from machine import save_results
from scipy.special import log_expit, logit

from crossdna.analysis.evaluation.run import write_json
from crossdna.analysis.statistics import interval, metric_interval, resampled_ratios
from crossdna.analysis.supervised.baselines import BASELINES
from crossdna.analysis.supervised.finetuned import FinetunedModel
from crossdna.data import metrics
from crossdna.data.suites import find_tasks, read_task
from crossdna.training.finetune import finetune
from crossdna.training.finetune_recipe import FinetuneRecipe

# What differs from the verb's defaults for the checkpoint; other networks and baselines
# stand beside it.
VARIANTS = {
    "defaults": {},
    "no dropout": {"dropout": 0.0},
    "dropout .3": {"dropout": 0.3},
    "dropout .5": {"dropout": 0.5},
    "lr 1e-3": {"lr": 1e-3, "head_lr": 2e-3},
    "lr 1e-4": {"lr": 1e-4, "head_lr": 2e-3},
    "crossdna-small": {},
    "new:tiny": {},
    "cnn-symmetric": {},
}
OTHERS = ("crossdna-small", "new:tiny")
"""Variants that are a network of their own."""
FIFTHS = 5
JUDGED = "judged.json"
SMALLEST = 1e-6
"""Probabilities are kept so far from 0 and 1."""


def parts(task, fold, options):
    """Training rows, development rows, and the fifth of the rows that judges."""
    (found,) = find_tasks(options.data, [task], reduced_train=True)
    sets = read_task(found)
    order = np.random.default_rng(0).permutation(len(sets.train))
    edges = len(order) * np.arange(FIFTHS + 1) // FIFTHS
    judging = slice(edges[fold], edges[fold + 1])
    rest = np.delete(order, judging)
    rest = rest[: options.train_rows] if options.train_rows else rest
    judges = sets.train.take(np.sort(order[judging]))
    return sets.train.take(np.sort(rest)), sets.valid, judges


def run_cell(task, variant, fold, seed, options):
    """Train, and write what the model makes of the rows that judge."""
    rows = options.train_rows or "all"
    group = f"{task.replace('/', '__')}, {rows} rows, {options.epochs} epochs"
    folder = options.work / group / f"{variant}, fold {fold}, seed {seed}"
    done = folder / JUDGED
    if done.is_file():
        return
    train, valid, judges = parts(task, fold, options)
    if variant in BASELINES:
        model = BASELINES[variant].fit(train, valid, seed)
        best_epoch, temperature = None, model.temperature
    else:
        best = finetune(
            recipe_of(task, variant, seed, options), train, valid, folder
        ).best
        model = FinetunedModel.load(best.folder, "cpu", variant)
        best_epoch, temperature = best.best_epoch, best.temperature
    cell = {
        "task": task,
        "variant": variant,
        "fold": fold,
        "seed": seed,
        "epochs": options.epochs,
        "train_rows": len(train),
        "best_epoch": best_epoch,
        "temperature": temperature,
        "labels": judges.labels.tolist(),
        "scores": model.scores(judges.table.ids)[:, 1].tolist(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(cell, done)
    loss = log_loss(cell).mean()
    print(f"{task} | {variant} | {fold}, {seed} | {loss:.4f} nats", flush=True)


def recipe_of(task, variant, seed, options):
    """How a network is fine-tuned."""
    return FinetuneRecipe(
        model=variant if variant in OTHERS else str(options.checkpoint),
        seeds=(seed,),
        epochs=options.epochs,
        precision="auto",
        device="cpu",
        **LISTS["main"][task],
        **VARIANTS[variant],
    )


def log_loss(cell, temperature=1.0):
    """Nats of each row; with logits multiplied by a temperature, as if without it."""
    logits = temperature * logit(np.clip(cell["scores"], SMALLEST, 1 - SMALLEST))
    return -log_expit(np.where(np.asarray(cell["labels"]) == 1, logits, -logits))


def summary(work):
    """A row for each variant in each group of cells, from all of `work`."""
    groups = {}
    for path in sorted(work.glob(f"*/*/{JUDGED}")):
        cell = json.loads(path.read_text())
        variants = groups.setdefault(path.parents[1].name, {})
        variants.setdefault(cell["variant"], {})[cell["seed"], cell["fold"]] = cell
    rows = []
    for group in sorted(groups):
        variants = [groups[group][name] for name in VARIANTS if name in groups[group]]
        rows += [row_of(cells, variants[0]) for cells in variants]
    return rows


def row_of(cells, first):
    """What cells, by seed and fold, come to; beside those of the first variant."""
    one = next(iter(cells.values()))
    seeds, folds = grid(cells)
    own = pooled(cells, seeds, folds)
    shared = grid(cells.keys() & first.keys())
    return {
        "task": one["task"],
        "train_rows": one["train_rows"],
        "epochs": one["epochs"],
        "variant": one["variant"],
        "settings": VARIANTS[one["variant"]],
        "seeds": seeds,
        "folds": folds,
        "judging_rows": len(own.labels),
        "best_epochs": [cell["best_epoch"] for cell in cells.values()],
        "temperatures": [cell["temperature"] for cell in cells.values()],
        "log_loss": float(own.losses.mean()),
        "log_loss_without_temperature": float(own.untempered.mean()),
        "mcc": mean_mcc(own.labels, own.decided),
        **beyond(pooled(cells, *shared), pooled(first, *shared)),
    }


def grid(keys):
    """Seeds, and the folds that all of them have."""
    seeds = sorted({seed for seed, _ in keys})
    folds = [{fold for seed, fold in keys if seed == own} for own in seeds]
    return seeds, sorted(set.intersection(*folds)) if folds else []


class Pooled(NamedTuple):
    """Rows of all folds; losses (rows), a mean over seeds, decisions (rows, seeds)."""

    labels: np.ndarray
    losses: np.ndarray
    untempered: np.ndarray
    decided: np.ndarray


def pooled(cells, seeds, folds):
    """What judges make of cells."""

    def rows(of_cell):
        each = [[of_cell(cells[seed, fold]) for fold in folds] for seed in seeds]
        return np.stack([np.concatenate(parts) for parts in each], axis=1)

    return Pooled(
        rows(lambda cell: cell["labels"])[:, 0],
        rows(log_loss).mean(1),
        rows(lambda cell: log_loss(cell, cell["temperature"])).mean(1),
        rows(lambda cell: np.asarray(cell["scores"]) > 0.5).astype(int),
    )


def mean_mcc(labels, decided):
    """MCC of every seed's decisions (rows, seeds), their mean."""
    return float(np.mean([metrics.mcc(labels, column) for column in decided.T]))


def beyond(own, first):
    """How far log-loss and MCC are beyond the first variant's, resampled as pairs."""
    apart = own.losses - first.losses
    ratios = resampled_ratios(apart, np.ones_like(apart))
    seeds = own.decided.shape[1]

    def gain(labels, decided):
        return mean_mcc(labels, decided[:, :seeds]) - mean_mcc(
            labels, decided[:, seeds:]
        )

    both = np.concatenate([own.decided, first.decided], axis=1)
    return {
        "log_loss_beyond_first": interval(
            float(ratios.estimate), ratios.resampled
        )._asdict(),
        "mcc_beyond_first": metric_interval(gain, own.labels, both)._asdict(),
    }


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=[*VARIANTS])
    parser.add_argument("--folds", type=int, default=1, choices=range(1, FIFTHS + 1))
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
            for fold in range(options.folds):
                for variant in options.variants:
                    run_cell(task, variant, fold, seed, options)
    print(save_results("finetune-settings", summary(options.work)))
