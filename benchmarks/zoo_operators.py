"""The operators of HyenaDNA, Caduceus and Mamba beside those of transformers and torch.

    python benchmarks/zoo_operators.py                 # scans and convolutions
    python benchmarks/zoo_operators.py --long          # and 131,072 bases of HyenaDNA
    python benchmarks/zoo_operators.py --threads 1
    python benchmarks/zoo_operators.py --result zoo-operators-avx2    # another machine

Both sides of a row run alternately in the same process, so that the ratio holds when
the machine's speed drifts. The scans are measured against the paths that transformers'
Mamba and Mamba-2 take without compiled kernels (training of the selective scan at short
lengths only: their backward pass is quadratic in length). Results go to
benchmarks/results/zoo-operators.json, or under another name.
"""

from __future__ import annotations

import argparse
import os
import resource
import time

import torch
from machine import save_results
from transformers.models.mamba import modeling_mamba
from transformers.models.mamba2 import modeling_mamba2

from crossdna.models.hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
from crossdna.ops.head_scan import head_scan
from crossdna.ops.long_conv import long_conv
from crossdna.ops.native.build import build
from crossdna.ops.selective_scan import selective_scan

STATES = 16
SCANS = ((1, 1024, 512), (8, 1024, 512), (64, 200, 236), (1, 16384, 512))
TRAININGS = ((1, 256, 512), (16, 200, 236))
# Batch, length, heads, width, states: the recipe's Mamba-2, and its authors' 130M.
HEADS = ((8, 256, 8, 30, 32), (1, 2048, 24, 64, 128))
CONVOLUTIONS = ((1, 1024, 256), (8, 1024, 256), (1, 32768, 256))


def best_of(repeats, **functions):
    """Seconds of the best of some alternating runs of each function."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def row(operator, backend, mode, shape, seconds, other):
    batch, length, channels = shape
    ours, theirs = seconds["ours"], seconds["other"]
    return {
        "operator": operator,
        "backend": backend,
        "mode": mode,
        "batch": batch,
        "length": length,
        "channels": channels,
        "ms": round(ours * 1e3, 2),
        "against": other,
        "against_ms": round(theirs * 1e3, 2),
        "times_faster": round(theirs / ours, 2),
    }


def draw_scan(batch, length, channels):
    torch.manual_seed(0)
    u = torch.randn(batch, length, channels)
    delta = 0.1 * torch.rand(batch, length, channels)
    A = -torch.arange(1.0, STATES + 1).repeat(channels, 1)
    B, C = torch.randn(2, batch, length, STATES).unbind(0)
    return u, delta, A, B, C, torch.randn(channels)


def transformers_scan(u, delta, A, B, C, D):
    """Their function without compiled kernels; they keep channels before length."""
    scan = modeling_mamba.mamba_selective_scan
    scan = getattr(scan, "__wrapped__", scan)
    channels_first = (x.transpose(1, 2) for x in (u, delta, B, C))
    x, dt, b, c = channels_first
    return scan(x, dt, A, b, c, D)


def race(ours, other, operands, mode, repeats):
    """Seconds of two functions, forward, or forward and backward."""
    for x in operands:
        x.requires_grad_(mode == "training")

    def run(function):
        if mode == "training":
            function(*operands).sum().backward()
        else:
            with torch.inference_mode():
                function(*operands)

    return best_of(repeats, ours=lambda: run(ours), other=lambda: run(other))


def draw_heads(batch, length, heads, width, states):
    torch.manual_seed(0)
    u = torch.randn(batch, length, heads, width)
    delta = 0.1 * torch.rand(batch, length, heads)
    B, C = torch.randn(2, batch, length, 1, states).unbind(0)
    return u, delta, -torch.arange(1.0, heads + 1), B, C, torch.randn(heads)


def transformers_chunks(u, delta, A, B, C, D):
    """Their function without compiled kernels, in the chunks of their default."""
    scan = modeling_mamba2.mamba2_chunk_scan
    scan = getattr(scan, "__wrapped__", scan)
    return scan(u, delta, A, B, C, chunk_size=256, D=D)


def heads_row(shape, mode, repeats):
    def ours(*operands):
        return head_scan(*operands, backend="torch").output

    operands = draw_heads(*shape)
    seconds = race(ours, transformers_chunks, operands, mode, repeats)
    batch, length, heads, width, _ = shape
    other = "transformers Mamba-2, slow path"
    shape = batch, length, heads * width
    return row("head_scan", "torch", mode, shape, seconds, other)


def scan_row(backend, shape, mode, repeats):
    def ours(*operands):
        return selective_scan(*operands, backend=backend).output

    seconds = race(ours, transformers_scan, draw_scan(*shape), mode, repeats)
    other = "transformers Mamba, slow path"
    return row("selective_scan", backend, mode, shape, seconds, other)


def plain_fft(u, kernel, skip):
    """All channels at once, along the middle axis."""
    size = 2 * u.shape[1]
    spectrum = torch.fft.rfft(u, size, dim=1) * torch.fft.rfft(kernel, size, dim=0)
    return torch.fft.irfft(spectrum, size, dim=1)[:, : u.shape[1]] + skip * u


def convolution_row(shape, repeats):
    torch.manual_seed(0)
    u, kernel, skip = torch.randn(shape), torch.randn(shape[1:]), torch.randn(shape[2])
    with torch.inference_mode():
        seconds = best_of(
            repeats,
            ours=lambda: long_conv(u, kernel, skip),
            other=lambda: plain_fft(u, kernel, skip),
        )
    other = "one torch.fft over everything"
    return row("long_conv", "torch", "forward", shape, seconds, other)


def long_row():
    """One forward pass of the 1M-context size over 131,072 bases."""
    model = HyenaDNAForCausalLM(HyenaDNAConfig(max_seq_len=1_000_002)).eval()
    ids = torch.randint(7, 11, (1, 131_072))
    start = time.perf_counter()
    with torch.inference_mode():
        model(ids)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "operator": "HyenaDNA large-1m, whole network",
        "mode": "forward",
        "batch": 1,
        "length": ids.shape[1],
        "seconds": round(seconds, 1),
        "bases_per_s": round(ids.shape[1] / seconds),
        "peak_gib": round(peak, 2),
    }


def measured(repeats, *, long):
    """All rows, one after the other."""
    if long:
        yield long_row()
    for mode in ("forward", "training"):
        for shape in HEADS:
            yield heads_row(shape, mode, repeats)
    for backend in ("native", "torch"):
        for shape in SCANS:
            yield scan_row(backend, shape, "forward", repeats)
        for shape in TRAININGS:
            yield scan_row(backend, shape, "training", 1)
    for shape in CONVOLUTIONS:
        yield convolution_row(shape, repeats)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--long", action="store_true", help="131,072 bases, minutes")
    parser.add_argument("--result", default="zoo-operators", help="name of the file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = os.getloadavg()[0]
    build()
    rows = []
    for line in measured(arguments.repeats, long=arguments.long):
        print(line, flush=True)
        rows.append(line)
    path = save_results(
        arguments.result, rows, threads=arguments.threads, load_at_start=round(load, 1)
    )
    print(path)


if __name__ == "__main__":
    main()
