"""Small genomes, made when they are needed, and the yeast genome shipped here."""

from pathlib import Path

import numpy as np
import pytest

from crossdna.data.genome import Genome


@pytest.fixture(scope="session")
def yeast():
    """The folder of the real yeast genome and its annotation."""
    return Path(__file__).resolve().parents[2] / "data/sacCer3"


@pytest.fixture
def write(tmp_path):
    """Write text or bytes to a file of the given name and give its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def random_letters(rng):
    """Letters of the given number, with lower case and N in runs."""

    def draw(length, n_share=0.0):
        letters = rng.choice(list("ACGT"), length)
        lower = np.repeat(rng.random(length // 50 + 1) < 0.3, 50)[:length]
        letters = np.where(lower, np.char.lower(letters), letters)
        gaps = np.repeat(rng.random(length // 200 + 1) < n_share, 200)[:length]
        return "".join(np.where(gaps, "N", letters))

    return draw


@pytest.fixture
def make_genome(tmp_path, write):
    """Open a genome with the given contigs (name to letters)."""

    def make(name="genome.fa", **contigs):
        lines = [f">{contig}\n{text}\n" for contig, text in contigs.items()]
        return Genome.open(write(name, "".join(lines)), cache=tmp_path / "cache")

    return make
