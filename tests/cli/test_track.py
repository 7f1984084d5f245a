"""``crossdna track`` as a user runs it."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from crossdna.cli import main

pytest.importorskip("pyBigWig", reason="pyBigWig is not installed")


@pytest.fixture
def genome(tmp_path, rng, cache_folder):
    letters = ["".join(rng.choice(list("ACGT"), length)) for length in (1500, 300)]
    path = tmp_path / "g.fa"
    path.write_text(f">z\n{letters[0]}\n>a\nNNN{letters[1]}\n")
    return path


def command(model, genome, output, *more):
    words = ["track", "--model", model, "--genome", genome, "--output", output]
    return list(map(str, [*words, "--device", "cpu", *more]))


def test_whole_genome(tiny_checkpoint, genome, tmp_path):
    import pyBigWig

    output = tmp_path / "out"
    more = ("--mask-spacing", 2, "--piece", 256, "--peaks", "probability:0.3")
    assert main(command(tiny_checkpoint(), genome, output, *more)) == 0
    assert sorted(path.name for path in output.iterdir()) == [
        "alternative.bw",
        "entropy.bw",
        "probability.bw",
        "probability.peaks.bed",
        "tracks.json",
    ]
    with pyBigWig.open(str(output / "probability.bw")) as handle:
        assert handle.chroms() == {"z": 1500, "a": 303}
        probability = np.array(handle.values("z", 0, 1500))
        assert np.isfinite(probability).all()
        assert np.isnan(handle.values("a", 0, 3)).all()
        assert np.isfinite(handle.values("a", 3, 303)).all()
    lines = (output / "probability.peaks.bed").read_text().splitlines()
    assert lines[0] == "# probability >= 0.3 over at least 1 bases"
    covered = np.zeros(1500, bool)
    for line in lines[1:]:
        contig, start, end = line.split("\t")[:3]
        if contig == "z":
            covered[int(start) : int(end)] = True
    assert (covered == (probability >= 0.3)).all()
    assert 0 < covered.sum() < 1500
    how = json.loads((output / "tracks.json").read_text())
    assert how["reading"] == "stream"


def test_head_on_regions(tiny_checkpoint, genome, tmp_path):
    model = tiny_checkpoint("CrossDNAForSequenceClassification", num_labels=1)
    bed = tmp_path / "r.bed"
    bed.write_text("z\t1000\t1410\nz\t0\t210\n")
    more = ("--window", 100, "--step", 50, "--regions", bed, "--format", "bedGraph")
    output = tmp_path / "out"
    assert main(command(model, genome, output, *more)) == 0
    rows = (output / "head.bedGraph").read_text().splitlines()
    found = [tuple(row.split("\t")[:3]) for row in rows]
    assert found[0] == ("z", "0", "50")
    assert found[4:6] == [("z", "200", "210"), ("z", "1000", "1050")]
    assert found[-1] == ("z", "1400", "1410")


def test_killed_and_started_again(tiny_checkpoint, genome, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    more = ("--mask-spacing", 4, "--piece", 128, "--format", "bedGraph")
    model = tiny_checkpoint()
    assert main(command(model, genome, whole, *more)) == 0
    words = command(model, genome, broken, *more)
    process = subprocess.Popen([sys.executable, "-m", "crossdna", *words])
    give_up = time.monotonic() + 240
    marks = broken / "work" / "region-0"
    while not (marks / "0-0.place.json").exists() and time.monotonic() < give_up:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (marks / "0-0.place.json").exists()
    assert not (broken / "tracks.json").exists()
    assert main([*words, "--strand-average"]) == 2
    assert main(words) == 0
    for name in ("probability.bedGraph", "entropy.bedGraph", "tracks.json"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()


def test_bad_input(tiny_checkpoint, genome, tmp_path, capsys):
    for more, message in (
        (("--peaks", "gc:3"), "with a track of probability"),
        (("--peaks", "entropy:x"), "'x' is not a number"),
        (("--region", "q:1-5"), "no contig 'q'"),
        (("--mask-spacing", 1), "mask_spacing"),
    ):
        words = command(tiny_checkpoint(), genome, tmp_path / "out", *more)
        assert main(words) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
