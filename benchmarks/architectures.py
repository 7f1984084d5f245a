"""Architectures of equal size after equal training, on the same held-out DNA.

    python benchmarks/architectures.py                       # all recipes, in full
    python benchmarks/architectures.py --steps 150 --families crossdna bert mamba
    python benchmarks/architectures.py --speed-only          # bases/s and memory again

Trains every recipe of recipes/pretrain/compare (equal parameters, windows, optimiser
and steps), one after another; what is finished is not done again, and a killed training
goes on. Then, for each: bits per base on held-out yeast and human windows beside
counting models of the same knowledge, a linear probe of coding against intergenic yeast
windows, bases/s of training and inference, memory by length. Results go to
benchmarks/results/architectures.json, the table and the picture to docs/.

Rates are per second of processor time with one thread: what else the machine does
disturbs them less, but caches and memory are shared, so that only a quiet machine gives
figures to quote (--speed-only measures nothing else).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from machine import RESULTS, describe_machine
from torch.nn import functional as F
from transformers.utils.logging import disable_progress_bar

from crossdna import alphabet
from crossdna.analysis.evaluation.baselines import fit_baselines
from crossdna.analysis.evaluation.measure import (
    ALL,
    MODEL,
    EvaluationSettings,
    baseline_predictors,
    measure,
    model_predictor,
    strongest_baselines,
)
from crossdna.analysis.evaluation.run import Split
from crossdna.analysis.inference import is_causal, load_model
from crossdna.analysis.plots import (
    BLUE,
    STYLE,
    VERMILION,
    new_figure,
    save_figure,
)
from crossdna.analysis.probe.coding import draw_split_windows
from crossdna.analysis.probe.linear import (
    Features,
    ProbeSettings,
    mean_embeddings,
    score_features,
    score_kmers,
)
from crossdna.config import read_recipe
from crossdna.data.annotation import Annotation
from crossdna.files import atomic_open, atomic_path
from crossdna.models.building import new_language_model, objective_of
from crossdna.training.pretrain import pretrain
from crossdna.training.pretraining_data import open_genomes
from crossdna.training.pretraining_recipe import (
    PretrainRecipe,
    model_config,
    window_encoding,
)
from crossdna.zoo.families import FAMILIES, NATIVE

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes" / "pretrain" / "compare"
RESULT = RESULTS / "architectures.json"
PAGE, PICTURE = ROOT / "docs" / "architectures.md", ROOT / "docs" / "architectures.png"
ANNOTATION = ROOT / "data" / "sacCer3" / "sacCer3.gff.gz"
MARKS = ("<!-- table: benchmarks/architectures.py -->", "<!-- end of table -->")
LENGTHS = (256, 1024, 4096)
TRAINING = (8, 256)
REPEATS = 3
# Longer words gain nothing on some tens of megabases.
MAX_ORDER = 8


def read(name, steps):
    """A family's recipe, with another number of steps if that is wanted."""
    overrides = []
    if steps is not None:
        overrides = [f"train.steps={steps}", f"train.save_every={max(1, steps // 2)}"]
        overrides += [f"train.evaluate_every={steps}"]
    return read_recipe(RECIPES / f"{name}.toml", PretrainRecipe, overrides)


class Judge:
    """What every model is asked, and what counting models answer, read once."""

    def __init__(self, recipe, windows, probe_windows):
        self.settings = EvaluationSettings(
            window=recipe.windows.length, max_windows=windows, batch_size=16
        )
        self.genomes = open_genomes(recipe.genome)
        self.baselines = {
            g.name: fit_baselines(
                (
                    g.genome.fetch(r.contig, r.start, r.end)
                    for r in g.regions["train"]
                    if len(r) > 1000
                ),
                max_order=MAX_ORDER,
            )
            for g in self.genomes
        }
        yeast = next(g for g in self.genomes if g.name == "yeast")
        self.probe = ProbeSettings(
            window=recipe.windows.length, windows_per_class=probe_windows
        )
        annotation = Annotation.read(ANNOTATION, yeast.genome)
        split = Split(yeast.regions["train"], yeast.regions["test"])
        self.probe_windows = draw_split_windows(annotation, split, self.probe)

    def bits(self, model):
        """Bits per base and those of the best counting model, for each genome."""
        causal, found = is_causal(model), {}
        for g in self.genomes:
            predictors = {MODEL: model_predictor(model, strand="+")}
            predictors |= baseline_predictors(self.baselines[g.name], causal=causal)
            # The last condition is the one with as much context as the baselines have.
            condition = measure(
                g.genome,
                g.regions["test"],
                predictors,
                grouping=lambda contig, starts, length: {},
                settings=self.settings,
                causal=causal,
            )[-1]
            scores = next(x for x in condition.groups if x.name == ALL).scores
            bits = {name: score.bits.estimate for name, score in scores.items()}
            best = min(strongest_baselines(bits), key=bits.__getitem__)
            found[g.name] = {
                "bits": scores[MODEL].bits._asdict(),
                "accuracy": scores[MODEL].accuracy.estimate,
                "baseline": best,
                "baseline_bits": bits[best],
                "bits_saved": scores[best].bits_gain._asdict(),
            }
        return found

    def probed(self, folder):
        """Area under the ROC curve of a linear probe of mean embeddings."""
        model, parts = load_model(folder, "embedding", "cpu"), self.probe_windows
        features = Features(
            *(mean_embeddings(model, part.ids, batch_size=32) for part in parts)
        )
        score = score_features(*parts, features, self.probe, description="")
        return score.auroc._asdict()


def judge(name, folder, judges):
    """Quality of a trained model."""
    objective = objective_of(name)
    task = "causal-lm" if objective == "causal" else "masked-lm"
    model = load_model(folder, task, "cpu")
    provenance = json.loads((folder / "provenance.json").read_text())
    return {
        "family": name,
        "objective": objective,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": provenance["steps"],
        "held_out": judges.bits(model),
        "probe_auroc": judges.probed(folder),
    }


def processor_seconds(call):
    """Median processor time of a call, after one that is not counted."""
    call()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times)


def memory(field):
    """A figure of Linux's for this process, in megabytes: VmRSS or its peak, VmHWM."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


def forget_peak():
    """Let the peak start anew from what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


def speed(name):
    """Rates and memory of a family in this process, which must be a fresh one."""
    torch.set_num_threads(1)
    recipe = read(name, None)
    encoding = window_encoding(recipe)
    model = new_language_model(model_config(recipe.model, encoding.tokenizer)).eval()
    low = 7 if name in ("hyenadna", "caduceus") else 0
    options = {"use_cache": False} if objective_of(name) == "causal" else {}
    longest = None if name in NATIVE else FAMILIES[name].longest(model.config)
    before, rows = memory("VmRSS"), []
    for length in LENGTHS:
        if longest is not None and length > longest:
            continue
        ids = torch.randint(low, low + alphabet.NUM_BASES, (1, length))

        def forward(ids=ids):
            with torch.inference_mode():
                model(input_ids=ids, **options)

        forget_peak()
        seconds = processor_seconds(forward)
        rows.append(
            {
                "length": length,
                "inference_bases_per_second": length / seconds,
                "memory_megabytes": memory("VmHWM") - before,
            }
        )
    ids = torch.randint(low, low + alphabet.NUM_BASES, TRAINING)
    optimizer = torch.optim.AdamW(model.train().parameters(), fused=True)

    def step():
        logits = model(input_ids=ids, **options).logits
        F.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    rate = ids.numel() / processor_seconds(step)
    return {
        "machine": describe_machine(threads=1),
        "training_bases_per_second": rate,
        "lengths": rows,
    }


def speed_apart(name):
    """`speed` in a process of its own, so that no model's memory hides another's."""
    words = [sys.executable, __file__, "--measure", name]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def load_rows():
    rows = json.loads(RESULT.read_text())["rows"] if RESULT.is_file() else []
    return {row["family"]: row for row in rows}


def save_rows(rows, **settings):
    with atomic_open(RESULT) as handle:
        table = {
            "machine": describe_machine(threads=1, **settings),
            "rows": list(rows.values()),
        }
        json.dump(table, handle, indent=1)
        handle.write("\n")


def show(interval, sign=""):
    """An estimate and half of its 95 % interval."""
    half = (interval["high"] - interval["low"]) / 2
    return f"{interval['estimate']:{sign}.3f} ± {half:.3f}"


def processor(row):
    """What a family was timed on: rates are compared within one processor only."""
    machine = row["speed"]["machine"]
    return f"{machine['processor']}, {machine['cpu_capability']}"


def markdown(rows):
    """The table of the guide: masked families first, best bits first."""
    lines = [
        "| family | predicts | parameters | yeast: bits (saved) | "
        "human: bits (saved) | probe AUROC | training bases/s | inference bases/s | "
        "memory at 1,024 | timed on |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in ordered(rows):
        cells = [row["family"], row["objective"], f"{row['parameters']:,}"]
        for genome in ("yeast", "human"):
            found = row["held_out"][genome]
            cells.append(f"{show(found['bits'])} ({show(found['bits_saved'], '+')})")
        cells.append(show(row["probe_auroc"]))
        middle = next(x for x in row["speed"]["lengths"] if x["length"] == 1024)
        rates = row["speed"]["training_bases_per_second"]
        rates = rates, middle["inference_bases_per_second"]
        cells += [f"{round(rate, -2):,.0f}" for rate in rates]
        cells.append(f"{middle['memory_megabytes']:.0f} MB")
        cells.append(processor(row))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def ordered(rows):
    whole = [r for r in rows.values() if "held_out" in r and "speed" in r]

    def place(row):
        bits = row["held_out"]["yeast"]["bits"]["estimate"]
        return row["objective"] == "causal", bits

    return sorted(whole, key=place)


def picture(rows):
    """Bits saved, probe, rates and memory of every family."""
    import matplotlib as mpl

    rows = ordered(rows)[::-1]
    places = np.arange(len(rows))
    colours = [VERMILION if r["objective"] == "masked" else BLUE for r in rows]
    with mpl.rc_context(STYLE):
        figure = new_figure(13, 0.34 * len(rows) + 2.2)
        axes = figure.subplots(1, 4, sharey=True)
        for genome, shift, alpha in (("yeast", 0.19, 1.0), ("human", -0.19, 0.45)):
            saved = [r["held_out"][genome]["bits_saved"]["estimate"] for r in rows]
            axes[0].barh(
                places + shift, saved, 0.36, color=colours, alpha=alpha, label=genome
            )
        axes[0].axvline(0, color="black", linewidth=0.8)
        axes[0].set_title("Bits saved per base")
        axes[0].set_xlabel("against the best counting model\n(full yeast, pale human)")
        axes[0].set_yticks(places, [r["family"] for r in rows])
        aurocs = [r["probe_auroc"]["estimate"] for r in rows]
        axes[1].barh(places, aurocs, 0.6, color=colours)
        axes[1].set_xlim(0.5, 1)
        axes[1].set_title("Linear probe")
        axes[1].set_xlabel("AUROC, coding / intergenic\n(0.5 = chance)")
        rates = [r["speed"]["training_bases_per_second"] / 1000 for r in rows]
        bars = axes[2].barh(places, rates, 0.6, color=colours)
        capabilities = [r["speed"]["machine"]["cpu_capability"] for r in rows]
        axes[2].bar_label(bars, capabilities, padding=2, fontsize=7)
        axes[2].margins(x=0.2)
        axes[2].set_title("Training")
        axes[2].set_xlabel(
            "1,000 bases per second of one core\n(compare equal processors only)"
        )
        for mark, length in zip("o^s", LENGTHS, strict=True):
            found = [
                (place, x["memory_megabytes"])
                for place, row in zip(places, rows, strict=True)
                for x in row["speed"]["lengths"]
                if x["length"] == length
            ]
            axes[3].scatter(
                [max(1.0, y) for _, y in found],
                [x for x, _ in found],
                marker=mark,
                color="black",
                label=f"{length:,} bases",
            )
        axes[3].set_xscale("log")
        axes[3].set_title("Memory of a forward pass")
        axes[3].set_xlabel("MB beyond the weights")
        marks = axes[3].get_legend_handles_labels()
        figure.legend(*marks, loc="outside upper right", ncols=3, fontsize=9)
        figure.suptitle(
            "Orange: predicts hidden bases from both sides. Blue: predicts the next "
            "base.",
            fontsize=10,
            x=0.01,
            ha="left",
        )
        return figure


def report(rows):
    """Put the table into the guide and draw the picture."""
    page = PAGE.read_text()
    before, _, rest = page.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    with atomic_open(PAGE) as handle:
        handle.write(f"{before}{MARKS[0]}\n\n{markdown(rows)}\n\n{MARKS[1]}{after}")
    with atomic_path(PICTURE) as path:
        save_figure(picture(rows), path)


def compare(arguments):
    rows, judges = load_rows(), None
    for name in arguments.families:
        recipe, folder = read(name, arguments.steps), arguments.output / name
        row = rows.get(name, {})
        if row.get("steps") != recipe.train.steps or "held_out" not in row:
            pretrain(recipe, folder, resume=True)
            windows = arguments.windows, arguments.probe_windows
            judges = judges or Judge(recipe, *windows)
            row = row | judge(name, folder, judges)
            row["bases_trained_on"] = (
                recipe.train.steps * recipe.train.batch_size * recipe.windows.length
            )
        if "speed" not in row:
            row["speed"] = speed_apart(name)
        rows[name] = row
        save_rows(rows, windows=arguments.windows)
        print(json.dumps(row), flush=True)
    if judges is not None:
        kmers = score_kmers(*judges.probe_windows, judges.probe)
        print(f"probe with k-mers: {kmers.auroc}", flush=True)
    report(rows)


def remeasure(arguments):
    rows = load_rows()
    for name in arguments.families:
        if name in rows:
            rows[name]["speed"] = speed_apart(name)
            print(name, json.dumps(rows[name]["speed"]), flush=True)
            save_rows(rows, speed_only=True)
    report(rows)


def main():
    known = sorted(path.stem for path in RECIPES.glob("*.toml"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", default=known, choices=known)
    parser.add_argument("--steps", type=int, help="instead of the recipes'")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "compare")
    parser.add_argument("--windows", type=int, default=400, help="for each genome")
    parser.add_argument("--probe-windows", type=int, default=300, help="of each class")
    parser.add_argument("--speed-only", action="store_true")
    parser.add_argument("--measure", choices=known, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    disable_progress_bar()
    torch.set_num_threads(1)
    if arguments.measure:
        print(json.dumps(speed(arguments.measure)))
    elif arguments.speed_only:
        remeasure(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
