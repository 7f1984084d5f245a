"""Stages, locus, figures and the report of a demonstration."""

import json
import re

import numpy as np
import pytest
import torch

from crossdna import CrossDNAConfig, CrossDNAForMaskedLM, alphabet
from crossdna.analysis import plots, report
from crossdna.analysis.demo import demo
from crossdna.analysis.demo import report as demo_report
from crossdna.analysis.demo.stages import run_stage
from crossdna.analysis.evaluation import locus
from crossdna.analysis.evaluation.measure import EvaluationSettings
from crossdna.analysis.evaluation.run import Split
from crossdna.analysis.inference import base_log_probabilities
from crossdna.analysis.probe.linear import ProbeSettings
from crossdna.cli.progress import progress
from crossdna.data.annotation import Annotation
from crossdna.data.genome import Genome
from crossdna.data.regions import Region
from crossdna.models.fingerprint import weights_fingerprint


def tiny_model(seed=0):
    torch.manual_seed(seed)
    config = CrossDNAConfig(
        d_model=16, depth=1, num_heads=2, head_dim=8, attention_heads=2, block_size=32
    )
    return CrossDNAForMaskedLM(config).eval()


@pytest.fixture(scope="module")
def annotation(tmp_path_factory):
    """Two contigs with genes of 200 bases, 200 bases apart."""
    tmp_path, rng = tmp_path_factory.mktemp("genome"), np.random.default_rng(0)
    letters = np.array(list("ACGT"))
    fasta, gff = tmp_path / "genome.fa", tmp_path / "genes.gff"
    names = ("train", "test")
    fasta.write_text(
        "".join(
            f">{n}\n{''.join(letters[rng.integers(4, size=6000)])}\n" for n in names
        )
    )
    gff.write_text(
        "".join(
            f"{name}\tx\tCDS\t{start + 1}\t{start + 200}\t.\t+\t0\tID=c{start}\n"
            for name in names
            for start in range(100, 5800, 400)
        )
    )
    return Annotation.read(gff, Genome.open(fasta, tmp_path / "cache"))


def test_a_stage_is_done_once_for_the_same_inputs(tmp_path):
    done = []

    def work(folder):
        done.append(1)
        (folder / "out.txt").write_text("x")

    folder = tmp_path / "stage"
    assert run_stage(folder, {"seed": (1, 2)}, ["out.txt"], work)
    assert not run_stage(folder, {"seed": (1, 2)}, ["out.txt"], work)
    assert run_stage(folder, {"seed": (1, 3)}, ["out.txt"], work)
    (folder / "out.txt").unlink()
    assert run_stage(folder, {"seed": (1, 3)}, ["out.txt"], work)
    assert len(done) == 3


def test_an_interrupted_stage_is_done_again(tmp_path):
    def fail(folder):
        (folder / "out.txt").write_text("half")
        raise KeyboardInterrupt

    def work(folder):
        (folder / "out.txt").write_text("whole")

    assert run_stage(tmp_path, {"model": 1}, ["out.txt"], work)
    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path, {"model": 2}, ["out.txt"], fail)
    # Neither the new inputs nor the old ones may pass for finished now.
    assert run_stage(tmp_path, {"model": 1}, ["out.txt"], work)
    assert (tmp_path / "out.txt").read_text() == "whole"


def test_locus_hides_each_base_once(annotation):
    model = tiny_model()
    region = Region("test", 10, 50)
    found = locus.predict_locus(model, annotation.genome, region, window=64, spacing=7)
    ids = annotation.genome.fetch_padded("test", -2, 62)
    assert found.window_start == -2
    assert (found.ids == ids[12:52]).all()
    assert np.allclose(found.probabilities.sum(1), 1, atol=1e-5)
    for position in (0, 6, 23, 39):
        masked = ids.astype(np.int64)
        masked[12:52][position % 7 :: 7] = alphabet.MASK
        logs = base_log_probabilities(
            model, torch.from_numpy(masked)[None], strand="both"
        )
        slow = logs[0, 12 + position].exp().numpy()
        assert found.probabilities[position] == pytest.approx(slow, abs=1e-5)


def test_information_is_two_bits_minus_entropy():
    probabilities = np.array([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    found = locus.LocusPrediction(
        Region("a", 0, 3), 0, np.zeros(3, np.uint8), probabilities
    )
    assert found.information == pytest.approx([0, 2, 1], abs=1e-9)


def test_fingerprint_changes_with_any_weight():
    first, same, other = tiny_model(0), tiny_model(0), tiny_model(1)
    assert weights_fingerprint(first) == weights_fingerprint(same)
    assert weights_fingerprint(first) != weights_fingerprint(other)
    with torch.no_grad():
        same.head.bias[0] += 1e-6
    assert weights_fingerprint(first) != weights_fingerprint(same)


def test_loss_figure_draws_both_curves():
    figure = plots.loss_figure([(1, 2.1), (2, 1.9)], [(2, 1.95)], best_step=2)
    (axes,) = figure.axes
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["training windows", "validation windows", "kept checkpoint"]
    low, high = axes.get_ylim()
    assert low < 1.9
    assert high > 2


def test_report_escapes_text_and_embeds_pictures(tmp_path):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"\x89PNG")
    page = report.render_report(
        "A <title>",
        [report.Facts({"x & y": "1 < 2"})],
        [
            report.Section(
                "S", [report.Picture(picture, 'a "b"'), report.Commands("a > b")]
            )
        ],
    )
    assert "A &lt;title&gt;" in page
    assert "x &amp; y" in page
    assert 'alt="a &quot;b&quot;"' in page
    assert "data:image/png;base64,iVBORw==" in page
    assert "a &gt; b" in page


@pytest.fixture(scope="module")
def finished(annotation, tmp_path_factory):
    """A demonstration of an untrained model, down to its report."""
    folder = tmp_path_factory.mktemp("demo")
    model = folder / "model"
    tiny_model().save_pretrained(model)
    log = [
        {"step": 1, "loss_masked": 1.4},
        {"step": 2, "loss_masked": 1.38},
        {"step": 2, "eval_bits_per_base": 1.99},
    ]
    (model / "training_log.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in log)
    )
    (model / "recipe.toml").write_text(
        "[model]\nblock_size = 32\n[windows]\nlength = 100\n[train]\nbatch_size = 8\n"
    )
    facts = {"steps": 2, "weights_of_step": 2, "device": "cpu", "processes": 1}
    (model / "provenance.json").write_text(json.dumps(facts))
    data = demo.DemoData(
        annotation,
        "digest",
        Split([Region("train", 0, 6000)], [Region("test", 0, 6000)]),
        Region("test", 250, 330, "A gene's start"),
    )
    settings = demo.DemoSettings(
        evaluation=EvaluationSettings(window=128, resamples=20),
        probe=ProbeSettings(window=50, windows_per_class=30, resamples=20),
    )
    demo.analyse(model, folder, data, settings, progress=progress)
    demo_report.write_report(folder, "crossdna --help")
    return folder, data, settings


def test_report_refers_to_nothing_outside(finished):
    page = (finished[0] / "report.html").read_text()
    links = re.findall(
        r"""(?:src|href|action|data|poster)\s*=\s*["']?([^"'\s>]+)""", page
    )
    assert len(links) == 4
    assert all(link.startswith("data:image/png;base64,") for link in links)
    text = re.sub(r'src="data:[^"]+"', "", page)
    assert not re.search(r"https?:|//|@import|url\(|<script|<link|<iframe", text)


def test_report_shows_the_numbers_of_the_files(finished):
    folder = finished[0]
    page = (folder / "report.html").read_text()
    table = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    score = table["conditions"][0]["groups"][0]["scores"]["model"]
    assert f"{score['bits']['estimate']:.3f}" in page
    assert f"{100 * score['accuracy']['estimate']:.1f} %" in page
    probe = json.loads((folder / "probe" / "probe.json").read_text())
    assert f"{probe['scores']['k-mers']['auroc']['estimate']:.3f}" in page
    assert table["made_by"]["fingerprint"] in page
    found = json.loads((folder / "locus" / "locus.json").read_text())
    assert len(found["sequence"]) == len(found["probabilities"]["A"]) == 80
    assert "crossdna --help" in page


def test_finished_analyses_are_not_repeated(finished):
    folder, data, settings = finished
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    before = {path: path.stat().st_mtime_ns for path in files}
    demo.analyse(folder / "model", folder, data, settings, progress=progress)
    assert {path: path.stat().st_mtime_ns for path in files} == before
    other = data._replace(locus=Region("test", 251, 330))
    demo.analyse(folder / "model", folder, other, settings, progress=progress)
    changed = {path for path in files if path.stat().st_mtime_ns > before[path]}
    names = ("locus.json", "locus.png", "stage.json")
    assert changed == {folder / "locus" / name for name in names}
