"""Runs that are killed (SIGKILL) and started again end as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
from tests.labelled_sets import rows_with_motif, write_csv

from crossdna.analysis.supervised import benchmark
from crossdna.cli import main

SIZES = (("train", 64), ("dev", 30), ("test", 40))
PATIENCE_S = 120
EPOCHS = 8


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """One task in GUE's layout."""
    folder = tmp_path_factory.mktemp("suite")
    rng = np.random.default_rng(0)
    (folder / "a").mkdir()
    for name, count in SIZES:
        rows = rows_with_motif(rng, count)
        write_csv(folder / f"a/{name}.csv", ["sequence", "label"], rows)
    return folder


def kill_when(arguments, seen, finished):
    """Start the program, kill it as soon as `seen` is there and before it is done."""
    command = "import sys; from crossdna.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", command, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    start = time.monotonic()
    while not seen() and time.monotonic() - start < PATIENCE_S:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert seen()
    assert not finished()


def test_finetune_killed_between_epochs(suite, tmp_path):
    arguments = ["finetune", "--model", "new:tiny", "--device", "cpu", "--head", "mean"]
    for name, option in (("train", "train"), ("dev", "valid"), ("test", "test")):
        arguments += [f"--{option}", str(suite / f"a/{name}.csv")]
    arguments += ["--epochs", str(EPOCHS), "--patience", str(EPOCHS)]
    arguments += ["--baselines", "none", "--output"]
    cut, whole = (str(tmp_path / name) for name in ("cut", "whole"))
    checkpoints = tmp_path / "cut/runs/seed-0.checkpoints"
    kill_when(
        [*arguments, cut],
        lambda: any(checkpoints.glob("checkpoint-*")),
        (tmp_path / "cut/runs/seed-0").exists,
    )
    assert main([*arguments, cut]) == 2
    assert main([*arguments, cut, "--resume"]) == 0
    assert main([*arguments, whole]) == 0
    first, second = (
        pl.read_parquet(tmp_path / name / "predictions.parquet")
        for name in ("cut", "whole")
    )
    assert first.drop("probability").equals(second.drop("probability"))
    np.testing.assert_allclose(first["probability"], second["probability"], atol=1e-6)
    assert not list((tmp_path / "cut").rglob("*.tmp-*"))


def test_benchmark_killed_in_a_cell(suite, tmp_path):
    arguments = ["benchmark", "--suite", str(suite), "--models", "kmer", "new:tiny"]
    arguments += ["--device", "cpu", "--epochs", str(EPOCHS), "--set", "head=mean"]
    arguments += ["--set", f"patience={EPOCHS}", "--output"]
    cut = tmp_path / "cut"
    done = benchmark.cell_path(cut, "a", "kmer", 0)
    second = benchmark.cell_path(cut, "a", "new:tiny", 0)
    checkpoints = second.with_suffix("") / "seed-0.checkpoints"
    kill_when(
        [*arguments, str(cut)],
        lambda: any(checkpoints.glob("checkpoint-*")),
        second.exists,
    )
    assert done.is_file()
    written = done.stat().st_mtime_ns
    assert main([*arguments, str(cut)]) == 0
    assert done.stat().st_mtime_ns == written
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    found = [
        pl.read_parquet(tmp_path / name / "results.parquet").drop(
            "seconds", "memory_mib"
        )
        for name in ("cut", "whole")
    ]
    assert found[0].equals(found[1])
