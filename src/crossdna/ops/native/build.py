"""Building the C++ kernels once per machine and loading them.

Nothing is compiled unless asked for (`crossdna env --build`). The library lies in a
per-user cache directory under a name made from its sources, compiler, flags and CPU, so
that another version, compiler or machine sharing the directory never meets it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from crossdna.errors import CrossDNAError
from crossdna.ops.dispatch import probe

SOURCES = (
    "delta_rule.cpp",
    "delta_rule_backward.cpp",
    "window_attention.cpp",
    "window_attention_backward.cpp",
    "short_conv.cpp",
    "gates.cpp",
    "selective_scan.cpp",
)
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-fPIC",
)


def compiler() -> str | None:
    """Find the C++ compiler: $CXX, or g++. Only GNU ones have what the sources use."""
    return shutil.which(os.environ.get("CXX", "g++"))


def library_path() -> Path | None:
    """Say where this machine's library is or will be; None without a compiler."""
    program = compiler()
    if program is None or platform.system() != "Linux":
        return None
    return _cache_directory() / f"operators-{_key(program)}.so"


def build() -> Path:
    """Compile and link the kernels, unless that was done before.

    Raises
    ------
    CrossDNAError
        There is no compiler, or it fails; its last lines are given.
    """
    path = library_path()
    program = compiler()
    if path is None or program is None:
        raise CrossDNAError(
            "the native kernels need Linux and a GNU C++ compiler; "
            "install g++ or name one in CXX"
        )
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                _compile(program, Path(folder) / path.name).replace(path)
        except OSError as error:
            raise CrossDNAError(f"cannot write {path}: {error.strerror}") from error
    load.cache_clear()
    return path


@functools.cache
def load() -> ctypes.CDLL | str:
    """Load the library if it was built; otherwise say why there is none."""
    path = library_path()
    if path is None:
        return "needs Linux and a GNU C++ compiler (g++, or CXX)"
    if not path.is_file():
        return "not built; run `crossdna env --build`"
    # The library is linked against no OpenMP runtime and finds the one that torch has
    # loaded, so that there is one pool of threads.
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        return f"{path} cannot be loaded ({error})"


@probe
def unavailable() -> str | None:
    """Say why the kernels cannot run on this machine, or None."""
    if torch.compiler.is_exporting():
        return "an exported graph must run without this package"
    library = load()
    return library if isinstance(library, str) else None


def library() -> ctypes.CDLL:
    """Give the loaded library; call only after `unavailable` returned None."""
    found = load()
    assert not isinstance(found, str), found
    return found


def _compile(program: str, target: Path) -> Path:
    here = Path(__file__).parent
    objects = [str(target.with_name(f"{source}.o")) for source in SOURCES]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        commands = (
            [program, *FLAGS, "-c", str(here / source), "-o", compiled]
            for source, compiled in zip(SOURCES, objects, strict=True)
        )
        list(pool.map(_run, commands))
    # Without -fopenmp here: that would link the compiler's own OpenMP runtime.
    _run([program, "-shared", *objects, "-o", str(target)])
    return target


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        tail = "\n".join(result.stderr.strip().splitlines()[-15:])
        raise CrossDNAError(f"{' '.join(command)} failed:\n{tail}")


def _cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "crossdna" / "native"


@functools.cache
def _key(program: str) -> str:
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in (*sorted(here.glob("*.h")), *(here / name for name in SOURCES)):
        digest.update(path.read_bytes())
    version = subprocess.run(
        [program, "--version"], capture_output=True, text=True, check=False
    ).stdout
    for text in (version, *FLAGS, platform.machine(), _cpu_flags()):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:16]


def _cpu_flags() -> str:
    """What -march=native depends on: the model and the instruction sets."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
