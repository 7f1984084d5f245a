"""Bootstrap intervals: coverage, pairing, determinism."""

import numpy as np
import pytest

from crossdna.analysis import statistics


def test_ratio_interval_covers_the_truth_as_often_as_it_says(rng):
    """Windows that differ from each other: blocks, not bases, are the sample."""
    covered, trials, truth = 0, 300, 0.4
    for trial in range(trials):
        share = rng.beta(8, 12, size=60)
        counts = rng.integers(20, 60, size=60)
        correct = rng.binomial(counts, share)
        ratios = statistics.resampled_ratios(correct, counts, resamples=400, seed=trial)
        found = statistics.interval(float(ratios.estimate), ratios.resampled)
        covered += found.low <= truth <= found.high
    # 95 % nominal; 300 trials have a standard error of 1.3 %.
    assert 0.90 <= covered / trials <= 0.985


def test_estimate_is_the_ratio_of_sums(rng):
    numerators, counts = rng.random((7, 3, 2)), rng.integers(1, 9, size=(7, 1, 2))
    ratios = statistics.resampled_ratios(numerators, counts, resamples=11)
    assert np.allclose(ratios.estimate, numerators.sum(0) / counts.sum(0))
    assert ratios.resampled.shape == (11, 3, 2)


def test_resamples_equal_explicit_drawing():
    numerators, counts = np.array([1.0, 5.0, 2.0]), np.array([2.0, 5.0, 9.0])
    ratios = statistics.resampled_ratios(numerators, counts, resamples=20, seed=3)
    drawn = np.random.default_rng(3).integers(3, size=(20, 3))
    slow = [numerators[rows].sum() / counts[rows].sum() for rows in drawn]
    assert np.allclose(ratios.resampled, slow)


def test_paired_difference_is_narrower_than_its_parts(rng):
    difficulty = rng.normal(2, 0.5, size=200)
    two_models = np.stack([difficulty, difficulty - 0.05], axis=1)
    ratios = statistics.resampled_ratios(two_models, np.ones((200, 1)))
    gain = statistics.interval(
        float(ratios.estimate[0] - ratios.estimate[1]),
        ratios.resampled[:, 0] - ratios.resampled[:, 1],
    )
    assert gain.estimate == pytest.approx(0.05)
    assert gain.low == pytest.approx(0.05)
    assert gain.high == pytest.approx(0.05)


def test_chunks_of_resamples_change_nothing(rng, monkeypatch):
    numerators, counts = rng.random(30), np.ones(30)
    whole = statistics.resampled_ratios(numerators, counts, resamples=50, seed=1)
    monkeypatch.setattr(statistics, "_WEIGHTS_AT_ONCE", 100)
    pieces = statistics.resampled_ratios(numerators, counts, resamples=50, seed=1)
    assert np.allclose(whole.resampled, pieces.resampled)


def test_undefined_ratio_has_an_undefined_interval():
    ratios = statistics.resampled_ratios(np.zeros((5, 2)), np.array([[0, 1]] * 5))
    assert np.isnan(
        statistics.interval(ratios.estimate[0], ratios.resampled[:, 0])
    ).all()
    assert statistics.interval(ratios.estimate[1], ratios.resampled[:, 1]) == (0, 0, 0)


def test_metric_interval_holds_the_metric_and_is_repeatable(rng):
    labels = rng.integers(2, size=200)
    scores = labels + rng.normal(size=200)

    def gap(labels, scores):
        return float(scores[labels == 1].mean() - scores[labels == 0].mean())

    first = statistics.metric_interval(gap, labels, scores, seed=5)
    assert first == statistics.metric_interval(gap, labels, scores, seed=5)
    assert first.estimate == pytest.approx(gap(labels, scores))
    assert first.low < 1 < first.high
    assert first.high - first.low == pytest.approx(4 * np.sqrt(2 / 100), rel=0.3)


def test_metric_of_one_class_is_refused():
    with pytest.raises(ValueError, match="two classes"):
        statistics.metric_interval(lambda a, b: 0.0, np.ones(4), np.ones(4))


def test_intervals_over_seeds_cover_the_truth_as_often_as_they_say(rng):
    # Five runs that differ by 1, on rows that hardly matter.
    covered = 0
    for trial in range(300):
        runs = rng.normal(size=(5, 1)) + 0.1 * rng.normal(size=(5, 400))
        found = statistics.interval(
            float(runs.mean()), statistics.over_seeds(runs, draws=trial)
        )
        covered += found.low <= 0 <= found.high
    # Five draws of five are known to be narrow; rows alone would cover next to never.
    assert 0.75 < covered / 300 < 0.97


def test_one_seed_is_resampled_rows_alone(rng):
    runs = rng.normal(size=(1, 50))
    np.testing.assert_array_equal(statistics.over_seeds(runs), runs[0])


def test_seeds_that_agree_change_nothing(rng):
    runs = np.tile(rng.normal(size=50), (3, 1))
    np.testing.assert_allclose(statistics.over_seeds(runs), runs[0])
