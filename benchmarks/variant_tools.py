"""What the variant benchmarks share: scores of lists of variants, and baselines."""

import gzip

import numpy as np
import torch

from crossdna import alphabet
from crossdna.analysis.variants.readings import embedding_differences
from crossdna.analysis.variants.score import ScoreSettings, score_alleles
from crossdna.data.variants import read_allele, window_pair


def score_all(model, genome, variants, *, scores, window, batch_size=32, vectors=False):
    """Score (contig, position, ref, alt) in their order.

    Returns
    -------
    dict of name to (variants,), and ``vectors`` (variants, channels) when asked for
    """
    settings = ScoreSettings(scores=scores, window=window, batch_size=batch_size)
    alleles = [read_allele(genome, *variant, window) for variant in variants]
    found, differences = [], []
    for start in range(0, len(alleles), 256):
        part = alleles[start : start + 256]
        found.append(score_alleles(model, genome, part, settings))
        if vectors:
            usable = [row for row, allele in enumerate(part) if not allele.skip]
            rows = np.full((len(part), model.config.hidden_size), np.nan)
            pairs = [window_pair(genome, part[row], window) for row in usable]
            if pairs:
                rows[usable] = embedding_differences(model, pairs, settings)
            differences.append(rows)
    results = {name: np.concatenate([f[name] for f in found]) for name in scores}
    if vectors:
        results["vectors"] = np.concatenate(differences)
        results["distance"] = np.linalg.norm(results["vectors"], axis=1)
    return results


def composition_changes(genome, variants):
    """Baselines that need no model: change of GC and of CpG, and transitions."""
    gc, cpg, transition = [], [], []
    for contig, position, ref, alt in variants:
        left = alphabet.decode(genome.fetch_padded(contig, position - 1, position))
        end = position + len(ref)
        right = alphabet.decode(genome.fetch_padded(contig, end, end + 1))
        before, after = left + ref + right, left + alt + right
        gc.append(sum(map(alt.count, "GC")) - sum(map(ref.count, "GC")))
        cpg.append(after.count("CG") - before.count("CG"))
        transition.append({ref, alt} in ({"A", "G"}, {"C", "T"}))
    return {
        "GC change": np.array(gc, float),
        "CpG change": np.array(cpg, float),
        "transition": np.array(transition, float),
    }


def read_meme(path):
    """Position weights of a MEME file: (motifs, 4, width) log-odds against 1/4."""
    motifs, rows, left = [], [], 0
    with gzip.open(path, "rt") as lines:
        for line in lines:
            if line.startswith("letter-probability"):
                left, rows = int(line.split("w=")[1].split()[0]), []
            elif left and line.strip():
                rows.append([float(value) for value in line.split()[:4]])
                left -= 1
                if not left:
                    motifs.append(np.array(rows).T)
    width = max(motif.shape[1] for motif in motifs)
    weights = np.zeros((len(motifs), 4, width), np.float32)
    for weight, motif in zip(weights, motifs, strict=True):
        weight[:, : motif.shape[1]] = np.log2((motif + 0.001) / 1.004 / 0.25)
    return torch.from_numpy(weights), np.array([motif.shape[1] for motif in motifs])


def motif_changes(genome, variants, motifs):
    """Largest change of any motif's best site, signed: (variants,)."""
    weights, widths = motifs
    kernel = torch.cat([weights, weights.flip(1, 2)])
    # A turned motif begins with the padding of its matrix, not with its first base.
    reach = kernel.shape[2] - 1
    changes = []
    for contig, position, ref, alt in variants:
        left = genome.fetch_padded(contig, position - reach, position)
        end = position + len(ref)
        right = genome.fetch_padded(contig, end, end + reach)
        best = []
        for allele in (ref, alt):
            ids = np.concatenate([left, alphabet.encode(allele), right]).astype(int)
            one_hot = torch.from_numpy(np.eye(5, dtype=np.float32)[ids][:, :4].T)
            sites = torch.nn.functional.conv1d(one_hot[None], kernel, padding=reach)
            both = sites[0].max(1).values.view(2, len(widths))
            best.append(both.max(0).values.clamp(min=0))
        change = best[1] - best[0]
        changes.append(float(change[change.abs().argmax()]))
    return np.array(changes)
