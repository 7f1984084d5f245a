"""Which JASPAR motifs mark plant promoters, and does a model look at them?

    python benchmarks/plant_motifs.py promoters.csv.gz jaspar.meme.gz
    python benchmarks/plant_motifs.py promoters.csv.gz jaspar.meme.gz --ism ISM-OUTPUT

A position weight matrix gives a sequence the score of its best site on either strand (0
where no stretch fits with p < 0.001, memelite). A motif is worth something where that
score tells promoters (label 1) from other sequences (label 0), and better than the same
matrix with its columns in another order, which has the same composition: AT-rich
promoters need no motif to be told from genes. With --ism (the output of `crossdna ism`
on promoters), the mean importance of the bases in the best sites of the best motifs is
set against that of all bases.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from pathlib import Path

import numpy as np
from machine import save_results

from crossdna import alphabet
from crossdna.analysis.classical.motifs import Motifs, best_sites
from crossdna.analysis.probe.linear import area_under_roc

BEST = 8


def with_controls(motifs, rng):
    """The motifs, and each with the same columns in another order."""
    matrices = dict(motifs.matrices)
    for name, matrix in motifs.matrices.items():
        matrices[f"{name}, shuffled"] = matrix[:, rng.permutation(matrix.shape[1])]
    return motifs._replace(matrices=matrices)


def read_sequences(path, most):
    with gzip.open(path, "rt") as handle:
        rows = list(csv.DictReader(handle))
    rng = np.random.default_rng(0)
    chosen = []
    for label in ("1", "0"):
        own = [row for row in rows if row["label"] == label]
        chosen += [own[i] for i in rng.permutation(len(own))[:most]]
    ids = np.stack([alphabet.encode(row["sequence"]) for row in chosen])
    return ids, np.array([int(row["label"]) for row in chosen])


def attribution(folder, motifs, names):
    """Mean importance of the bases in best sites and of all bases of the records."""
    import polars as pl

    table = pl.read_parquet(folder / "ism.parquet")
    score = next(c for c in table.columns if c not in ("chrom", "pos", "ref", "alt"))
    each = table.group_by("chrom", "pos", "ref", maintain_order=True).agg(
        (-pl.col(score).mean()).alias("importance")
    )
    chosen = motifs._replace(matrices={name: motifs.matrices[name] for name in names})
    inside, everywhere = {name: [] for name in names}, []
    for _, record in each.group_by("chrom", maintain_order=True):
        worth = record["importance"].to_numpy()
        everywhere.append(worth)
        sites = best_sites(chosen, [alphabet.encode("".join(record["ref"]))])
        for name, start in zip(names, sites.starts[0], strict=True):
            if start >= 0:
                width = motifs.matrices[name].shape[1]
                inside[name].append(worth[start : start + width].mean())
    return {
        "records": len(everywhere),
        "score": score,
        "all_bases": float(np.concatenate(everywhere).mean()),
        "in_best_site": {
            name: {"records": len(v), "importance": float(np.mean(v)) if v else None}
            for name, v in inside.items()
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sequences", type=Path, help="CSV with sequence and label")
    parser.add_argument("motifs", type=Path, help="MEME file, gzipped")
    parser.add_argument("--most", type=int, default=500, help="sequences of a label")
    parser.add_argument("--ism", type=Path, help="output of crossdna ism on promoters")
    arguments = parser.parse_args()
    motifs = Motifs.read(arguments.motifs)
    names = list(motifs.matrices)
    ids, labels = read_sequences(arguments.sequences, arguments.most)
    both = with_controls(motifs, np.random.default_rng(0))
    aurocs = [area_under_roc(labels, c) for c in best_sites(both, list(ids)).scores.T]
    rows = [
        {"motif": name, "auroc": own, "shuffled_columns": other}
        for name, own, other in zip(
            names, aurocs[: len(names)], aurocs[len(names) :], strict=True
        )
    ]
    # Better than chance, and than its own composition.
    rows.sort(key=lambda row: max(0.5, row["shuffled_columns"]) - row["auroc"])
    for row in rows[:BEST]:
        print(
            f"{row['motif']:24} AUROC {row['auroc']:.3f}  "
            f"columns shuffled {row['shuffled_columns']:.3f}"
        )
    found = {}
    if arguments.ism:
        best = [row["motif"] for row in rows[:BEST]]
        found = attribution(arguments.ism, motifs, best)
        print(json.dumps(found, indent=1))
    save_results(
        "plant-motifs", rows[:20], sequences=len(labels), motifs=len(rows), ism=found
    )


if __name__ == "__main__":
    main()
