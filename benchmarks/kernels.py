"""Compile the GPU's kernels for a Hopper GPU that is not there, or time them on one.

    python benchmarks/kernels.py
    python benchmarks/kernels.py --dtypes bf16
    python benchmarks/kernels.py --time             # on a machine with a GPU

Needs triton, which brings ptxas along. Prints, for each kernel as the operators launch
it at the paper's size, shared memory, registers a thread, bytes of them that are
spilled, instructions of a warp (loops counted once), and the seconds that compiling
took. With --time: milliseconds of the delta rule's kernels in bfloat16, for several
numbers of warps and registers, beside those that the operator uses.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.disasm import get_sass

from crossdna.ops.delta_rule import kernels as delta_rule
from crossdna.ops.delta_rule import triton as chunks
from crossdna.ops.short_conv import gpu as convolutions
from crossdna.ops.short_conv import kernels as short_conv

HOPPER = GPUTarget("cuda", 90, 32)
PTXAS = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
FLOATS = {"bf16": "*bf16", "float32": "*fp32"}
DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}
# Operands that stay float32 whatever the dtype.
FLOAT32 = [
    "g",
    "beta",
    "erase",
    "start",
    "end",
    "d_end",
    "d_start",
    "dg",
    "dbeta",
    "derase",
    "weight",
    "d_weight",
]
INTEGERS = [
    "length",
    "heads",
    "keys",
    "values",
    "v_heads",
    "x_batch",
    "x_length",
    "dy_batch",
    "dy_length",
    "batch",
    "channels",
    "dilation",
    "steps",
    "segments",
]
DENSE = ("keys", "values", "channels", "x_length", "dy_length")


def launches(dtype):
    """Kernels with their constants and options, as the operators launch them."""
    operand = torch.empty(128, 1024, 8, 64, device="meta", dtype=DTYPES[dtype])
    sizes = chunks.Sizes(operand, operand)
    yield delta_rule.solve, sizes.solve, chunks.SOLVE
    for keep in (False, True):
        yield delta_rule.run, sizes.run | {"KEEP": keep}, chunks.RUN
    yield delta_rule.run_backward, sizes.run, chunks.RUN
    yield delta_rule.gradients, sizes.gradients, chunks.GRADIENTS
    for width, before, silu in ((4, 3, True), (9, 4, False)):
        x = torch.empty(1, 1024, 1536, device="meta")
        weight = torch.empty(1536, width, device="meta")
        tail = x[:, :before] if silu else None
        call = convolutions.Convolution(x, weight, tail, before, silu=silu)
        for kernel, rows in (
            (short_conv.forward, convolutions.ROWS_FORWARD),
            (short_conv.backward, convolutions.ROWS_BACKWARD),
        ):
            constants = call.constants(rows)
            options = {"num_warps": constants.pop("num_warps")}
            yield kernel, constants, options


def compiled(kernel, constants, options, dtype):
    """The kernel's PTX and metadata."""
    kinds, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            kinds[name] = "constexpr"
        elif name in INTEGERS:
            kinds[name] = "i32"
        else:
            kinds[name] = "*fp32" if name in FLOAT32 else FLOATS[dtype]
        if name == "scale":
            kinds[name] = "fp32"
        if kinds[name].startswith("*") or name in DENSE:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(
        fn=kernel, signature=kinds, constexprs=constants, attrs=attributes
    )
    return triton.compile(source, target=HOPPER, options=options)


def name_of(kernel):
    return f"{kernel.fn.__module__.split('.')[-2]}.{kernel.fn.__name__}"


def resources(ptx):
    """Registers and bytes spilled, as ptxas says."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [PTXAS, "-v", "--gpu-name=sm_90a", file.name, "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
    return tuple(
        int(re.search(pattern, said.stderr).group(1))
        for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores")
    )


def instructions(cubin):
    """How many a warp runs, were no loop repeated."""
    lines = (line.split("\t") for line in get_sass(cubin).splitlines())
    return sum(len(line) > 1 and "NOP" not in line[1] for line in lines)


SETTINGS = [
    *({"num_warps": w, "num_stages": s} for w in (4, 8) for s in (1, 2)),
    # More programs side by side, for some numbers in memory.
    {"num_warps": 4, "num_stages": 1, "maxnreg": 168},
    {"num_warps": 8, "num_stages": 1, "maxnreg": 128},
]


def time_settings(shape=(128, 1024, 8, 64), device="cuda"):
    """Print how long each of the delta rule's operators takes, by its options."""
    torch.manual_seed(0)
    batch, length, heads, width = shape
    rows = torch.randn(batch, length, 3 * heads * width, device=device).bfloat16()
    q, k, v = (x.unflatten(-1, (heads, width)) for x in rows.chunk(3, dim=-1))
    gates = torch.rand(2, batch, length, heads, device=device)
    heads_own = torch.rand(2, heads, device=device)
    state = torch.zeros(batch, heads, width, width, device=device)
    *operands, start = chunks.kernel_operands(
        q, k, v, -gates[0], gates[1], *heads_own, state, torch.bfloat16
    )
    of = [operands[i] for i in (1, 3, 5)]
    scale = width**-0.5
    inverse = chunks._inverses(*of)
    output, end, *kept = chunks._chunks(*operands, inverse, start, scale, True)
    saved = (output, end, *operands, inverse, *kept, scale)
    calls = {
        "solve": ("SOLVE", lambda: chunks._inverses(*of)),
        "run": ("RUN", lambda: chunks._chunks(*operands, inverse, start, scale, False)),
        "backward, run": ("RUN", lambda: chunks._backward(*saved)),
        "backward, gradients": ("GRADIENTS", lambda: chunks._backward(*saved)),
    }
    for name, (options, call) in calls.items():
        used = getattr(chunks, options)
        for setting in [used, *(s for s in SETTINGS if s != used)]:
            setattr(chunks, options, setting)
            try:
                spent = f"{milliseconds(call, device):8.3f} ms"
            except Exception as error:  # noqa: BLE001 - too many resources, for one
                spent = f"{type(error).__name__}: {error}"[:80]
            print(f"{name:20} {setting!s:58} {spent}", flush=True)
        setattr(chunks, options, used)


def milliseconds(call, device, repeats=10):
    """The median of some calls."""
    call()
    spent = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - began)
    return 1e3 * statistics.median(spent)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtypes", nargs="*", choices=FLOATS, default=list(FLOATS))
    parser.add_argument("--time", action="store_true")
    arguments = parser.parse_args()
    if arguments.time:
        time_settings()
        return
    print(f"{'kernel':24}{'dtype':9}{'warps':>6}{'shared':>8}{'registers':>10}"
          f"{'spilled':>8}{'instructions':>13}{'seconds':>8}")  # fmt: skip
    for dtype in arguments.dtypes:
        for kernel, constants, options in launches(dtype):
            began = time.perf_counter()
            made = compiled(kernel, constants, options, dtype)
            spent = time.perf_counter() - began
            registers, spilled = resources(made.asm["ptx"])
            print(
                f"{name_of(kernel):24}{dtype:9}{options['num_warps']:>6}"
                f"{made.metadata.shared:>8}{registers:>10}{spilled:>8}"
                f"{instructions(made.asm['cubin']):>13}{spent:8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
