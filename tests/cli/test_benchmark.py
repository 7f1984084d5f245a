"""benchmark through the command line: cells kept, tables read back."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.labelled_sets import rows_with_motif, write_csv

from crossdna.analysis.supervised import benchmark, probing
from crossdna.analysis.supervised.baselines import BASELINES
from crossdna.cli import main


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    rng = np.random.default_rng(0)
    for task in ("a", "b/c"):
        (folder / task).mkdir(parents=True)
        for name, count in (("train", 60), ("dev", 24), ("test", 40)):
            rows = rows_with_motif(rng, count)
            write_csv(folder / task / f"{name}.csv", ["sequence", "label"], rows)
    return folder


def run(suite, output, *more):
    arguments = ["benchmark", "--suite", suite, "--output", output, "--device", "cpu"]
    arguments += ["--epochs", "1", "--set", "head=mean", *more]
    return main(list(map(str, arguments)))


@pytest.fixture(scope="module")
def done(suite, tmp_path_factory):
    """All cells of two tasks, three models, two seeds."""
    output = tmp_path_factory.mktemp("out") / "out"
    models = ("majority", "kmer", "new:tiny")
    assert run(suite, output, "--models", *models, "--seeds", "2") == 0
    return output


def test_table_has_every_model_and_task(done):
    table = pl.read_parquet(done / "results.parquet")
    assert len(table) == 6
    assert set(table["task"]) == {"a", "b/c"}
    seeds = dict(zip(table["model"], table["seeds"], strict=True))
    assert seeds == {"majority": 1, "kmer": 1, "new:tiny": 2}
    for row in table.iter_rows(named=True):
        assert row["low"] <= row["mean"] <= row["high"]
        assert row["metric"] == "mcc"
        assert bool(row["parameters"]) == (row["model"] == "new:tiny")
    majority = table.filter(pl.col("model") == "majority")
    assert majority["mean"].to_list() == [0, 0]


def test_mean_and_spread_are_those_of_the_cells(done):
    values = []
    for seed in (0, 1):
        path = benchmark.cell_path(done, "b/c", "new:tiny", seed)
        cell = json.loads(path.read_text())
        assert len(cell["fingerprint"]) == 32
        assert cell["made"]["torch"] == torch.__version__
        values.append(cell["value"])
    table = pl.read_parquet(done / "results.parquet")
    row = table.filter((pl.col("model") == "new:tiny") & (pl.col("task") == "b/c"))
    assert row["mean"].item() == pytest.approx(np.mean(values))
    assert row["sd"].item() == pytest.approx(np.std(values, ddof=1))


def test_pairs_are_of_one_task_and_add_up(done):
    table = pl.read_parquet(done / "results.parquet")
    means = {(r["task"], r["model"]): r["mean"] for r in table.iter_rows(named=True)}
    pairs = pl.read_parquet(done / "pairs.parquet")
    assert len(pairs) == 6
    for pair in pairs.iter_rows(named=True):
        gain = means[pair["task"], pair["first"]] - means[pair["task"], pair["second"]]
        assert pair["gain"] == pytest.approx(gain)
        assert 0 < pair["p"] <= 1
        assert (pair["low"] > 0) <= (pair["p"] < 0.06)


def test_markdown_and_picture(done):
    text = (done / "results.md").read_text()
    assert "| b/c | kmer | mcc |" in text
    assert "mean over tasks" in text
    assert (done / "results.png").read_bytes().startswith(b"\x89PNG")


def test_finished_cells_are_not_done_again(suite, done, monkeypatch, capsys):
    def refuse(*arguments):
        raise AssertionError("a finished cell was fitted again")

    forbidden = BASELINES["kmer"]._replace(fit=refuse)
    monkeypatch.setitem(BASELINES, "kmer", forbidden)
    assert run(suite, done, "--models", "kmer", "--tasks", "a") == 0
    monkeypatch.undo()
    assert run(suite, done, "--models", "kmer", "--mode", "probe") == 2
    assert "another suite, mode or recipe" in capsys.readouterr().err


def test_cells_of_other_data_are_refused(tmp_path, rng, capsys):
    """Also those of models that are not asked for: they would be compared."""
    (tmp_path / "suite").mkdir()
    file, output = tmp_path / "suite/x.csv", tmp_path / "out"
    rows = rows_with_motif(rng, 80)
    write_csv(file, ["sequence", "label"], rows)
    assert run(file.parent, output, "--models", "majority") == 0
    write_csv(file, ["sequence", "label"], [(s, 1 - y) for s, y in rows])
    assert run(file.parent, output, "--models", "kmer") == 2
    assert "other data: changed are train_label, " in capsys.readouterr().err
    # Cells of older versions say nothing of their data.
    path = benchmark.cell_path(output, "x", "majority", 0)
    cell = json.loads(path.read_text())
    del cell["data"], cell["checkpoint"]
    path.write_text(json.dumps(cell))
    assert run(file.parent, output, "--models", "kmer", "majority") == 0


def test_cells_of_another_checkpoint_are_refused(
    suite, tmp_path, tiny_checkpoint, capsys
):
    model = tmp_path / "model"
    shutil.copytree(tiny_checkpoint(), model)
    probe = ("--models", model, "--tasks", "a", "--mode", "probe")
    assert run(suite, tmp_path / "out", *probe) == 0
    assert run(suite, tmp_path / "out", *probe) == 0
    weights = load_file(model / "model.safetensors")
    changed = {name: value + 1 for name, value in weights.items()}
    save_file(changed, model / "model.safetensors", {"format": "pt"})
    assert run(suite, tmp_path / "out", *probe) == 2
    assert f"made with other files of {model}" in capsys.readouterr().err


def test_probing(suite, done, tmp_path):
    checkpoint = next((done / "cells").glob("a/new_tiny/seed-0/seed-0"))
    output = tmp_path / "out"
    models = ("majority", str(checkpoint))
    status = run(suite, output, "--models", *models, "--tasks", "a", "--mode", "probe")
    assert status == 0
    table = pl.read_parquet(output / "results.parquet")
    assert set(table["model"]) == set(models)
    assert table["seeds"].to_list() == [1, 1]
    sizes = dict(zip(table["model"], table["parameters"], strict=True))
    assert sizes["majority"] is None
    assert sizes[str(checkpoint)] > 1000


def test_probing_random_networks(suite, done, tmp_path):
    checkpoint = next((done / "cells").glob("a/new_tiny/seed-0/seed-0"))
    models, output = ("new:tiny", f"random:{checkpoint}"), tmp_path / "out"
    more = ("--tasks", "a", "--mode", "probe", "--seeds", "2")
    assert run(suite, output, "--models", *models, *more) == 0
    table = pl.read_parquet(output / "results.parquet")
    assert table["seeds"].to_list() == [2, 2]
    cells = [json.loads(path.read_text()) for path in output.rglob("seed-?.json")]
    # Each seed draws a network of its own, of new ones and of a checkpoint's shape.
    assert len({cell["fingerprint"] for cell in cells}) == 4


def test_probing_in_the_precision_that_is_asked_for(
    suite, done, tmp_path, monkeypatch, capsys
):
    asked = []
    fit = probing.ProbeModel.__init__

    def noted(self, name, network, *sets):
        asked.append(network.asked_in)
        fit(self, name, network, *sets)

    monkeypatch.setattr(probing.ProbeModel, "__init__", noted)
    checkpoint = next((done / "cells").glob("a/new_tiny/seed-0/seed-0"))
    probe = ("--models", checkpoint, "--tasks", "a", "--mode", "probe")
    assert run(suite, tmp_path / "out", *probe, "--precision", "bf16") == 0
    assert run(suite, tmp_path / "other", *probe) == 0
    assert asked == [torch.bfloat16, None]
    # Cells of another precision are other cells.
    assert run(suite, tmp_path / "out", *probe) == 2
    assert "another suite, mode or recipe" in capsys.readouterr().err


def test_what_does_not_suit_is_left_out_and_said(tmp_path, rng, capsys):
    rows = [(s, y + 0.1 * i) for i, (s, y) in enumerate(rows_with_motif(rng, 80))]
    suite = tmp_path / "suite"
    suite.mkdir()
    write_csv(suite / "strength.csv", ["sequence", "strength"], rows)
    assert run(suite, tmp_path / "out", "--models", "markov", "kmer") == 0
    assert "strength: markov left out: for classes" in capsys.readouterr().err
    table = pl.read_parquet(tmp_path / "out/results.parquet")
    assert table["model"].to_list() == ["kmer"]
    assert table["metric"].to_list() == ["pearson"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--models", "kmer", "--tasks", "z"], "no task 'z'"),
        (["--models", "new:huge"], "no size 'huge'"),
        (["--models", "kmer", "a/b/c/d"], "no such directory; nor is 'a/b/c/d' a base"),
        (["--models", "kmer", "a/b/c/d"], "hmm, pwm:FILE.meme"),
    ],
)
def test_errors(suite, tmp_path, capsys, more, message):
    assert run(suite, tmp_path / "out", *more) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("seed-*.json"))
