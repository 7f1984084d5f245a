"""``crossdna env``: what is installed, what it runs on, and which kernels can run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

PACKAGES = (
    "crossdna",
    "torch",
    "transformers",
    "accelerate",
    "safetensors",
    "numpy",
    "pysam",
    "polars",
    "flash-linear-attention",
    "triton",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How to print, and whether to compile first."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--build",
        action="store_true",
        help="compile the native CPU kernels first, unless this was done before",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the environment, with --build after compiling the native kernels."""
    import json

    if arguments.build:
        from crossdna.ops.native import build

        build.build()
    environment = describe()
    if arguments.json:
        print(json.dumps(environment, indent=2))
    else:
        print("\n".join(_lines(environment)))
    return 0


def describe() -> dict[str, Any]:
    """Collect versions, devices and, per operator, its backends.

    Returns
    -------
    dict
        ``versions`` (package to version or None), ``devices`` and ``operators``
        (operator to a list of name, usable, reason, automatic, in order of preference).
    """
    return {
        "versions": _versions(),
        "devices": _devices(),
        "operators": _operators(),
    }


def _versions() -> dict[str, str | None]:
    import importlib.metadata
    import platform

    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _devices() -> dict[str, Any]:
    import platform

    import torch

    from crossdna.ops.linear import widened

    cuda = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            cuda.append(
                {
                    "name": properties.name,
                    "memory_gib": round(properties.total_memory / 2**30, 1),
                    "capability": f"{properties.major}.{properties.minor}",
                }
            )
    return {
        "platform": platform.platform(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cpu_bfloat16": widened.cpu_multiplies_bfloat16(),
        "threads": torch.get_num_threads(),
        "cuda": cuda,
    }


def _operators() -> dict[str, list[dict[str, Any]]]:
    import importlib
    import pkgutil

    import crossdna.ops

    operators = {}
    for module in pkgutil.iter_modules(crossdna.ops.__path__):
        package = importlib.import_module(f"crossdna.ops.{module.name}")
        if not hasattr(package, "BACKENDS"):
            continue
        operators[module.name] = [
            {
                "name": backend.name,
                "usable": (reason := backend.unavailable()) is None,
                "reason": reason,
                "automatic": backend.automatic,
            }
            for backend in package.BACKENDS
        ]
    return operators


def _lines(environment: dict[str, Any]) -> list[str]:
    lines = []
    for package, version in environment["versions"].items():
        lines.append(f"{package:<24}{version or 'not installed'}")
    devices = environment["devices"]
    half = "has" if devices["cpu_bfloat16"] else "no"
    cpu = f"{devices['cpu']}, {devices['threads']} threads, {half} bfloat16 products"
    lines += [
        "",
        f"{'platform':<24}{devices['platform']}",
        f"{'cpu':<24}{cpu}",
    ]
    for device in devices["cuda"]:
        text = f"{device['name']}, {device['memory_gib']} GiB, {device['capability']}"
        lines.append(f"{'cuda':<24}{text}")
    if not devices["cuda"]:
        lines.append(f"{'cuda':<24}no device")
    lines += ["", "operators (auto takes the first usable one that accepts a call)"]
    for operator, backends in environment["operators"].items():
        for backend in backends:
            state = "usable" if backend["usable"] else f"no: {backend['reason']}"
            if not backend["automatic"]:
                state += ", by name only"
            lines.append(f"{operator:<24}{backend['name']:<12}{state}")
            operator = ""  # the name is printed once
    return lines
