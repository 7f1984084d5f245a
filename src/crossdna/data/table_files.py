"""Writing result tables: Parquet, TSV or CSV by the name of the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import polars as pl

from crossdna.errors import CrossDNAError
from crossdna.files import atomic_path

if TYPE_CHECKING:
    from collections.abc import Mapping

SUFFIXES: Final = (".parquet", ".tsv", ".csv")


def check_table_path(path: str | Path) -> Path:
    """Give `path` back if a table can be written there, else raise an error.

    For the start of a long run, whose result is written at its end.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise CrossDNAError(
            f"{path}: a table is written as {', '.join(SUFFIXES)}; end the name in one"
        )
    if not path.parent.is_dir():
        raise CrossDNAError(f"{path}: no folder {path.parent}")
    return path


def write_table(
    table: pl.DataFrame,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a table; in text, columns of lists are written as comma-separated values.

    Parameters
    ----------
    metadata
        How the table was made; kept in the Parquet file, left out of text.
    """
    path = check_table_path(path)
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            table.write_parquet(temporary, metadata=dict(metadata or {}))
            return
        lists = [
            n for n, t in table.schema.items() if isinstance(t, (pl.List, pl.Array))
        ]
        flat = table.with_columns(
            pl.col(name).cast(pl.List(pl.String)).list.join(",") for name in lists
        )
        separator = "\t" if path.suffix == ".tsv" else ","
        flat.write_csv(temporary, separator=separator)
