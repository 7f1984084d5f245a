"""Markov and k-mer models against slow, literal counting."""

import itertools

import numpy as np
import pytest

from crossdna import alphabet
from crossdna.analysis.evaluation import baselines
from crossdna.errors import CrossDNAError

ORDER = 4


@pytest.fixture
def genome(rng):
    """A few thousand bases with structure (a repeated motif) and some N."""
    sequence = rng.integers(4, size=3000).astype(np.uint8)
    motif = rng.integers(4, size=12)
    for start in rng.integers(2900, size=60):
        sequence[start : start + 12] = motif
    sequence[500:503] = alphabet.N
    sequence[2000] = alphabet.N
    return [sequence, rng.integers(4, size=700).astype(np.uint8)]


@pytest.fixture
def fitted(genome):
    return baselines.fit_baselines(genome, max_order=ORDER)


def slow_words(genome, word):
    """Count words of both strands, one by one."""
    counts = {}
    for sequence in genome:
        for start in range(len(sequence) - word + 1):
            letters = sequence[start : start + word]
            if (letters < 4).all():
                mirrored = tuple(int(3 - base) for base in letters[::-1])
                for key in (tuple(map(int, letters)), mirrored):
                    counts[key] = counts.get(key, 0) + 1
    return counts


def matching(counts, left, target, right, middle):
    """Words with these bases around and at place `middle`."""
    total = 0
    for word, number in counts.items():
        context = word[middle - len(left) : middle], word[middle + 1 :][: len(right)]
        if context == (left, right) and word[middle] == target:
            total += number
    return total


def leaned(seen, expected, a):
    pairs = zip(seen, expected, strict=True)
    return [(n + a * e) / (sum(seen) + a) for n, e in pairs]


def slow_markov(counts, context, concentrations):
    """The chain's distribution after `context`, from the definition."""
    expected = [0.25] * 4
    for order in range(len(context) + 1):
        left = context[len(context) - order :]
        seen = [matching(counts, left, b, (), ORDER) for b in range(4)]
        a = concentrations[order]
        expected = [
            (n + a * e) / (sum(seen) + a) for n, e in zip(seen, expected, strict=True)
        ]
    return expected


def slow_two_sided(counts, left, right, concentrations):
    """The two-sided distribution, from the definition."""
    middle = ORDER // 2

    def lean(left, right, expected, a):
        seen = [matching(counts, left, b, right, middle) for b in range(4)]
        return [
            (n + a * e) / (sum(seen) + a) for n, e in zip(seen, expected, strict=True)
        ]

    expected = lean((), (), [0.25] * 4, concentrations[0])
    for size in range(1, len(left) + 1):
        near_left, near_right = left[len(left) - size :], right[:size]
        a, b = concentrations[2 * size - 1 : 2 * size + 1]
        more_left = lean(near_left, near_right[:-1], expected, a)
        more_right = lean(near_left[1:], near_right, expected, a)
        mean = [(x + y) / 2 for x, y in zip(more_left, more_right, strict=True)]
        expected = lean(near_left, near_right, mean, b)
    return expected


def test_markov_equals_slow_counting(genome, fitted, rng):
    counts = slow_words(genome, ORDER + 1)
    windows = rng.integers(4, size=(5, 20)).astype(np.uint8)
    rows, columns = np.array([0, 1, 4, 2]), np.array([12, 19, 7, 4])
    for order in (0, 1, ORDER):
        fast = fitted.markov.probabilities(windows, rows, columns, order)
        for row, column, found in zip(rows, columns, fast, strict=True):
            context = tuple(map(int, windows[row, column - order : column]))
            slow = slow_markov(counts, context, fitted.markov.concentrations)
            assert found == pytest.approx(slow, abs=1e-6)


def test_two_sided_equals_slow_counting(genome, fitted, rng):
    counts = slow_words(genome, ORDER + 1)
    model = fitted.two_sided
    for left, right in [((0, 1), (2, 3)), ((3, 3), (3, 3)), ((2, 0), (0, 2))]:
        window = np.array([[*left, 0, *right]], np.uint8)
        for size in range(ORDER // 2 + 1):
            smaller = baselines.TwoSidedModel(
                tables=model.tables,
                concentrations=model.concentrations,
                bits=model.bits,
                size=size,
            )
            found = smaller.probabilities(window, np.array([0]), np.array([2]))[0]
            slow = slow_two_sided(
                counts, left[2 - size :], right[:size], model.concentrations
            )
            assert found == pytest.approx(slow, abs=1e-6)


def test_every_distribution_sums_to_one(fitted):
    for table in fitted.markov.tables:
        assert np.allclose(table.sum(1), 1, atol=1e-6)
        assert (table > 0).all()
    for table in fitted.two_sided.tables:
        assert np.allclose(table.sum(1), 1, atol=1e-6)
        assert (table > 0).all()


def test_two_sided_model_is_the_same_on_both_strands(fitted, rng):
    windows = rng.integers(4, size=(30, 11)).astype(np.uint8)
    rows, columns = np.arange(30), np.full(30, 5)
    forward = fitted.two_sided.probabilities(windows, rows, columns)
    mirrored = alphabet.reverse_complement(windows)
    backward = fitted.two_sided.probabilities(mirrored, rows, columns)
    assert np.allclose(forward, backward[:, ::-1], atol=1e-6)


def test_context_shrinks_at_window_ends_and_at_n(fitted):
    window = np.array([[0, 1, alphabet.N, 2, 3, 1, 0]], np.uint8)
    row = np.array([0])
    at_start = fitted.markov.probabilities(window, row, np.array([0]), ORDER)
    assert np.allclose(at_start, fitted.markov.tables[0])
    after_n = fitted.markov.probabilities(window, row, np.array([5]), ORDER)
    assert np.allclose(after_n, fitted.markov.tables[2][2 * 4 + 3])
    beside_n = fitted.two_sided.probabilities(window, row, np.array([3]))
    assert np.allclose(beside_n, fitted.two_sided.tables[0][0, :, 0])


def test_high_orders_do_not_fall_apart_on_random_sequence(rng):
    """Where there is nothing to learn, smoothing must cost next to nothing."""
    train, test = rng.integers(4, size=(2, 40_000)).astype(np.uint8)
    fitted = baselines.fit_baselines([train], max_order=10)
    windows = test.reshape(40, -1)
    rows, columns = map(np.ravel, np.indices(windows.shape))
    truth = windows.ravel()
    for order in (2, 6, 10):
        p = fitted.markov.probabilities(windows, rows, columns, order)
        bits = -np.log2(p[np.arange(len(truth)), truth]).mean()
        assert bits < 2.002
    p = fitted.two_sided.probabilities(windows, rows, columns)
    assert -np.log2(p[np.arange(len(truth)), truth]).mean() < 2.002


def test_concentrations_minimise_bits_held_back(rng):
    counts = rng.integers(50, size=(16, 4, 1)).astype(np.float32)
    held_back = rng.integers(5, size=(16, 4, 1)).astype(np.float32)
    prior = np.full((16, 4, 1), 0.25, np.float32)
    best, bits = baselines._tune(counts, prior, held_back)
    for concentration in baselines._CONCENTRATIONS:
        smoothed = baselines._smooth(counts, prior, concentration)
        other = -(held_back * np.log2(smoothed)).sum() / held_back.sum()
        assert bits <= other + 1e-6
    assert best in baselines._CONCENTRATIONS


def test_chunks_count_what_one_pass_counts(genome, monkeypatch):
    whole = baselines._count_words(genome, 5)
    monkeypatch.setattr(baselines, "_BASES_AT_ONCE", 97)
    pieces = baselines._count_words(genome, 5)
    assert (whole.fitting == pieces.fitting).all()
    assert (whole.held_back == pieces.held_back).all()
    slow = slow_words(genome, 5)
    both = whole.fitting + whole.held_back
    for word in itertools.product(range(4), repeat=5):
        code = sum(base * 4 ** (4 - place) for place, base in enumerate(word))
        assert both[code] == slow.get(word, 0)


def test_too_short_training_regions_are_refused():
    with pytest.raises(CrossDNAError, match="too short"):
        baselines.fit_baselines([np.zeros(8, np.uint8)], max_order=10)
