"""ClinVar and 1000 Genomes slices: what zero-shot scores are worth.

    python benchmarks/variants_human.py --model CHECKPOINT --data ../shared/data

ClinVar (October 2018, chr1 0.95-2.5 Mb): AUROC of pathogenic against benign
substitutions, all and by consequence, with a bootstrap interval; 0.5 is chance. 1000
Genomes (chr20 1-2 Mb): mean log-likelihood ratio by frequency of the alternate allele,
and AUROC of rare (< 0.1 %) against common (>= 5 %) ones.
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
from machine import save_results
from sklearn.metrics import roc_auc_score
from variant_tools import composition_changes, score_all

from crossdna.analysis.inference import load_model
from crossdna.analysis.statistics import metric_interval
from crossdna.data.genome import Genome
from crossdna.data.variants import match_contigs
from crossdna.data.vcf import VariantFile

CLASSES = {
    "Pathogenic": 1,
    "Likely_pathogenic": 1,
    "Pathogenic/Likely_pathogenic": 1,
    "Benign": 0,
    "Likely_benign": 0,
    "Benign/Likely_benign": 0,
}
BINS = (0, 0.001, 0.01, 0.05, 0.5, 1.01)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", default="variants-human", help="of results/NAME.json")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--most", type=int, help="variants of 1000 Genomes")
    return parser.parse_args()


def substitutions(path, genome, most):
    """Single-base, single-allele records: (contig, position, ref, alt) and INFO."""
    records = [
        record
        for record in VariantFile.open(path).records()
        if len(record.ref) == 1 and len(record.alts) == 1 and len(record.alts[0]) == 1
    ]
    records = records[:: max(1, len(records) // most)] if most else records
    names = match_contigs({record.contig for record in records}, genome.contigs)
    variants, info = [], []
    for record in records:
        fields = record.text.split("\t")[7].split(";")
        pairs = [part.split("=", 1) for part in fields if "=" in part]
        variants.append(
            (names[record.contig], record.position, record.ref, record.alts[0])
        )
        info.append(dict(pairs))
    return variants, info


def auroc(labels, scores):
    usable = np.isfinite(scores)
    labels, scores = labels[usable], scores[usable]
    if len(set(labels.tolist())) < 2 or min(np.bincount(labels)) < 5:
        return {"positive": int(labels.sum()), "negative": int((1 - labels).sum())}
    found = metric_interval(roc_auc_score, labels, scores)
    return {
        "auroc": [found.estimate, found.low, found.high],
        "positive": int(labels.sum()),
        "negative": int((1 - labels).sum()),
    }


def clinvar(options, model):
    data = options.data
    genome = Genome.open(data / "genomes/hg19_chr1_1-9876492.fa.gz")
    path = data / "variants/clinvar_chr1_0.95-2.5Mb_b37.vcf.gz"
    variants, info = substitutions(path, genome, None)
    called = [row.get("CLINICAL_SIGNIFICANCE") in CLASSES for row in info]
    variants = [v for v, keep in zip(variants, called, strict=True) if keep]
    info = [row for row, keep in zip(info, called, strict=True) if keep]
    labels = np.array([CLASSES[row["CLINICAL_SIGNIFICANCE"]] for row in info])
    kinds = [row.get("MOLECULAR_CONSEQUENCE", ":none").split(":")[-1] for row in info]
    scores = all_scores(options, model, genome, variants)
    results = {}
    for kind in ("all", *sorted(set(kinds))):
        rows = np.array([kind in ("all", k) for k in kinds])
        results[kind] = {
            name: auroc(labels[rows], values[rows]) for name, values in scores.items()
        }
    return results


def all_scores(options, model, genome, variants, kinds=("llr", "entropy", "distance")):
    """Scores that should grow with the harm, so ratios change their sign."""
    found = score_all(model, genome, variants, scores=kinds, window=options.window)
    changes = composition_changes(genome, variants)
    signs = {"llr": -1, "entropy": -1, "distance": 1}
    scores = {("-" * (signs[k] < 0)) + k: signs[k] * found[k] for k in kinds}
    return scores | {
        "CpG lost": -changes["CpG change"],
        "transversion": 1 - changes["transition"],
    }


def frequencies(options, model):
    data = options.data
    genome = Genome.open(data / "genomes/hg19_chr20_1000001-2000000.fa.gz")
    path = data / "variants/1000G_chr20_1-2Mb_hg19.vcf.gz"
    variants, info = substitutions(path, genome, options.most)
    frequency = np.array([float(row["AF"].split(",")[0]) for row in info])
    scores = all_scores(options, model, genome, variants, kinds=("llr", "entropy"))
    bins = []
    for low, high in itertools.pairwise(BINS):
        rows = (frequency >= low) & (frequency < high)
        values = -scores["-llr"][rows]
        error = values.std() / max(1, len(values)) ** 0.5 if len(values) else np.nan
        bins.append(
            {
                "from": low,
                "to": min(high, 1),
                "n": int(rows.sum()),
                "mean_llr": float(values.mean()) if len(values) else None,
                "standard_error": float(error),
            }
        )
    extreme = (frequency < 0.001) | (frequency >= 0.05)
    rare = (frequency[extreme] < 0.001).astype(int)
    return {
        "bins": bins,
        "rare against common": {
            name: auroc(rare, values[extreme]) for name, values in scores.items()
        },
    }


def main():
    options = parse()
    model = load_model(options.model, "masked-lm", options.device)
    rows = {
        "clinvar": clinvar(options, model),
        "1000 genomes": frequencies(options, model),
    }
    settings = {k: str(v) for k, v in vars(options).items() if k != "name"}
    print(json.dumps(rows, indent=1))
    print(save_results(options.name, rows, **settings))


if __name__ == "__main__":
    main()
