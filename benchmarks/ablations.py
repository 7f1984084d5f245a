"""Which of the paper's ideas help at a small size and equal budget.

    python benchmarks/ablations.py --work runs/ablations --steps 3000 --seeds 3
    python benchmarks/ablations.py --work runs/ablations --steps 3000 --seeds 3 --table

Every variant is the same recipe (crossdna-tiny's DNA, model and optimisation) but for
one change, trained for the same steps on the same windows with the same hidden bases.
Cells (variant and seed) that are finished in --work are not repeated, interrupted ones
go on. All variants predict the same hidden bases of the held-out test blocks; intervals
and differences are over windows, paired, and over seeds. The result is
benchmarks/results/ablations.json; --table prints it as Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path

import numpy as np
import torch
from machine import RESULTS, describe_machine

from crossdna.analysis.evaluation.hidden import (
    batches,
    hide_random,
    masked_log_probabilities,
    tile_windows,
)
from crossdna.analysis.evaluation.run import write_json
from crossdna.analysis.statistics import Interval
from crossdna.config import read_recipe, to_table
from crossdna.files import atomic_open
from crossdna.models.crossdna import CrossDNAForMaskedLM
from crossdna.models.crossdna.streams import TwoStrandPass
from crossdna.training.pretrain import pretrain
from crossdna.training.pretraining_data import open_genomes
from crossdna.training.pretraining_recipe import PretrainRecipe

RECIPE = Path(__file__).parents[1] / "recipes" / "pretrain" / "crossdna-tiny.toml"
FULL = "full"
VARIANTS = {
    FULL: [],
    "no-bridge": ["model.use_bridge=false"],
    "no-residual": ["model.residual=false"],
    "teachers": [
        "objective.semantic_weight=0.03",
        "objective.semantic_warmup_steps=100",
    ],
    "swapping": ["model.swap_strands=true"],
    "adamw": ['train.optimizer="adamw"'],
    "published-alignment": [
        'model.strand_alignment="sequence"',
        'model.block_context="independent"',
        "model.swap_strands=true",
    ],
    "independent-blocks": ['model.block_context="independent"'],
    "one-strand": ["windows.reverse_complement=true"],
    "no-augmentation": ["windows.reverse_complement=false"],
}
MEANING = {
    FULL: "two strands, residual, bridge, context across blocks, Muon",
    "no-bridge": "the strands meet in the fusion gate only",
    "no-residual": "as published: a layer hands on only what it made",
    "teachers": "with semantic preservation, for half as much time again",
    "swapping": "as published: the branches swap strands from block to block",
    "adamw": "AdamW at the same learning rate, instead of Muon",
    "published-alignment": "as published: blocks of the whole reverse complement, "
    "each read alone, by swapping branches",
    "independent-blocks": "each block read alone",
    "one-strand": "both branches read the forward strand; windows of either strand",
    "no-augmentation": "two strands, windows of the forward strand only",
}
SHARE = 0.15


@contextlib.contextmanager
def reading(variant):
    """Let the second branch read the forward strand, too, for one variant."""
    if variant != "one-strand":
        yield
        return
    kept = TwoStrandPass._read_reverse
    TwoStrandPass._read_reverse = read_forward_twice
    try:
        yield
    finally:
        TwoStrandPass._read_reverse = kept


def read_forward_twice(run):
    """The other branch's view of each block: the strand that the first one reads."""
    features = run.model.stem(
        run.ids,
        run.context.left,
        run.context.right,
        run.model.stem_reverse.weight,
        run.model.stem_reverse,
    )
    features = run.model.dropout(features)
    outputs = {}
    for block in run._blocks():
        branch = run.model.branch_b if block.a_reads_forward else run.model.branch_a
        x = features[:, block.start : block.end]
        outputs[block.start], run.reverse_state = run._read(
            branch, x, run._mask(block), run.reverse_state, run.reverse_layers
        )
    return outputs


def run_cell(variant, seed, options):
    """Train and measure one cell, or read it where it is finished."""
    folder = options.work / f"{variant}-{seed}"
    result = folder / "held-out.json"
    changes = [*options.set, *VARIANTS[variant], f"train.seed={seed}"]
    changes += [f"train.steps={options.steps}", 'train.keep="last"']
    recipe = read_recipe(options.recipe, PretrainRecipe, changes)
    asked = {"recipe": to_table(recipe), "windows": options.windows}
    if result.exists():
        cell = json.loads(result.read_text())
        if cell["asked"] != asked:
            raise SystemExit(f"{result}: of another recipe or --windows; move it away")
        return cell
    with reading(variant):
        pretrain(recipe, folder, resume=True)
        model = CrossDNAForMaskedLM.from_pretrained(folder).eval()
        rows = [
            measure(model, part, options)
            for part in open_genomes(recipe.genome)
            if part.regions["test"]
        ]
    cell = {
        "variant": variant,
        "seed": seed,
        "steps": options.steps,
        "bases": recipe.train.batch_size * recipe.windows.length * options.steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "asked": asked,
        "species": rows,
    }
    with atomic_open(result) as handle:
        json.dump(cell, handle)
    return cell


def measure(model, part, options):
    """Bits and right answers on the hidden bases of each window of the test blocks."""
    bits, right, counts = [], [], []
    for tile in tile_windows(part.regions["test"], 1024, options.windows):
        for batch in batches(tile, 16):
            windows = part.genome.gather(batch.contig, batch.starts, 1024).ids
            hidden = hide_random(windows, batch.indices, share=SHARE, seed=0)
            logs = masked_log_probabilities(model, hidden.masked, strand="+")
            logs = logs[hidden.rows, hidden.columns]
            spent = -logs[np.arange(len(logs)), hidden.truth] / np.log(2)
            for sums, values in (
                (bits, spent),
                (right, logs.argmax(1) == hidden.truth),
                (counts, np.ones(len(logs))),
            ):
                sums += np.bincount(hidden.rows, values, len(windows)).tolist()
    return {"name": part.name, "bits": bits, "right": right, "counts": counts}


def resampled(cells, what, draws=1000):
    """Mean over species of a ratio, and the same for resamples of windows and seeds.

    All variants with the same number of seeds see the same draws.

    Returns
    -------
    (1 + draws,) the first is that of the cells as they are
    """
    random = np.random.default_rng(0)
    seeds = random.integers(0, len(cells), (draws, len(cells)))
    seeds = np.concatenate([np.arange(len(cells))[None], seeds])
    means = []
    for place in range(len(cells[0]["species"])):
        tables = [cell["species"][place] for cell in cells]
        values = np.array([table[what] for table in tables])
        counts = np.array(tables[0]["counts"])
        weights = random.multinomial(
            len(counts), np.full(len(counts), 1 / len(counts)), draws
        )
        weights = np.concatenate([np.ones((1, len(counts))), weights])
        by_seed = (weights @ values.T) / (weights @ counts)[:, None]
        means.append(np.take_along_axis(by_seed, seeds, 1).mean(1))
    return np.mean(means, axis=0)


def summary(cells):
    """A row for each variant: bits, accuracy, and their differences from `full`."""
    groups = {}
    for cell in cells:
        groups.setdefault(cell["variant"], []).append(cell)
    full = {what: resampled(groups[FULL], what) for what in ("bits", "right")}
    rows = []
    for variant, found in groups.items():
        row = {"variant": variant, "meaning": MEANING.get(variant, "")}
        row |= {"seeds": len(found), "steps": found[0]["steps"]}
        row |= {"bases": found[0]["bases"], "parameters": found[0]["parameters"]}
        for what, name in (("bits", "bits"), ("right", "accuracy")):
            values = resampled(found, what)
            row[name] = described(values)
            row[f"{name}_beyond_full"] = described(values - full[what])
        rows.append(row)
    return rows


def described(values):
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return Interval(float(values[0]), float(low), float(high))


def table(path):
    """The result as Markdown."""
    lines = [
        "| variant | bits per base | beyond full | accuracy | what it is |",
        "|---|---|---|---|---|",
    ]
    for row in json.loads(path.read_text())["rows"]:
        bits, beyond = row["bits"], row["bits_beyond_full"]
        accuracy = row["accuracy"]["estimate"]
        lines.append(
            f"| {row['variant']} | {bits['estimate']:.4f} | {beyond['estimate']:+.4f} "
            f"({beyond['low']:+.4f} to {beyond['high']:+.4f}) | {accuracy:.2%} | "
            f"{row['meaning']} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="for the cells")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--set", nargs="*", default=[], help="changes for all variants")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--windows", type=int, default=100, help="of each species")
    parser.add_argument("--name", default="ablations")
    parser.add_argument("--table", action="store_true", help="print the result and end")
    options = parser.parse_args()
    path = RESULTS / f"{options.name}.json"
    if options.table:
        print(table(path))
        return
    torch.set_num_threads(1)
    # Seed by seed, so that an interrupted comparison is whole for the seeds it has.
    cells = []
    for seed in range(options.seeds):
        for variant in options.variants:
            cells.append(run_cell(variant, seed, options))
            print(variant, seed, "done", flush=True)
    machine = describe_machine(recipe=str(options.recipe), changes=options.set)
    write_json({"machine": machine, "rows": summary(cells)}, path)
    print(table(path))


if __name__ == "__main__":
    main()
