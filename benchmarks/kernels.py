"""Compile the GPU's kernels for a Hopper GPU that is not there.

    python benchmarks/kernels.py
    python benchmarks/kernels.py --dtypes bf16

Needs triton, which brings ptxas along. Prints, for each kernel as the operators launch
it at the paper's size, shared memory, registers a thread, bytes of them that are
spilled, and the seconds that compiling took.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import time
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtypes", nargs="*", choices=FLOATS, default=list(FLOATS))
    arguments = parser.parse_args()
    print(f"{'kernel':24}{'dtype':9}{'warps':>6}{'shared':>8}{'registers':>10}"
          f"{'spilled':>8}{'seconds':>8}")  # fmt: skip
    for dtype in arguments.dtypes:
        for kernel, constants, options in launches(dtype):
            began = time.perf_counter()
            made = compiled(kernel, constants, options, dtype)
            spent = time.perf_counter() - began
            registers, spilled = resources(made.asm["ptx"])
            print(
                f"{name_of(kernel):24}{dtype:9}{options['num_warps']:>6}"
                f"{made.metadata.shared:>8}{registers:>10}{spilled:>8}{spent:8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
