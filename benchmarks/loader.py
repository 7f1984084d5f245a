"""How fast windows are drawn and masked, on one core.

    python benchmarks/loader.py [--fasta data/sacCer3/sacCer3.fa.gz] [--length 1024]

Prints one JSON object: windows and bases a second for drawing alone, for drawing and
masking, and for the DataLoader with the training collator's work (stacking included).
The target is 5 million masked bases a second: far more than any model learns from.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from crossdna.data.genome import Genome
from crossdna.data.masking import MaskingConfig, mask_bases
from crossdna.data.regions import whole_contigs
from crossdna.data.windows import Source, WindowDataset

YEAST = Path(__file__).resolve().parents[1] / "data/sacCer3/sacCer3.fa.gz"


def rate(batches, length):
    """Windows a second of an iterable of batches; the first batch is not counted."""
    batches = iter(batches)
    next(batches)
    windows, start = 0, time.perf_counter()
    for batch in batches:
        windows += batch
    seconds = time.perf_counter() - start
    per_second = windows / seconds
    return {
        "windows_per_s": round(per_second),
        "bases_per_s": round(per_second * length),
    }


def drawn(dataset, batch_size, masking=None):
    """Draw all samples in order, masked when `masking` is given; gives batch sizes."""
    for first in range(0, len(dataset), batch_size):
        batch = dataset.batch(range(first, min(first + batch_size, len(dataset))))
        if masking:
            mask_bases(
                batch.ids, batch.indices, seed=0, config=masking, weights=batch.weights
            )
        yield len(batch.ids)


def collate(windows):
    """Do what a training collator does."""
    masked = mask_bases(
        np.stack([window.ids for window in windows]),
        [window.index for window in windows],
        seed=0,
        config=MaskingConfig(),
        weights=np.stack([window.weights for window in windows]),
    )
    return [torch.from_numpy(array) for array in masked]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fasta", type=Path, default=YEAST)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--samples", type=int, default=20_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    genome = Genome.open(arguments.fasta)
    start = time.perf_counter()
    Genome.open(arguments.fasta)
    seconds = time.perf_counter() - start
    length, batch_size = arguments.length, arguments.batch_size
    dataset = WindowDataset(
        [Source("benchmark", genome, whole_contigs(genome.contigs))],
        length=length,
        samples=arguments.samples,
        seed=0,
    )
    loader = DataLoader(dataset, batch_size=batch_size, collate_fn=collate)
    spans = MaskingConfig(mean_span=6.0)
    result = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "numpy": np.__version__,
        "length": length,
        "batch_size": batch_size,
        "open_ms": round(seconds * 1e3, 2),
        "draw": rate(drawn(dataset, batch_size), length),
        "draw_and_mask": rate(drawn(dataset, batch_size, MaskingConfig()), length),
        "draw_and_mask_spans": rate(drawn(dataset, batch_size, spans), length),
        "dataloader": rate((len(batch[0]) for batch in loader), length),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
