"""What a step of work frees stays with the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the C library is not glibc"
)

PAGES = 4 * (1 << 26) // os.sysconf("SC_PAGE_SIZE")
"""Of four tensors of 64 MiB."""
STEPS = """
import resource, torch
from crossdna.memory import keep_freed_memory
{call}
def steps(count):
    for _ in range(count):
        torch.empty(1 << 24).fill_(1.0)
steps(12)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
steps(4)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(call, **environment):
    """Pages that the system maps while four tensors of 64 MiB come and go."""
    plain = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_", "THP_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", STEPS.format(call=call)],
        capture_output=True,
        text=True,
        check=True,
        env=plain | environment,
    )
    return int(done.stdout.splitlines()[-1])


def test_pages_are_mapped_once():
    assert faults("pass") > PAGES / 2
    assert faults("assert keep_freed_memory()") < PAGES / 100


def test_what_the_environment_says_stays():
    call = "assert not keep_freed_memory()"
    assert faults(call, MALLOC_TRIM_THRESHOLD_="131072") > PAGES / 2


def test_verbs_keep_what_they_free():
    call = "from crossdna.cli import main; assert main(['models']) == 0"
    assert faults(call) < PAGES / 100
