"""CrossDNA beside baselines on GUE binding sites and promoters, cell by cell.

    python benchmarks/finetune_quality.py --data ../shared/data/benchmarks \\
        --models new:tiny runs/crossdna-small --work runs/quality --minutes 40

Every setting was decided on development sets: promoters and splice sites, whose windows
are anchored at a landmark, get the head with weights per position; binding sites and
histone marks get maximum and mean with both strands averaged; all else is the default
of ``crossdna finetune``. The test set of a cell is read once, when the cell is done.

--list main is what the quality is claimed on, three seeds; reduced are tasks without a
published training set, trained on their development file (another task than the
published one); aside are sets of the same kinds that nothing was tuned on, to be run
once at the end. --train-rows caps training sets (a random part, the same for every
model and seed) and is written beside each number. --ensemble adds, once a task has all
seeds, the mean of the seeds' models, of networks and convolutional baselines alike.
Finished cells in --work are kept, with the commit that made them; no new cell is begun
after --minutes. Results: results/finetune-quality.json, of all cells in --work; what it
says of cells that --work lacks is kept, so that machines can share the work.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from machine import RESULTS, describe_machine, save_results

from crossdna.analysis.supervised import benchmark
from crossdna.analysis.supervised.baselines import BASELINES, unsuited
from crossdna.analysis.supervised.classical import Predictor
from crossdna.analysis.supervised.finetuned import FinetunedModel
from crossdna.data.suites import find_tasks, read_task
from crossdna.training.finetune import finetune
from crossdna.training.finetune_recipe import RANDOM, FinetuneRecipe

POSITION = {"head": "position"}
EITHER = {"head": "max_mean"}
LISTS = {
    "main": {
        "gue/prom/prom_core_tata": POSITION,
        "gue/mouse/3": EITHER,
        "gue/mouse/0": EITHER,
        "gue/prom/prom_300_tata": POSITION,
        "gue/tf/0": EITHER,
        "gue/tf/1": EITHER,
        "gue/tf/2": EITHER,
        "gue/prom/prom_core_notata": POSITION,
        "gue/prom/prom_core_all": POSITION,
    },
    "reduced": {
        "gue/EMP/H3": EITHER,
        "gue/EMP/H4": EITHER,
        "gue/splice/reconstructed": POSITION,
    },
    "aside": {
        "gue/mouse/1": EITHER,
        "gue/prom/prom_300_notata": POSITION,
        "lpd/prom_60": POSITION,
    },
}
SMALL = 10_000
"""Training rows below which batches are of 32, so that there are steps enough."""
DNABERT2_MCC = {
    "gue/tf/0": 0.720,
    "gue/tf/1": 0.761,
    "gue/tf/2": 0.665,
    "gue/prom/prom_core_all": 0.694,
    "gue/prom/prom_core_notata": 0.680,
    "gue/prom/prom_core_tata": 0.742,
}
"""Published; full training sets."""
NAME = "finetune-quality"
PAIRS = "finetune-quality-pairs"
"""Of the files in results/."""
ROWS = r", (\d+) rows"
"""In the name of a cell's model."""


def sets_of(name, options):
    """The three sets of a task, the training set capped; and whether it is reduced."""
    (task,) = find_tasks(options.data, [name], reduced_train=True)
    sets = read_task(task)
    if options.train_rows and options.train_rows < len(sets.train):
        order = np.random.default_rng(0).permutation(len(sets.train))
        kept = np.sort(order[: options.train_rows])
        sets = sets._replace(train=sets.train.take(kept))
    return sets, task.reduced


def cell_name(model, options, sets):
    """Models that were trained on other rows or for longer are other models."""
    name = model
    if model not in BASELINES:
        start = RANDOM if model.startswith(RANDOM) else ""
        folder = Path(model.removeprefix(RANDOM))
        name = f"{start}{folder.name}, {options.epochs} epochs"
    return f"{name}, {len(sets.train)} rows"


class MeanOf(NamedTuple):
    """Predictors that differ in their seed."""

    name: str
    members: list[Predictor]

    def scores(self, sequences):
        """The mean of what they say."""
        return np.mean([one.scores(sequences) for one in self.members], axis=0)


KEPT = {}
"""Baselines that this call has fitted; the mean of the seeds asks them again."""


def fitted_baseline(model, task, sets, seed):
    """A baseline of one seed, fitted once."""
    key = model, task, seed
    if key not in KEPT:
        KEPT[key] = BASELINES[model].fit(sets.train, sets.valid, seed)
    return KEPT[key]


def fitting(model, seeds, sets, name, folder, options):
    """How a cell is fitted; several seeds are averaged.

    A network that was trained for another cell is read back from `folder`.
    """
    settings = LISTS[options.list][name]

    def baseline():
        fitted = [fitted_baseline(model, name, sets, seed) for seed in seeds]
        alone = len(fitted) == 1
        return benchmark.Fitted(fitted[0] if alone else MeanOf(model, fitted))

    def trained():
        recipe = FinetuneRecipe(
            model=model,
            seeds=seeds,
            epochs=options.epochs,
            batch_size=32 if len(sets.train) < SMALL else 64,
            precision="auto",
            device="cpu",
            **settings,
        )
        runs = finetune(recipe, sets.train, sets.valid, folder).runs
        members = [FinetunedModel.load(run.folder, "cpu", model) for run in runs]
        alone = len(members) == 1
        found = members[0] if alone else FinetunedModel.ensemble(members, sets.valid)
        size = sum(run.parameters for run in runs)
        return benchmark.Fitted(found, found.card.thresholds, size)

    return baseline if model in BASELINES else trained


def run_cells(options):
    """All cells of one seed before the next, then means, until the time is over."""
    machine = describe_machine()
    made = {key: machine[key] for key in ("commit", "processor", "cpu_capability")}
    rounds = [(seed,) for seed in range(options.seeds)]
    if options.ensemble:
        rounds.append(tuple(range(options.seeds)))
    start = time.monotonic()
    for seeds in rounds:
        for name in options.tasks:
            sets, reduced = sets_of(name, options)
            for model in options.models:
                fixed = model in BASELINES and not BASELINES[model].seeded
                unfit = model in BASELINES and unsuited(model, sets.named())
                if unfit or (fixed and seeds != (0,)):
                    continue
                called = cell_name(model, options, sets)
                # All seeds' networks lie in one folder.
                folder = benchmark.cell_path(options.work, name, called, 0).parent
                if len(seeds) > 1:
                    called += f", mean of {len(seeds)} seeds"
                path = benchmark.cell_path(options.work, name, called, seeds[0])
                over = time.monotonic() - start > 60 * options.minutes
                if over and not path.is_file():
                    print(f"time is over before {name}, {called}, seeds {seeds}")
                    return
                fit = fitting(model, seeds, sets, name, folder / "runs", options)
                facts = {
                    "task": name, "model": called, "seed": seeds[0],
                    "reduced_train": reduced, "made": made,
                }  # fmt: skip
                cell = benchmark.run_cell(fit, sets, path, facts, "mcc")
                print(
                    f"{name} | {called} | seeds {seeds} | {cell.metric} "
                    f"{cell.value:.3f} | fit {cell.seconds_fit:.0f} s",
                    flush=True,
                )


def summarise(options):
    """Tables of all cells that --work holds, and what results/ has of other cells."""
    rows, pairs = benchmark.collect(options.work)
    benchmark.write_tables(rows, pairs, options.work)
    kinds = {task: name for name, tasks in LISTS.items() for task in tasks}
    groups = benchmark.group_cells(options.work)
    made = [
        {
            "list": kinds[row.task],
            **row._asdict(),
            "dnabert2_published_mcc": DNABERT2_MCC.get(row.task),
            "commits": commits(groups[row.task, row.model].cells),
            # Earlier results, of several seeds, too, are over test rows alone.
            "resampled": "rows and seeds" if row.seeds > 1 else "rows",
        }
        for row in rows
    ]
    known = {(row.task, row.model) for row in rows}
    made += [
        row
        for row in earlier_rows(NAME)
        if "commits" in row and (row["task"], row["model"]) not in known
    ]
    paired = [pair._asdict() for pair in pairs]
    replaced = {(pair.task, pair.first, pair.second) for pair in pairs}
    paired += [
        pair
        for pair in earlier_rows(PAIRS)
        if (pair["task"], pair["first"], pair["second"]) not in replaced
    ]
    return published_means(made) + made, paired


def earlier_rows(name):
    """What earlier calls, with other --work folders, have found."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.is_file() else []


def commits(cells):
    """Those that made the cells; older cells do not say."""
    return sorted({cell.made.get("commit", "not recorded") for cell in cells})


def training_rows(row):
    """Of a row of the results, as `cell_name` wrote them."""
    return int(re.search(ROWS, row["model"])[1])


def published_means(rows):
    """The mean over all sets with a published score, of models that have them all."""
    models = {}
    # Training sets differ in size from task to task; of one task the largest counts.
    for row in sorted(rows, key=training_rows):
        if row["task"] in DNABERT2_MCC:
            model = re.sub(ROWS, "", row["model"])
            models.setdefault(model, {})[row["task"]] = row
    return [
        mean_row(model, tasks)
        for model, tasks in models.items()
        if len(tasks) == len(DNABERT2_MCC)
    ]


def mean_row(model, tasks):
    """Every set weighs the same, however many seeds it has.

    Test sets are independent: the squares of their intervals' halves add up.
    """
    names = sorted(tasks)
    means = np.array([tasks[name]["mean"] for name in names])
    below = means - [tasks[name]["low"] for name in names]
    above = [tasks[name]["high"] for name in names] - means
    mean = float(means.mean())
    return {
        "list": "main",
        "task": f"mean of {len(names)}: {', '.join(names)}",
        "model": model,
        "metric": "mcc",
        "mean": mean,
        "low": mean - float(np.linalg.norm(below)) / len(names),
        "high": mean + float(np.linalg.norm(above)) / len(names),
        "seeds": [tasks[name]["seeds"] for name in names],
        "dnabert2_published_mcc": float(np.mean([*DNABERT2_MCC.values()])),
    }


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["new:tiny", *BASELINES])
    parser.add_argument("--list", choices=LISTS, default="main")
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ensemble", action="store_true", help="also means of seeds")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--train-rows", type=int, default=0, help="0: all")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.tasks = options.tasks or list(LISTS[options.list])
    return options


if __name__ == "__main__":
    options = parse()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    run_cells(options)
    rows, pairs = summarise(options)
    print(save_results(NAME, rows, threads=options.threads))
    print(save_results(PAIRS, pairs, threads=options.threads))
