"""Throughput of `crossdna score` beside naive scoring, in one run.

    python benchmarks/score_speed.py --windows 512 4096 --variants 64

Naive: every variant by itself, its own masked window in a batch of one, both strands.
Ours: `score_alleles` on all of them. Spread variants share no window; dense ones (every
base of a locus, three alternate alleles each) do. Bases are those of the windows of
both strands. A random CrossDNA of the paper's size is used when no checkpoint is given.
Results go to results/score-speed-DEVICE.json.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import save_results

from crossdna import CrossDNAConfig, CrossDNAForMaskedLM, alphabet
from crossdna.analysis.inference import base_log_probabilities, load_model
from crossdna.analysis.variants.score import ScoreSettings, score_alleles
from crossdna.data.genome import Genome
from crossdna.data.variants import read_allele, window_pair


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="checkpoint; random weights when not given")
    parser.add_argument("--windows", type=int, nargs="+", default=[512, 4096])
    parser.add_argument("--variants", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def naive(model, genome, alleles, window):
    scores = []
    for allele in alleles:
        pair = window_pair(genome, allele, window)
        ids = torch.from_numpy(pair.reference.ids.astype(np.int64))[None]
        ids = ids.to(model.device)
        ids[0, pair.offset] = alphabet.MASK
        logs = base_log_probabilities(model, ids, strand="both")[0, pair.offset]
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


def measure(options, model, genome, alleles, window):
    """Both ways alternately; medians, and the largest difference of their scores."""
    settings = ScoreSettings(scores=("llr",), window=window, batch_size=options.batch)
    methods = {
        "naive": lambda: naive(model, genome, alleles, window),
        "crossdna": lambda: score_alleles(model, genome, alleles, settings)["llr"],
    }
    times = {name: [] for name in methods}
    busy = {name: [] for name in methods}
    scores = {}
    # The first round warms up and does not count.
    for _ in range(options.repeats + 1):
        for name, method in methods.items():
            wall, processor = time.perf_counter(), time.process_time()
            scores[name] = method()
            times[name].append(time.perf_counter() - wall)
            busy[name].append(time.process_time() - processor)
    results = {}
    for name in methods:
        seconds = float(np.median(times[name][1:]))
        results[name] = {
            "variants_per_second": len(alleles) / seconds,
            "bases_per_second": len(alleles) * 2 * window / seconds,
            "processor_seconds": float(np.median(busy[name][1:])),
        }
    difference = np.abs(scores["naive"] - scores["crossdna"]).max()
    return results | {"variants": len(alleles), "largest_difference": float(difference)}


def measure_window(options, model, window):
    rng = np.random.default_rng(0)
    size = 4 * window * max(16, options.variants)
    with tempfile.TemporaryDirectory() as folder:
        letters = alphabet.decode(rng.integers(0, 4, size, dtype=np.uint8))
        (Path(folder) / "g.fa").write_text(f">c\n{letters}\n")
        genome = Genome.open(Path(folder) / "g.fa", cache=folder)
        places = np.arange(options.variants) * 3 * window + window
        locus = size // 2 + np.arange(-(-options.variants // 3))
        chosen = {
            "spread": alleles_at(genome, places, 1, window),
            "dense": alleles_at(genome, locus, 3, window),
        }
        return {
            name: measure(options, model, genome, alleles, window)
            for name, alleles in chosen.items()
        }


def main():
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.model:
        model = load_model(options.model, "masked-lm", options.device)
    else:
        model = CrossDNAForMaskedLM(CrossDNAConfig()).eval().to(options.device)
    rows = {str(w): measure_window(options, model, w) for w in options.windows}
    print(json.dumps(rows, indent=1))
    path = save_results(
        f"score-speed-{torch.device(options.device).type}",
        rows,
        **{key: str(value) for key, value in vars(options).items()},
        threads_used=torch.get_num_threads(),
    )
    print(path)


if __name__ == "__main__":
    main()
