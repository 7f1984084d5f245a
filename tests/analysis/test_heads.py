"""What heads say: log-odds that follow from probabilities, numbers in their unit."""

import shutil

import numpy as np
import polars as pl
import pytest
import torch
from scipy.special import logit, softmax
from tests.labelled_sets import rows_with_motif, write_csv

from crossdna import alphabet
from crossdna.analysis.heads import read_head
from crossdna.analysis.inference import load_model
from crossdna.cli import main
from crossdna.data.labelled import Task
from crossdna.data.task_card import TaskCard

KIND = "CrossDNAForSequenceClassification"


def head_of(path):
    return read_head(load_model(path, "classification", "cpu"))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_log_odds_of_classes(tiny_checkpoint, rng, classes):
    head = head_of(tiny_checkpoint(KIND, num_labels=classes))
    logits = rng.normal(size=(7, 4, classes)) * 5
    found = head.outputs(torch.from_numpy(logits)).numpy()
    expected = logit(softmax(logits, -1))
    assert head.labels == tuple(f"LABEL_{i}" for i in range(classes))[classes == 2 :]
    np.testing.assert_allclose(found, expected[..., classes == 2 :], rtol=1e-9)
    # All logits may rise together without anything being more probable.
    raised = head.outputs(torch.from_numpy(logits + 3)).numpy()
    np.testing.assert_allclose(raised, found, rtol=1e-9)
    assert "log-odds of LABEL_1" in head.meaning("LABEL_1")


def test_labels_that_exclude_nothing_stand_for_themselves(tiny_checkpoint, rng):
    many = {"problem_type": "multi_label_classification", "num_labels": 3}
    head = head_of(tiny_checkpoint(KIND, **many))
    logits = torch.from_numpy(rng.normal(size=(5, 3)))
    torch.testing.assert_close(torch.logit(logits.sigmoid()), head.outputs(logits))
    assert len(head.labels) == 3
    alone = {"problem_type": "multi_label_classification", "num_labels": 1}
    assert head_of(tiny_checkpoint(KIND, **alone)).labels == ("",)


def test_numbers_have_the_unit_of_their_labels(tiny_checkpoint, tmp_path):
    path = tiny_checkpoint(KIND, problem_type="regression", num_labels=2)
    bare = head_of(path)
    logits = torch.tensor([[1.0, 2.0]])
    assert torch.equal(bare.outputs(logits), logits)
    assert bare.meaning("LABEL_0") == "prediction of LABEL_0 in the model's unit"
    shutil.copytree(path, tmp_path / "tuned")
    task = Task(kind="regression", columns=("x", "y"), classes=())
    card = TaskCard(
        task=task, strands="both", max_length=40, means=(5.0, 0.0), scales=(2.0, 0.1)
    )
    card.write(tmp_path / "tuned")
    tuned = head_of(tmp_path / "tuned")
    expected = torch.tensor([[7.0, 0.2]])
    torch.testing.assert_close(tuned.outputs(logits), expected)
    assert tuned.meaning("LABEL_0").endswith("in the unit of the training labels")


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [("binary", "max_mean"), ("binary", "position"), ("regression", "position")],
)
def test_scores_are_changes_of_predictions(
    tmp_path, rng, cache_folder, capsys, kind, pooling
):
    """What score says of a variant is what predict says of its two windows."""
    rows = [
        (letters, label + rng.normal() if kind == "regression" else label)
        for letters, label in rows_with_motif(rng, 60)
    ]
    files = [
        word
        for name, part in (("train", rows), ("valid", rows[:20]), ("test", rows[:20]))
        for word in (
            f"--{name}",
            str(write_csv(tmp_path / f"{name}.csv", ["sequence", "label"], part)),
        )
    ]
    length, model = len(rows[0][0]), str(tmp_path / "out")
    assert main(["finetune", "--model", "new:tiny", *files, "--output", model,
                 "--epochs", "1", "--head", pooling, "--device", "cpu",
                 "--task", kind, "--baselines", "none"]) == 0  # fmt: skip
    # A contig of one window's length, whose every base is read.
    (tmp_path / "g.fa").write_text(f">c\n{rows[0][0]}\n")
    windows, variants = [rows[0][0]], "chrom\tpos\tref\talt\n"
    for place in (0, 7, length - 1):
        ref = rows[0][0][place]
        alt = "ACGT"["ACGT".index(ref) - 1]
        variants += f"c\t{place + 1}\t{ref}\t{alt}\n"
        windows.append(rows[0][0][:place] + alt + rows[0][0][place + 1 :])
    (tmp_path / "v.tsv").write_text(variants)
    # On the other strand they are other windows.
    turned = [
        alphabet.decode(alphabet.reverse_complement(alphabet.encode(window)))
        for window in windows
    ]
    rows = [(window,) for window in windows + turned]
    write_csv(tmp_path / "w.csv", ["sequence"], rows)
    asked = ["score", "--model", model, "--genome", str(tmp_path / "g.fa"),
             "--variants", str(tmp_path / "v.tsv"), "--device", "cpu"]  # fmt: skip
    assert main([*asked, "--output", str(tmp_path / "s.parquet")]) == 0
    assert main(["predict", str(tmp_path / "w.csv"), "--model", model, "--device",
                 "cpu", "--output", str(tmp_path / "p.parquet")]) == 0  # fmt: skip
    # A head with weights for positions was trained on one strand.
    forward = pooling == "position"
    assert ("trained on the strand" in capsys.readouterr().err) == forward
    words = ["track", "--model", model, "--genome", str(tmp_path / "g.fa"), "--device",
             "cpu", "--output", str(tmp_path / "t"), "--strand", "both"]  # fmt: skip
    assert main(words) == (2 if forward else 0)
    asked += ["--output", str(tmp_path / "r.parquet"), "--strand"]
    assert main([*asked, "both"]) == (2 if forward else 0)
    assert capsys.readouterr().err.count("choose strand + or -") == 2 * forward
    assert main([*asked, "-" if forward else "both"]) == 0
    assert "trained on the strand" not in capsys.readouterr().err
    predicted = pl.read_parquet(tmp_path / "p.parquet")
    if kind == "binary":
        said = logit(predicted["probability"].to_numpy())
    else:
        said = predicted["prediction"].to_numpy()
    for name, part in (("s", said[: len(windows)]), ("r", said[len(windows) :])):
        scores = pl.read_parquet(tmp_path / f"{name}.parquet")
        (column,) = [column for column in scores.columns if column.startswith("head")]
        np.testing.assert_allclose(scores[column], part[1:] - part[0], atol=1e-4)
        assert np.abs(scores[column]).max() > 1e-3
