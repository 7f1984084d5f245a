"""Result tables on disk: what text files make of columns that are no plain values."""

import polars as pl
import pytest

from crossdna.data.table_files import write_table


@pytest.mark.parametrize("kind", [pl.List(pl.Float32), pl.Array(pl.Float32, 2)])
def test_lists_and_arrays_in_text(tmp_path, kind):
    vectors = pl.Series("vector", [[1.5, 2.0], [3.0, -4.0]], dtype=kind)
    write_table(pl.DataFrame({"id": ["a", "b"], "vector": vectors}), tmp_path / "x.tsv")
    assert (tmp_path / "x.tsv").read_text().splitlines() == [
        "id\tvector",
        "a\t1.5,2.0",
        "b\t3.0,-4.0",
    ]
