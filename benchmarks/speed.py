"""How fast the models run, in bases per second and against the machine's limits.

    python benchmarks/speed.py                      # the CPU, the whole table
    python benchmarks/speed.py --rows "crossdna forward .* 1024"
    python benchmarks/speed.py --resume             # what a cut run has left out
    python benchmarks/speed.py --device cuda --dtypes bf16
    python benchmarks/speed.py --rows mamba2        # slow: only where it is named
    python benchmarks/speed.py --profile --rows "crossdna training step"
    python benchmarks/speed.py --list

Every row is measured beside a matrix product (2048^3, in the same precision) and a copy
of the same moment, so that ratios hold when the machine's speed drifts; operations and
bytes are counted in code (peers.py). On a CPU each row runs in a process of its own, so
that its peak memory is its own. Rows are kept one by one in
benchmarks/results/speed-DEVICE.json, a file for each generation of CPUs; a new run
replaces the rows that it measures. A CPU without bfloat16 products has no bf16 rows.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import os
import re
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from machine import RESULTS, commit, cpu_generation, save_results
from peers import PEERS, build_crossdna
from torch.nn import functional as F

import crossdna.models.crossdna.layers as crossdna_layers
import crossdna.models.linear as linear_module
from crossdna import alphabet
from crossdna.analysis.variants.score import ScoreSettings, score_alleles
from crossdna.data.genome import Genome
from crossdna.data.variants import read_allele
from crossdna.memory import keep_freed_memory
from crossdna.models.crossdna import bridge, streams
from crossdna.models.execution import Execution, compile_layers
from crossdna.ops import fusion
from crossdna.ops.delta_rule import delta_rule
from crossdna.ops.gates import blend_norm, rms_norm, swiglu
from crossdna.ops.linear import widened
from crossdna.ops.short_conv import dilated_conv, short_conv
from crossdna.ops.window_attention import window_attention
from crossdna.training.pretraining_objectives import (
    CrossDNAObjective,
    ObjectiveSettings,
)

__all__ = ["build_crossdna", "forward_call", "peak_memory", "seconds"]

TOKENS = {"cpu": 8192, "cuda": 131_072}
"""Bases in a batch, unless one sequence is longer."""
MATMUL, COPIED = 2048, 2**26
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
LENGTHS = {
    "forward": [200, 1024, 16_384, 131_072, 1_000_000],
    "one sequence": [200],
    "training step": [1024],
    "pretraining step": [1024],
    "variant scoring": [512],
}
ONLY_CROSSDNA = ("pretraining step", "variant scoring", "one sequence")
LONGEST = {
    "esm": 8192,
    "mamba2": 1024,
    "caduceus": 16_384,
    "hyenadna": 16_384,
    "crossdna-straightforward": 16_384,
}
"""Attention over everything is quadratic; nobody waits for the others' long rows."""
VARIANTS = 32


class Row(NamedTuple):
    """What a row of the table measures."""

    model: str
    mode: str
    dtype: str
    length: int

    @property
    def text(self):
        return f"{self.model} {self.mode} {self.dtype} {self.length}"


def table(device, dtypes, pattern):
    """All rows of the table whose text the pattern matches somewhere."""
    rows = []
    for model in PEERS:
        for mode, lengths in LENGTHS.items():
            rows += [Row(model, mode, d, n) for d in dtypes for n in lengths]
    return [row for row in rows if _sensible(row, device, pattern)]


def _sensible(row, device, pattern):
    own = row.model.startswith("crossdna")
    if row.length > LONGEST.get(row.model, 2**62):
        return False
    if row.mode in ONLY_CROSSDNA and not own:
        return False
    if row.model == "crossdna-compiled" and (
        device == "cpu" or row.mode in ("variant scoring", "one sequence")
    ):
        return False
    if row.model == "mamba2" and "mamba2" not in pattern:
        return False
    return re.search(pattern, row.text) is not None


@contextlib.contextmanager
def straightforward():
    """The same network without this project's fast paths: torch's own linear layers,
    whole length through each layer, chunked PyTorch operators. On a GPU attention and
    delta rule stay, but nothing is fused around them, and blocks are read in turn."""
    plain = {"delta_rule": delta_rule, "window_attention": window_attention}
    if torch.cuda.is_available():
        plain = {
            "rms_norm": rms_norm,
            "swiglu": swiglu,
            "blend_norm": blend_norm,
            "short_conv": short_conv,
        }
    patches = [
        mock.patch.object(linear_module, "linear", F.linear),
        mock.patch.object(crossdna_layers, "TILE_ROWS", 2**62),
        mock.patch.object(streams, "joins_blocks", return_value=False),
        mock.patch.object(fusion, "PLAIN", {"kernel_operands", "turned"}),
    ]
    if torch.cuda.is_available():
        convolved = functools.partial(dilated_conv, backend="torch")
        patches.append(mock.patch.object(bridge, "dilated_conv", convolved))
    patches += [
        mock.patch.object(
            crossdna_layers, name, functools.partial(function, backend="torch")
        )
        for name, function in plain.items()
    ]
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def _timed(call, device):
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def seconds(call, device, repeats, *, warm=True):
    """Median of timed calls, after one that is not counted."""
    first = _timed(call, device) if warm else 0.0
    # Long calls say enough in fewer repeats.
    if first > 1:
        repeats = min(repeats, max(1, int(6 / first)))
    return statistics.median(_timed(call, device) for _ in range(repeats))


def matmul_rate(device, dtype, repeats=5):
    """Operations per second of torch's own matrix product."""
    a, b = (torch.randn(MATMUL, MATMUL, device=device, dtype=dtype) for _ in range(2))
    return 2 * MATMUL**3 / seconds(lambda: a @ b, device, repeats)


def copy_rate(device, repeats=3):
    """Bytes per second, read and written, of a copy that no cache holds."""
    a, b = (torch.empty(COPIED, device=device).normal_() for _ in range(2))
    return 2 * 4 * COPIED / seconds(lambda: b.copy_(a), device, repeats)


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


def pretraining_call(model, ids, autocast, *, compiled=False):
    """The training step with the two teachers and all terms of the released recipe."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    settings = ObjectiveSettings(semantic_warmup_steps=1, gate_freeze_steps=0)
    objective = CrossDNAObjective(settings, model)
    objective.teacher.to(ids.device)
    if compiled:
        compile_layers(model, objective.teacher)

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


def scoring_call(model, window, autocast):
    """Log-likelihood ratios of substitutions that share no window, both strands."""
    rng = np.random.default_rng(0)
    folder = tempfile.mkdtemp()
    letters = alphabet.decode(rng.integers(0, 4, 4 * VARIANTS * window, dtype=np.uint8))
    (Path(folder) / "g.fa").write_text(f">c\n{letters}\n")
    genome = Genome.open(Path(folder) / "g.fa", cache=folder)
    alleles = []
    for place in range(window, 3 * VARIANTS * window, 3 * window):
        reference = alphabet.decode(genome.fetch("c", place, place + 1))
        other = "ACGT"["ACGT".index(reference) - 1]
        alleles.append(read_allele(genome, "c", place, reference, other, window))
    settings = ScoreSettings(scores=("llr",), window=window, batch_size=16)

    def call():
        with autocast():
            score_alleles(model, genome, alleles, settings)

    return call


def prepared(row, device):
    """A row's call and how many bases it reads."""
    dtype = DTYPES[row.dtype]
    compiled = row.model == "crossdna-compiled"
    model = PEERS[row.model].build().to(device)
    training = row.mode.endswith("step")
    model.train(training)
    if not training and row.model != "crossdna-straightforward":
        # As verbs do with every model that they only ask.
        Execution(row.dtype).prepare(model)
    batch = max(1, TOKENS[device.type] // row.length)
    if row.mode == "one sequence":
        batch = 1
    ids = torch.randint(0, alphabet.NUM_BASES, (batch, row.length), device=device)
    if device.type == "cpu":
        # As verbs and trainers do, for every model.
        keep_freed_memory()

    def autocast():
        return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)

    if compiled and row.mode != "pretraining step":
        compile_layers(model)
    if row.mode == "variant scoring":
        return (
            model,
            scoring_call(model, row.length, autocast),
            2 * VARIANTS,
            row.length,
        )
    if row.mode == "pretraining step":
        call = pretraining_call(model, ids, autocast, compiled=compiled)
    elif row.mode == "training step":
        call = training_call(model, ids, autocast)
    else:
        call = forward_call(model, ids, autocast)
        if row.length > 100_000:
            forward_call(model, ids[:, :4096], autocast)()
    return model, call, batch, row.length


def measure(row, device, repeats):
    """One row of the table."""
    torch.manual_seed(0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    dtype = DTYPES[row.dtype]
    slow = row.model == "crossdna-straightforward"
    with straightforward() if slow else contextlib.nullcontext():
        model, call, batch, length = prepared(row, device)
        limits = matmul_rate(device, dtype)
        duration = seconds(call, device, repeats, warm=length <= 100_000)
    rate = batch * length / duration
    result = row._asdict() | {
        "parameters": sum(p.numel() for p in model.parameters()),
        "batch": batch,
        "seconds": duration,
        "bases_per_second": rate,
        "peak_memory_bytes": peak_memory(device),
        "matmul_operations_per_second": (limits + matmul_rate(device, dtype)) / 2,
        "copy_bytes_per_second": copy_rate(device),
    }
    if row.mode == "variant scoring":
        result["variants_per_second"] = VARIANTS / duration
    return result | shares(row, model, result)


def shares(row, model, result):
    """How near the row comes to what the machine's units allow."""
    count = PEERS[row.model].work
    if count is None:
        return {}
    # A training step is three passes; what the teachers do is not counted: it is
    # overhead of the step.
    passes = 3 if row.mode.endswith("step") else 1
    work = count(model, row.length)
    size = 2 if row.dtype == "bf16" else 4
    operations, moved = passes * work.operations, passes * work.numbers * size
    rate = result["bases_per_second"]
    return {
        "operations_per_base": operations,
        "bytes_per_base": moved,
        "share_of_matmul": rate * operations / result["matmul_operations_per_second"],
        "share_of_bandwidth": rate * moved / result["copy_bytes_per_second"],
    }


def profile(row, device, calls=3):
    """Print where the time of a row goes, by kernel (GPU) or operation (CPU)."""
    torch.manual_seed(0)
    slow = row.model == "crossdna-straightforward"
    with straightforward() if slow else contextlib.nullcontext():
        _, call, batch, length = prepared(row, device)
        call()
        activities = [torch.profiler.ProfilerActivity.CPU]
        if device.type == "cuda":
            activities = [torch.profiler.ProfilerActivity.CUDA]
        plain = seconds(call, device, calls)
        with torch.profiler.profile(activities=activities) as recorded:
            for _ in range(calls):
                _timed(call, device)
    kind = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = recorded.key_averages()
    spent = {event.key: getattr(event, kind) / calls / 1e3 for event in events}
    # What starts a kernel is an event too, without a time of its own.
    times = {e.key: e.count / calls for e in events if spent[e.key] > 0}
    total = sum(spent.values())
    print(
        f"{row.text}: {batch} x {length} bases, {plain * 1e3:.1f} ms a call, of them "
        f"{total:.1f} ms in {sum(times.values()):,.0f} kernels or operations"
    )
    for title, order, most in (("longest", spent, 40), ("most often", times, 20)):
        print(f"{title}:")
        for name in sorted(order, key=order.get, reverse=True)[:most]:
            print(f"{spent[name]:9.2f} ms {times[name]:7.0f} x  {name[:110]}")


def apart(row, device, repeats, threads):
    """Measure in a process of its own; on a CPU a fork, before torch has computed."""
    if device.type != "cpu":
        result = measure(row, device, repeats)
        gc.collect()
        return result
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            torch.set_num_threads(threads)
            text = json.dumps(measure(row, device, repeats))
            with os.fdopen(writer, "w") as handle:
                handle.write(text)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as handle:
        text = handle.read()
    if os.waitpid(child, 0)[1]:
        raise SystemExit(f"{row.text}: failed")
    return json.loads(text)


def show(row):
    parts = [f"{row['model']:25}{row['mode']:17}{row['dtype']:8}{row['length']:>10,}"]
    parts.append(f"{row['bases_per_second']:>13,.0f} bases/s")
    for name in ("matmul", "bandwidth"):
        share = row.get(f"share_of_{name}")
        parts.append(f"{share:7.1%} of {name}" if share else " " * 18)
    parts.append(f"{row['peak_memory_bytes'] / 1e9:6.2f} GB")
    print("  ".join(parts), flush=True)


def kind_of(device):
    """Rates of CPUs of other generations are not to be mixed."""
    return f"cpu-{cpu_generation()}" if device.type == "cpu" else device.type


def key(row):
    return tuple(row[name] for name in Row._fields)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", default=".", help="regular expression")
    parser.add_argument("--dtypes", nargs="*", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--resume", action="store_true", help="skip what is there")
    parser.add_argument("--list", action="store_true", help="only print the rows")
    parser.add_argument("--no-save", action="store_true")
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cpu" and not widened.cpu_multiplies_bfloat16():
        arguments.dtypes = [dtype for dtype in arguments.dtypes if dtype != "bf16"]
    rows = table(device.type, arguments.dtypes, arguments.rows)
    if arguments.list:
        print("\n".join(row.text for row in rows))
        return
    if arguments.profile:
        torch.set_num_threads(arguments.threads)
        for row in rows:
            profile(row, device)
        return
    name, now = f"speed-{kind_of(device)}", commit()
    path = RESULTS / f"{name}.json"
    known = json.loads(path.read_text())["rows"] if path.is_file() else []
    kept = {key(row): row for row in known}
    for row in rows:
        if arguments.resume and row in kept and kept[row].get("commit") == now:
            continue
        found = apart(row, device, arguments.repeats, arguments.threads)
        kept[row] = found | {"commit": now, "threads": arguments.threads}
        show(kept[row])
        if not arguments.no_save:
            # Row by row: an interrupted table keeps what it has.
            save_results(name, list(kept.values()), threads=arguments.threads)


if __name__ == "__main__":
    main()
