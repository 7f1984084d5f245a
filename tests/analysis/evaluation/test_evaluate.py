"""Evaluation: numbers recomputed by hand on a tiny model and genome."""

import json

import numpy as np
import pytest
import torch

from crossdna import (
    CrossDNAConfig,
    CrossDNAForMaskedLM,
    CrossDNATokenizer,
    alphabet,
)
from crossdna.analysis.evaluation import hidden as bases
from crossdna.analysis.evaluation import measure as evaluate
from crossdna.analysis.evaluation import run as evaluation
from crossdna.analysis.evaluation import strands
from crossdna.analysis.evaluation.baselines import fit_baselines
from crossdna.analysis.inference import base_log_probabilities
from crossdna.cli import main
from crossdna.data.annotation import Annotation
from crossdna.data.genome import Genome
from crossdna.data.masking import MaskingConfig, mask_bases
from crossdna.data.regions import Region
from crossdna.errors import CrossDNAError

GFF = "one\tx\tgene\t{}\t{}\t.\t+\t.\tID=g\none\tx\tCDS\t{}\t{}\t.\t+\t0\tParent=g\n"
SETTINGS = evaluate.EvaluationSettings(
    window=64, max_windows=0, batch_size=3, spacing=16, resamples=50
)


@pytest.fixture
def genome(tmp_path, rng):
    """Contig `one` to measure on, `two` to fit on."""
    letters = np.array(list("ACGTacgt"))
    lines = [
        f">{name}\n{''.join(letters[rng.integers(8, size=size)])}\n"
        for name, size in (("one", 700), ("two", 4000))
    ]
    lines[0] = lines[0].replace("A", "N", 3)
    path = tmp_path / "genome.fa"
    path.write_text("".join(lines))
    return Genome.open(path, tmp_path / "cache")


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = CrossDNAConfig(
        d_model=16, depth=1, num_heads=2, head_dim=8, attention_heads=2, block_size=32
    )
    return CrossDNAForMaskedLM(config).eval()


@pytest.fixture
def split(genome):
    return evaluation.Split(
        [Region("two", 0, genome.contigs["two"])], [Region("one", 0, 700)]
    )


def test_model_scores_equal_a_direct_computation(genome, model, split):
    predictors = {"model": evaluate.model_predictor(model, strand="+")}
    grouping = evaluate.class_grouping(genome, None)
    random, isolated = evaluate.measure(
        genome, split.held_out, predictors, grouping=grouping, settings=SETTINGS
    )
    starts = range(0, 700 - 63, 64)
    windows = np.stack([genome.fetch("one", s, s + 64) for s in starts])
    lower = np.stack([genome.fetch_softmask("one", s, s + 64) for s in starts])
    config = MaskingConfig(share=0.15, mask_share=1.0, random_share=0.0)
    masked = mask_bases(windows, range(len(windows)), seed=0, config=config)
    logs = base_log_probabilities(model, torch.from_numpy(masked.input_ids)).numpy()
    hidden = masked.labels >= 0
    right = np.take_along_axis(logs, windows[..., None].clip(max=3).astype(int), 2)
    bits = -right[..., 0] / np.log(2)
    found = {group.name: group for group in random.groups}
    assert set(found) == {"all bases", "unique", "repeat"}
    for name, chosen in (("all bases", hidden), ("repeat", hidden & lower)):
        score = found[name].scores["model"]
        assert found[name].positions == chosen.sum()
        assert score.bits.estimate == pytest.approx(bits[chosen].mean(), rel=1e-5)
        correct = (logs.argmax(-1) == windows)[chosen].mean()
        assert score.accuracy.estimate == pytest.approx(correct)
        assert score.bits.low <= score.bits.estimate <= score.bits.high
    assert isolated.groups[0].positions <= 4 * len(windows)


def test_gains_are_differences_on_the_same_bases(genome, split):
    baselines = fit_baselines([genome.fetch("two", 0, 4000)], max_order=2)
    conditions = evaluate.measure(
        genome,
        split.held_out,
        evaluate.baseline_predictors(baselines),
        grouping=evaluate.class_grouping(genome, None),
        settings=SETTINGS,
    )
    for condition in conditions:
        for group in condition.groups:
            first = group.scores["markov-0"]
            for score in group.scores.values():
                gain = score.bits.estimate - first.bits.estimate
                assert score.bits_gain.estimate == pytest.approx(gain, abs=1e-12)
                gain = first.accuracy.estimate - score.accuracy.estimate
                assert score.accuracy_gain.estimate == pytest.approx(gain, abs=1e-12)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_batch_size_changes_nothing(genome, model, split, batch_size):
    def scores(size):
        settings = evaluate.EvaluationSettings(
            window=64, batch_size=size, spacing=16, resamples=20
        )
        return evaluate.measure(
            genome,
            split.held_out,
            {"model": evaluate.model_predictor(model, strand="both")},
            grouping=evaluate.class_grouping(genome, None),
            settings=settings,
        )

    for one, other in zip(scores(batch_size), scores(3), strict=True):
        for a, b in zip(one.groups, other.groups, strict=True):
            assert a.positions == b.positions
            assert np.allclose(a.scores["model"], b.scores["model"], atol=1e-5)


def test_hidden_bases_are_shown_as_mask_and_are_never_n(rng):
    windows = rng.integers(5, size=(6, 200)).astype(np.uint8)
    numbers = np.arange(6)
    for hidden in (
        bases.hide_random(windows, numbers, share=0.15, seed=1),
        bases.hide_isolated(windows, numbers, spacing=32, seed=1),
    ):
        assert (hidden.truth < 4).all()
        shown = hidden.masked == alphabet.MASK
        assert (np.argwhere(shown) == np.stack(hidden[2:], axis=1)).all()
        assert (hidden.masked[~shown] == windows[~shown]).all()


def test_isolated_bases_have_complete_context(rng):
    windows = rng.integers(4, size=(6, 200)).astype(np.uint8)
    hidden = bases.hide_isolated(windows, np.arange(6), spacing=32, seed=1)
    for row in range(6):
        gaps = np.diff(hidden.columns[hidden.rows == row])
        assert (gaps == 32).all()


def test_windows_are_spread_evenly_and_keep_their_numbers():
    regions = [Region("a", 5, 1005), Region("b", 0, 99), Region("c", 0, 1000)]
    (a, c) = bases.tile_windows(regions, 100)
    assert a.starts.tolist() == list(range(5, 1005, 100))
    assert [*a.indices, *c.indices] == list(range(20))
    (a, c) = bases.tile_windows(regions, 100, max_windows=4)
    assert [*a.indices, *c.indices] == [0, 6, 13, 19]
    with pytest.raises(CrossDNAError, match="shorter windows"):
        bases.tile_windows([Region("b", 0, 99)], 100)


def test_strand_difference_vanishes_with_averaging(genome, model, split):
    found = strands.strand_difference(model, genome, split.held_out, SETTINGS)
    assert found.windows == 10
    assert found.single.estimate > 1e-3
    assert found.averaged.estimate < 1e-6


def test_strand_difference_equals_a_direct_computation(genome, model):
    region = Region("two", 0, 64)
    found = strands.strand_difference(model, genome, [region], SETTINGS)
    config = MaskingConfig(share=0.15, mask_share=1.0, random_share=0.0)
    masked = mask_bases(genome.fetch("two", 0, 64)[None], [0], seed=0, config=config)
    ids = torch.from_numpy(masked.input_ids)
    ahead = base_log_probabilities(model, ids).exp()
    other = base_log_probabilities(model, alphabet.complement_ids(ids).flip(1)).exp()
    apart = (ahead - other.flip(1, 2)).abs()[ids == alphabet.MASK].mean()
    assert found.single.estimate == pytest.approx(float(apart), rel=1e-4)


def test_files_say_how_they_were_made(genome, model, split, tmp_path):
    gff = tmp_path / "genes.gff"
    gff.write_text(GFF.format(1, 400, 51, 350))
    found = evaluation.evaluate_model(
        model,
        genome,
        split,
        checkpoint="here",
        annotation=Annotation.read(gff, genome),
        settings=evaluate.EvaluationSettings(window=16, resamples=20),
    )
    evaluation.write_evaluation(found, tmp_path)
    table = json.loads((tmp_path / "evaluation.json").read_text())
    assert table["made_by"]["checkpoint"] == "here"
    assert table["made_by"]["strand_policy"] == "forward"
    assert len(table["made_by"]["fingerprint"]) == 32
    names = [group["name"] for group in table["conditions"][0]["groups"]]
    assert "CDS" in names
    assert "intergenic" in names
    scores = table["conditions"][0]["groups"][0]["scores"]
    assert list(scores)[:12] == ["model", *(f"markov-{k}" for k in range(11))]
    assert list(scores)[12].startswith("two-sided-")
    assert (tmp_path / "evaluation.png").read_bytes().startswith(b"\x89PNG")


def test_training_on_held_out_bases_is_refused(genome, model):
    split = evaluation.Split([Region("one", 0, 90)], [Region("one", 80, 700)])
    with pytest.raises(CrossDNAError, match="one:81-90 is both"):
        evaluation.evaluate_model(
            model, genome, split, checkpoint="", annotation=None, settings=SETTINGS
        )


@pytest.mark.parametrize(
    "bad", [{"window": 0}, {"max_windows": -1}, {"mask_share": 1.0}, {"batch_size": 0}]
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(CrossDNAError, match=next(iter(bad))):
        evaluate.EvaluationSettings(**bad)


def words(genome, folder, model, *more):
    model.save_pretrained(folder / "model")
    CrossDNATokenizer().save_pretrained(folder / "model")
    return [
        "evaluate", "--model", str(folder / "model"), "--genome",
        str(genome.paths[0]), "--window", "64", "--device", "cpu", *more,
    ]  # fmt: skip


def report(folder, command):
    assert main([*command, "--output", str(folder)]) == 0
    return json.loads((folder / "evaluation.json").read_text())


def test_regions_that_are_named_twice_count_once(genome, model, tmp_path, cache_folder):
    bed, plain = tmp_path / "twice.bed", tmp_path / "once.bed"
    bed.write_text("two\t0\t3000\ntwo\t1000\t4000\ntwo\t1000\t4000\n")
    plain.write_text("two\t0\t4000\n")
    command = words(genome, tmp_path, model, "--chromosomes", "one")
    found, expected = (
        report(tmp_path / path.stem, [*command, "--train-regions", str(path)])
        for path in (bed, plain)
    )
    assert found["baselines"] == expected["baselines"]
    assert found["conditions"] == expected["conditions"]


def test_of_a_split_the_test_part_is_measured(
    genome, model, tmp_path, cache_folder, capsys
):
    bed, plain = tmp_path / "split.bed", tmp_path / "plain.bed"
    rows = ["two\t0\t900\ttrain", "two\t900\t1500\tvalid", "one\t0\t700\ttest"]
    bed.write_text("\n".join(rows) + "\n")
    plain.write_text("one\t0\t700\n")
    both = ["--regions", str(bed), "--train-regions", str(bed)]
    found = report(tmp_path / "a", words(genome, tmp_path, model, *both))
    assert "its 1 rows of 'test' are read" in capsys.readouterr().err
    assert (found["held_out"], found["train"]) == ("one", "two:1-900")
    assert found["windows"] == 10
    rows[2] = "one\t0\t700\ttest:a"
    bed.write_text("\n".join(rows) + "\n")
    found = report(tmp_path / "c", words(genome, tmp_path, model, *both))
    assert (found["held_out"], found["train"]) == ("one", "two:1-900")
    bed.write_text("\n".join(rows[:2]) + "\n")
    command = words(genome, tmp_path, model, "--regions", str(bed))
    assert main([*command, "--output", str(tmp_path / "b")]) == 2
    assert "not 'test'; give the rows that are meant" in capsys.readouterr().err
    bed.write_text("one\t0\t700\texclude:copy\n")
    assert main([*command, "--output", str(tmp_path / "b")]) == 2
    assert "(exclude) but not 'test'" in capsys.readouterr().err
    bed.write_text("one\t0\t700\tvalid\n")
    assert report(tmp_path / "d", command)["held_out"] == "one"


def test_what_is_too_short_or_unknown_is_told(
    genome, model, tmp_path, cache_folder, capsys
):
    command = words(genome, tmp_path, model, "--chromosomes", "one:1-70", "one:91-130")
    found = report(tmp_path / "a", command)
    shown = capsys.readouterr()
    assert "1 of 2 regions (40 bases) are shorter than a window of 64" in shown.err
    assert found["windows"] == 1
    assert found["held_out"] == "one:1-70"
    assert "measured: 1 windows of 64 bases" in shown.out
    # One window cannot be drawn otherwise.
    bits = found["conditions"][0]["groups"][0]["scores"]["model"]["bits"]
    assert bits["low"] is bits["high"] is None
    assert "0.000" not in shown.out
    text = genome.paths[0].read_text() + ">gap\n" + "N" * 200 + "\n"
    (tmp_path / "gap.fa").write_text(text)
    gap = Genome.open(tmp_path / "gap.fa", tmp_path / "cache")
    command = words(gap, tmp_path, model, "--chromosomes", "gap")
    assert main([*command, "--output", str(tmp_path / "c")]) == 2
    assert "no A C G T to be predicted, only N" in capsys.readouterr().err
