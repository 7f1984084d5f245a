"""Throughput of `crossdna score` beside naive scoring, in one run.

    python benchmarks/score_speed.py --window 512 --variants 64

Naive: every variant by itself, its own masked window in a batch of one, both strands.
Ours: `score_alleles` on all of them. Spread variants share no window; dense ones (every
base of a locus, three alternate alleles each) do. A random CrossDNA of the paper's size
is used when no checkpoint is given.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from crossdna import CrossDNAConfig, CrossDNAForMaskedLM, alphabet
from crossdna.analysis.inference import base_log_probabilities, load_model
from crossdna.analysis.variants.score import ScoreSettings, score_alleles
from crossdna.data.genome import Genome
from crossdna.data.variants import read_allele, window_pair


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="checkpoint; random weights when not given")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--variants", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def naive(model, genome, alleles, window):
    scores = []
    for allele in alleles:
        pair = window_pair(genome, allele, window)
        ids = torch.from_numpy(pair.reference.ids.astype(np.int64))[None]
        ids = ids.to(model.device)
        ids[0, pair.offset] = alphabet.MASK
        logs = base_log_probabilities(model, ids, strand_average=True)[0, pair.offset]
        reference, alternate = alphabet.encode(allele.reference + allele.alternate)
        scores.append(float(logs[alternate] - logs[reference]))
    return np.array(scores)


def alleles_at(genome, positions, alternates, window):
    found = []
    for position in positions:
        ref = alphabet.decode(genome.fetch("c", position, position + 1))
        others = [base for base in alphabet.BASES if base != ref][:alternates]
        found += [
            read_allele(genome, "c", int(position), ref, alt, window) for alt in others
        ]
    return found


def measure(options, model, genome, alleles):
    settings = ScoreSettings(
        scores=("llr",), window=options.window, batch_size=options.batch
    )
    methods = {
        "naive": lambda: naive(model, genome, alleles, options.window),
        "crossdna": lambda: score_alleles(model, genome, alleles, settings)["llr"],
    }
    results, scores = {}, {}
    for name, method in methods.items():
        wall, busy = time.perf_counter(), time.process_time()
        scores[name] = method()
        wall, busy = time.perf_counter() - wall, time.process_time() - busy
        results[name] = {
            "variants_per_second": len(alleles) / wall,
            "bases_per_second": len(alleles) * 2 * options.window / wall,
            "processor_seconds": busy,
        }
    difference = np.abs(scores["naive"] - scores["crossdna"]).max()
    return results | {"variants": len(alleles), "largest_difference": float(difference)}


def main():
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.model:
        model = load_model(options.model, "masked-lm", options.device)
    else:
        model = CrossDNAForMaskedLM(CrossDNAConfig()).eval().to(options.device)
    rng = np.random.default_rng(0)
    size = 4 * options.window * max(16, options.variants)
    with tempfile.TemporaryDirectory() as folder:
        letters = alphabet.decode(rng.integers(0, 4, size, dtype=np.uint8))
        (Path(folder) / "g.fa").write_text(f">c\n{letters}\n")
        genome = Genome.open(Path(folder) / "g.fa", cache=folder)
        places = np.arange(options.variants) * 3 * options.window + options.window
        spread = alleles_at(genome, places, 1, options.window)
        locus = size // 2 + np.arange(-(-options.variants // 3))
        dense = alleles_at(genome, locus, 3, options.window)
        model(torch.zeros(1, options.window, dtype=torch.long, device=model.device))
        results = {
            "spread": measure(options, model, genome, spread),
            "dense": measure(options, model, genome, dense),
        }
    machine = platform.processor() or platform.machine()
    print(json.dumps({**vars(options), "machine": machine, **results}, indent=1))


if __name__ == "__main__":
    main()
