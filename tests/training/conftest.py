"""A toy genome and a recipe that trains on it in seconds."""

import os

import numpy as np
import pytest

from crossdna.config import from_table
from crossdna.training.pretraining_recipe import PretrainRecipe


@pytest.fixture(scope="session")
def toy_genome(tmp_path_factory):
    """FASTA of three contigs that repeat a few words: there is much to learn."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("ACGT"), 12)) for _ in range(4)]
    path = tmp_path_factory.mktemp("genome") / "toy.fa"
    with path.open("w") as handle:
        for name in ("one", "two", "three"):
            sequence = "".join(rng.choice(words, 250))
            handle.write(f">{name}\n{sequence[:1500]}{sequence[1500:].lower()}\n")
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's cache; processes it starts inherit this."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setitem(os.environ, "CROSSDNA_CACHE", str(folder))


@pytest.fixture
def table(toy_genome):
    """A recipe as a table."""
    return {
        "model": {
            "type": "crossdna",
            "d_model": 16,
            "depth": 1,
            "num_heads": 2,
            "head_dim": 8,
            "attention_heads": 2,
            "window_size": 8,
            "hidden_ratio": 1.0,
            "block_size": 16,
            "dropout": 0.1,
        },
        "genome": {
            "toy": {"fasta": str(toy_genome), "valid": ["two"], "test": ["three"]}
        },
        "windows": {"length": 32, "valid_windows": 16},
        "objective": {
            "semantic_warmup_steps": 4,
            "gate_freeze_steps": 3,
            "gate_warmup_steps": 2,
        },
        "train": {
            "steps": 6,
            "batch_size": 4,
            "device": "cpu",
            "log_every": 1,
            "evaluate_every": 3,
            "save_every": 2,
            "keep": "last",
        },
    }


@pytest.fixture
def make_recipe(table):
    """Give the recipe with some of its sections' values changed."""

    def make(**sections):
        for section, changes in sections.items():
            table[section] = table.get(section, {}) | changes
        return from_table(table, PretrainRecipe)

    return make
