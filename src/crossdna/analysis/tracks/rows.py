"""Results on the disk: rows of float32, written where they belong."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


class RowFile:
    """Rows of float32 on the disk, read and written by number.

    Parameters
    ----------
    path
        Created when missing.
    count, columns
        Shape of the whole.
    """

    def __init__(self, path: Path, count: int, columns: int) -> None:
        self.path, self.columns = path, columns
        if not path.exists():
            with path.open("wb") as handle:
                handle.truncate(4 * count * columns)

    def read(self, start: int, end: int) -> NDArray[np.float32]:
        """Rows (end - start, columns)."""
        values = np.fromfile(
            self.path,
            np.float32,
            count=(end - start) * self.columns,
            offset=4 * start * self.columns,
        )
        return values.reshape(-1, self.columns)

    def write(self, start: int, values: NDArray[np.float32]) -> None:
        """Put rows at `start`, on the disk when this returns."""
        with self.path.open("r+b") as handle:
            handle.seek(4 * start * self.columns)
            handle.write(np.ascontiguousarray(values, np.float32).tobytes())
            handle.flush()
            os.fsync(handle.fileno())
