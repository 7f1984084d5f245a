"""What a result was measured on, and where results are kept."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers

from crossdna import __version__
from crossdna.command_line import command_line
from crossdna.files import atomic_open

RESULTS = Path(__file__).resolve().parent / "results"


def commit():
    """The commit that is checked out, and whether files differ from it."""
    return subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        cwd=RESULTS.parent,
        check=False,
    ).stdout.strip()


ZEN = {("25", False): "zen3", ("25", True): "zen4", ("26", True): "zen5"}
"""By family, and whether there is AVX-512."""


def cpu_facts():
    """What Linux says of the first processor."""
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def cpu_generation():
    """What sets a CPU's rates: AMD's generation, of others the vector instructions."""
    facts, capability = cpu_facts(), torch.backends.cpu.get_cpu_capability()
    family = (facts.get("cpu family"), capability == "AVX512")
    if facts.get("vendor_id") == "AuthenticAMD" and family in ZEN:
        return ZEN[family]
    return capability.lower()


def describe_machine(**settings):
    """Processor, cores, GPU, versions and commit."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "commit": commit(),
        "crossdna": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "processor": cpu_facts().get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "cpu_generation": cpu_generation(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **settings,
    }


def save_results(name, rows, **settings):
    """Write results/NAME.json; returns its path."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    with atomic_open(path) as handle:
        json.dump(
            {"machine": describe_machine(**settings), "rows": rows}, handle, indent=1
        )
        handle.write("\n")
    return path
