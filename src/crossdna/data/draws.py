"""Random numbers that are a function of (seed, stream, index) and of nothing else.

Philox 4x64-10 (Salmon et al. 2011) keyed by seed and index: any sample can be drawn
again at once, in any batch, worker or process, without a state to save. NumPy keeps the
raw output of a bit generator the same in all its versions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

# Streams keep draws for different purposes apart under the same seed and index.
LOCUS_STREAM: Final = 1
MASK_STREAM: Final = 2
TOKEN_STREAM: Final = 3
_WORD: Final = 1 << 64


def raw_draws(
    seed: int, stream: int, indices: Iterable[int], count: int
) -> NDArray[np.uint64]:
    """Draw `count` uniform 64-bit numbers for each index.

    Parameters
    ----------
    seed, stream
        From 0 to 2**64 - 1.
    indices
        Sample numbers from 0 to 2**64 - 1.

    Returns
    -------
    draws : (indices, count) uint64
        Row i depends on (seed, stream, indices[i]) only; a longer row begins with the
        shorter one.
    """
    check_seed(seed)
    rows = [
        np.random.Philox(key=seed | int(index) << 64, counter=stream << 192).random_raw(
            count
        )
        for index in indices
    ]
    return np.stack(rows) if rows else np.empty((0, count), np.uint64)


def unit(draws: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Turn 64-bit draws into numbers in [0, 1), with 53 bits each."""
    return (draws >> np.uint64(11)).astype(np.float64) * 2.0**-53


def check_seed(seed: int) -> None:
    """Refuse a seed that does not fit the generator's key."""
    if not 0 <= seed < _WORD:
        raise CrossDNAError(f"seed must be from 0 to 2**64 - 1, got {seed}")
