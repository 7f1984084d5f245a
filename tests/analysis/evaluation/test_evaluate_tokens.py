"""Evaluation of models that read byte pairs: whole tokens, whose bits bases share."""

import json

import numpy as np
import pytest
import torch
from tests.family_checkpoints import save
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from crossdna import alphabet
from crossdna.analysis.evaluation.hidden import hide_isolated, hide_random
from crossdna.analysis.inference import load_model
from crossdna.cli import main
from crossdna.errors import CrossDNAError

WINDOW = 64


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSDNA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def windows(tmp_path, rng):
    """The held-out windows, some letters N; the genome is written beside."""
    train, test = rng.integers(0, 4, (2, 30 * WINDOW)).astype(np.uint8)
    test[[5, 100, 101]] = alphabet.N
    text = f">train\n{alphabet.decode(train)}\n>test\n{alphabet.decode(test)}\n"
    (tmp_path / "genome.fa").write_text(text)
    return test.reshape(30, WINDOW)


def evaluate(model, folder, *more):
    return main(
        [
            *("evaluate", "--model", str(model), "--device", "cpu"),
            *("--genome", str(folder / "genome.fa"), "--chromosomes", "test"),
            *("--window", str(WINDOW), "--output", str(folder / "out"), *more),
        ]
    )


def cut(tokenizer, window):
    """Tokens of a window and their places; special tokens have none."""
    encoded = tokenizer(alphabet.decode(window), return_offsets_mapping=True)
    return encoded["input_ids"], encoded["offset_mapping"]


def judge(tokenizer, logits, token, window, place):
    """Bits of a token among the words of A C G T, and right bases of the best one."""
    words = {n: w for w, n in tokenizer.get_vocab().items() if set(w) <= set("ACGT")}
    ids = sorted(words)
    logs = logits[ids].double().log_softmax(0)
    best = words[ids[int(logs.argmax())]]
    truth = alphabet.decode(window[place[0] : place[1]])
    right = sum(a == b for a, b in zip(best, truth, strict=False))
    return -float(logs[ids.index(token)]) / np.log(2), right


def everywhere(folder, condition):
    table = json.loads((folder / "out" / "evaluation.json").read_text())
    found = {c["name"]: c for c in table["conditions"]}[condition]
    (group,) = (g for g in found["groups"] if g["name"] == "all bases")
    assert table["strands"] is None
    return found["description"], group


def compare(group, bits, right, bases):
    score = group["scores"]["model"]
    assert group["positions"] == bases
    assert score["bits"]["estimate"] == pytest.approx(bits / bases, abs=1e-5)
    assert score["accuracy"]["estimate"] == pytest.approx(right / bases, abs=1e-9)
    assert score["bits"]["low"] < bits / bases < score["bits"]["high"]


@pytest.mark.parametrize("condition", ["random", "isolated"])
def test_bits_of_hidden_tokens_equal_a_direct_computation(
    windows, tmp_path, capsys, condition
):
    path = save("grover", tmp_path)
    assert evaluate(path, tmp_path) == 0
    assert "one token in 32 hidden" in capsys.readouterr().out
    net = AutoModelForMaskedLM.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    draw = (
        hide_random(windows, np.arange(30), share=0.15, seed=0)
        if condition == "random"
        else hide_isolated(windows, np.arange(30), spacing=32, seed=0)
    )
    chosen = set(zip(draw.rows.tolist(), draw.columns.tolist(), strict=True))
    bits = right = bases = 0
    for row, window in enumerate(windows):
        ids, places = cut(tokenizer, window)
        asked = [
            n
            for n, (start, end) in enumerate(places)
            if (row, start) in chosen and end > start
        ]
        shown = torch.tensor([ids])
        shown[0, asked] = tokenizer.mask_token_id
        with torch.no_grad():
            logits = net(shown).logits[0]
        for n in asked:
            paid, good = judge(tokenizer, logits[n], ids[n], window, places[n])
            bits, right = bits + paid, right + good
            bases += places[n][1] - places[n][0]
    assert bases > 20
    compare(everywhere(tmp_path, condition)[1], bits, right, bases)


def test_bits_of_next_tokens_equal_a_direct_computation(windows, tmp_path):
    path = save("gemma", tmp_path)
    assert evaluate(path, tmp_path) == 0
    net = AutoModelForCausalLM.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    bits = right = bases = 0
    for window in windows:
        ids, places = cut(tokenizer, window)
        with torch.no_grad():
            logits = net(torch.tensor([ids])).logits[0]
        for n, (start, end) in enumerate(places):
            # The first base has no base before it, here as for other models.
            if start == 0 or end == start or (window[start:end] == alphabet.N).any():
                continue
            paid, good = judge(tokenizer, logits[n - 1], ids[n], window, (start, end))
            bits, right, bases = bits + paid, right + good, bases + end - start
    described, group = everywhere(tmp_path, "next")
    assert described == "each token predicted from those to its left"
    compare(group, bits, right, bases)


def test_strands_of_byte_pairs_are_not_averaged(windows, tmp_path, capsys):
    path = save("grover", tmp_path)
    assert evaluate(path, tmp_path, "--strand", "both") == 2
    assert "cut into different byte pairs" in capsys.readouterr().err


def test_kmers_are_asked_base_by_base(windows, tmp_path):
    path = save("nucleotide-transformer", tmp_path)
    assert evaluate(path, tmp_path, "--max-windows", "12") == 0
    table = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert table["conditions"][1]["description"] == "one base in 32 hidden"
    assert table["strands"]["averaged"]["estimate"] < 1e-5
    model = load_model(path, "masked-lm", "cpu")
    ids = torch.from_numpy(windows[:1].astype(np.int64))
    with pytest.raises(CrossDNAError, match="only where no base can be"):
        model.token_answers(ids, ids == 0)
