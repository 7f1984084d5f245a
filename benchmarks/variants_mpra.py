"""Saturation mutagenesis MPRA: what scores say about measured effects.

    python benchmarks/variants_mpra.py --model CHECKPOINT --data ../shared/data

For each element: Pearson and Spearman correlation of the measured log2 effect, with its
sign and without, with zero-shot scores, with ridge regressions trained on elements of
other loci (on embedding differences, on the baselines, on both), and with baselines
that need no model; motifs are scanned by memelite. Context is the element itself: the
genome around it is not in the data. Intervals of the means are over elements.
"""

import argparse
import csv
import gzip
import tempfile
from pathlib import Path

import numpy as np
from machine import save_results
from scipy import stats
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from variant_tools import composition_changes, motif_changes, score_all

from crossdna.analysis.classical.motifs import Motifs
from crossdna.analysis.inference import load_model
from crossdna.data.genome import Genome

RELEASE, FEWEST_BARCODES = "GRCh38", 10
BASELINES = ("GC change", "CpG change", "transition", "motif change")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", default="variants-mpra", help="of results/NAME.json")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--elements", nargs="+", help="default: all")
    parser.add_argument("--most", type=int, help="variants of each element")
    parser.add_argument("--pll", action="store_true", help="score deletions too")
    return parser.parse_args()


def locus(element):
    """Elements of one locus are the same DNA and stay together."""
    return element.replace("-", ".").split(".")[0].removesuffix("h")


def read_elements(folder, most):
    """Element: (first position, variants, effects); positions within the element."""
    rows = {}
    with gzip.open(folder / "variants/satmut_mpra_elements.tsv.gz", "rt") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            known = row["Release"] == RELEASE and "NA" not in (row["Ref"], row["Alt"])
            if known and int(row["Barcodes"]) >= FEWEST_BARCODES:
                rows.setdefault(row["Element"], []).append(row)
    starts, sequences = read_references(folder)
    elements = {}
    for name, found in rows.items():
        found = found[:: max(1, len(found) // most)] if most else found
        variants = [
            (
                name,
                int(row["Pos"]) - starts[name],
                row["Ref"],
                row["Alt"].replace("-", ""),
            )
            for row in found
        ]
        effects = np.array([float(row["Coefficient"]) for row in found])
        elements[name] = variants, effects
    return elements, sequences


def read_references(folder):
    starts, sequences = {}, {}
    path = folder / "variants/satmut_mpra_elements_reference.fa.gz"
    with gzip.open(path, "rt") as lines:
        for line in lines:
            if line.startswith(">"):
                name, release, place = line[1:].split()
                wanted = release == RELEASE
                if wanted:
                    starts[name] = int(place.split(":")[1].split("-")[0])
                    sequences[name] = ""
            elif wanted:
                sequences[name] += line.strip()
    return starts, sequences


def correlations(score, effect):
    usable = np.isfinite(score) & np.isfinite(effect)
    if usable.sum() < 10 or np.ptp(score[usable]) == 0:
        return None
    x, y = score[usable], effect[usable]
    return {
        "n": int(usable.sum()),
        "pearson": float(stats.pearsonr(x, y)[0]),
        "spearman": float(stats.spearmanr(x, y)[0]),
        "pearson_size": float(stats.pearsonr(np.abs(x), np.abs(y))[0]),
        "spearman_size": float(stats.spearmanr(np.abs(x), np.abs(y))[0]),
    }


def ridge_scores(features, effects):
    """Predictions for each element from elements of other loci.

    Parameters
    ----------
    features : dict of element to (variants, columns)
    effects : dict of element to (variants,)
    """
    predictions = {}
    for name, here in features.items():
        others = [other for other in features if locus(other) != locus(name)]
        if not others:
            continue
        x = np.concatenate([features[other] for other in others])
        y = np.concatenate([effects[other] for other in others])
        usable = np.isfinite(x).all(1)
        fit = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 5, 13)))
        fit.fit(x[usable], y[usable])
        predictions[name] = np.full(len(here), np.nan)
        known = np.isfinite(here).all(1)
        predictions[name][known] = fit.predict(here[known])
    return predictions


def main():
    options = parse()
    elements, sequences = read_elements(options.data, options.most)
    chosen = options.elements or list(elements)
    model = load_model(options.model, "masked-lm", options.device)
    meme = options.data / "motifs/jaspar2024_core_vertebrates.meme.gz"
    motifs = Motifs.read(meme)
    scores, vectors, effects = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "elements.fa"
        path.write_text("".join(f">{n}\n{s}\n" for n, s in sequences.items()))
        genome = Genome.open(path, cache=folder)
        for name in chosen:
            variants, effects[name] = elements[name]
            found = score_all(
                model,
                genome,
                variants,
                scores=("llr", "pll") if options.pll else ("llr",),
                window=options.window,
                vectors=True,
            )
            vectors[name] = found.pop("vectors")
            scores[name] = found | composition_changes(genome, variants)
            print(name, len(variants), "scored", flush=True)
        # All at once: the motifs' tables of probabilities are made for each scan.
        everything = [variant for name in chosen for variant in elements[name][0]]
        changes = motif_changes(genome, everything, motifs, options.window)
        ends = np.cumsum([len(effects[name]) for name in chosen])
        for name, part in zip(chosen, np.split(changes, ends[:-1]), strict=True):
            scores[name]["motif change"] = part
    baselines = {
        name: np.column_stack([found[key] for key in BASELINES])
        for name, found in scores.items()
    }
    both = {name: np.hstack([vectors[name], baselines[name]]) for name in scores}
    for label, features in (
        ("ridge on embeddings", vectors),
        ("ridge on baselines", baselines),
        ("ridge on both", both),
    ):
        for name, prediction in ridge_scores(features, effects).items():
            scores[name][label] = prediction
    results = {
        name: {key: correlations(v, effects[name]) for key, v in found.items()}
        for name, found in scores.items()
    }
    write(options, results)


def write(options, results):
    rng = np.random.default_rng(0)
    means = {}
    for name in dict.fromkeys(key for result in results.values() for key in result):
        rows = [result[name] for result in results.values() if result.get(name)]
        if not rows:
            continue
        means[name] = {"elements": len(rows)}
        for key in ("pearson", "spearman", "pearson_size", "spearman_size"):
            values = np.array([row[key] for row in rows])
            draws = values[rng.integers(0, len(values), (2000, len(values)))].mean(1)
            low, high = np.quantile(draws, (0.025, 0.975))
            means[name][key] = [float(values.mean()), float(low), float(high)]
        shown = {k: np.round(v, 3).tolist() for k, v in means[name].items()}
        print(f"{name:22}", shown)
    settings = {k: str(v) for k, v in vars(options).items() if k != "name"}
    rows = {"mean": means, "elements": results}
    print(save_results(options.name, rows, **settings))


if __name__ == "__main__":
    main()
