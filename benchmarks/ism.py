"""Saturation mutagenesis of part of a window: naive batches against reuse, in one run.

    python benchmarks/ism.py --positions 32 --threads 1
    python benchmarks/ism.py --config weights/crossdna-small

Naive reads each edited window whole. Both are timed alternately on the same bases and
compared. A masked model is asked for each hidden base, a sequence head (mean pooling;
also with the motif detectors that fine-tuning gives it) for the three substitutions of
each. The time does not depend on the weights: they are random, of the paper's size or
of a checkpoint's configuration. Results go to results/ism.json or ism-CONFIG.json.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from machine import save_results

from crossdna import (
    CrossDNAConfig,
    CrossDNAForMaskedLM,
    CrossDNAForSequenceClassification,
    alphabet,
)
from crossdna.analysis.inference import base_log_probabilities, sequence_logits
from crossdna.analysis.variants.edits import Edit
from crossdna.analysis.variants.reuse import edited_marginals, edited_outputs

# What is asked, and how the configuration differs for it.
ANSWERS = {
    "masked": {},
    "head": {},
    "motif-head": {"head_motifs": 128, "head_width": 64},
}


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, help="checkpoint; default: paper's size")
    parser.add_argument(
        "--answers", nargs="+", choices=list(ANSWERS), default=list(ANSWERS)
    )
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--positions", type=int, default=32, help="in the middle")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def random_model(options, answer):
    torch.manual_seed(0)
    given = options.config and json.loads((options.config / "config.json").read_text())
    config = CrossDNAConfig.from_dict({**(given or {}), **ANSWERS[answer]})
    kind = CrossDNAForSequenceClassification
    if answer == "masked":
        kind = CrossDNAForMaskedLM
    return kind(config).eval().to(options.device)


def naive(options, model, ids, positions, bases):
    """Each edited window whole, in batches; both strands."""
    results = []
    for start in range(0, len(positions), options.batch):
        part = positions[start : start + options.batch]
        rows = torch.arange(len(part), device=ids.device)
        edited = ids.repeat(len(part), 1)
        edited[rows, part] = bases[start : start + options.batch]
        if isinstance(model, CrossDNAForMaskedLM):
            logs = base_log_probabilities(model, edited, strand="both")
            results.append(logs[rows, part])
        else:
            results.append(sequence_logits(model, edited, strand="both"))
    return torch.cat(results)


def reused(options, model, ids, positions, bases):
    """Each edit from where it differs; both strands."""
    places = zip(positions.tolist(), bases.tolist(), strict=True)
    edits = [Edit(0, position, base) for position, base in places]
    masked = isinstance(model, CrossDNAForMaskedLM)
    read = edited_marginals if masked else edited_outputs
    return read(model, ids[None], edits, strand="both")


def measure(options, answer):
    """Both ways alternately: medians, and the largest difference of their answers."""
    model = random_model(options, answer)
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(0, 4, options.length)).to(options.device)
    first = (options.length - options.positions) // 2
    positions = first + torch.arange(options.positions, device=ids.device)
    bases = torch.full_like(positions, alphabet.MASK)
    if answer != "masked":
        others = torch.arange(1, alphabet.NUM_BASES, device=ids.device)
        bases = ((ids[positions, None] + others) % alphabet.NUM_BASES).flatten()
        positions = positions.repeat_interleave(len(others))
    times = {"naive": [], "reused": []}
    processor = {"naive": [], "reused": []}
    for _ in range(options.repeats + 1):
        outputs = {}
        for name, method in (("naive", naive), ("reused", reused)):
            start, busy = time.perf_counter(), time.process_time()
            outputs[name] = method(options, model, ids, positions, bases).cpu()
            times[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - busy)
    difference = (outputs["naive"] - outputs["reused"]).abs().max()
    # The first round warms up and does not count.
    seconds = {name: statistics.median(rounds[1:]) for name, rounds in times.items()}
    # On a CPU that others use too, time on the processor is the fair measure.
    busy = {name: statistics.median(rounds[1:]) for name, rounds in processor.items()}
    return {
        "answer": answer,
        "edits": len(positions),
        "seconds": seconds,
        "speedup": seconds["naive"] / seconds["reused"],
        "processor_seconds": busy,
        "processor_speedup": busy["naive"] / busy["reused"],
        "edits_per_second": len(positions) / seconds["reused"],
        "largest_difference": float(difference),
    }


def main():
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = []
    for answer in options.answers:
        rows.append(measure(options, answer))
        print(json.dumps(rows[-1], indent=1), flush=True)
    name = f"ism-{options.config.name}" if options.config else "ism"
    settings = {key: str(value) for key, value in vars(options).items()}
    print(save_results(name, rows, **settings, threads_used=torch.get_num_threads()))


if __name__ == "__main__":
    main()
