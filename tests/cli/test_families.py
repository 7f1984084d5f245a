"""Every family of transformers through the verbs, at tiny sizes."""

import json

import numpy as np
import polars as pl
import pytest
from tests.family_checkpoints import CHECKPOINTS, save
from tests.labelled_sets import rows_with_motif, write_csv
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from crossdna import alphabet
from crossdna.analysis.inference import load_model
from crossdna.analysis.probe.linear import mean_embeddings, random_copy
from crossdna.cli import main
from crossdna.models.opening import Opened

BYTE_PAIRS = [name for name, (_, kind, _) in CHECKPOINTS.items() if kind == "bpe"]
NAMES = [name for name in CHECKPOINTS if name not in ("dnabert-files", "plant-esm")]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A genome of 300 bases, variants on it, and labelled sequences."""
    folder = tmp_path_factory.mktemp("families")
    rng = np.random.default_rng(0)
    draw = alphabet.decode(rng.integers(0, 4, 300))
    (folder / "genome.fa").write_text(f">one\n{draw}\n")
    other = "ACGT"[("ACGT".index(draw[99]) + 1) % 4]
    (folder / "in.vcf").write_text(
        "##fileformat=VCFv4.2\n##contig=<ID=one,length=300>\n"
        "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
        f"one\t100\t.\t{draw[99]}\t{other}\t.\t.\t.\n"
        f"one\t150\t.\t{draw[149:152]}\t{draw[149]}\t.\t.\t.\n"
    )
    for name, count in (("train", 24), ("valid", 12), ("test", 12)):
        rows = rows_with_motif(rng, count, length=26)
        keyed = [(f"{name}{number}", *row) for number, row in enumerate(rows)]
        write_csv(folder / f"{name}.csv", ["key", "sequence", "label"], keyed)
        bases = [
            (letters, "".join("01"[x in "CG"] for x in letters)) for letters, _ in rows
        ]
        write_csv(folder / f"{name}-bases.csv", ["sequence", "label"], bases)
    return folder


def run(*arguments):
    assert main(list(map(str, arguments))) == 0


def finetune(model, inputs, output, *more, kind=""):
    parts = ("train", "valid", "test")
    run(
        "finetune", "--model", model, "--device", "cpu", "--epochs", 1,
        "--baselines", "none", "--label-column", "label", "--batch-size", 12,
        "--output", output, *more,
        *(x for part in parts for x in (f"--{part}", inputs / f"{part}{kind}.csv")),
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_from_a_checkpoint_to_answers(name, inputs, tmp_path):
    path = save(name, inputs)
    causal = Opened(path).objective == "causal"
    common = ["--model", path, "--device", "cpu"]
    run("embed", inputs / "test.csv", *common, "--output", tmp_path / "e.parquet")
    vectors = np.array(pl.read_parquet(tmp_path / "e.parquet")["embedding"].to_list())
    assert vectors.shape == (12, 16)
    assert vectors.std(0).min() > 0
    common += ["--genome", inputs / "genome.fa"]
    run(
        "score", *common, "--variants", inputs / "in.vcf", "--window", 64,
        "--output", tmp_path / "s.parquet",
    )  # fmt: skip
    scores = pl.read_parquet(tmp_path / "s.parquet")
    assert scores["ll" if causal else "pll"][1] != 0
    where = ["--region", "one:98-101", "--window", 64]
    run("ism", *common, *where, "--deletions", "--output", tmp_path / "ism")
    changes = pl.read_parquet(tmp_path / "ism/ism.parquet")
    assert len(changes) == 16
    # The substitution of the variant file is among them, with the same score.
    first = scores.row(0, named=True)
    own = changes.filter((pl.col("pos") == 100) & (pl.col("alt") == first["alt"]))
    single = "ll" if causal else "pll" if name in BYTE_PAIRS else "llr"
    value = own["score" if single == "llr" else single][0]
    assert value == pytest.approx(first[single], abs=1e-4)


@pytest.mark.parametrize("name", ["dnabert", "nucleotide-transformer", "mistral"])
def test_tracks(name, inputs, tmp_path):
    """Each base is predicted, and from windows as a single question would be."""
    pyBigWig = pytest.importorskip("pyBigWig", reason="pyBigWig is not installed")
    run(
        "track", "--model", save(name, inputs), "--genome", inputs / "genome.fa",
        "--device", "cpu", "--region", "one:1-80", "--window", 60,
        "--mask-spacing", 4, "--output", tmp_path / "track",
    )  # fmt: skip
    with pyBigWig.open(str(tmp_path / "track/probability.bw")) as handle:
        values = np.array(handle.values("one", 0, 80))
    assert np.isfinite(values).all()
    assert values.std() > 0


@pytest.mark.parametrize("name", ["grover", "dnabert"])
def test_embeddings_along_a_region(name, inputs, tmp_path):
    pytest.importorskip("pyBigWig", reason="pyBigWig is not installed")
    run(
        "track", "--model", save(name, inputs), "--genome", inputs / "genome.fa",
        "--device", "cpu", "--region", "one:1-80", "--embeddings", 20,
        "--components", 1, "--output", tmp_path / "track",
    )  # fmt: skip
    assert (tmp_path / "track/component_1.bw").is_file()
    assert (tmp_path / "track/embeddings.parquet").is_file()


def test_tracks_of_byte_pairs_are_refused(inputs, tmp_path, capsys):
    status = main([
        "track", "--model", str(save("grover", inputs)), "--device", "cpu",
        "--genome", str(inputs / "genome.fa"), "--output", str(tmp_path / "track"),
    ])  # fmt: skip
    assert status == 2
    assert "byte pairs" in capsys.readouterr().err


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("grover", "gpt2-kmer")])
def test_finetune_and_predict(name, inputs, tmp_path):
    finetune(save(name, inputs), inputs, tmp_path / "out", "--head", "max_mean")
    run(
        "predict", inputs / "test.csv", "--model", tmp_path / "out", "--device", "cpu",
        "--output", tmp_path / "p.parquet",
    )  # fmt: skip
    mine = pl.read_parquet(tmp_path / "p.parquet")
    table = pl.read_parquet(tmp_path / "out/predictions.parquet")
    theirs = table.filter(pl.col("evaluated_as") == "test")
    np.testing.assert_allclose(mine["probability"], theirs["probability"], atol=1e-5)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert loaded.config.network_type == CHECKPOINTS[name][0]
    assert json.loads((tmp_path / "out/metrics.json").read_text())


@pytest.mark.parametrize("name", ["gpt2", "mamba", "nucleotide-transformer"])
def test_low_rank_updates_are_added_to_the_weights(name, inputs, tmp_path):
    more = ("--method", "lora", "--head", "position", "--set", "lora_rank=2")
    before = Opened(save(name, inputs)).model("embedding").state_dict()
    finetune(save(name, inputs), inputs, tmp_path / "out", *more)
    loaded = Opened(tmp_path / "out").model("embedding")
    changed = [k for k, v in loaded.state_dict().items() if not v.equal(before[k])]
    assert changed
    assert not any("embed" in key or "wte" in key for key in changed)


@pytest.mark.parametrize("name", ["dnabert", "grover"])
def test_per_base(name, inputs, tmp_path):
    finetune(
        save(name, inputs),
        inputs,
        tmp_path / "out",
        "--task",
        "per-base",
        kind="-bases",
    )
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
    assert loaded.config.num_labels == 2
    table = pl.read_parquet(tmp_path / "out/predictions.parquet")
    assert table["prediction"].list.len().to_list() == [26] * 24


def test_random_weights_of_a_checkpoints_shape(inputs, tmp_path):
    finetune(f"random:{save('dnabert', inputs)}", inputs, tmp_path / "one")
    run("embed", inputs / "test.csv", "--model", tmp_path / "one", "--device", "cpu",
        "--output", tmp_path / "e.parquet")  # fmt: skip
    assert len(pl.read_parquet(tmp_path / "e.parquet")) == 12


def test_heads_on_byte_pairs_have_scores_and_tracks(inputs, tmp_path):
    """Every verb on a fine-tuned model, whose tokens have no bases of their own."""
    pyBigWig = pytest.importorskip("pyBigWig", reason="pyBigWig is not installed")
    finetune(save("grover", inputs), inputs, tmp_path / "out", "--head", "mean")
    common = ["--model", tmp_path / "out", "--genome", inputs / "genome.fa"]
    common += ["--device", "cpu", "--window", 64]
    run(
        "score", *common, "--variants", inputs / "in.vcf",
        "--output", tmp_path / "s.parquet",
    )  # fmt: skip
    scores = pl.read_parquet(tmp_path / "s.parquet")
    heads = [name for name in scores.columns if name.startswith("head_")]
    assert len(heads) == 1
    run(
        "ism", *common, "--region", "one:100-100", "--deletions",
        "--output", tmp_path / "ism",
    )  # fmt: skip
    changes = pl.read_parquet(tmp_path / "ism/ism.parquet")
    own = changes.filter(pl.col("alt") == scores["alt"][0])
    assert own[heads[0]][0] == pytest.approx(scores[heads[0]][0], abs=1e-5)
    run("track", *common, "--step", 25, "--output", tmp_path / "track")
    with pyBigWig.open(str(tmp_path / f"track/{heads[0]}.bw")) as handle:
        assert np.isfinite(handle.values("one", 0, 300)).all()


def test_benchmark(inputs, tmp_path):
    suite = tmp_path / "suite/motif"
    suite.mkdir(parents=True)
    for name, file in (("train", "train"), ("valid", "dev"), ("test", "test")):
        table = pl.read_csv(inputs / f"{name}.csv").select("sequence", "label")
        table.write_csv(suite / f"{file}.csv")
    for mode in "probe", "finetune":
        run(
            "benchmark", "--suite", tmp_path / "suite", "--mode", mode, "--epochs", 1,
            "--models", save("nucleotide-transformer", inputs), save("gpt2", inputs),
            "--set", "head=mean", "--device", "cpu", "--output", tmp_path / mode,
        )  # fmt: skip
        table = pl.read_parquet(tmp_path / mode / "results.parquet")
        assert len(table) == 2
        assert table["parameters"].min() > 0


def test_probes_are_compared_with_random_weights(inputs):
    model = load_model(save("plant-esm", inputs), "embedding", "cpu")
    ids = np.random.default_rng(0).integers(0, 4, (3, 30)).astype(np.uint8)
    own = mean_embeddings(model, ids, batch_size=2)
    first, second = (
        mean_embeddings(random_copy(model, seed=seed), ids, batch_size=2)
        for seed in (0, 0)
    )
    assert own.shape == (3, 16)
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - own).max() > 0.01
