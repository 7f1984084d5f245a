"""Evaluation of models that predict the next base, and of families of transformers."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
)

from crossdna import alphabet
from crossdna.cli import main
from crossdna.data.genome import Genome
from crossdna.tokenizers.bases import base_tokenizer
from crossdna.tokenizers.character import HyenaDNATokenizer

_SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "num_key_value_heads": 1,
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSDNA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def fasta(tmp_path, rng):
    letters = np.array(list("ACGT"))
    contigs = {name: rng.choice(letters, 4000) for name in ("train", "test")}
    contigs["test"][[5, 100, 101]] = "N"
    path = tmp_path / "genome.fa"
    path.write_text("".join(f">{n}\n{''.join(s)}\n" for n, s in contigs.items()))
    return path


def save(model_type, folder):
    """A tiny model with random weights, as pretraining leaves it."""
    torch.manual_seed(0)
    if model_type == "hyenadna":
        config = AutoConfig.for_model("hyenadna", d_model=16, n_layer=1, max_seq_len=64)
        tokenizer, ids = HyenaDNATokenizer(), [7, 8, 9, 10, 11]
    else:
        config = AutoConfig.for_model(
            model_type, **_SIZE, vocab_size=7, pad_token_id=6, bos_token_id=None,
            eos_token_id=None,
        )  # fmt: skip
        tokenizer, ids = base_tokenizer(), list(range(5))
    auto = AutoModelForMaskedLM if model_type == "bert" else AutoModelForCausalLM
    model = auto.from_config(config).eval()
    # Random weights hardly tell the bases apart; these do.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, torch.tensor(ids)


def evaluate(fasta, folder, *more):
    return main(
        [
            *("evaluate", "--model", str(folder / "model"), "--genome", str(fasta)),
            *("--chromosomes", "test", "--window", "64", "--device", "cpu"),
            *("--output", str(folder / "out"), *more),
        ]
    )


@pytest.mark.parametrize("model_type", ["hyenadna", "mistral"])
def test_bits_of_the_next_base_equal_a_direct_computation(
    fasta, tmp_path, capsys, model_type
):
    model, ids = save(model_type, tmp_path / "model")
    assert evaluate(fasta, tmp_path) == 0
    shown = capsys.readouterr().out
    assert "next: each base predicted from those to its left" in shown
    assert "different quantities" in shown
    assert "Two-sided" not in shown
    table = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    (condition,) = table["conditions"]
    (everywhere,) = (g for g in condition["groups"] if g["name"] == "all bases")
    assert set(everywhere["scores"]) == {"model", *(f"markov-{k}" for k in range(11))}
    assert table["strands"] is None
    genome = Genome.open([fasta], tmp_path / "cache")
    windows = torch.from_numpy(genome.fetch("test", 0, 62 * 64).astype(np.int64))
    windows = windows.view(62, 64)
    with torch.no_grad():
        logits = model(ids[windows]).logits[:, :-1, ids[:4]]
    following = windows[:, 1:]
    known = following < alphabet.NUM_BASES
    logs = logits.log_softmax(-1)[known]
    own = logs.gather(1, following[known][:, None])
    assert everywhere["positions"] == int(known.sum())
    score = everywhere["scores"]["model"]
    bits = -own.double().mean().item() / np.log(2)
    assert score["bits"]["estimate"] == pytest.approx(bits, abs=1e-5)
    right = (logs.argmax(1) == following[known]).double().mean().item()
    assert score["accuracy"]["estimate"] == pytest.approx(right, abs=1e-9)
    assert abs(bits - 2) > 0.01


def test_a_causal_model_is_measured_on_the_forward_strand(fasta, tmp_path, capsys):
    save("hyenadna", tmp_path / "model")
    assert evaluate(fasta, tmp_path, "--strand", "both") == 2
    assert "measured on the forward strand" in capsys.readouterr().err


def test_a_masked_family_of_transformers(fasta, tmp_path, capsys):
    save("bert", tmp_path / "model")
    assert evaluate(fasta, tmp_path, "--max-windows", "20") == 0
    assert "bert" in capsys.readouterr().out
    table = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [c["name"] for c in table["conditions"]] == ["random", "isolated"]
    assert table["model_name"] == "bert"
    assert table["strands"]["averaged"]["estimate"] < 1e-6
