"""Saturation mutagenesis of part of a window: naive batches against reuse, in one run.

    python benchmarks/ism.py --length 1024 --positions 64
    python benchmarks/ism.py --model CHECKPOINT --head

Naive reads each edited window whole. Both are timed alternately on the same bases and
compared; a random CrossDNA of the paper's size is used when no checkpoint is given.
"""

import argparse
import json
import platform
import statistics
import time

import numpy as np
import torch

from crossdna import (
    CrossDNAConfig,
    CrossDNAForMaskedLM,
    CrossDNAForSequenceClassification,
    alphabet,
)
from crossdna.analysis.inference import (
    base_log_probabilities,
    load_model,
    sequence_logits,
)
from crossdna.analysis.variants.reuse import (
    logits_of_one_window,
    marginals_of_one_window,
)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="checkpoint; random weights when not given")
    parser.add_argument("--head", action="store_true", help="a sequence head's output")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--positions", type=int, default=64, help="in the middle")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def open_model(options):
    task = "classification" if options.head else "masked-lm"
    if options.model:
        return load_model(options.model, task, options.device)
    torch.manual_seed(0)
    kind = CrossDNAForSequenceClassification if options.head else CrossDNAForMaskedLM
    return kind(CrossDNAConfig()).eval().to(options.device)


def naive(options, model, ids, positions, bases):
    """Each edited window whole, in batches; both strands."""
    results = []
    for start in range(0, len(positions), options.batch):
        part = positions[start : start + options.batch]
        rows = torch.arange(len(part), device=ids.device)
        edited = ids.repeat(len(part), 1)
        edited[rows, part] = bases[start : start + options.batch]
        if options.head:
            results.append(sequence_logits(model, edited, strand_average=True))
        else:
            logs = base_log_probabilities(model, edited, strand_average=True)
            results.append(logs[rows, part])
    return torch.cat(results)


def reused(options, model, ids, positions, bases):
    """Each edit from where it differs; both strands."""
    if options.head:
        return logits_of_one_window(
            model, ids, positions.tolist(), bases, strand_average=True
        )
    return marginals_of_one_window(model, ids, positions.tolist(), strand_average=True)


def main():
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    model = open_model(options)
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(0, 4, options.length)).to(options.device)
    first = (options.length - options.positions) // 2
    positions = first + torch.arange(options.positions, device=ids.device)
    bases = torch.full_like(positions, alphabet.MASK)
    if options.head:
        bases = (ids[positions] + 1) % alphabet.NUM_BASES
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
    print(
        json.dumps(
            {
                **vars(options),
                "seconds": seconds,
                "speedup": seconds["naive"] / seconds["reused"],
                "processor_seconds": busy,
                "processor_speedup": busy["naive"] / busy["reused"],
                "edits_per_second": options.positions / seconds["reused"],
                "largest_difference": float(difference),
                "machine": platform.processor() or platform.machine(),
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
