"""Embeddings do not depend on what stands on top of the network."""

import numpy as np
import pytest
import torch
from tests.family_checkpoints import save
from transformers import AutoModelForSequenceClassification

from crossdna.analysis.inference import embeddings, load_model, load_whole

LAYERS = (-1, 0, 1, "all")


def random_ids():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 4, (2, 30)))


def check(path):
    """The same with all that was saved and by the network alone."""
    whole, bare = load_whole(path, "cpu"), load_model(path, "embedding", "cpu")
    assert type(whole) is not type(bare)
    for layer in LAYERS:
        found, expected = (
            embeddings(model, random_ids(), layer=layer, strand="both")
            for model in (whole, bare)
        )
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "kind",
    [
        "CrossDNAForMaskedLM",
        "CrossDNAForSequenceClassification",
        "CrossDNAForTokenClassification",
    ],
)
def test_of_crossdna(tiny_checkpoint, kind):
    check(tiny_checkpoint(kind))


@pytest.mark.parametrize("name", ["dnabert", "nucleotide-transformer", "gpt2", "mamba"])
def test_of_wrapped_language_models(tmp_path, name):
    check(save(name, tmp_path))


@pytest.mark.parametrize("name", ["grover", "gpt2", "nucleotide-transformer"])
def test_of_classifiers_that_were_fine_tuned_elsewhere(tmp_path, name):
    check(save(name, tmp_path, AutoModelForSequenceClassification, num_labels=3))
