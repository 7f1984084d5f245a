"""Turn a training run into weights that the package ships, or renew their card.

    python benchmarks/ship.py runs/crossdna-small --name crossdna-small
    python benchmarks/pretrained.py weights/crossdna-small --name crossdna-small
    python benchmarks/ship.py --name crossdna-small      # the card, from the results

weights/NAME gets the configuration, the tokenizer, the weights (as bfloat16 where that
changes bits per base and accuracy on held-out windows by less than 1e-3, else as
float32), the recipe, the training log as CSV, provenance.json, card.json for the table
of models, and README.md, whose numbers all come from files in benchmarks/results. A run
that began from shipped weights (train.initial) is a further stage of them: its card and
log begin with theirs.
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
LOG, SHIPPING = "training_log.csv", "shipping.json"


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
    # Before anything is overwritten: the run may have begun from this very folder.
    stages, log = stages_of(run), log_of(run)
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
    write_log(log, folder / LOG)
    size = sum(value.numel() for value in model.parameters())
    recipe = read_recipe(run / "recipe.toml", PretrainRecipe)
    million = bases_read(stages) / 1e6
    card = {
        "tested": "shipped",
        "parameters": size,
        "window": recipe.windows.length,
        "pretraining": f"{', '.join(recipe.genome)}: {million:,.1f} million bases",
    }
    write(folder / "card.json", card)
    stored = {
        "stored_as": "bfloat16" if half else "float32",
        "change_by_bfloat16": change,
        "stages": stages,
    }
    write(folder / SHIPPING, stored)
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
            logs = masked_log_probabilities(model, hidden.masked, strand="+")
            logs = logs[hidden.rows, hidden.columns]
            bits.append(-logs[np.arange(len(logs)), hidden.truth] / np.log(2))
            right.append(logs.argmax(1) == hidden.truth)
    return np.array([np.concatenate(bits).mean(), np.concatenate(right).mean()])


def began_from(run):
    """The folder whose weights a run began from, or None."""
    initial = read_recipe(run / "recipe.toml", PretrainRecipe).train.initial
    return None if initial is None else ROOT / initial


def stages_of(folder):
    """The runs that made a folder's weights, one after the other."""
    shipped = folder / SHIPPING
    if shipped.is_file():
        return json.loads(shipped.read_text())["stages"]
    earlier = began_from(folder)
    made = json.loads((folder / "provenance.json").read_text())
    recipe = read_recipe(folder / "recipe.toml", PretrainRecipe)
    stage = {
        # Whatever file or interpreter stood for the program's name.
        "command": re.sub(r"^\S+ (?=pretrain )", "crossdna ", made["command"]),
        **{key: made[key] for key in ("seed", "device", "torch", "steps")},
        "batch_size": recipe.train.batch_size,
        "window": recipe.windows.length,
    }
    return [*(stages_of(earlier) if earlier else []), stage]


def bases_read(stages):
    """Bases that all of them drew windows of, those drawn again counted again."""
    return sum(s["steps"] * s["batch_size"] * s["window"] for s in stages)


def log_of(folder):
    """Rows of the training log, each with the number of its stage.

    Of a run at most LOG_ROWS steps; evaluations all stay.
    """
    if (folder / LOG).is_file():
        with (folder / LOG).open(newline="") as handle:
            return list(csv.DictReader(handle))
    earlier = began_from(folder)
    before = log_of(earlier) if earlier else []
    lines = (folder / "training_log.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    told = [row for row in rows if "eval_loss" in row]
    steps = [row for row in rows if "loss_masked" in row]
    thin = max(1, -(-len(steps) // LOG_ROWS))
    kept = sorted(steps[::thin] + told, key=lambda row: row["step"])
    stage = len(stages_of(folder))
    own = [
        {
            "stage": stage,
            **{key: f"{row[key]:.6g}" for key in LOG_COLUMNS if key in row},
        }
        for row in kept
    ]
    return [*before, *own]


def write_log(rows, target):
    """The training log as a table."""
    text = io.StringIO()
    table = csv.DictWriter(text, ("stage", *LOG_COLUMNS), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
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
    tables = (species_table(name), *measured_tables(name))
    stages = stages_of(folder)
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

{training_text(name, folder)}
## What came out
""",
        *(table for table in tables if table),
        *(earlier_text(f"{name}-stage-{i}", i) for i in range(1, len(stages))),
        """## Limits

It has read little DNA, of no more species than are named above: its knowledge is of
short words, repeats and coding statistics more than of regulation. Compare it with the
baselines that every verb prints before relying on it. Not for diagnosis.
""",
    ]
    return "\n".join(parts)


def measured_tables(name):
    """What has been measured with weights besides their bits per base."""
    return (
        context_table(name),
        downstream_table(name),
        downstream_table(f"{name}-layers"),
    )


def earlier_text(name, stage):
    """What was measured with the weights of a stage before the last; may be nothing."""
    tables = [table for table in measured_tables(name) if table]
    if not tables:
        return ""
    return "\n".join([f"### With the weights of stage {stage}", "", *tables])


def training_text(name, folder):
    """The card's list of what the weights were made of and how."""
    made = json.loads((folder / "provenance.json").read_text())
    stored = json.loads((folder / SHIPPING).read_text())
    genomes = read_recipe(folder / "recipe.toml", PretrainRecipe).genome
    total = sum(part.weight for part in genomes.values())
    mix = ", ".join(
        f"{section} {100 * part.weight / total:.0f} %"
        for section, part in genomes.items()
    )
    change, stages = stored["change_by_bfloat16"], stored["stages"]
    runs = "".join(stage_text(i, stages) for i in range(len(stages)))
    return f"""- DNA (share of windows): {mix}. Files, licences and checks:
  `recipes/pretrain/{name}.toml`; what was held out and left out, and why:
  `recipes/pretrain/heldout/*.bed`, made and proved by `benchmarks/corpus.py`.
- {bases_read(stages) / 1e6:,.1f} million bases read in all (the paper: 2 billion).
{runs}- Weights of step {made["weights_of_step"]:,} (best held-out loss
  {made["best_held_out_loss"]:.4f} nats per base), stored as {stored["stored_as"]};
  rounding to bfloat16 changes bits per base by {change["bits"]:.1e} and accuracy by
  {change["accuracy"]:.1e} at most over species.
- `recipe.toml` and `training_log.csv` lie beside this file.
"""


def stage_text(index, stages):
    """An entry of the list: how a run was called, and what it read."""
    stage = stages[index]
    which = "Command" if len(stages) == 1 else f"Stage {index + 1}"
    before = ", from the weights of the stage before" if index else ""
    return (
        f"- {which}: `{stage['command']}`, seed {stage['seed']}, {stage['device']}, "
        f"torch {stage['torch']}: {stage['steps']:,} steps of {stage['batch_size']} "
        f"windows of {stage['window']:,} bases{before}.\n"
    )


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
