"""Does what a model learned of one species hold in others? Beside baselines.

    python benchmarks/plant_species.py --label enrichment --train At.csv \
        --models runs/plants/strength runs/plants/strength-small \
        --tests Sb.csv Zm.csv

Each model is the output of `crossdna finetune` on the training table, with the same
shares and seed of the split, so that its test rows are those that are asked for here.
The baselines are fitted on the same training rows. Every predictor is then asked about
the test rows of its own species and about all rows of the others. How much of a
species could have been learned at all is what baselines fitted on it say: on as many
of its rows, asked about the rest.

The intervals are 95 % bootstrap intervals over test rows; they say nothing of how much
another seed would change a trained model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from machine import save_results

from crossdna.analysis.supervised.baselines import BASELINES
from crossdna.analysis.supervised.comparison import judge
from crossdna.analysis.supervised.finetuned import FinetunedModel
from crossdna.data.labelled import label
from crossdna.data.labelled_inputs import InputOptions, read_inputs, read_sets

FITTED = ("kmer", "cnn-symmetric")
METRICS = ("pearson", "spearman")


def split_options(arguments):
    """How `crossdna finetune` splits the training table."""
    return InputOptions(
        label_columns=(arguments.label,), shares=tuple(arguments.shares), seed=0
    )


def own_rows(data, count, rng):
    """`count` training rows, a tenth of that for development, and the rest."""
    order = rng.permutation(len(data))
    cuts = count, count + max(count // 10, 1)
    return [data.take(part) for part in np.split(order, cuts)]


def rows_of(predictor, species, valid, test, source):
    found = judge(predictor, valid, test)
    row = {
        "species": species,
        "predictor": predictor.name,
        "learned_from": source,
        "rows": len(test),
        **{name: found.metrics[name]._asdict() for name in METRICS},
    }
    shown = "  ".join(
        f"{name} {row[name]['estimate']:.3f} "
        f"[{row[name]['low']:.3f}, {row[name]['high']:.3f}]"
        for name in METRICS
    )
    print(f"{species:4} {len(test):5} rows  {predictor.name:22} {source:4} {shown}")
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--tests", type=Path, nargs="+", required=True)
    parser.add_argument("--label", required=True, help="the column to predict")
    parser.add_argument("--shares", type=float, nargs=3, default=(0.65, 0.1, 0.25))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    options = split_options(arguments)
    sets = read_sets([arguments.train], [], [], options)
    own = arguments.train.stem
    others = {
        path.stem: label(read_inputs([path], options), sets.task)
        for path in arguments.tests
    }
    predictors = [
        FinetunedModel.load(folder, "cpu", folder.name) for folder in arguments.models
    ]
    fitted = [BASELINES[name].fit(sets.train, sets.valid, 0) for name in FITTED]
    rows = [
        rows_of(one, name, sets.valid, test, own)
        for name, test in {own: sets.test, **others}.items()
        for one in (*predictors, *fitted)
    ]
    rng = np.random.default_rng(0)
    for name, data in others.items():
        train, valid, test = own_rows(data, len(sets.train), rng)
        rows += [
            rows_of(BASELINES[kind].fit(train, valid, 0), name, valid, test, name)
            for kind in FITTED
        ]
    save_results(
        "plant-species", rows, train_rows=len(sets.train), shares=options.shares
    )


if __name__ == "__main__":
    main()
