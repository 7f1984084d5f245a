"""Caduceus and HyenaDNA under the questions that CrossDNA answers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from crossdna import alphabet
from crossdna.analysis.inference import (
    base_log_probabilities,
    embeddings,
    load_model,
    sequence_logits,
    token_logits,
)
from crossdna.analysis.tracks.settings import TrackSettings
from crossdna.analysis.tracks.track import compute, read_bins
from crossdna.analysis.variants.score import ScoreSettings, score_alleles
from crossdna.data.genome import Genome
from crossdna.data.regions import Region
from crossdna.data.variants import read_allele, window_pair
from crossdna.errors import CrossDNAError
from crossdna.models.caduceus import CaduceusForMaskedLM
from crossdna.models.hyenadna import HyenaDNAForCausalLM
from crossdna.models.opening import Opened

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
    whole = embeddings(model, ids, strand="both")
    padded = torch.nn.functional.pad(ids, (5, 0), value=alphabet.PAD)
    got = embeddings(model, padded, padded != alphabet.PAD, strand="both")
    torch.testing.assert_close(got[:, 5:], whole, atol=1e-5, rtol=1e-4)
    other = alphabet.complement_ids(ids).flip(1)
    back = embeddings(model, other, strand="both")
    torch.testing.assert_close(back.flip(1), whole, atol=1e-5, rtol=1e-4)


def test_classifiers_average_strands(ids):
    torch.manual_seed(0)
    model = load_model(GOLDEN / "caduceus_ph", "classification", "cpu")
    both = sequence_logits(model, ids, strand="both")
    other = alphabet.complement_ids(ids).flip(1)
    back = sequence_logits(model, other, strand="both")
    torch.testing.assert_close(back, both, atol=1e-5, rtol=1e-4)


def test_a_causal_model_is_no_masked_one():
    with pytest.raises(CrossDNAError, match="hyenadna"):
        load_model(GOLDEN / "hyenadna", "masked-lm", "cpu")


@pytest.mark.parametrize("name", ["caduceus_ph", "caduceus_ps", "hyenadna"])
def test_predictions_per_base_keep_through_a_checkpoint(name, ids, tmp_path):
    torch.manual_seed(0)
    model = load_model(GOLDEN / name, "per-base", "cpu")
    both = token_logits(model, ids, strand="both")
    assert both.shape == (2, 30, 2)
    other = alphabet.complement_ids(ids).flip(1)
    back = token_logits(model, other, strand="both")
    torch.testing.assert_close(back.flip(1), both, atol=1e-5, rtol=1e-4)
    if name == "caduceus_ps":
        torch.testing.assert_close(token_logits(model, ids), both, atol=1e-5, rtol=1e-4)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path, "per-base", "cpu")
    assert torch.equal(token_logits(again, ids), token_logits(model, ids))
    padded = torch.nn.functional.pad(ids, (4, 0), value=alphabet.PAD)
    got = token_logits(again, padded, padded != alphabet.PAD)
    torch.testing.assert_close(
        got[:, 4:], token_logits(model, ids), atol=1e-5, rtol=1e-4
    )
    weights = load_file(tmp_path / "model.safetensors")
    del weights["head.linear.bias"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CrossDNAError, match=r"head\.linear\.bias"):
        load_model(tmp_path, "per-base", "cpu")


def test_a_causal_model_predicts_a_base_from_those_before_it(ids):
    model = load_model(GOLDEN / "hyenadna", "causal-lm", "cpu")
    got = base_log_probabilities(model, ids)
    plain = HyenaDNAForCausalLM.from_pretrained(GOLDEN / "hyenadna").eval()
    own = plain(ids + 7).logits[:, :-1, 7:11].log_softmax(-1)
    torch.testing.assert_close(got[:, 1:], own.detach(), atol=1e-5, rtol=1e-5)
    assert (got[:, 0].exp() == 0.25).all()
    padded = torch.nn.functional.pad(ids, (5, 0), value=alphabet.PAD)
    same = base_log_probabilities(model, padded, padded != alphabet.PAD)
    torch.testing.assert_close(same[:, 5:], got, atol=1e-5, rtol=1e-4)


def test_a_causal_model_scores_whole_windows(tmp_path, ids):
    letters = alphabet.decode(np.random.default_rng(1).integers(0, 4, 200))
    (tmp_path / "g.fa").write_text(f">one\n{letters}\n")
    genome = Genome.open([tmp_path / "g.fa"])
    model = load_model(GOLDEN / "hyenadna", "causal-lm", "cpu")
    plain = HyenaDNAForCausalLM.from_pretrained(GOLDEN / "hyenadna").eval()

    def likelihood(window):
        own = torch.from_numpy(window.ids.astype(int))
        total = 0.0
        for strand in own, alphabet.complement_ids(own).flip(0):
            logits = plain((strand + 7)[None]).logits[0, :-1, 7:11].log_softmax(-1)
            total += logits.gather(1, strand[1:, None]).sum().item() / 2
        return total

    alleles = [
        read_allele(genome, "one", 90, letters[90], "ACGT"[letters[90] == "A"], 48),
        read_allele(genome, "one", 100, letters[100:103], letters[100], 48),
    ]
    got = score_alleles(
        model, genome, alleles, ScoreSettings(scores=("ll",), window=48)
    )
    for row, allele in enumerate(alleles):
        pair = window_pair(genome, allele, 48)
        expected = likelihood(pair.alternate) - likelihood(pair.reference)
        assert got["ll"][row] == pytest.approx(expected, abs=1e-4)
    with pytest.raises(CrossDNAError, match="it gives ll"):
        score_alleles(model, genome, alleles, ScoreSettings(scores=("llr",), window=48))


@pytest.mark.parametrize("name", ["hyenadna", "caduceus_ph", "caduceus_ps"])
def test_distances_and_bins_have_the_channels_of_the_last_layer(name, tmp_path):
    letters = alphabet.decode(np.random.default_rng(2).integers(0, 4, 200))
    (tmp_path / "g.fa").write_text(f">one\n{letters}\n")
    genome = Genome.open([tmp_path / "g.fa"])
    model = load_model(GOLDEN / name, Opened(GOLDEN / name).task, "cpu")
    allele = read_allele(genome, "one", 90, letters[90], "ACGT"[letters[90] == "A"], 48)
    settings = ScoreSettings(scores=("distance",), window=48)
    found = score_alleles(model, genome, [allele], settings)["distance"][0]
    pair = window_pair(genome, allele, 48)
    plain = AutoModel.from_pretrained(GOLDEN / name).eval()

    def mean(window):
        own = torch.from_numpy(window.ids.astype(int))
        strands = torch.stack([own, alphabet.complement_ids(own).flip(0)])
        return plain(strands + 7).last_hidden_state.double().mean((0, 1))

    apart = (mean(pair.alternate) - mean(pair.reference)).norm().item()
    assert found == pytest.approx(apart, rel=1e-4)
    region, track = Region("one", 0, 100), TrackSettings(window=64, bin=10)
    compute(model, genome, region, track, tmp_path / "work")
    parts = read_bins(model, region, track, tmp_path / "work")
    vectors = np.concatenate([part.vectors for part in parts])
    assert vectors.shape == (10, len(mean(pair.reference)))
    assert np.isfinite(vectors).all()
