"""How fast the models run, in bases per second and against the machine's limits.

    python benchmarks/speed.py                # this machine's CPU, the whole table
    python benchmarks/speed.py --only crossdna --lengths 1024 --modes forward
    python benchmarks/speed.py --device cuda --dtypes bf16

Every row is measured next to a matrix product (2048^3, in the same precision) of the
same moment, so that ratios hold when the machine's speed drifts. Operations are counted
in code (`operations_per_base`). Results go to benchmarks/results/speed-DEVICE.json.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import resource
import statistics
import time
from unittest import mock

import torch
from machine import save_results
from torch.nn import functional as F

import crossdna.models.crossdna.layers as crossdna_layers
import crossdna.models.linear as linear_module
from crossdna import CrossDNAConfig, CrossDNAForMaskedLM, alphabet
from crossdna.ops.delta_rule import delta_rule
from crossdna.ops.window_attention import window_attention
from crossdna.training.pretraining_objectives import (
    CrossDNAObjective,
    ObjectiveSettings,
)

TOKENS = 8192
MATMUL = 2048
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def visible_keys(length, window):
    """Mean number of keys that a query of a causal sliding window sees."""
    full = max(0, length - window)
    ramp = min(length, window)
    return (ramp * (ramp + 1) / 2 + full * window) / length


def operations_per_base(config, length):
    """Multiplications and additions of one forward pass, per base.

    Weights once each; the delta rule's two reads and one write of a K x V state per
    head; attention over the visible keys.
    """
    with torch.device("meta"):
        model = CrossDNAForMaskedLM(config)
    weights = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    layers = 2 * config.depth
    state = config.num_heads * config.head_dim * config.value_dim
    keys = visible_keys(min(length, config.block_size or length), config.window_size)
    if config.block_context == "recurrent":
        keys = visible_keys(length, config.window_size)
    return 2 * (weights + layers * (3 * state + 2 * config.d_model * keys))


def build_crossdna():
    return CrossDNAForMaskedLM(CrossDNAConfig())


def build_esm():
    """The Nucleotide Transformer's architecture, one id per base."""
    from transformers import EsmConfig, EsmForMaskedLM

    return EsmForMaskedLM(
        EsmConfig(
            vocab_size=8,
            hidden_size=256,
            num_hidden_layers=10,
            num_attention_heads=8,
            intermediate_size=1024,
            position_embedding_type="rotary",
            max_position_embeddings=2**20,
            pad_token_id=6,
            mask_token_id=5,
        )
    )


def build_mamba2():
    from transformers import Mamba2Config, Mamba2ForCausalLM

    return Mamba2ForCausalLM(
        Mamba2Config(
            vocab_size=8,
            hidden_size=384,
            num_hidden_layers=9,
            num_heads=12,
            head_dim=64,
            state_size=64,
            n_groups=1,
            pad_token_id=6,
            bos_token_id=0,
            eos_token_id=7,
        )
    )


BUILDERS = {
    "crossdna": build_crossdna,
    "crossdna-straightforward": build_crossdna,
    "esm": build_esm,
    "mamba2": build_mamba2,
}


@contextlib.contextmanager
def straightforward():
    """The same network without this project's fast paths: torch's own linear layers,
    whole length through each layer, chunked PyTorch operators."""
    with (
        mock.patch.object(linear_module, "linear", F.linear),
        mock.patch.object(crossdna_layers, "TILE_ROWS", 2**62),
        mock.patch.object(
            crossdna_layers,
            "delta_rule",
            lambda *a, **k: delta_rule(*a, **k, backend="torch"),
        ),
        mock.patch.object(
            crossdna_layers,
            "window_attention",
            lambda *a, **k: window_attention(*a, **k, backend="torch"),
        ),
    ):
        yield


def seconds(call, device, repeats, *, warm=True):
    """Median of timed calls, after one that is not counted."""
    if warm:
        call()
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def matmul_rate(device, dtype, repeats=7):
    """Operations per second of torch's own matrix product."""
    a, b = (torch.randn(MATMUL, MATMUL, device=device, dtype=dtype) for _ in range(2))
    return 2 * MATMUL**3 / seconds(lambda: a @ b, device, repeats)


def peak_memory(device):
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forward_call(model, ids, autocast):
    def call():
        with torch.inference_mode(), autocast():
            model(input_ids=ids)

    return call


def training_call(model, ids, autocast):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def call():
        with autocast():
            logits = model(input_ids=ids).logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), ids.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return call


def pretraining_call(model, ids, autocast):
    """The training step with the two teachers and all terms of the released recipe."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    settings = ObjectiveSettings(semantic_warmup_steps=1, gate_freeze_steps=0)
    objective = CrossDNAObjective(settings, model)
    objective.teacher.to(ids.device)

    def call():
        objective.prepare(model, 1000)
        with autocast():
            output = model(input_ids=ids, **objective.forward_options)
            terms = objective.auxiliary_terms(model, output, ids, 1000)
        logits = output.logits.flatten(0, 1).float()
        loss = F.cross_entropy(logits, ids.flatten())
        for term in terms:
            loss = loss + term.weight * term.value
        loss.backward()
        optimizer.step()
        objective.after_update(model)
        optimizer.zero_grad(set_to_none=True)

    return call


# Lengths of the whole table; one length tells what a training step costs per base.
LENGTHS = {
    "forward": [200, 1024, 16_384],
    "training step": [1024],
    "pretraining step": [1024],
}
CALLS = {
    "forward": forward_call,
    "training step": training_call,
    "pretraining step": pretraining_call,
}


def measure(name, mode, length, dtype_name, device, repeats):
    """One row of the table."""
    torch.manual_seed(0)
    dtype = DTYPES[dtype_name]
    model = BUILDERS[name]().to(device).train(mode != "forward")
    batch = max(1, TOKENS // length)
    ids = torch.randint(0, alphabet.NUM_BASES, (batch, length), device=device)

    def autocast():
        return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)

    make = CALLS[mode]
    plain = (
        straightforward()
        if name.endswith("straightforward")
        else contextlib.nullcontext()
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = matmul_rate(device, dtype)
    with plain:
        duration = seconds(make(model, ids, autocast), device, repeats)
    rate = (before + matmul_rate(device, dtype)) / 2
    row = {
        "model": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "mode": mode,
        "dtype": dtype_name,
        "length": length,
        "batch": batch,
        "seconds": duration,
        "bases_per_second": batch * length / duration,
        "matmul_operations_per_second": rate,
        "peak_memory_bytes": peak_memory(device),
    }
    if name.startswith("crossdna"):
        # The teachers' work is not counted: it is overhead of the training step.
        passes = 1 if mode == "forward" else 3
        operations = passes * operations_per_base(model.config, length)
        row["operations_per_base"] = operations
        row["share_of_matmul"] = row["bases_per_second"] * operations / rate
    del model
    gc.collect()
    return row


def show(row):
    share = f"{row['share_of_matmul']:7.1%}" if "share_of_matmul" in row else "      -"
    print(
        f"{row['model']:26} {row['mode']:16} {row['dtype']:8} {row['length']:>8,}  "
        f"{row['bases_per_second']:>12,.0f} bases/s  {share} of matmul  "
        f"{row['peak_memory_bytes'] / 1e9:6.2f} GB",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--only", nargs="*", default=list(BUILDERS), choices=list(BUILDERS)
    )
    parser.add_argument("--modes", nargs="*", default=list(CALLS), choices=list(CALLS))
    parser.add_argument("--dtypes", nargs="*", default=list(DTYPES))
    parser.add_argument("--lengths", nargs="*", type=int, help="for every mode")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-save", action="store_true")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    rows = []
    for name in arguments.only:
        for mode in arguments.modes:
            for dtype in arguments.dtypes:
                for length in arguments.lengths or LENGTHS[mode]:
                    # Attention over everything is quadratic: its long rows say little
                    # and take hours.
                    if name == "esm" and length > 8192:
                        continue
                    if mode == "pretraining step" and not name.startswith("crossdna"):
                        continue
                    rows.append(
                        measure(name, mode, length, dtype, device, arguments.repeats)
                    )
                    show(rows[-1])
                    if not arguments.no_save:
                        # Row by row: an interrupted table keeps what it has.
                        save_results(
                            f"speed-{device.type}", rows, threads=arguments.threads
                        )


if __name__ == "__main__":
    main()
