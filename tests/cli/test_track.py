"""``crossdna track`` as a user runs it."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from crossdna.analysis.tracks.browser import _overlapping, require_browsable
from crossdna.cli import main
from crossdna.data.regions import Region
from crossdna.errors import CrossDNAError

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


def test_embeddings(tiny_checkpoint, genome, tmp_path, capsys):
    import polars as pl
    import pyBigWig

    output = tmp_path / "out"
    more = ("--embeddings", 100, "--components", 2, "--peaks", "component_1:0.01")
    assert main(command(tiny_checkpoint(), genome, output, *more)) == 0
    assert sorted(path.name for path in output.iterdir()) == [
        "component_1.bw",
        "component_1.peaks.bed",
        "component_2.bw",
        "embeddings.parquet",
        "tracks.json",
    ]
    rows = pl.read_parquet(output / "embeddings.parquet")
    assert rows.columns == ["chrom", "start", "end", "bases", "embedding"]
    assert rows["chrom"].to_list() == ["z"] * 15 + ["a"] * 4
    assert rows["start"].to_list()[14:17] == [1400, 0, 100]
    assert rows["end"].to_list()[-1] == 303
    assert rows["bases"].to_list()[15] == 97
    vectors = np.stack(rows["embedding"].to_list())
    assert vectors.shape == (19, 16)
    how = json.loads((output / "tracks.json").read_text())
    first, second = how["variance_explained"]
    assert 1 > first > second > 0
    centred = vectors - vectors.mean(0)
    with pyBigWig.open(str(output / "component_1.bw")) as handle:
        values = [
            *handle.values("z", 0, 1500)[::100],
            *handle.values("a", 0, 303)[::100],
        ]
        assert len(set(handle.values("a", 300, 303))) == 1
    axis = np.linalg.svd(centred)[2][0]
    match = np.corrcoef(values, centred @ axis)[0, 1]
    assert abs(match) == pytest.approx(1, abs=1e-4)
    peaks = (output / "component_1.peaks.bed").read_text().splitlines()[1:]
    lengths = sum(int(p.split("\t")[2]) - int(p.split("\t")[1]) for p in peaks)
    above = sum(100 if i < 18 else 3 for i, v in enumerate(values) if v >= 0.01)
    assert lengths == above
    few = command(tiny_checkpoint(), genome, tmp_path / "few", "--embeddings", 5000)
    assert main(few) == 2
    assert "smaller bins" in capsys.readouterr().err


def test_finished_tracks_of_another_run_are_not_mixed_with(
    tiny_checkpoint, genome, tmp_path, capsys
):
    output = tmp_path / "out"
    more = ("--region", "a", "--mask-spacing", 2)
    words = command(tiny_checkpoint(), genome, output, *more)
    assert main(words) == 0
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    assert main([*words, "--piece", "128"]) == 2
    assert "made with another piece (65536, now 128)" in capsys.readouterr().err
    assert main(command(tiny_checkpoint(depth=1), genome, output, *more)) == 2
    assert "made with another" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    # The same again, with more to be written, is no other run.
    assert main([*words, "--peaks", "probability:0.3"]) == 0
    assert (output / "probability.peaks.bed").is_file()


def test_per_base_head(tiny_checkpoint, genome, tmp_path):
    model = tiny_checkpoint("CrossDNAForTokenClassification", num_labels=2)
    output = tmp_path / "out"
    more = ("--format", "bedGraph", "--region", "a")
    assert main(command(model, genome, output, *more)) == 0
    rows = (output / "head_LABEL_1.bedGraph").read_text().splitlines()
    assert len(rows) == 300
    assert rows[0].split("\t")[:3] == ["a", "3", "4"]
    assert json.loads((output / "tracks.json").read_text())["reading"] == "stream"


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
    marks = broken / "tracks.work" / "region-0"
    while not (marks / "0-0.place.json").exists() and time.monotonic() < give_up:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (marks / "0-0.place.json").exists()
    assert not (broken / "tracks.json").exists()
    assert main([*words, "--strand", "both"]) == 2
    assert main(words) == 0
    for name in ("probability.bedGraph", "entropy.bedGraph", "tracks.json"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()


def test_a_head_made_for_some_bases_gets_them(tiny_checkpoint, genome, tmp_path):
    model = tiny_checkpoint(
        "CrossDNAForSequenceClassification", head_pooling="position", head_length=48
    )
    words = command(model, genome, tmp_path / "t", "--format", "bedGraph")
    assert main([*words, "--region", "a:100-200"]) == 0
    assert json.loads((tmp_path / "t" / "tracks.json").read_text())["window"] == 48
    words = ["ism", "--model", model, "--genome", genome, "--region", "a:100-110"]
    words += ["--output", tmp_path / "ism", "--device", "cpu"]
    assert main(list(map(str, words))) == 0


def test_browser_page(tiny_checkpoint, genome, tmp_path):
    gff = tmp_path / "genes.gff3"
    rows = ("z\tx\tgene\t850\t950\t.\t+\t.\tID=inside", "q\tx\tgene\t1\t9\t.\t+\t.\t.")
    far = "z\tx\tgene\t10\t20\t.\t+\t.\tID=outside"
    gff.write_text("##gff-version 3\n" + "\n".join((*rows, far)) + "\n")
    output = tmp_path / "out"
    more = ("--region", "z:801-1100", "--browser", "--annotation", gff)
    words = command(tiny_checkpoint(), genome, output, *more, "--format", "bedGraph")
    assert main([*words, "--mask-spacing", "2"]) == 0
    page = (output / "browser.html").read_text()
    assert "createBrowser" in page
    assert '"locus": "z:801-1100"' in page
    assert "src=" not in page.split("<script>")[0]
    lines = list(_overlapping(gff, [Region("z", 800, 1100)]))
    assert lines == [rows[0]]
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("chromium is not installed")
    done = subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--virtual-time-budget=20000",
            "--dump-dom",
            f"file://{output / 'browser.html'}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert 'data-state="ready"' in done.stdout


def test_pages_have_limits(tmp_path):
    with pytest.raises(CrossDNAError, match="at most 200,000 bases"):
        require_browsable([Region("c", 0, 200_001)], None)
    with pytest.raises(CrossDNAError, match="annotation is"):
        require_browsable([Region("c", 0, 5)], tmp_path / "genes.txt.gz")
    bad = tmp_path / "bad.bed"
    bad.write_text("c\tx\ty\n")
    with pytest.raises(CrossDNAError, match=r"bad\.bed:1: not a line"):
        list(_overlapping(bad, [Region("c", 0, 5)]))


def test_bad_input(tiny_checkpoint, genome, tmp_path, capsys):
    for more, message in (
        (("--peaks", "gc:3"), "with a track of probability"),
        (("--peaks", "entropy:x"), "'x' is not a number"),
        (("--peaks", "entropy:nan"), "'nan' is not a number"),
        (("--region", "q:1-5"), "no contig 'q'"),
        (("--mask-spacing", 1), "mask_spacing"),
        (("--peaks", "entropy:1", "entropy:2"), "has a threshold already"),
        (("--annotation", genome), "shown by --browser"),
    ):
        words = command(tiny_checkpoint(), genome, tmp_path / "out", *more)
        assert main(words) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(command(tiny_checkpoint(), genome, tmp_path / "t.bw")) == 2
    assert "t.bw looks like a file" in capsys.readouterr().err
    assert not (tmp_path / "t.bw").exists()
    file = tmp_path / "plain"
    file.write_text("x")
    assert main(command(tiny_checkpoint(), genome, file)) == 2
    assert "is a file" in capsys.readouterr().err
    mine = tmp_path / "project" / "work" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    assert main(command(tiny_checkpoint(), genome, tmp_path / "project")) == 0
    assert mine.exists()
