"""Delta rule, window attention, short convolution, linear: backend against backend.

    python benchmarks/operators.py                   # every usable backend, 2 threads
    python benchmarks/operators.py --threads 1 --only delta_rule
    python benchmarks/operators.py --dtype bfloat16

Backends of one row run alternately in one process next to torch's own 2048^3 product,
so that ratios hold when the machine's speed drifts. Operations are counted by the
definition of each operator, whatever a backend really computes: a step of the delta
rule reads the state twice and writes it once, a query of the attention sees its window.
The sizes are those of a layer of the paper's model, and of a model of 64 channels for
`narrow_linear`. Results go to benchmarks/results/operators.json.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import torch
from machine import save_results
from torch.nn import functional as F

from crossdna.ops import delta_rule, linear, short_conv, window_attention

SHAPES = ((8, 1024), (16, 256), (64, 101), (1, 200), (1, 16384))
HEADS, KEYS, WIDTH, WINDOW, CHANNELS, TAPS = 8, 64, 16, 512, 1536, 4
LINEAR, NARROW = (256, 768), (64, 192)
MATMUL = 2048


def delta_case(batch, length, dtype):
    q, k, v = (
        F.silu(torch.randn(batch, length, HEADS, KEYS)).to(dtype) for _ in range(3)
    )
    log_decay = -F.softplus(torch.randn(batch, length, HEADS))
    beta = torch.rand(batch, length, HEADS)
    feedback, correction = torch.rand(HEADS), torch.rand(HEADS) / 10
    operands = [q, k, v, log_decay, beta, feedback, correction]
    operations = 2 * 3 * batch * length * HEADS * KEYS * KEYS

    def run(backend):
        return delta_rule.delta_rule(*operands, backend=backend).output

    return operands, run, operations


def window_case(batch, length, dtype):
    operands = [torch.randn(batch, length, HEADS, WIDTH).to(dtype) for _ in range(3)]
    ramp = min(length, WINDOW)
    seen = ramp * (ramp + 1) / 2 + max(0, length - WINDOW) * WINDOW
    operations = 2 * 2 * batch * seen * HEADS * WIDTH

    def run(backend):
        return window_attention.window_attention(
            *operands, window=WINDOW, rope_theta=1e4, backend=backend
        ).output

    return operands, run, operations


def conv_case(batch, length, dtype):
    operands = [torch.randn(batch, length, CHANNELS).to(dtype)]
    operands.append(torch.randn(CHANNELS, TAPS))
    operations = 2 * TAPS * batch * length * CHANNELS

    def run(backend):
        return short_conv.short_conv(
            *operands, activation="silu", backend=backend
        ).output

    return operands, run, operations


def linear_case(batch, length, dtype, sizes=LINEAR):
    inputs, outputs = sizes
    operands = [torch.randn(batch, length, inputs), torch.randn(outputs, inputs)]
    operands = [x.to(dtype) for x in operands]
    operations = 2 * batch * length * inputs * outputs

    def run(backend):
        return linear.linear(*operands, backend=backend)

    return operands, run, operations


CASES = {
    "delta_rule": (delta_case, delta_rule.BACKENDS),
    "window_attention": (window_case, window_attention.BACKENDS),
    "short_conv": (conv_case, short_conv.BACKENDS),
    "linear": (linear_case, linear.BACKENDS),
    "narrow_linear": (partial(linear_case, sizes=NARROW), linear.BACKENDS),
}


def best_of(repeats, calls):
    """Seconds of the best of some alternating runs of each call."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def calls_of(run, operands, backends, gradient):
    """One call per backend and mode, and the product to compare with."""

    def forward(backend):
        with torch.inference_mode():
            run(backend)

    def both(backend):
        leaves = [x for x in operands if x.is_floating_point()]
        for x in leaves:
            x.requires_grad_()
        torch.autograd.grad(run(backend), leaves, gradient)
        for x in leaves:
            x.requires_grad_(False)

    a, b = torch.randn(2, MATMUL, MATMUL).unbind(0)
    calls = {("matmul", ""): lambda: a @ b}
    for backend in backends:
        calls[backend, "forward"] = lambda backend=backend: forward(backend)
        calls[backend, "forward and backward"] = lambda backend=backend: both(backend)
    return calls


def measure(operator, batch, length, dtype, repeats):
    case, table = CASES[operator]
    operands, run, operations = case(batch, length, dtype)
    backends = [b.name for b in table if b.automatic and b.unavailable() is None]
    gradient = torch.randn_like(run(backends[0]))
    best = best_of(repeats, calls_of(run, operands, backends, gradient))
    matmul = 2 * MATMUL**3 / best.pop(("matmul", ""))
    for (backend, mode), seconds in best.items():
        rate = operations * (3 if "backward" in mode else 1) / seconds
        yield {
            "operator": operator,
            "backend": backend,
            "mode": mode,
            "batch": batch,
            "length": length,
            "ms": round(seconds * 1e3, 3),
            "gflops": round(rate / 1e9, 1),
            "share_of_matmul": round(rate / matmul, 3),
            "times_torch": round(best["torch", mode] / seconds, 2),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, arguments.dtype)
    rows = []
    for operator in arguments.only:
        for batch, length in SHAPES:
            for row in measure(operator, batch, length, dtype, arguments.repeats):
                rows.append(row)
                print(
                    "{operator:<17}{backend:<8}{mode:<21}{batch:>3} x {length:<6}"
                    "{ms:>9.2f} ms {gflops:>7.1f} GFLOP/s {share_of_matmul:>6.2f} of "
                    "matmul {times_torch:>6.2f} x torch".format(**row),
                    flush=True,
                )
    suffix = "" if dtype == torch.float32 else f"-{arguments.dtype}"
    path = save_results(
        f"operators{suffix}", rows, threads=arguments.threads, dtype=arguments.dtype
    )
    print(path)


if __name__ == "__main__":
    main()
