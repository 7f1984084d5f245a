"""Caduceus and HyenaDNA under the questions that CrossDNA answers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from crossdna import alphabet
from crossdna.analysis.inference import (
    base_log_probabilities,
    embeddings,
    load_model,
    sequence_logits,
)
from crossdna.errors import CrossDNAError
from crossdna.models.caduceus import CaduceusForMaskedLM

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def ids():
    draw = np.random.default_rng(0).integers(0, 4, (2, 30))
    return torch.from_numpy(draw)


def test_probabilities_are_those_of_the_bases(ids):
    model = load_model(GOLDEN / "caduceus_ps", "masked-lm", "cpu")
    got = base_log_probabilities(model, ids)
    plain = CaduceusForMaskedLM.from_pretrained(GOLDEN / "caduceus_ps")
    own = plain(ids + 7).logits[..., 7:11].log_softmax(-1)
    torch.testing.assert_close(got, own.detach(), atol=1e-5, rtol=1e-5)
    other = base_log_probabilities(model, alphabet.complement_ids(ids).flip(1))
    torch.testing.assert_close(other.flip(1, 2), got, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["caduceus_ph", "hyenadna"])
def test_padding_and_strands(name, ids):
    model = load_model(GOLDEN / name, "embedding", "cpu")
    whole = embeddings(model, ids, strand_average=True)
    padded = torch.nn.functional.pad(ids, (5, 0), value=alphabet.PAD)
    got = embeddings(model, padded, padded != alphabet.PAD, strand_average=True)
    torch.testing.assert_close(got[:, 5:], whole, atol=1e-5, rtol=1e-4)
    other = alphabet.complement_ids(ids).flip(1)
    back = embeddings(model, other, strand_average=True)
    torch.testing.assert_close(back.flip(1), whole, atol=1e-5, rtol=1e-4)


def test_classifiers_average_strands(ids):
    torch.manual_seed(0)
    model = load_model(GOLDEN / "caduceus_ph", "classification", "cpu")
    both = sequence_logits(model, ids, strand_average=True)
    other = alphabet.complement_ids(ids).flip(1)
    back = sequence_logits(model, other, strand_average=True)
    torch.testing.assert_close(back, both, atol=1e-5, rtol=1e-4)


def test_a_causal_model_is_no_masked_one():
    with pytest.raises(CrossDNAError, match="hyenadna"):
        load_model(GOLDEN / "hyenadna", "masked-lm", "cpu")
