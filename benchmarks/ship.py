"""Turn a training run into weights that the package ships, or renew their card.

    python benchmarks/ship.py runs/crossdna-small --name crossdna-small
    python benchmarks/pretrained.py weights/crossdna-small --name crossdna-small
    python benchmarks/ship.py --name crossdna-small      # the card, from the results

weights/NAME gets the configuration, the tokenizer, the weights (as bfloat16 where that
changes bits per base and accuracy on held-out windows by less than 1e-3, else as
float32), the recipe, the training log as CSV, provenance.json, card.json for the table
of models, and README.md, whose numbers all come from files in benchmarks/results.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import torch
from pretrained_tables import context_table, downstream_table, species_table
from safetensors.torch import save_file

from crossdna.analysis.evaluation.hidden import (
    batches,
    hide_random,
    masked_log_probabilities,
    tile_windows,
)
from crossdna.analysis.inference import load_model
from crossdna.config import read_recipe
from crossdna.files import atomic_open, atomic_path
from crossdna.models.record import write_record
from crossdna.training.pretraining_data import open_genomes
from crossdna.training.pretraining_recipe import PretrainRecipe

ROOT = Path(__file__).resolve().parents[1]
CHANGE = 1e-3
LOG_ROWS = 400
LOG_COLUMNS = ("step", "loss_masked", "eval_loss", "eval_accuracy", "learning_rate")


def ship(run, folder):
    """Copy a finished run, as bfloat16 where that is as good."""
    model = load_model(run, "masked-lm", "cpu")
    exact = {key: value.clone() for key, value in model.state_dict().items()}
    rounded = {
        key: value.bfloat16() if value.is_floating_point() else value
        for key, value in exact.items()
    }
    change = difference(
        model, exact, rounded, read_recipe(run / "recipe.toml", PretrainRecipe)
    )
    half = max(change.values()) < CHANGE
    weights = rounded if half else exact
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "model.safetensors") as path:
        tensors = {key: value.contiguous() for key, value in weights.items()}
        save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((run / "config.json").read_text())
    # The network computes in float32 whatever the file holds.
    config["dtype"] = "float32"
    write(folder / "config.json", config)
    for name in ("recipe.toml", "tokenizer_config.json", "provenance.json"):
        shutil.copyfile(run / name, folder / name)
    write_log(run / "training_log.jsonl", folder / "training_log.csv")
    size = sum(value.numel() for value in model.parameters())
    steps = json.loads((run / "provenance.json").read_text())["steps"]
    recipe = read_recipe(run / "recipe.toml", PretrainRecipe)
    bases = steps * recipe.train.batch_size * recipe.windows.length
    card = {
        "tested": "shipped",
        "parameters": size,
        "window": recipe.windows.length,
        "pretraining": f"{', '.join(recipe.genome)}: {bases / 1e6:,.1f} million bases",
    }
    write(folder / "card.json", card)
    stored = {"stored_as": "bfloat16" if half else "float32", "bases_read": bases}
    write(folder / "shipping.json", {**stored, "change_by_bfloat16": change})
    # What they answer, so that `crossdna doctor` knows them again.
    write_record(folder)


def difference(model, exact, rounded, recipe):
    """How far bits per base and accuracy on held-out windows move at most."""
    worst = {"bits": 0.0, "accuracy": 0.0}
    for part in open_genomes(recipe.genome):
        if not part.regions["test"]:
            continue
        found = []
        for weights in (exact, rounded):
            model.load_state_dict(weights)
            found.append(measured(model, part))
        for name, apart in zip(worst, np.abs(found[0] - found[1]), strict=True):
            worst[name] = max(worst[name], float(apart))
    model.load_state_dict(exact)
    return worst


@torch.no_grad()
def measured(model, part, windows=64):
    """Bits per base and accuracy."""
    bits, right = [], []
    for tile in tile_windows(part.regions["test"], 1024, windows):
        for batch in batches(tile, 16):
            ids = part.genome.gather(batch.contig, batch.starts, 1024).ids
            hidden = hide_random(ids, batch.indices, share=0.15, seed=0)
            logs = masked_log_probabilities(model, hidden.masked, strand_average=False)
            logs = logs[hidden.rows, hidden.columns]
            bits.append(-logs[np.arange(len(logs)), hidden.truth] / np.log(2))
            right.append(logs.argmax(1) == hidden.truth)
    return np.array([np.concatenate(bits).mean(), np.concatenate(right).mean()])


def write_log(source, target):
    """The training log as a table of at most LOG_ROWS rows; evaluations all stay."""
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    told = [row for row in rows if "eval_loss" in row]
    steps = [row for row in rows if "loss_masked" in row]
    thin = max(1, -(-len(steps) // LOG_ROWS))
    kept = sorted(steps[::thin] + told, key=lambda row: row["step"])
    text = io.StringIO()
    table = csv.DictWriter(
        text, LOG_COLUMNS, extrasaction="ignore", lineterminator="\n"
    )
    table.writeheader()
    for row in kept:
        table.writerow({k: f"{row[k]:.6g}" for k in LOG_COLUMNS if k in row})
    with atomic_open(target) as handle:
        handle.write(text.getvalue())


def write(path, table):
    with atomic_open(path) as handle:
        json.dump(table, handle, indent=1)
        handle.write("\n")


def card_text(name, folder):
    """README.md: what went in and what came out."""
    config = json.loads((folder / "config.json").read_text())
    card = json.loads((folder / "card.json").read_text())
    made = json.loads((folder / "provenance.json").read_text())
    stored = json.loads((folder / "shipping.json").read_text())
    recipe = read_recipe(folder / "recipe.toml", PretrainRecipe)
    shares = {section: part.weight for section, part in recipe.genome.items()}
    total = sum(shares.values())
    mix = ", ".join(f"{s} {100 * w / total:.0f} %" for s, w in shares.items())
    change = stored["change_by_bfloat16"]
    # Whatever file or interpreter stood for the program's name.
    command = re.sub(r"^\S+ (?=pretrain )", "crossdna ", made["command"])
    read = (
        f"{made['steps']:,} steps of {recipe.train.batch_size} windows of "
        f"{recipe.windows.length:,} bases: {stored['bases_read'] / 1e6:,.1f} million "
        "bases read in all. The paper's model read about 2 billion."
    )
    kept = (
        f"Weights of step {made['weights_of_step']:,} (best held-out loss "
        f"{made['best_held_out_loss']:.4f} nats per base), stored as "
        f"{stored['stored_as']}; rounding to bfloat16 changes bits per base by "
        f"{change['bits']:.1e} and accuracy by {change['accuracy']:.1e} at most over "
        "species."
    )
    parts = [
        f"""---
license: apache-2.0
library_name: crossdna
tags: [DNA, genomics, masked-lm, crossdna]
---

# {name}

A CrossDNA masked language model of {card["parameters"]:,} parameters
({config["depth"]} layers in each of two branches, {config["d_model"]} channels),
trained by this project from random weights. Written by `benchmarks/ship.py`; every
number below comes from a file in `benchmarks/results`.

```
crossdna finetune --model {name} --train labelled.csv --output OUT
```

## What went in

- DNA (share of windows): {mix}. Files, licences and checks:
  `recipes/pretrain/{name}.toml`; what was held out and left out, and why:
  `recipes/pretrain/heldout/*.bed`, made and proved by `benchmarks/corpus.py`.
- {read}
- {kept}
- Command: `{command}`, seed {made["seed"]}, {made["device"]},
  torch {made["torch"]}. `recipe.toml` and `training_log.csv` lie beside this file.

## What came out
"""
    ]
    parts += [
        section
        for section in (
            species_table(name),
            context_table(name),
            downstream_table(name),
            downstream_table(f"{name}-layers"),
        )
        if section
    ]
    parts.append(
        """## Limits

It has read little DNA, of no more species than are named above: its knowledge is of
short words, repeats and coding statistics more than of regulation. Compare it with the
baselines that every verb prints before relying on it. Not for diagnosis.
"""
    )
    return "\n".join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="without it: only the card")
    parser.add_argument("--name", required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = ROOT / "weights" / options.name
    if options.run is not None:
        ship(options.run, folder)
    with atomic_open(folder / "README.md") as handle:
        handle.write(card_text(options.name, folder))
    print((folder / "README.md").read_text())


if __name__ == "__main__":
    main()
