"""What the variant benchmarks share: scores of lists of variants, and baselines."""

import numpy as np

from crossdna import alphabet
from crossdna.analysis.classical.motifs import MotifScorer
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


def motif_changes(genome, variants, motifs, window):
    """Largest change of any motif's best site over the variant, signed: (variants,)."""
    alleles = [read_allele(genome, *variant, window) for variant in variants]
    usable = [row for row, allele in enumerate(alleles) if not allele.skip]
    chosen = [alleles[row] for row in usable]
    pairs = [window_pair(genome, allele, window) for allele in chosen]
    found = MotifScorer(motifs).differences(chosen, pairs, both=True)
    gain, loss = found["site_gain"], found["site_loss"]
    changes = np.full(len(variants), np.nan)
    changes[usable] = np.where(gain >= -loss, gain, loss)
    return changes
