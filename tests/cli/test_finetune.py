"""finetune and predict end to end through the command line, outputs read back."""

import json
import shutil
import tomllib

import numpy as np
import polars as pl
import pytest
from sklearn import metrics as sk
from tests.labelled_sets import rows_with_motif, write_csv
from transformers import AutoModelForSequenceClassification

from crossdna import alphabet
from crossdna.analysis.supervised.baselines import BASELINES
from crossdna.analysis.supervised.finetuned import FinetunedModel
from crossdna.cli import main
from crossdna.data.labelled import Task
from crossdna.data.metrics import choose_thresholds
from crossdna.data.temperature import fit_temperature
from crossdna.models.crossdna import CrossDNAConfig, CrossDNAForMaskedLM

BINARY = Task(kind="binary", columns=("label",), classes=("0", "1"))
QUICK = [
    "--model",
    "new:tiny",
    "--head",
    "max_mean",
    "--epochs",
    "1",
    "--device",
    "cpu",
]


def finetune(*arguments):
    return main(["finetune", *QUICK, *map(str, arguments)])


def binary_files(folder, rng, flip_test=False):
    files = []
    for name, count in (("train", 60), ("valid", 30), ("test", 40)):
        rows = [
            (f"{name}{number}", letters, label)
            for number, (letters, label) in enumerate(rows_with_motif(rng, count))
        ]
        if name == "test" and flip_test:
            rows = [(key, letters, 1 - label) for key, letters, label in rows]
        path = folder / f"{name}.csv"
        files += [f"--{name}", write_csv(path, ["key", "sequence", "label"], rows)]
    return files


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with two seeds and classical baselines: its folder of inputs and output."""
    folder = tmp_path_factory.mktemp("run")
    files = binary_files(folder, np.random.default_rng(0))
    status = finetune(
        *files, "--output", folder / "out", "--seeds", 2, "--epochs", 2,
        "--baselines", "classical", "--label-column", "label",
    )  # fmt: skip
    assert status == 0
    return folder


@pytest.fixture(scope="module")
def metrics(run):
    return json.loads((run / "out/metrics.json").read_text())


@pytest.fixture(scope="module")
def predictions(run):
    return pl.read_parquet(run / "out/predictions.parquet")


def test_metrics_can_be_recomputed_from_the_predictions(metrics, predictions):
    test = predictions.filter(pl.col("evaluated_as") == "test")
    truth = test["label"].cast(int).to_numpy()
    decided = test["prediction"].cast(int).to_numpy()
    probability = test["probability"].to_numpy()
    found = metrics["model"]["metrics"]
    expected = {
        "mcc": sk.matthews_corrcoef(truth, decided),
        "accuracy": sk.accuracy_score(truth, decided),
        "auroc": sk.roc_auc_score(truth, probability),
        "auprc": sk.average_precision_score(truth, probability),
        "brier": sk.brier_score_loss(truth, probability),
    }
    for name, value in expected.items():
        assert found[name]["estimate"] == pytest.approx(value), name
        assert found[name]["low"] <= found[name]["estimate"] <= found[name]["high"]
    (threshold,) = metrics["model"]["thresholds"]
    assert np.array_equal(decided, (probability >= threshold).astype(int))


def test_threshold_is_that_of_the_development_set(metrics, predictions):
    valid = predictions.filter(pl.col("evaluated_as") == "valid")
    truth = valid["label"].cast(int).to_numpy()
    probability = valid["probability"].to_numpy()
    best = max(sk.matthews_corrcoef(truth, probability >= t) for t in probability)
    (threshold,) = metrics["model"]["thresholds"]
    found = sk.matthews_corrcoef(truth, probability >= threshold)
    assert found >= best - (1 - best**2) / np.sqrt(len(truth) - 1)
    both = np.stack([1 - probability, probability], axis=1)
    assert (threshold,) == choose_thresholds(BINARY, truth, both)
    # Nor are probabilities surer than it allows.
    assert metrics["temperatures"].keys() == metrics["seeds"].keys()
    assert all(value >= 1 for value in metrics["temperatures"].values())
    logits = np.log(np.maximum(both, 1e-300))
    assert fit_temperature(BINARY, truth, logits) == pytest.approx(1, abs=1e-3)


def test_predictions_keep_rows_and_columns(run, predictions):
    for name in ("valid", "test"):
        rows = pl.read_csv(run / f"{name}.csv", infer_schema=False)
        part = predictions.filter(pl.col("evaluated_as") == name)
        assert part.select(rows.columns).equals(rows)


def test_metrics_tell_chance_seeds_and_baselines(metrics):
    assert metrics["primary_metric"] == "mcc"
    assert metrics["chance"]["mcc"] == 0
    assert list(metrics["seeds"]) == ["seed 0", "seed 1"]
    values = [one["metrics"]["mcc"]["estimate"] for one in metrics["seeds"].values()]
    assert metrics["mean_over_seeds"]["mcc"] == pytest.approx(np.mean(values))
    assert metrics["sd_over_seeds"]["mcc"] == pytest.approx(np.std(values, ddof=1))
    assert {"majority", "k-mer", "markov", "position weights"} <= set(metrics["others"])
    assert metrics["rows"] == {"train": 60, "valid": 30, "test": 40}
    assert metrics["provenance"]["strand_policy"] == "average"


def test_output_is_a_checkpoint_of_the_best_seed(run, metrics):
    model = AutoModelForSequenceClassification.from_pretrained(run / "out")
    assert model.config.id2label == {0: "0", 1: "1"}
    results = [
        json.loads((run / f"out/runs/seed-{seed}/result.json").read_text())
        for seed in (0, 1)
    ]
    best = max(results, key=lambda result: result["score"])
    kept = json.loads((run / "out/result.json").read_text())
    assert kept["seed"] == best["seed"]
    recipe = tomllib.loads((run / "out/recipe.toml").read_text())
    assert recipe["finetune"]["epochs"] == 2
    settings = json.loads((run / "out/metrics.json").read_text())["settings"]
    assert (settings["lr"], settings["epochs"], settings["noise"]) == (2e-3, 2, 0.05)
    assert settings["head"] != "auto"


def test_report_needs_nothing_else(run):
    page = (run / "out/report.html").read_text()
    for part in ("Worst errors", "The other strand", "by chance", "Shared sequences",
                 "data:image/png;base64,", "k-mer", "ROC"):  # fmt: skip
        assert part in page
    for foreign in ('src="http', "<script", "<link"):
        assert foreign not in page


def test_averaged_predictions_agree_on_both_strands(run):
    model = FinetunedModel.load(run / "out", "cpu")
    table = pl.read_csv(run / "test.csv", infer_schema=False)
    ids = [alphabet.encode(letters) for letters in table["sequence"]]
    turned = [alphabet.reverse_complement(row) for row in ids]
    np.testing.assert_allclose(model.scores(ids), model.scores(turned), atol=1e-5)


def test_resume_trains_nothing_again(run, monkeypatch):
    arguments = [
        *(f"--{name}={run}/{name}.csv" for name in ("train", "valid", "test")),
        "--output", run / "out", "--seeds", 2, "--epochs", 2,
        "--baselines", "classical", "--label-column", "label",
    ]  # fmt: skip
    files = [run / "out" / name for name in ("model.safetensors", "metrics.json")]
    before = [json.loads(files[1].read_text())["others"], files[0].read_bytes()]
    assert finetune(*arguments) == 2
    from crossdna.training import finetune as verb

    monkeypatch.setattr(verb, "build_model", None)

    def refuse(*_):
        raise AssertionError("a finished baseline was fitted again")

    for name, baseline in BASELINES.items():
        monkeypatch.setitem(BASELINES, name, baseline._replace(fit=refuse))
    assert finetune(*arguments, "--resume") == 0
    assert json.loads(files[1].read_text())["others"] == before[0]
    assert files[0].read_bytes() == before[1]
    assert finetune(*arguments, "--resume", "--lr", "0.1") == 2


def resumed(run, out, *more, train=None, recipe=None):
    """Status of going on in a copy of the run; `recipe` changes its recipe file."""
    shutil.copytree(run / "out", out)
    if recipe is not None:
        path = out / "recipe.toml"
        path.write_text(recipe(path.read_text()))
    return finetune(
        "--train", train or run / "train.csv", "--valid", run / "valid.csv",
        "--test", run / "test.csv", "--output", out, "--seeds", 2, "--epochs", 2,
        "--resume", "--baselines", "classical", "--label-column", "label", *more,
    )  # fmt: skip


def test_resume_refuses_other_labels(run, tmp_path, capsys):
    train = tmp_path / "train.csv"
    table = pl.read_csv(run / "train.csv", infer_schema=False)
    flipped = 1 - pl.col("label").cast(int)
    table.with_columns(flipped.alias("label")).write_csv(train)

    def moved(text):
        return text.replace(str(run / "train.csv"), str(train))

    assert resumed(run, tmp_path / "out", train=train, recipe=moved) == 2
    assert "started with data.train_label_digest = " in capsys.readouterr().err
    assert resumed(run, tmp_path / "other", "--positive", "0") == 2
    assert "data.classes = ['0', '1'], not ['1', '0']" in capsys.readouterr().err


def test_resume_refuses_options_that_are_gone(run, tmp_path, capsys):
    assert resumed(run, tmp_path / "out", recipe=lambda text: f"{text}lr = 0.1\n") == 2
    assert "started with finetune.lr = 0.1, not None" in capsys.readouterr().err


def test_resume_refuses_another_network(run, tmp_path, capsys):
    def other(text):
        assert 'model_digest = ""' in text
        return text.replace('model_digest = ""', 'model_digest = "ab"')

    assert resumed(run, tmp_path / "out", recipe=other) == 2
    assert "started with data.model_digest = 'ab'" in capsys.readouterr().err


def test_resume_needs_a_run(run, tmp_path, capsys):
    """Whatever else lies there stays as it is."""
    files = ("--train", run / "train.csv", "--valid", run / "valid.csv",
             "--test", run / "test.csv", "--resume")  # fmt: skip
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert finetune(*files, "--output", folder) == 2
    assert "holds no run to resume: it has no recipe.toml" in capsys.readouterr().err
    (folder / "recipe.toml").write_text("[model]\ndepth = 1\n")
    assert finetune(*files, "--output", folder) == 2
    assert "recipe.toml is of no run of crossdna finetune" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "recipe.toml",
    ]  # fmt: skip


def test_resume_says_that_an_older_run_kept_no_digest_of_labels(run, tmp_path, capsys):
    def older(text):
        lines = text.splitlines(keepends=True)
        return "".join(line for line in lines if "label_digest" not in line)

    assert resumed(run, tmp_path / "out", recipe=older) == 2
    assert "by an older version, which kept no digest" in capsys.readouterr().err


def test_seeds_of_a_finished_run_become_an_ensemble(run, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(run / "out", out)
    again = [
        *(f"--{name}={run}/{name}.csv" for name in ("train", "valid", "test")),
        "--output", out, "--seeds", 2, "--epochs", 2, "--resume",
        "--baselines", "classical", "--label-column", "label",
    ]  # fmt: skip
    assert finetune(*again, "--ensemble") == 0
    found = json.loads((out / "metrics.json").read_text())
    table = pl.read_parquet(out / "predictions.parquet")
    ids = [alphabet.encode(letters) for letters in table["sequence"]]
    each = [
        FinetunedModel.load(out / f"runs/seed-{seed}", "cpu").scores(ids)[:, 1]
        for seed in (0, 1)
    ]
    np.testing.assert_allclose(table["probability"], np.mean(each, 0), atol=1e-6)
    spread = np.std(each, axis=0, ddof=1)
    np.testing.assert_allclose(table["probability_sd"], spread, atol=1e-6)
    valid, test = (table["evaluated_as"] == name for name in ("valid", "test"))
    truth, both = table["label"].cast(int).to_numpy(), np.mean(each, 0)
    scores = np.stack([1 - both, both], axis=1)[valid]
    (threshold,) = found["model"]["thresholds"]
    expected = choose_thresholds(BINARY, truth[valid], scores)
    assert expected == pytest.approx((threshold,), abs=1e-6)
    value = sk.matthews_corrcoef(truth[test], both[test] >= threshold)
    assert found["model"]["metrics"]["mcc"]["estimate"] == pytest.approx(value)
    assert list(found["seeds"]) == ["seed 0", "seed 1"]

    output = tmp_path / "p.tsv"
    predict = ["predict", str(run / "test.csv"), "--model", str(out), "--output",
               str(output), "--chunk-size", "7", "--device", "cpu"]  # fmt: skip
    assert main(predict) == 0
    predicted = pl.read_csv(output, separator="\t")
    for name in ("probability", "probability_sd"):
        np.testing.assert_allclose(predicted[name], table[name].filter(test), atol=1e-5)
    shutil.rmtree(out / "runs/seed-1")
    assert main(predict) == 2
    assert "runs/seed-1 is not there" in capsys.readouterr().err


def test_the_best_seed_is_kept_again_without_ensemble(run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(run / "out", out)
    (out / "ensemble.json").write_text('{"members": [], "thresholds": []}')
    assert finetune(
        *(f"--{name}={run}/{name}.csv" for name in ("train", "valid", "test")),
        "--output", out, "--seeds", 2, "--epochs", 2, "--resume",
        "--baselines", "classical", "--label-column", "label",
    ) == 0  # fmt: skip
    assert not (out / "ensemble.json").exists()
    columns = pl.read_parquet(out / "predictions.parquet").columns
    assert "probability_sd" not in columns


def test_the_test_set_touches_nothing_but_its_own_score(tmp_path):
    """Two runs that differ in the labels of the test set give the same model."""
    for name, flip in (("a", False), ("b", True)):
        folder = tmp_path / name
        folder.mkdir()
        files = binary_files(folder, np.random.default_rng(0), flip_test=flip)
        assert finetune(*files, "--output", folder / "out", "--baselines", "none",
                        "--label-column", "label") == 0  # fmt: skip
    for file in ("model.safetensors", "task.json"):
        first, second = (tmp_path / n / "out" / file for n in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()
    found = [json.loads((tmp_path / n / "out/metrics.json").read_text()) for n in "ab"]
    areas = [one["model"]["metrics"]["auroc"]["estimate"] for one in found]
    assert areas[0] == pytest.approx(1 - areas[1])


@pytest.mark.parametrize("suffix", ["tsv", "csv", "parquet"])
def test_predict_gives_every_row_back_in_order(run, tmp_path, suffix):
    output = tmp_path / f"p.{suffix}"
    arguments = ["predict", str(run / "test.csv"), "--model", str(run / "out")]
    arguments += ["--output", str(output), "--chunk-size", "7", "--device", "cpu"]
    assert main(arguments) == 0
    if suffix == "parquet":
        table = pl.read_parquet(output)
    else:
        table = pl.read_csv(output, separator="\t" if suffix == "tsv" else ",")
    assert table["key"].to_list() == [f"test{number}" for number in range(40)]
    assert table.columns == ["key", "sequence", "label", "probability", "prediction"]
    kept = pl.read_parquet(run / "out/predictions.parquet")
    kept = kept.filter(pl.col("evaluated_as") == "test")
    np.testing.assert_allclose(table["probability"], kept["probability"], atol=1e-5)
    assert not (tmp_path / f"p.{suffix}.work").exists()


def test_predict_reads_fasta_and_long_sequences(run, tmp_path, rng, capsys):
    letters = "".join(rng.choice(list("ACGT"), 100))
    fasta = tmp_path / "x.fa"
    fasta.write_text(f">long one\n{letters}\n>short\n{letters[:40]}\n")
    output = tmp_path / "p.parquet"
    assert main(["predict", str(fasta), "--model", str(run / "out"), "--output",
                 str(output), "--device", "cpu"]) == 0  # fmt: skip
    assert "1 of 2 sequences are longer than the 40 bases" in capsys.readouterr().err
    table = pl.read_parquet(output)
    assert table["id"].to_list() == ["long", "short"]
    model = FinetunedModel.load(run / "out", "cpu")
    starts = (0, 20, 40, 60)
    parts = [alphabet.encode(letters[start : start + 40]) for start in starts]
    expected = model.scores(parts)[:, 1].mean()
    assert table["probability"][0] == pytest.approx(expected, abs=1e-6)


def test_predict_refuses_what_it_cannot_do(run, tmp_path, capsys):
    model, output = str(run / "out"), str(tmp_path / "p.tsv")
    clash = write_csv(tmp_path / "c.csv", ["sequence", "prediction"], [("ACGT", 1)])
    assert main(["predict", str(clash), "--model", model, "--output", output]) == 2
    assert "already has a column 'prediction'" in capsys.readouterr().err
    plain = str(run / "test.csv")
    for model_of_another_kind, message in (
        (tmp_path, "no config.json, so no checkpoint"),
        ("crossdna-tiny", "no task.json, so this is no model that crossdna finetune"),
    ):
        words = ["predict", plain, "--model", str(model_of_another_kind)]
        assert main([*words, "--output", output]) == 2
        assert message in capsys.readouterr().err
    assert main(["predict", plain, "--model", model, "--output", "p.doc"]) == 2
    assert not (tmp_path / "p.tsv").exists()


KINDS = {
    "multiclass": (["sequence", "class"], lambda i, y: (("a", "b", "c")[i % 3],)),
    "multilabel": (["sequence", "x", "y"], lambda i, y: (y, i // 2 % 2)),
    "regression": (["sequence", "strength"], lambda i, y: (y + i / 100,)),
    "per-base": (
        ["sequence", "label"],
        lambda i, y: ("EI"[y] * 20 + "EI"[i % 2] * 20,),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_task(tmp_path, rng, kind):
    header, labels = KINDS[kind]
    rows = [
        (letters, *labels(number, label))
        for number, (letters, label) in enumerate(rows_with_motif(rng, 90))
    ]
    path = write_csv(tmp_path / "x.csv", header, rows)
    output = tmp_path / "out"
    status = finetune("--train", path, "--output", output, "--baselines", "classical",
                      "--label-column", *header[1:])  # fmt: skip
    assert status == 0
    found = json.loads((output / "metrics.json").read_text())
    assert found["task"] == kind
    assert found["split_by"] == "similarity"
    table = pl.read_parquet(output / "predictions.parquet")
    test = table.filter(pl.col("evaluated_as") == "test")
    assert 7 <= len(test) == found["rows"]["test"] <= 11
    value = found["model"]["metrics"]
    if kind == "multiclass":
        right = (test["prediction"] == test["class"]).mean()
        assert value["accuracy"]["estimate"] == pytest.approx(right)
    elif kind == "multilabel":
        areas = [
            sk.roc_auc_score(test[n].cast(int), test[f"probability_{n}"]) for n in "xy"
        ]
        assert value["macro_auroc"]["estimate"] == pytest.approx(np.mean(areas))
    elif kind == "regression":
        pair = test["strength"].cast(float), test["prediction"]
        expected = np.corrcoef(*pair)[0, 1]
        assert value["pearson"]["estimate"] == pytest.approx(expected)
    else:
        truth = [list(labels) for labels in test["label"]]
        right = np.mean(np.array(truth) == np.array(test["prediction"].to_list()))
        assert value["accuracy"]["estimate"] == pytest.approx(right)
    predicted = tmp_path / "p.parquet"
    assert main(["predict", str(path), "--model", str(output), "--output",
                 str(predicted), "--device", "cpu"]) == 0  # fmt: skip
    assert len(pl.read_parquet(predicted)) == 90


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        ([("ACGT", 1), ("ACGA", 1)], [], "one class only"),
        ([("ACGT", 1), ("ACGA", "x")], ["--task", "regression"], "t.csv:3: label 'x'"),
        ([("ACGT", 1), ("ACG!", 0)], [], "t.csv:3: character '!' at position 4"),
        ([("ACGT", 1), ("", 0)], [], "t.csv:3: empty sequence"),
        ([("ACGT", 1), ("ACGA", 0)], ["--label-column", "z"], "no column 'z'"),
        ([("ACGT", 1), ("ACGA", 0)], ["--max-length", "3"], "4 bases are more than"),
        ([("ACGT", 1), ("ACGA", 0)], ["--set", "epoch=3"], "did you mean 'epochs'"),
        ([("ACGT", 1), ("ACGA", 0)], ["--model", "new:xl"], "no size 'xl'"),
        ([("ACGT", 1), ("ACGA", 0)], ["--model", "/none"], "/none: no such directory"),
        ([("ACGT", 1), ("ACGA", 0)], ["--ensemble"], "needs models to join"),
    ],
)
def test_bad_input_exits_with_2(tmp_path, capsys, rows, more, message):
    path = write_csv(tmp_path / "t.csv", ["sequence", "label"], rows)
    files = ["--train", path, "--valid", path, "--test", path]
    output = tmp_path / "out"
    assert finetune(*files, "--output", output, *more) == 2
    assert message in capsys.readouterr().err
    # Nothing that --resume would refuse to go on with.
    assert not output.exists()


@pytest.mark.parametrize(
    ("shares", "name"), [((0.9, 0.1, 0), "test"), ((0.9, 0, 0.1), "valid")]
)
def test_every_set_needs_rows(tmp_path, rng, capsys, shares, name):
    path = write_csv(tmp_path / "x.csv", ["sequence", "label"], rows_with_motif(rng))
    more = ("--train", path, "--output", tmp_path / "out", "--shares", *shares)
    assert finetune(*more) == 2
    assert f"no {name} rows, which fine-tuning needs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("column", "more"),
    [
        ("prediction", []),
        ("evaluated_as", []),
        ("probability_sd", ["--seeds", 2, "--ensemble"]),
    ],
)
def test_columns_like_predictions_are_refused_before_training(
    tmp_path, rng, capsys, column, more
):
    rows = [(letters, y, "x") for letters, y in rows_with_motif(rng)]
    path = write_csv(tmp_path / "x.csv", ["sequence", "label", column], rows)
    files = ("--train", path, "--label-column", "label", "--output", tmp_path / "out")
    assert finetune(*files, *more) == 2
    assert f"x.csv already has a column {column!r}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_test_row_of_quantities_is_reported(tmp_path, rng):
    """Its labels do not vary, so there is no unit to tell changes in."""
    rows = [(s, y + i / 100, 1000 * y) for i, (s, y) in enumerate(rows_with_motif(rng))]
    files = []
    for name, part in (("train", rows[:60]), ("valid", rows[60:]), ("test", rows[:1])):
        path = write_csv(tmp_path / f"{name}.csv", ["sequence", "x", "y"], part)
        files += [f"--{name}", path]
    assert finetune(*files, "--label-column", "x", "y", "--baselines", "classical",
                    "--output", tmp_path / "one") == 0  # fmt: skip
    found = json.loads((tmp_path / "one/metrics.json").read_text())
    assert found["model"]["orientation"]["change"] is None
    page = (tmp_path / "one/report.html").read_text()
    assert "rmse_in_deviations" in page


def test_labels_that_do_not_vary_are_said_and_the_report_is_made(tmp_path, rng, capsys):
    rows = [(s, y, i // 2 % 2) for i, (s, y) in enumerate(rows_with_motif(rng))]
    same = [(letters, 1, 0) for letters, *_ in rows[60:]]
    files = []
    for name, part in (("train", rows[:60]), ("valid", same[:30]), ("test", same[30:])):
        path = write_csv(tmp_path / f"{name}.csv", ["sequence", "x", "y"], part)
        files += [f"--{name}", path]
    assert finetune(*files, "--label-column", "x", "y", "--baselines", "classical",
                    "--output", tmp_path / "out") == 0  # fmt: skip
    assert "all labels of the development set are the same" in capsys.readouterr().err
    found = json.loads((tmp_path / "out/metrics.json").read_text())
    assert found["against_best_baseline"]["macro_auroc"]["estimate"] is None
    assert "best baseline" not in (tmp_path / "out/report.html").read_text()


def test_overlap_of_train_and_test_is_said(tmp_path, rng, capsys):
    rows = rows_with_motif(rng, 20)
    train = write_csv(tmp_path / "a.csv", ["sequence", "label"], rows)
    test = write_csv(tmp_path / "b.csv", ["sequence", "label"], rows[:6])
    status = finetune("--train", train, "--valid", test, "--test", test, "--output",
                      tmp_path / "out", "--baselines", "none")  # fmt: skip
    assert status == 0
    assert "6 of 6 test sequences are also in train" in capsys.readouterr().err


def test_one_fasta_per_class_in_bf16(tmp_path, rng):
    rows = rows_with_motif(rng, 80)
    for name, label in (("background", 0), ("enhancer", 1)):
        records = [f">r{i}\n{s}" for i, (s, y) in enumerate(rows) if y == label]
        (tmp_path / f"{name}.fa").write_text("\n".join(records) + "\n")
    files = ["--train", tmp_path / "background.fa", f"yes={tmp_path / 'enhancer.fa'}"]
    status = finetune(*files, "--output", tmp_path / "out", "--baselines", "none",
                      "--precision", "bf16", "--class-weights")  # fmt: skip
    assert status == 0
    found = json.loads((tmp_path / "out/metrics.json").read_text())
    assert found["classes"] == ["background", "yes"]
    valid = pl.read_parquet(tmp_path / "out/predictions.parquet").filter(
        pl.col("evaluated_as") == "valid"
    )
    truth, probability = (
        valid["class_of_file"] == "yes",
        valid["probability"].to_numpy(),
    )
    both = np.stack([1 - probability, probability], axis=1)
    task = Task(
        kind="binary", columns=("class_of_file",), classes=("background", "yes")
    )
    expected = choose_thresholds(task, truth.to_numpy().astype(int), both)
    assert tuple(found["model"]["thresholds"]) == pytest.approx(expected, abs=1e-6)


def test_bases_of_regions_labelled_by_a_gff(tmp_path, rng, monkeypatch):
    monkeypatch.setenv("CROSSDNA_CACHE", str(tmp_path / "cache"))
    genome, bed, gff = (tmp_path / f"x.{kind}" for kind in ("fa", "bed", "gff"))
    text, regions, features = "", [], []
    for contig in ("c1", "c2", "c3", "c4"):
        text += f">{contig}\n{''.join(rng.choice(list('ACGT'), 1000))}\n"
        for start in range(0, 900, 60):
            regions.append(f"{contig}\t{start}\t{start + 50}")
            features.append(
                f"{contig}\t.\texon\t{start + 11}\t{start + 30}\t.\t+\t.\t."
            )
    genome.write_text(text)
    bed.write_text("\n".join(regions) + "\n")
    gff.write_text("\n".join(features) + "\n")
    status = finetune("--train", bed, "--genome", genome, "--base-labels", gff,
                      "--output", tmp_path / "out", "--baselines", "none",
                      "--shares", 0.5, 0.25, 0.25)  # fmt: skip
    assert status == 0
    found = json.loads((tmp_path / "out/metrics.json").read_text())
    assert found["task"] == "per-base"
    assert found["classes"] == ["none", "exon"]
    assert found["split_by"] == "contig"
    assert found["rows"] == {"train": 30, "valid": 15, "test": 15}
    table = pl.read_parquet(tmp_path / "out/predictions.parquet")
    test = table.filter(pl.col("evaluated_as") == "test")
    assert len(set(test["contig"])) == 1
    truth = np.array([list(row) for row in test["base_labels"]]) != "-"
    decided = np.array(test["prediction"].to_list()) == "exon"
    accuracy = found["model"]["metrics"]["accuracy"]["estimate"]
    assert accuracy == pytest.approx((truth == decided).mean())


def test_real_promoters_with_pretrained_weights_and_all_baselines(shared, tmp_path):
    folder = shared / "data/benchmarks/gue/prom/prom_core_tata"
    files = []
    for name, file, count in (
        ("train", "train", 300),
        ("valid", "dev", 100),
        ("test", "test", 150),
    ):
        table = pl.read_csv(folder / f"{file}.csv.gz", infer_schema=False).head(count)
        table.write_csv(tmp_path / f"{name}.csv")
        files += [f"--{name}", tmp_path / f"{name}.csv"]
    config = CrossDNAConfig(
        d_model=16, depth=1, num_heads=2, head_dim=4, attention_heads=2,
        window_size=16, use_bridge=False,
    )  # fmt: skip
    CrossDNAForMaskedLM(config).save_pretrained(tmp_path / "model")
    status = finetune(*files, "--output", tmp_path / "out", "--model",
                      tmp_path / "model", "--head", "position")  # fmt: skip
    assert status == 0
    found = json.loads((tmp_path / "out/metrics.json").read_text())
    assert set(found["others"]) == {
        "majority", "k-mer", "markov", "position weights", "CNN, strand-symmetric",
        "CNN, position-aware", "CNN, position-aware, both strands shown",
        "the same network from random weights",
    }  # fmt: skip
    for name in ("k-mer", "CNN, strand-symmetric"):
        assert found["others"][name]["orientation"]["change"] < 1e-5
    turned = found["others"]["position weights"]
    assert turned["orientation"]["score"] < turned["metrics"]["mcc"]["estimate"] - 0.2
    assert turned["metrics"]["mcc"]["estimate"] > 0.4
    assert found["against_best_baseline"]["name"] in found["others"]
    assert len(pl.read_parquet(tmp_path / "out/predictions.parquet")) == 250
