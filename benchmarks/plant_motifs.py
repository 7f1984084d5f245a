"""Which JASPAR motifs mark plant promoters, and does a model look at them?

    python benchmarks/plant_motifs.py promoters.csv.gz jaspar.meme.gz
    python benchmarks/plant_motifs.py promoters.csv.gz jaspar.meme.gz --ism ISM-OUTPUT

A position weight matrix gives a sequence the score of its best site on either strand. A
motif is worth something where that score tells promoters (label 1) from other sequences
(label 0), and better than the same matrix with its columns in another order, which has
the same composition: AT-rich promoters need no motif to be told from genes. With --ism
(the output of `crossdna ism` on promoters), the mean importance of the bases in the
best sites of the best motifs is set against that of all bases.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from pathlib import Path

import numpy as np
import torch
from machine import save_results
from torch.nn import functional as F

from crossdna import alphabet
from crossdna.analysis.probe.linear import area_under_roc

PSEUDOCOUNT = 1.0
BEST = 8


def read_motifs(path):
    """Names and log2 odds (width, 4) against equal bases of a MEME file."""
    motifs, name, sites, left, rows = {}, None, 1.0, 0, []
    with gzip.open(path, "rt") as handle:
        for line in handle:
            words = line.split()
            if line.startswith("MOTIF"):
                name = " ".join(words[1:])
            elif line.startswith("letter-probability"):
                left = int(words[words.index("w=") + 1])
                sites, rows = float(words[words.index("nsites=") + 1]), []
            elif left and words:
                rows.append([float(word) for word in words])
                left -= 1
                if not left:
                    counts = np.array(rows) * sites + PSEUDOCOUNT / 4
                    shares = counts / counts.sum(1, keepdims=True)
                    motifs[name] = np.log2(4 * shares)
    return motifs


def shuffled(motif, rng):
    """The same columns in another order."""
    return motif[rng.permutation(len(motif))]


def best_sites(motifs, ids):
    """Best score of each motif in each sequence, and where it lies.

    Parameters
    ----------
    motifs : list of (width, 4)
    ids : (sequences, length)

    Returns
    -------
    scores : (sequences, motifs)
    starts : (sequences, motifs)
        0-based, forward strand.
    """
    width = max(map(len, motifs))
    kernel = np.zeros((2, len(motifs), 4, width), np.float32)
    for number, motif in enumerate(motifs):
        kernel[0, number, :, : len(motif)] = motif.T
        kernel[1, number, :, : len(motif)] = motif[::-1, ::-1].T
    onehot = F.one_hot(torch.from_numpy(ids).long(), 5)[..., :4].float()
    onehot = F.pad(onehot.transpose(1, 2), (0, width))
    weights = torch.from_numpy(kernel.reshape(-1, 4, width))
    lengths = torch.tensor([len(motif) for motif in motifs])
    scores, starts = [], []
    for part in onehot.split(64):
        found = F.conv1d(part, weights)
        found = found.view(len(part), 2, len(motifs), -1).amax(1)
        places = torch.arange(found.shape[-1])
        inside = places <= (ids.shape[1] - lengths)[:, None]
        best = found.masked_fill(~inside, -torch.inf).max(-1)
        scores.append(best.values)
        starts.append(best.indices)
    return torch.cat(scores).numpy(), torch.cat(starts).numpy()


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
    inside, everywhere = {name: [] for name in names}, []
    for _, record in each.group_by("chrom", maintain_order=True):
        worth = record["importance"].to_numpy()
        ids = alphabet.encode("".join(record["ref"]))[None]
        everywhere.append(worth)
        _, starts = best_sites([motifs[name] for name in names], ids)
        for name, start in zip(names, starts[0], strict=True):
            inside[name].append(worth[start : start + len(motifs[name])].mean())
    return {
        "records": len(everywhere),
        "score": score,
        "all_bases": float(np.concatenate(everywhere).mean()),
        "in_best_site": {name: float(np.mean(v)) for name, v in inside.items()},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sequences", type=Path, help="CSV with sequence and label")
    parser.add_argument("motifs", type=Path, help="MEME file, gzipped")
    parser.add_argument("--most", type=int, default=500, help="sequences of a label")
    parser.add_argument("--ism", type=Path, help="output of crossdna ism on promoters")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    motifs = read_motifs(arguments.motifs)
    ids, labels = read_sequences(arguments.sequences, arguments.most)
    rng = np.random.default_rng(0)
    controls = [shuffled(motif, rng) for motif in motifs.values()]
    scores, _ = best_sites([*motifs.values(), *controls], ids)
    aurocs = [area_under_roc(labels, column) for column in scores.T]
    rows = [
        {"motif": name, "auroc": own, "shuffled_columns": other}
        for name, own, other in zip(
            motifs, aurocs[: len(motifs)], aurocs[len(motifs) :], strict=True
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
        names = [row["motif"] for row in rows[:BEST]]
        found = attribution(arguments.ism, motifs, names)
        print(json.dumps(found, indent=1))
    save_results(
        "plant-motifs", rows[:20], sequences=len(labels), motifs=len(rows), ism=found
    )


if __name__ == "__main__":
    main()
