"""Which sequences are relatives of each other by alignment: MMseqs2, where installed.

MMseqs2 (Steinegger and Söding, 2017) is a program of its own, not part of this package.
Both strands of each sequence are given to it, since its clustering meets the reverse
complement of a mutated relative only by luck.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from crossdna import alphabet
from crossdna.data.similarity import canonical
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

IDENTITY: Final = 0.8
"""Least identity of relatives, aligned over at least half of both."""
_COVERAGE: Final = "0.5"
_WORD: Final = "13"
"""Its own choice, 15, sets up a table of 8 GiB for the smallest of sets."""


def mmseqs_cluster(
    sequences: Sequence[NDArray[np.uint8]], *, identity: float = IDENTITY
) -> NDArray[np.int64]:
    """Number of the cluster of each sequence.

    Duplicates and reverse complements are always in one cluster; sequences that are too
    short for MMseqs2 are otherwise alone.

    Raises
    ------
    CrossDNAError
        MMseqs2 is not installed, or fails.
    """
    groups: dict[bytes, int] = {}
    member = np.array(
        [groups.setdefault(canonical(ids), len(groups)) for ids in sequences], np.int64
    )
    firsts = np.unique(member, return_index=True)[1]
    distinct = [sequences[row] for row in firsts]
    turned = [alphabet.reverse_complement(ids) for ids in distinct]
    count = len(distinct)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_fasta([*distinct, *turned], folder / "in.fa")
        _run(
            "easy-cluster", folder / "in.fa", folder / "out", folder / "tmp",
            "--min-seq-id", str(identity), "-c", _COVERAGE, "--dbtype", "2",
            "-k", _WORD,
        )  # fmt: skip
        lines = (folder / "out_cluster.tsv").read_text().splitlines()
    pairs = np.array([line.split("\t") for line in lines], np.int64).reshape(-1, 2)
    # Either strand of a sequence stands for it: what meets one of them is a relative.
    pairs %= count
    graph = sparse.coo_matrix(
        (np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count)
    )
    _, component = csgraph.connected_components(graph, directed=False)
    return component.astype(np.int64)[member]


def mmseqs_has_relative(
    queries: Sequence[NDArray[np.uint8]],
    others: Sequence[NDArray[np.uint8]],
    *,
    identity: float = IDENTITY,
) -> NDArray[np.bool_]:
    """Whether each query has a relative among the others, on either strand.

    Raises
    ------
    CrossDNAError
        MMseqs2 is not installed, or fails.
    """
    same = {canonical(ids) for ids in others}
    found = np.array([canonical(ids) in same for ids in queries], bool)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_fasta(queries, folder / "queries.fa")
        _write_fasta(others, folder / "others.fa")
        _run(
            "easy-search", folder / "queries.fa", folder / "others.fa",
            folder / "out.tsv", folder / "tmp", "--search-type", "3", "--strand", "2",
            "--min-seq-id", str(identity), "-c", _COVERAGE, "--format-output", "query",
            "-k", _WORD,
        )  # fmt: skip
        hits = (folder / "out.tsv").read_text().split()
    found[np.array(hits, np.int64)] = True
    return found


def _write_fasta(sequences: Sequence[NDArray[np.uint8]], path: Path) -> None:
    with path.open("w") as handle:
        for number, ids in enumerate(sequences):
            handle.write(f">{number}\n{alphabet.decode(ids)}\n")


def _run(*arguments: str | Path) -> None:
    program = shutil.which("mmseqs")
    if program is None:
        raise CrossDNAError(
            "MMseqs2 is not installed (no program mmseqs); install it "
            "(apt-get install mmseqs2, conda install mmseqs2), or use the built-in "
            "sketches: similarity"
        )
    command = [program, *map(str, arguments), "-v", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise CrossDNAError(f"MMseqs2 failed: {' '.join(tail)}")
