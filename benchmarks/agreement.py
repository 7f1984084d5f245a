"""Do a GPU and a CPU compute the same network? Logits and gradients, real sequence.

    python benchmarks/agreement.py                     # CUDA against the CPU
    python benchmarks/agreement.py --device cpu        # bf16 against float32 on the CPU
    python benchmarks/agreement.py --model weights/crossdna-8m-eukaryote --lengths 1024

The paper-size network (weights as drawn, layers residual and published, or of --model)
reads windows of yeast and the shapes of the golden fixture's lengths; the reference is
float32 on the CPU. Errors are norms of differences over norms. Gradients come from the
kernels of training, "asked" logits from those of inference, once with all bases in
sight and once with 15 % hidden, of which then only the hidden ones count. Results go to
benchmarks/results/agreement-DEVICE.json.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from machine import save_results
from speed import DTYPES
from torch.nn import functional as F
from transformers import AutoModelForMaskedLM

from crossdna import CrossDNAConfig, CrossDNAForMaskedLM
from crossdna.data.genome import Genome
from crossdna.models.execution import Execution
from crossdna.models.strands import asking

YEAST = Path(__file__).resolve().parents[1] / "data/sacCer3/sacCer3.fa.gz"
LENGTHS = (20, 33, 100, 1024, 1500)
"""Shorter than a block, odd, one block, one and a half."""
HIDDEN = 0.15


def windows(length, count):
    genome = Genome.open(YEAST)
    starts = np.random.default_rng(0).integers(1_000_000, size=count)
    rows = [genome.fetch("chrIV", start, start + length) for start in starts]
    return torch.from_numpy(np.stack(rows)).long()


def logits_and_gradients(model, ids, dtype):
    """Logits, and all gradients of their cross-entropy as one vector, both float32."""
    model.zero_grad(set_to_none=True)
    with torch.autocast(ids.device.type, dtype, enabled=dtype != torch.float32):
        logits = model(input_ids=ids).logits
    loss = F.cross_entropy(logits.float().flatten(0, 1), ids.flatten())
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    joined = torch.cat([g.float().flatten() for g in gradients])
    return logits.detach().float().cpu(), joined.cpu()


def best_bases(model, ids):
    """As verbs see them, of a prepared model."""
    with asking(model):
        return model(input_ids=ids.to(model.device)).logits.argmax(-1).cpu()


def same_best_bases(model, ids, device, precision):
    """How often the best base is the same: of all bases, of hidden ones."""
    hidden = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < HIDDEN
    masked = ids.masked_fill(hidden, model.config.mask_token_id)
    exact, found = copy.deepcopy(model), copy.deepcopy(model).to(device)
    Execution().prepare(exact)
    Execution(precision).prepare(found)
    seen, guessed = (
        (best_bases(exact, given) == best_bases(found, given)).float()
        for given in (ids, masked)
    )
    return {
        "same_best_base": seen.mean().item(),
        "same_best_base_hidden": guessed[hidden].mean().item(),
        "hidden_bases": int(hidden.sum()),
    }


def compare(model, ids, device, dtype_name):
    """One row."""
    expected = logits_and_gradients(model, ids, torch.float32)
    moved = model.to(device)
    found = logits_and_gradients(moved, ids.to(device), DTYPES[dtype_name])
    model.to("cpu")
    errors = [
        ((f - e).norm() / e.norm()).item() for f, e in zip(found, expected, strict=True)
    ]
    cosine = F.cosine_similarity(found[1].double(), expected[1].double(), dim=0)
    return {
        "dtype": dtype_name,
        "length": ids.shape[1],
        "logits_error": errors[0],
        "gradient_error": errors[1],
        "gradient_cosine": cosine.item(),
        **same_best_bases(model, ids, device, dtype_name),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", type=Path, help="a checkpoint; else as drawn")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    if arguments.model is None:
        model = CrossDNAForMaskedLM(CrossDNAConfig())
    else:
        model = AutoModelForMaskedLM.from_pretrained(arguments.model)
    model.eval()
    rows = []
    for length in arguments.lengths:
        ids = windows(length, arguments.windows)
        for dtype in DTYPES:
            if device.type == "cpu" and dtype == "float32":
                continue
            rows.append(compare(model, ids, device, dtype))
            print(
                "{length:>6} bases {dtype:8} logits {logits_error:.2e}  best base "
                "{same_best_base:.2%}, hidden {same_best_base_hidden:.2%} of "
                "{hidden_bases}  gradients {gradient_error:.2e} (cosine "
                "{gradient_cosine:.6f})".format(**rows[-1]),
                flush=True,
            )
    print(save_results(f"agreement-{device.type}", rows, model=str(arguments.model)))


if __name__ == "__main__":
    main()
