"""Saturation mutagenesis MPRA: what scores say about measured effects.

    python benchmarks/variants_mpra.py --model CHECKPOINT --data ../shared/data \
        --output benchmarks/results/mpra.json

For each element: Pearson and Spearman correlation of the measured log2 effect, with its
sign and without, with zero-shot scores, with a ridge regression on embedding
differences trained on elements of other loci, and with baselines that need no model.
Context is the element itself: the genome around it is not in the data.
"""

import argparse
import csv
import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
from scipy import stats
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from variant_tools import composition_changes, motif_changes, read_meme, score_all

from crossdna.analysis.inference import load_model
from crossdna.data.genome import Genome

RELEASE, FEWEST_BARCODES = "GRCh38", 10


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--elements", nargs="+", help="default: all")
    parser.add_argument("--most", type=int, help="variants of each element, for a try")
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


def ridge_scores(measured):
    """Predictions for each element from elements of other loci."""
    predictions = {}
    for name, (found, _) in measured.items():
        others = [other for other in measured if locus(other) != locus(name)]
        if not others:
            continue
        x = np.concatenate([measured[other][0]["vectors"] for other in others])
        y = np.concatenate([measured[other][1] for other in others])
        usable = np.isfinite(x).all(1)
        fit = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 5, 13)))
        fit.fit(x[usable], y[usable])
        prediction = np.full(len(found["vectors"]), np.nan)
        here = np.isfinite(found["vectors"]).all(1)
        prediction[here] = fit.predict(found["vectors"][here])
        predictions[name] = prediction
    return predictions


def main():
    options = parse()
    elements, sequences = read_elements(options.data, options.most)
    chosen = options.elements or list(elements)
    model = load_model(options.model, "masked-lm", options.device)
    motifs = read_meme(options.data / "motifs/jaspar2024_core_vertebrates.meme.gz")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "elements.fa"
        path.write_text("".join(f">{n}\n{s}\n" for n, s in sequences.items()))
        genome = Genome.open(path, cache=folder)
        measured, baselines = {}, {}
        for name in chosen:
            variants, effects = elements[name]
            found = score_all(
                model,
                genome,
                variants,
                scores=("llr", "pll"),
                window=options.window,
                vectors=True,
            )
            measured[name] = found, effects
            baselines[name] = composition_changes(genome, variants) | {
                "motif change": motif_changes(genome, variants, motifs)
            }
            print(name, len(variants), "scored", flush=True)
    ridge = ridge_scores(measured)
    results = {}
    for name, (found, effects) in measured.items():
        scores = {key: found[key] for key in ("llr", "pll", "distance")}
        scores |= baselines[name]
        if name in ridge:
            scores["ridge"] = ridge[name]
        results[name] = {k: correlations(v, effects) for k, v in scores.items()}
    write(options, results)


def write(options, results):
    names = list(next(iter(results.values())))
    means = {}
    for name in names:
        rows = [r[name] for r in results.values() if r.get(name)]
        if not rows:
            continue
        keys = ("pearson", "spearman", "pearson_size", "spearman_size")
        means[name] = {key: float(np.mean([r[key] for r in rows])) for key in keys}
        means[name]["elements"] = len(rows)
        print(f"{name:14}", {k: round(v, 3) for k, v in means[name].items()})
    settings = {key: str(value) for key, value in vars(options).items()}
    content = {"settings": settings, "mean": means, "elements": results}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
