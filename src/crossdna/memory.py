"""Memory that a step of work on a CPU frees is kept for the next one."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from typing import Final

# Of malloc.h: from what size on the heap's free end goes back to the system, and from
# what size on a block is a mapping of its own, which goes back when it is freed.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_NEVER: Final = -1
_LARGEST: Final = 2**31 - 1
_LARGEST_BEFORE: Final = 2**25
"""What older versions of glibc allow at most."""
_CHOSEN_BY: Final = (
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "GLIBC_TUNABLES",
)


@functools.cache
def keep_freed_memory() -> bool:
    """Tell the C library to keep what is freed; for this process, from now on.

    A step of training, or a batch that is read, allocates the same tensors as the one
    before it. glibc returns large ones to the system in between, and the next step
    waits while the system clears every page again: up to a quarter of the time of a
    step whose tensors pass 32 MiB. What the environment says about malloc
    (``MALLOC_*_``, ``GLIBC_TUNABLES``) is left alone. For trainers, verbs and their
    workers; nothing that another program calls for a moment should decide this for it.

    Returns
    -------
    bool
        Whether anything was changed; not on systems without glibc.
    """
    if any(name in os.environ for name in _CHOSEN_BY):
        return False
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    kept = mallopt(_TRIM_THRESHOLD, _NEVER)
    mapped = mallopt(_MMAP_THRESHOLD, _LARGEST)
    return bool(kept and (mapped or mallopt(_MMAP_THRESHOLD, _LARGEST_BEFORE)))
