"""`crossdna evaluate`, `probe` and `demo` as a user runs them."""

import json

import numpy as np
import pytest
import torch

from crossdna import CrossDNAConfig, CrossDNAForMaskedLM
from crossdna.cli import main

RECIPE = """
[model]
type = "crossdna"
d_model = 16
depth = 1
num_heads = 2
head_dim = 8
attention_heads = 2
block_size = 64
dropout = 0.0

[genome.toy]
fasta = "{fasta}"
valid = ["valid"]
test = ["test"]

[windows]
length = 64
valid_windows = 4

[train]
steps = 2
batch_size = 2
evaluate_every = 1
save_every = 1
log_every = 1
device = "cpu"
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A genome of three contigs, its genes, a model and a recipe."""
    folder, rng = tmp_path_factory.mktemp("toy"), np.random.default_rng(0)
    letters = np.array(list("ACGT"))
    names = ("train", "valid", "test")
    contigs = {name: "".join(letters[rng.integers(4, size=20_000)]) for name in names}
    text = "".join(f">{name}\n{contig}\n" for name, contig in contigs.items())
    (folder / "genome.fa").write_text(text)
    (folder / "genes.gff").write_text(
        "".join(
            f"{name}\tx\tCDS\t{start + 1}\t{start + 500}\t.\t+\t0\tID=c{start}\n"
            for name in names
            for start in range(500, 19_000, 1000)
        )
    )
    torch.manual_seed(0)
    config = CrossDNAConfig(
        d_model=16, depth=1, num_heads=2, head_dim=8, attention_heads=2, block_size=64
    )
    CrossDNAForMaskedLM(config).save_pretrained(folder / "model")
    recipe = RECIPE.format(fasta=folder / "genome.fa")
    (folder / "recipe.toml").write_text(recipe)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSDNA_CACHE", str(tmp_path / "cache"))


def evaluate(toy, output, *more):
    chromosomes = [] if "--chromosomes" in more else ["--chromosomes", "test"]
    return main(
        [
            *("evaluate", "--model", str(toy / "model")),
            *("--genome", str(toy / "genome.fa"), "--output", str(output)),
            *(*chromosomes, "--window", "64", "--device", "cpu", *more),
        ]
    )


def test_evaluate_writes_and_prints_the_same_each_time(toy, tmp_path, capsys):
    tables, figures = [], []
    for name in ("one", "two"):
        output = tmp_path / name
        more = ("--annotation", str(toy / "genes.gff"), "--max-windows", "40")
        assert evaluate(toy, output, *more) == 0
        shown = capsys.readouterr().out
        assert "CrossDNA" in shown
        assert "Two-sided" in shown
        assert "CDS" in shown
        tables.append(json.loads((output / "evaluation.json").read_text()))
        figures.append((output / "evaluation.png").read_bytes())
        del tables[-1]["made_by"]["command"]
    assert tables[0] == tables[1]
    assert figures[0] == figures[1]
    # Without --train-chromosomes the baselines learn from all others.
    assert (tables[0]["train"], tables[0]["held_out"]) == ("train, valid", "test")
    # No model can know random bases: all stay near two bits.
    score = tables[0]["conditions"][0]["groups"][0]["scores"]["markov-10"]
    assert score["bits"]["estimate"] == pytest.approx(2, abs=0.02)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--chromosomes", "tset"), "did you mean 'test'"),
        (("--train-chromosomes", "test"), "both in the training and in the held-out"),
        (("--window", "30000"), "choose shorter windows"),
        (("--model", "nowhere/at/all"), "nowhere/at/all"),
        (("--annotation", "missing.gff"), "missing.gff"),
    ],
)
def test_bad_input_is_an_error_and_writes_nothing(toy, tmp_path, capsys, more, message):
    assert evaluate(toy, tmp_path / "found", *more) == 2
    assert message in capsys.readouterr().err
    left = tmp_path / "found"
    assert not left.exists() or not list(left.iterdir())


def test_a_part_of_a_genome_of_one_contig(toy, tmp_path, capsys):
    """The rest of the contig is what baselines learn from."""
    (tmp_path / "one.fa").write_text(
        "".join((toy / "genome.fa").read_text().splitlines(keepends=True)[:2])
    )
    more = ("--chromosomes", "train:1-4000", "--annotation", str(tmp_path / "a.gff"))
    (tmp_path / "a.gff").write_text("train\tx\tgene\t1\t9\t.\t+\t.\tID=a\n")
    options = ("--genome", str(tmp_path / "one.fa"), *more)
    assert evaluate(toy, tmp_path / "found", *options) == 0
    table = json.loads((tmp_path / "found" / "evaluation.json").read_text())
    assert table["train"] == "train:4001-20000"
    assert "has nothing on" not in capsys.readouterr().err


def test_contigs_without_annotation_are_named(toy, tmp_path, capsys):
    (tmp_path / "a.gff").write_text("train\tx\tgene\t1\t9\t.\t+\t.\tID=a\n")
    more = ("--annotation", str(tmp_path / "a.gff"))
    assert evaluate(toy, tmp_path / "found", *more) == 0
    assert "a.gff has nothing on test" in capsys.readouterr().err


def test_a_full_output_directory_is_left_alone(toy, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert evaluate(toy, tmp_path) == 2
    assert "is not empty" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_probe_writes_and_prints(toy, tmp_path, capsys):
    options = [
        *("probe", "--model", str(toy / "model"), "--window", "100"),
        *("--genome", str(toy / "genome.fa"), "--chromosomes", "test"),
        *("--annotation", str(toy / "genes.gff"), "--windows-per-class", "15"),
    ]
    assert main([*options, "--output", str(tmp_path / "found")]) == 0
    shown = capsys.readouterr().out
    assert "random weights" in shown
    table = json.loads((tmp_path / "found" / "probe.json").read_text())
    assert table["held_out_windows"] == table["train_windows"] == 30
    assert set(table["scores"]) >= {"pretrained", "k-mers", "majority"}
    assert (tmp_path / "found" / "embedding.png").stat().st_size > 10_000
    assert table["made_by"]["precision"] == "float32"
    rough = [*options, "--precision", "bf16", "--output", str(tmp_path / "rough")]
    assert main(rough) == 0
    found = json.loads((tmp_path / "rough" / "probe.json").read_text())
    assert found["made_by"]["precision"] == "bf16"
    # Both networks are asked in the same precision.
    for name in ("pretrained", "random weights"):
        assert found["scores"][name]["auroc"] == pytest.approx(
            table["scores"][name]["auroc"], abs=0.1
        )
    same = [*options, "--train-chromosomes", "test", "--output", str(tmp_path / "b")]
    assert main(same) == 2
    assert "both in the training" in capsys.readouterr().err


def demo(toy, output, *more):
    return main(
        [
            *("demo", str(toy / "recipe.toml"), "--output", str(output)),
            *("--annotation", str(toy / "genes.gff"), "--windows", "40"),
            *("--locus", "test:1,000-1,050", *more),
        ]
    )


def test_demo_is_repeated_without_being_redone(toy, tmp_path, capsys):
    output = tmp_path / "demo"
    assert demo(toy, output) == 0
    assert str(output / "report.html") in capsys.readouterr().out
    results = [
        output / name
        for name in (
            "model/model.safetensors",
            "evaluation/evaluation.json",
            "probe/probe.json",
            "locus/locus.json",
        )
    ]
    before = [path.stat().st_mtime_ns for path in results]
    page = (output / "report.html").read_text()
    (output / "report.html").unlink()
    assert demo(toy, output) == 0
    assert [path.stat().st_mtime_ns for path in results] == before
    assert (output / "report.html").read_text() == page


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--locus", "train:1-50"), "not in the recipe's test regions"),
        (("--locus", "test:1-500"), "longer than the 64 bases"),
        (("--set", "genome.toy.test=[]"), "needs test chromosomes"),
        (("--set", "train.stepz=3"), "did you mean 'steps'"),
    ],
)
def test_demo_refuses_before_it_trains(toy, tmp_path, capsys, more, message):
    assert demo(toy, tmp_path / "demo", *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_a_classifier_is_not_taken_for_a_language_model(
    toy, tiny_checkpoint, tmp_path, capsys
):
    path = tiny_checkpoint("CrossDNAForSequenceClassification", num_labels=2)
    assert evaluate(toy, tmp_path / "found", "--model", str(path)) == 2
    assert "only a language model" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()
