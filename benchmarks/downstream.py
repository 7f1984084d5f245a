"""Do pretrained weights help on real tasks? Against a random start and k-mers.

    python benchmarks/downstream.py weights/crossdna-small --name crossdna-small \
        --work runs/downstream --kind probe
    python benchmarks/downstream.py weights/crossdna-small --name crossdna-small \
        --work runs/downstream --kind finetune --tasks tf/ mouse/ prom/

probe: a linear model on frozen mean representations of the layer that does best on the
development set. finetune: the whole network, for --epochs. Both see at most
--train-rows training rows (drawn by the seed) and at most --test-rows test rows, the
same ones for every model; the random start has the same architecture. A linear model on
k-mers of the same rows stands beside them. Yeast's histone tasks have no training file
here: they train on the development file, and are tested on windows of the chromosomes
that yeast's held-out list names, since pretraining saw the others.

Finished cells in --work are not repeated. All finished cells together are written to
benchmarks/results/downstream-NAME.json; MCC, intervals of the mean over seeds, over
test rows and, where there are several, seeds; differences paired.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from machine import RESULTS, describe_machine
from pretrained_tables import downstream_table

from crossdna import alphabet
from crossdna.analysis.evaluation.run import write_json
from crossdna.analysis.statistics import interval, over_seeds
from crossdna.analysis.supervised.baselines import BASELINES
from crossdna.analysis.supervised.benchmark import (
    Fitted,
    cell_path,
    read_cell,
    run_cell,
)
from crossdna.analysis.supervised.finetuned import FinetunedModel
from crossdna.analysis.supervised.probing import ProbeModel
from crossdna.data.genome import Genome
from crossdna.data.labelled_inputs import InputOptions, read_sets
from crossdna.data.regions import read_bed
from crossdna.data.suites import find_tasks, read_task
from crossdna.models.opening import Opened
from crossdna.models.vocabulary import speak_alphabet
from crossdna.training.finetune import finetune
from crossdna.training.finetune_recipe import FinetuneRecipe

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "benchmarks"
YEAST = ROOT / "data" / "sacCer3" / "sacCer3.fa.gz"
HELDOUT = ROOT / "recipes" / "pretrain" / "heldout" / "yeast.bed"
GUE = (
    "tf/0", "tf/1", "tf/2", "mouse/0", "mouse/3",
    "prom/prom_core_all", "prom/prom_core_notata", "prom/prom_core_tata",
    "prom/prom_300_tata", "splice/reconstructed",
    "EMP/H3", "EMP/H3K14ac", "EMP/H3K36me3", "EMP/H3K4me1", "EMP/H3K4me2",
    "EMP/H3K4me3", "EMP/H3K79me3", "EMP/H3K9ac", "EMP/H4", "EMP/H4ac",
)  # fmt: skip
TABLES = {
    "plants/arabidopsis_tata": ["promoters_cnn/arabidopsis_tata.csv.gz"],
    "plants/arabidopsis_nontata": ["promoters_cnn/arabidopsis_nontata.csv.gz"],
    "splice/primate": ["uci_splice_primate.csv.gz"],
}
ENHANCERS = "ienhancer"
TASKS = (*GUE, ENHANCERS, *TABLES)
# Windows whose middle or start means something get a head that knows positions.
ANCHORED = ("prom/", "splice/", "plants/")


def read(name):
    """The three sets of a task."""
    if name in TABLES:
        paths = [DATA / path for path in TABLES[name]]
        return read_sets(paths, [], [], InputOptions(label_columns=("label",)))
    if name == ENHANCERS:
        folder, options = DATA / name, InputOptions(label_columns=("label_layer1",))
        train, test = folder / "train.csv.gz", folder / "test.csv.gz"
        return read_sets([train], [], [test], options)
    (task,) = find_tasks(DATA / "gue", [name], reduced_train=True)
    sets = read_task(task)
    return on_held_out_chromosomes(sets) if name.startswith("EMP/") else sets


def on_held_out_chromosomes(sets):
    """Only those test rows that lie where no model was pretrained."""
    genome = Genome.open(YEAST)
    text = b"|".join(
        strand.tobytes()
        for region in read_bed(HELDOUT, genome.contigs)
        if region.name in ("valid", "test")
        for ids in [genome.fetch(region.contig, region.start, region.end)]
        for strand in (ids, alphabet.reverse_complement(ids))
    )
    rows = [r for r, ids in enumerate(sets.test.table.ids) if ids.tobytes() in text]
    return sets._replace(test=sets.test.take(rows))


def fewer(data, rows, seed):
    """At most so many rows, drawn by the seed."""
    if len(data) <= rows:
        return data
    return data.take(np.sort(np.random.default_rng(seed).permutation(len(data))[:rows]))


def cut(sets, options, seed):
    """Caps on the rows; test rows are the same for every seed."""
    return sets._replace(
        train=fewer(sets.train, options.train_rows, seed),
        valid=fewer(sets.valid, options.train_rows // 4, seed),
        test=fewer(sets.test, options.test_rows, 0),
    )


def probe(checkpoint, sets, seed, *, random):
    """A linear model on representations of the pretrained or of a random network."""
    torch.manual_seed(seed)
    network = Opened(checkpoint).model("embedding", random=random).eval()
    network = speak_alphabet(network)
    fitted = ProbeModel(checkpoint, network, sets.train, sets.valid)
    return Fitted(fitted, layer=str(fitted.job.layer))


def finetuned(checkpoint, sets, seed, options, task, folder, *, random):
    """The whole network trained; learning rates are the verb's own."""
    anchored = task.startswith(ANCHORED)
    recipe = FinetuneRecipe(
        model=f"random:{checkpoint}" if random else str(checkpoint),
        epochs=options.epochs,
        batch_size=32,
        precision="auto",
        seeds=(seed,),
        head="position" if anchored else "max_mean",
        strands="forward" if anchored else "both",
    )
    result = finetune(recipe, sets.train, sets.valid, folder)
    best = FinetunedModel.load(result.best.folder, "cpu", str(checkpoint))
    return Fitted(best, best.card.thresholds, result.best.parameters)


def run_task(task, options):
    """All cells of a task that are not finished."""
    sets = None
    for seed in range(options.seeds):
        for model in ("pretrained", "random", "kmer"):
            path = cell_path(folder_of(options), task, model, seed)
            if path.is_file():
                continue
            sets = read(task) if sets is None else sets
            own = cut(sets, options, seed)
            random = model == "random"
            if model == "kmer":

                def fit(own=own, seed=seed):
                    return Fitted(BASELINES["kmer"].fit(own.train, own.valid, seed))
            elif options.kind == "probe":

                def fit(own=own, seed=seed, random=random):
                    return probe(options.model, own, seed, random=random)
            else:
                runs = path.with_suffix("")

                def fit(own=own, seed=seed, random=random, runs=runs):
                    return finetuned(
                        options.model, own, seed, options, task, runs, random=random
                    )

            names = {"task": task, "model": model, "seed": seed}
            names["reduced_train"] = task.startswith("EMP/")
            cell = run_cell(fit, own, path, names, "mcc")
            print(f"{options.kind} {task} {model} {seed}: {cell.value:.3f}", flush=True)


def folder_of(options):
    """Cells made with other caps are other cells."""
    caps = f"{options.train_rows}-{options.test_rows}"
    if options.kind == "finetune":
        caps += f"-{options.epochs}"
    return options.work / options.name / f"{options.kind}-{caps}"


def summary(options):
    """A row for each task that has all three models, and the mean gain over them."""
    rows, gains = [], []
    for number, task in enumerate(TASKS):
        paths = {
            model: [
                path
                for seed in range(options.seeds)
                if (path := cell_path(folder_of(options), task, model, seed)).is_file()
            ]
            for model in ("pretrained", "random", "kmer")
        }
        seeds = min(map(len, paths.values()))
        if not seeds:
            continue
        values, draws, layers = {}, {}, {}
        for model, found in paths.items():
            cells = [read_cell(path) for path in found[:seeds]]
            layers[model] = [cell.layer for cell in cells]
            values[model] = float(np.mean([cell.value for cell in cells]))
            kept = [np.load(path.with_suffix(".npy")) for path in found[:seeds]]
            draws[model] = np.stack(kept)
        gain = values["pretrained"] - values["random"]
        gained = over_seeds(draws["pretrained"] - draws["random"], draws=number)
        gains.append((gain, gained))
        rows.append(
            {
                "kind": options.kind,
                "task": task,
                "train_rows": options.train_rows,
                "test_rows": cells[0].rows,
                "seeds": seeds,
                "epochs": options.epochs if options.kind == "finetune" else None,
                "resampled": "rows and seeds" if seeds > 1 else "rows",
                # Those that probes read, by seed; empty for anything else.
                "layers": layers,
                **values,
                "interval": interval(
                    values["pretrained"], over_seeds(draws["pretrained"])
                ),
                "gain": interval(gain, gained),
                "over_kmer": interval(
                    values["pretrained"] - values["kmer"],
                    over_seeds(draws["pretrained"] - draws["kmer"]),
                ),
            }
        )
    values, draws = zip(*gains, strict=True)
    mean = interval(float(np.mean(values)), np.mean(draws, axis=0))
    return rows, {"kind": options.kind, "tasks": len(rows), "gain": mean}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="checkpoint directory")
    parser.add_argument("--name", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kind", choices=("probe", "finetune"), default="probe")
    parser.add_argument("--tasks", nargs="+", default=[""], help="beginnings of names")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train-rows", type=int, default=2000)
    parser.add_argument("--test-rows", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--table", action="store_true", help="of what is finished")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.table:
        save(options)
    for task in [] if options.table else TASKS:
        if task.startswith(tuple(options.tasks)):
            run_task(task, options)
            save(options)
    print(downstream_table(options.name))


def save(options):
    """Replace this kind's rows, keep the other's."""
    path = RESULTS / f"downstream-{options.name}.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    rows, mean = summary(options)
    result = {"machine": describe_machine(epochs=options.epochs)}
    for part, new in (("rows", rows), ("means", [mean])):
        others = [r for r in kept.get(part, []) if r["kind"] != options.kind]
        result[part] = others + new
    write_json(result, path)


if __name__ == "__main__":
    main()
