"""Generated sequences: constraints, seeds, batches, resumption, every kind of model."""

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tests.brute_force import meets
from tests.family_checkpoints import save

from crossdna import alphabet
from crossdna.analysis.generation.constraints import Constraints, Plan
from crossdna.analysis.generation.generate import GenerateSettings, generate
from crossdna.analysis.generation.masked import reveal
from crossdna.analysis.generation.sampling import Truncation
from crossdna.analysis.inference import (
    base_log_probabilities,
    checkpoint_task,
    load_model,
)
from crossdna.analysis.likelihood import log_likelihoods
from crossdna.cli import main

GOLDEN = Path(__file__).parents[2] / "golden"
CASE = Constraints(
    template="ACG" + "N" * 18 + "RT",
    gc=(0.3, 0.6),
    contain=("TATAA",),
    avoid=("GGATCC", "AAAA"),
)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, tiny_checkpoint):
    """Name to directory, of every kind of model that writes."""
    folder = tmp_path_factory.mktemp("families")

    def get(name):
        if name == "crossdna":
            return tiny_checkpoint()
        return GOLDEN / name if (GOLDEN / name).is_dir() else save(name, folder)

    return get


@pytest.mark.parametrize(
    "name",
    ["crossdna", "hyenadna", "caduceus_ph", "dnabert", "nucleotide-transformer",
     "gpt2", "gpt2-kmer", "mistral", "mamba"],
)  # fmt: skip
def test_constraints_hold_whatever_the_model(checkpoints, name):
    task = checkpoint_task(checkpoints(name))
    model = load_model(checkpoints(name), task, "cpu")
    settings = GenerateSettings(constraints=CASE, number=4, rounds=4, seed=1)
    found = generate(model, task, settings, range(4))
    texts = [alphabet.decode(row) for row in found["ids"]]
    assert all(meets(text, CASE) for text in texts)
    assert len(set(texts)) == 4
    assert np.isfinite(found["scores"]).all()
    assert (found["scores"] < 0).all()
    # One at a time, from the same seed, each is what it is among the others.
    alone = generate(model, task, settings, [2])
    np.testing.assert_array_equal(alone["ids"][0], found["ids"][2])
    assert alone["scores"][0] == pytest.approx(found["scores"][2], abs=1e-4)


def test_a_causal_model_is_followed(checkpoints):
    """Without constraints the draws have the model's own probabilities."""
    model = load_model(checkpoints("mistral"), "causal-lm", "cpu")
    settings = GenerateSettings(constraints=Constraints(template="GATTN"), strand="+")
    found = generate(model, "causal-lm", settings, range(600))["ids"]
    whole = alphabet.encode("GATT")[None].repeat(4, 0)
    every = np.concatenate([whole, np.arange(4, dtype=np.uint8)[:, None]], 1)
    logs = log_likelihoods(model, torch.from_numpy(every.astype(np.int64)))
    expected = logs.softmax(0).numpy()
    seen = np.bincount(found[:, -1], minlength=4) / 600
    # Five standard deviations of a share of 600.
    assert np.abs(seen - expected).max() < 5 * np.sqrt(0.25 / 600)
    assert expected.max() - expected.min() > 0.1


def test_a_masked_model_is_followed(checkpoints):
    """One hidden base is drawn from what the model says of it."""
    model = load_model(checkpoints("crossdna"), "masked-lm", "cpu")
    plan = Plan(Constraints(template="GATTNACAGATTACA"))
    randoms = [np.random.default_rng([0, number]) for number in range(600)]
    options = {"rounds": 1, "sweeps": 0, "strand": "+"}
    found = reveal(model, plan, Truncation(), randoms, **options)
    asked = torch.from_numpy(found[:1].astype(np.int64))
    asked[0, 4] = alphabet.MASK
    expected = base_log_probabilities(model, asked)[0, 4].exp().numpy()
    seen = np.bincount(found[:, 4], minlength=4) / 600
    assert np.abs(seen - expected).max() < 5 * np.sqrt(0.25 / 600)
    assert expected.max() - expected.min() > 0.1


def test_sweeps_go_on_from_the_filled_template(checkpoints):
    model = load_model(checkpoints("crossdna"), "masked-lm", "cpu")
    plan = Plan(CASE)

    def run(sweeps):
        random = np.random.default_rng(3)
        options = {"rounds": 3, "sweeps": sweeps, "strand": "+"}
        (ids,) = reveal(model, plan, Truncation(), [random], **options)
        return alphabet.decode(ids)

    assert run(0) != run(2)
    assert meets(run(2), CASE)


def test_the_reverse_strand_is_given_back_forward(checkpoints):
    model = load_model(checkpoints("hyenadna"), "causal-lm", "cpu")
    case = Constraints(template="ACGTTG" + "N" * 10)
    settings = {
        strand: GenerateSettings(constraints=case, strand=strand, number=2)
        for strand in ("+", "-", "both")
    }
    plus, minus, both = (
        generate(model, "causal-lm", settings[s], [0, 1])["ids"] for s in settings
    )
    assert all(alphabet.decode(row).startswith("ACGTTG") for row in [*plus, *minus])
    np.testing.assert_array_equal(both, [plus[0], minus[1]])


def test_command_line(checkpoints, tmp_path, capsys):
    def run(name, *more):
        output = tmp_path / name
        words = ["generate", "--model", str(checkpoints("crossdna")), "--device", "cpu"]
        words += ["--output", str(output), "--number", "5", "--rounds", "3", *more]
        return main(words), output

    constraint = ["--gc", "0.4", "0.6", "--avoid", "GAATTC", "--contain", "TTGACA"]
    one = ["--prompt", "ACG", "--length", "24", *constraint]
    code, first = run("one.fa", *one)
    assert code == 0
    table = pl.read_parquet(first.with_suffix(".parquet"))
    case = Constraints(
        template="ACG" + "N" * 21, gc=(0.4, 0.6), avoid=("GAATTC",), contain=("TTGACA",)
    )
    assert all(meets(text, case) for text in table["sequence"])
    lines = first.read_text().splitlines()
    assert [line.split()[0] for line in lines[::2]] == [
        f">sequence-{number}" for number in range(1, 6)
    ]
    assert lines[1::2] == table["sequence"].to_list()
    made_by = json.loads(
        pl.read_parquet_metadata(first.with_suffix(".parquet"))["crossdna"]
    )
    assert f"model={made_by['fingerprint']}" in lines[0]
    assert made_by["constraints"]["contain"] == ["TTGACA"]
    assert made_by["precision"] == "float32"
    # The same seed in other batches gives the same file; another seed another one.
    assert run("two.fa", *one, "--batch-size", "2")[0] == 0
    assert (tmp_path / "two.fa").read_text() == first.read_text()
    assert run("three.fa", *one, "--seed", "1")[0] == 0
    assert (tmp_path / "three.fa").read_text() != first.read_text()
    # A template from a file.
    (tmp_path / "t.fa").write_text(">t some words\nACGNN\nNNRT\n")
    code, filled = run("four.fa", "--template", str(tmp_path / "t.fa"))
    assert code == 0
    for text in pl.read_parquet(filled.with_suffix(".parquet"))["sequence"]:
        assert meets(text, Constraints(template="ACGNNNNRT"))
    (tmp_path / "t.fa.gz").write_bytes(gzip.compress((tmp_path / "t.fa").read_bytes()))
    assert run("five.fa", "--template", str(tmp_path / "t.fa.gz"))[0] == 0
    assert (tmp_path / "five.fa").read_text() == filled.read_text()
    for words, message in (
        (["--length", "3", "--contain", "ACGTA"], "would go without contain"),
        (["--template", "NNN", "--length", "3"], "leave out --length"),
        (["--prompt", "AAA"], "give --length"),
        (["--length", "2", "--prompt", "AAA"], "less than the"),
    ):
        assert run("bad.fa", *words)[0] == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "bad.fa").exists()


def test_precision_is_said_and_never_mixed(
    checkpoints, tmp_path, left_unfinished, capsys
):
    """What one precision left unfinished, another does not finish."""
    output = tmp_path / "some.fa"
    words = ["generate", "--model", str(checkpoints("crossdna")), "--device", "cpu"]
    words += ["--output", str(output), "--number", "4", "--length", "60"]
    words += ["--rounds", "3", "--batch-size", "2"]

    def sequences(*more):
        assert main([*words, *more]) == 0
        table = output.with_suffix(".parquet")
        note = json.loads(pl.read_parquet_metadata(table)["crossdna"])
        return note["precision"], pl.read_parquet(table)["sequence"].to_list()

    exact, rough = sequences(), sequences("--precision", "bf16")
    assert (exact[0], rough[0]) == ("float32", "bf16")
    assert exact[1] != rough[1]

    left_unfinished(words)
    assert (tmp_path / "some.fa.work").is_dir()
    capsys.readouterr()
    assert main([*words, "--precision", "bf16"]) != 0
    assert "precision" in capsys.readouterr().err
    # What cannot be written is not lost.
    output.unlink()
    output.mkdir()
    assert main(words) == 2
    assert (tmp_path / "some.fa.work").is_dir()
    output.rmdir()
    assert sequences() == exact
    assert not (tmp_path / "some.fa.work").exists()


def test_a_classifier_does_not_generate(tiny_checkpoint, tmp_path, capsys):
    folder = tiny_checkpoint("CrossDNAForSequenceClassification", num_labels=2)
    words = ["generate", "--model", str(folder), "--length", "9"]
    assert main([*words, "--output", str(tmp_path / "x.fa")]) == 2
    assert "only a language model generates" in capsys.readouterr().err
