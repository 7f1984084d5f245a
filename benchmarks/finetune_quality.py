"""CrossDNA from random weights beside baselines on GUE binding sites and promoters.

    python benchmarks/finetune_quality.py --suite GUE --work quality --seeds 3

Two settings, decided on development sets: promoters, whose windows are anchored at the
start site, get a head with weights per position; binding sites get strand averaging and
a maximum over positions. Cells that are finished in --work are not repeated. Results go
to benchmarks/results/finetune-quality.json, with the values published for comparison.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from machine import save_results

from crossdna.analysis.supervised.benchmark import collect
from crossdna.cli import main

ANCHORED = ["head=position", "head_dropout=0.4", "lr=2e-3", "noise=0.1"]
UNANCHORED = ["head=max_mean", "head_dropout=0.2", "lr=2e-3", "noise=0.05"]
SETTINGS = {
    "prom/prom_core_all": ANCHORED,
    "prom/prom_core_notata": ANCHORED,
    "prom/prom_core_tata": ANCHORED,
    "prom/prom_300_tata": ANCHORED,
    "tf/0": UNANCHORED,
    "tf/1": UNANCHORED,
    "tf/2": UNANCHORED,
    "mouse/0": UNANCHORED,
    "mouse/3": UNANCHORED,
}
BASELINES = ["kmer", "markov", "pwm", "cnn-symmetric", "cnn-position"]
DNABERT2_MCC = {
    "tf/0": 0.720,
    "tf/1": 0.761,
    "tf/2": 0.665,
    "prom/prom_core_all": 0.694,
    "prom/prom_core_notata": 0.680,
    "prom/prom_core_tata": 0.742,
}


def run_task(task, options):
    """All models on one task."""
    output = options.work / task.replace("/", "-")
    arguments = ["benchmark", "--suite", str(options.suite), "--tasks", task]
    arguments += ["--models", *options.models, "--seeds", str(options.seeds)]
    arguments += ["--epochs", str(options.epochs), "--batch-size", "32"]
    for setting in SETTINGS[task]:
        arguments += ["--set", setting]
    status = main([*arguments, "--output", str(output)])
    if status:
        raise SystemExit(status)
    rows, pairs = collect(output)
    return {
        "task": task,
        "settings": SETTINGS[task],
        "dnabert2_published_mcc": DNABERT2_MCC.get(task),
        "models": [row._asdict() for row in rows],
        "pairs": [pair._asdict() for pair in pairs],
    }


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=list(SETTINGS))
    parser.add_argument("--models", nargs="+", default=["new:tiny", *BASELINES])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    options = parse()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    found = [run_task(task, options) for task in options.tasks]
    used = {"threads": options.threads, "seeds": options.seeds}
    print(save_results("finetune-quality", found, **used))
