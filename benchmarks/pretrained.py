"""What pretrained weights know of DNA they never saw, species by species.

    python benchmarks/pretrained.py weights/crossdna-small --name crossdna-small

The test blocks of every genome section of the model's recipe (recipes/pretrain/heldout)
are cut into windows, bases are hidden, and the model predicts them beside Markov chains
of order 0 to 10 and a two-sided k-mer model, both fitted on the training regions of the
same section. Classes of bases are told only where an annotation or lower-case letters
say so. Results go to benchmarks/results/pretrained-NAME.json with bootstrap intervals;
species that are there already, of the same model and windows, are not measured again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from machine import RESULTS, describe_machine

from crossdna.analysis.evaluation.baselines import fit_baselines
from crossdna.analysis.evaluation.measure import (
    MODEL,
    EvaluationSettings,
    baseline_predictors,
    class_grouping,
    measure,
    model_predictor,
    strongest_baselines,
)
from crossdna.analysis.evaluation.run import Split, require_apart, write_json
from crossdna.analysis.evaluation.strands import strand_difference
from crossdna.analysis.inference import load_model
from crossdna.analysis.provenance import provenance
from crossdna.config import read_recipe
from crossdna.data.annotation import CLASSES, REPEAT_CLASSES, Annotation
from crossdna.data.fasta import open_lines
from crossdna.training.pretraining_data import open_genomes
from crossdna.training.pretraining_recipe import PretrainRecipe

GENOMES = Path(__file__).parents[2] / "shared" / "data" / "genomes"
ANNOTATIONS = {
    "worm": "C.elegans_1pct.gff.gz",
    "fly": "D.melanogaster_1pct.gff.gz",
    "yeast": "sacCer3.gff.gz",
    "arabidopsis": "A.thaliana_1pct.gff.gz",
}


def grouping(part, annotation_path):
    """Classes of bases where they are known; none elsewhere."""
    genome = part.genome
    repeats = class_grouping(genome, None)
    masked = {
        contig: bool(genome.fetch_softmask(contig, 0, size).any())
        for contig, size in genome.contigs.items()
    }
    annotated, classes = set(), None
    if annotation_path is not None:
        annotation = Annotation.read(annotation_path, genome)
        classes = class_grouping(genome, annotation)
        lines = open_lines(annotation_path)
        annotated = {line.split("\t")[0] for line in lines if not line.startswith("#")}

    def groups(contig, starts, length):
        none = np.zeros((len(starts), length), bool)
        found = dict.fromkeys((*REPEAT_CLASSES, *CLASSES), none)
        if masked[contig]:
            found |= repeats(contig, starts, length)
        if contig in annotated:
            of_genes = classes(contig, starts, length)
            # Here `repeat` would be those outside exons only.
            found |= {n: mask for n, mask in of_genes.items() if n != "repeat"}
        return found

    return groups


def evaluate_section(model, part, options):
    """One genome section: what is written for it."""
    split = Split(part.regions["train"], part.regions["test"])
    require_apart(split)
    baselines = fit_baselines(
        part.genome.fetch(region.contig, region.start, region.end)
        for region in split.train
    )
    predictors = {
        MODEL: model_predictor(model, strand="+"),
        "strand average": model_predictor(model, strand="both"),
        **baseline_predictors(baselines),
    }
    settings = EvaluationSettings(
        window=options.window, max_windows=options.max_windows, batch_size=8
    )
    name = ANNOTATIONS.get(part.name)
    conditions = measure(
        part.genome,
        split.held_out,
        predictors,
        grouping=grouping(part, GENOMES / name if name else None),
        settings=settings,
    )
    return {
        "species": part.name,
        "held_out": [str(region) for region in split.held_out],
        "training_bases": baselines.training_bases,
        "window": settings.window,
        "windows": settings.max_windows,
        "conditions": [brief(condition) for condition in conditions],
        "strands": strand_difference(model, part.genome, split.held_out, settings),
    }


def brief(condition):
    """The model and the strongest baselines of a condition."""
    everywhere = next(group for group in condition.groups if group.name == "all bases")
    best = strongest_baselines(everywhere.bits())
    shown = [MODEL, "strand average", "markov-0", *best]
    return {
        "name": condition.name,
        "description": condition.description,
        "groups": [
            {
                "name": group.name,
                "positions": group.positions,
                "scores": {name: group.scores[name] for name in shown},
            }
            for group in condition.groups
        ],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="checkpoint directory")
    parser.add_argument("--name", required=True, help="results/pretrained-NAME.json")
    parser.add_argument("--recipe", type=Path, help="default: MODEL/recipe.toml")
    parser.add_argument("--species", nargs="+", help="only these sections")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--max-windows", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = read_recipe(
        options.recipe or Path(options.model) / "recipe.toml", PretrainRecipe
    )
    model = load_model(options.model, "masked-lm")
    made_by = provenance(model, options.model, strand="+")
    path = RESULTS / f"pretrained-{options.name}.json"
    rows = finished(path, made_by.fingerprint, options)
    for part in open_genomes(recipe.genome):
        wanted = not options.species or part.name in options.species
        known = any(row["species"] == part.name for row in rows)
        if not wanted or known or not part.regions["test"]:
            continue
        rows.append(evaluate_section(model, part, options))
        write_json(
            {"machine": describe_machine(), "made_by": made_by, "rows": rows}, path
        )
        print(line(json.loads(path.read_text())["rows"][-1]), flush=True)


def finished(path, fingerprint, options):
    """Rows of an earlier run with the same weights and windows."""
    if not path.exists():
        return []
    earlier = json.loads(path.read_text())
    if earlier["made_by"]["fingerprint"] != fingerprint:
        return []
    asked = options.window, options.max_windows
    return [row for row in earlier["rows"] if (row["window"], row["windows"]) == asked]


def line(row):
    """One species in one line."""
    scores = row["conditions"][0]["groups"][0]["scores"]
    shown = (f"{name} {s['bits']['estimate']:.3f}" for name, s in scores.items())
    return f"{row['species']}: bits per base {', '.join(shown)}"


if __name__ == "__main__":
    main()
