"""Time per base and peak memory of one forward pass from 1 kb to 1 Mb.

    python benchmarks/long_context.py
    python benchmarks/long_context.py --device cuda --dtype bf16

Each length runs in a process of its own, so that its peak memory is its own.
Results go to benchmarks/results/long-context-DEVICE.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import torch
from machine import save_results
from speed import DTYPES, build_crossdna, forward_call, peak_memory, seconds

from crossdna import alphabet


def measure(length, device, dtype_name, threads):
    """One length, in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    dtype = DTYPES[dtype_name]
    model = build_crossdna().to(device).eval()
    ids = torch.randint(0, alphabet.NUM_BASES, (1, length), device=device)

    def autocast():
        return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)

    forward_call(model, ids[:, :4096], autocast)()
    # A single call of a megabase is long enough to time alone.
    repeats = max(1, min(5, 300_000 // length))
    call = forward_call(model, ids, autocast)
    duration = seconds(call, device, repeats, warm=length < 500_000)
    return {
        "length": length,
        "dtype": dtype_name,
        "seconds": duration,
        "microseconds_per_base": duration / length * 1e6,
        "peak_memory_bytes": peak_memory(device),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--lengths",
        nargs="*",
        type=int,
        default=[1024, 16_384, 131_072, 1_000_000],
    )
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.one:
        row = measure(arguments.one, device, arguments.dtype, arguments.threads)
        print(json.dumps(row))
        return
    rows = []
    for length in arguments.lengths:
        command = [sys.executable, __file__, "--one", str(length)]
        command += ["--device", arguments.device, "--dtype", arguments.dtype]
        command += ["--threads", str(arguments.threads)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(run.stdout.splitlines()[-1]))
        print(
            f"{length:>9,} bases  {rows[-1]['microseconds_per_base']:8.1f} us/base  "
            f"{rows[-1]['peak_memory_bytes'] / 1e9:6.2f} GB",
            flush=True,
        )
    print(save_results(f"long-context-{device.type}", rows, threads=arguments.threads))


if __name__ == "__main__":
    main()
