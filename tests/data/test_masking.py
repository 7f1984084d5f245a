import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from crossdna import alphabet
from crossdna.data.draws import raw_draws, unit
from crossdna.data.masking import IGNORED, MaskingConfig, mask_bases
from crossdna.errors import CrossDNAError

SINGLE = MaskingConfig()
SPANS = MaskingConfig(mean_span=6.0)
BOTH = pytest.mark.parametrize("config", [SINGLE, SPANS], ids=["single", "spans"])

windows = arrays.arrays(
    np.uint8,
    st.tuples(st.integers(1, 5), st.integers(1, 70)),
    elements=st.integers(0, alphabet.PAD),
)
configs = st.builds(
    MaskingConfig,
    share=st.floats(0.05, 0.5),
    mask_share=st.floats(0, 0.6),
    random_share=st.floats(0, 0.4),
    mean_span=st.none() | st.floats(2, 20),
)
seeds = st.integers(0, 2**64 - 1)


def random_bases(rng, batch, length):
    return rng.integers(0, 4, (batch, length), np.uint8)


@settings(max_examples=200, deadline=None)
@given(windows, configs, seeds, st.integers(0, 2**63))
def test_only_bases_are_selected_and_the_rest_is_untouched(ids, config, seed, first):
    indices = [first + row for row in range(len(ids))]
    before = ids.copy()
    masked = mask_bases(ids, indices, seed=seed, config=config)
    assert np.array_equal(ids, before)
    selected = masked.labels != IGNORED
    assert (ids[selected] < 4).all()
    assert np.array_equal(masked.labels[selected], ids[selected])
    assert np.array_equal(masked.input_ids[~selected], ids[~selected])
    assert set(masked.input_ids[selected].tolist()) <= {0, 1, 2, 3, alphabet.MASK}
    assert np.array_equal(masked.weights, selected.astype(np.float32))
    types = [array.dtype for array in masked]
    assert types == [np.int64, np.int64, np.float32]


@settings(max_examples=100, deadline=None)
@given(windows, configs, seeds, st.data())
def test_a_row_does_not_depend_on_its_batch(ids, config, seed, data):
    indices = data.draw(
        st.lists(
            st.integers(0, 2**40),
            min_size=len(ids),
            max_size=len(ids),
            unique=True,
        )
    )
    whole = mask_bases(ids, indices, seed=seed, config=config)
    order = data.draw(st.permutations(range(len(ids))))
    shuffled = mask_bases(
        ids[order], [indices[row] for row in order], seed=seed, config=config
    )
    row = data.draw(st.integers(0, len(ids) - 1))
    length = data.draw(st.integers(1, ids.shape[1]))
    alone = mask_bases(
        ids[row : row + 1, :length], indices[row : row + 1], seed=seed, config=config
    )
    for all_rows, other, one in zip(whole, shuffled, alone, strict=True):
        assert np.array_equal(all_rows[order], other)
        assert np.array_equal(all_rows[row, :length], one[0])


@settings(max_examples=50, deadline=None)
@given(windows, configs, seeds)
def test_content_decides_nothing_but_what_can_be_selected(ids, config, seed):
    indices = range(len(ids))
    masked = mask_bases(ids, indices, seed=seed, config=config)
    plain = mask_bases(np.zeros_like(ids), indices, seed=seed, config=config)
    selected = masked.labels != IGNORED
    assert np.array_equal(selected, (plain.labels != IGNORED) & (ids < 4))
    hidden = masked.input_ids == alphabet.MASK
    assert np.array_equal(
        hidden & selected, (plain.input_ids == alphabet.MASK) & selected
    )


@BOTH
def test_shares(rng, config):
    ids = random_bases(rng, 400, 1000)
    masked = mask_bases(ids, range(400), seed=3, config=config)
    selected = masked.labels != IGNORED
    shown, true = masked.input_ids[selected], ids[selected]
    # Five standard errors of a share; spans vary more, about as if there were fewer.
    spread = 5 if config.mean_span is None else 5 * np.sqrt(2 * config.mean_span)

    def close(share, expected, count):
        return abs(share - expected) < spread * np.sqrt(
            expected * (1 - expected) / count
        )

    assert close(selected.mean(), 0.15, ids.size)
    assert close((shown == alphabet.MASK).mean(), 0.8, shown.size)
    assert close((shown == true).mean(), 0.1, shown.size)
    step = (shown - true)[(shown != true) & (shown != alphabet.MASK)] % 4
    assert close(len(step) / shown.size, 0.1, shown.size)
    for other in (1, 2, 3):
        assert close((step == other).mean(), 1 / 3, len(step))


@BOTH
def test_every_position_is_selected_equally_often(rng, config):
    ids = random_bases(rng, 20_000, 40)
    masked = mask_bases(ids, range(len(ids)), seed=5, config=config)
    share = (masked.labels != IGNORED).mean(axis=0)
    assert np.abs(share - 0.15).max() < 5 * np.sqrt(0.15 * 0.85 / len(ids))


def runs(selected):
    """Lengths of runs that begin and end within a row."""
    lengths = []
    for row in selected:
        edges = np.flatnonzero(np.diff(row.astype(np.int8)))
        if row[0]:
            edges = edges[1:]
        lengths += np.diff(edges[: len(edges) // 2 * 2].reshape(-1, 2)).ravel().tolist()
    return np.array(lengths)


def test_span_lengths_are_geometric(rng):
    ids = random_bases(rng, 300, 4000)
    masked = mask_bases(ids, range(len(ids)), seed=8, config=SPANS)
    lengths = runs(masked.labels != IGNORED)
    count = len(lengths)
    assert abs(lengths.mean() - 6) < 5 * np.sqrt(30 / count)
    for longest in (1, 3, 10):
        expected = 1 - (5 / 6) ** longest
        error = np.sqrt(expected * (1 - expected) / count)
        assert abs((lengths <= longest).mean() - expected) < 5 * error


def test_a_span_shows_in_one_way(rng):
    ids = random_bases(rng, 50, 2000)
    masked = mask_bases(ids, range(50), seed=8, config=SPANS)
    selected = masked.labels != IGNORED
    # 0 for [MASK]; where bases are shown, a span of kept bases has no replaced one.
    hidden = masked.input_ids == alphabet.MASK
    kept = selected & (masked.input_ids == ids)
    replaced = selected & ~hidden & ~kept
    neighbours = selected[:, 1:] & selected[:, :-1]
    for group in (hidden, kept, replaced):
        assert group.any()
        assert np.array_equal(
            group[:, 1:][neighbours],
            group[:, :-1][neighbours],
        )


def test_shortest_mean_span_is_that_of_single_bases(rng):
    ids = random_bases(rng, 300, 2000)
    config = MaskingConfig(mean_span=1 / 0.85)
    lengths = runs(mask_bases(ids, range(300), seed=1, config=config).labels != IGNORED)
    assert abs(lengths.mean() - 1 / 0.85) < 0.01


@BOTH
def test_seed_and_index_give_other_masks(rng, config):
    ids = np.repeat(random_bases(rng, 1, 2000), 3, axis=0)
    masked = mask_bases(ids, [0, 1, 2**40], seed=0, config=config).labels
    other = mask_bases(ids, [0, 1, 2**40], seed=1, config=config).labels
    # Masks that know nothing of each other agree on 0.15 ** 2 of the bases.
    for first, second in [(0, 1), (1, 2), (0, 2)]:
        both = (masked[first] >= 0) & (masked[second] >= 0)
        assert both.mean() < 0.06
    assert ((masked >= 0) & (other >= 0)).mean() < 0.06


def test_weights_are_those_of_the_selected_bases(rng):
    ids = random_bases(rng, 3, 500)
    weights = rng.random(ids.shape, np.float32)
    masked = mask_bases(ids, [5, 6, 7], seed=0, config=SINGLE, weights=weights)
    selected = masked.labels != IGNORED
    assert np.array_equal(masked.weights, np.where(selected, weights, 0))


@pytest.mark.parametrize(
    "values",
    [
        {"share": 0.0},
        {"share": 1.0},
        {"share": -0.1},
        {"share": float("nan")},
        {"mask_share": -0.1},
        {"mask_share": 0.95},
        {"random_share": -0.01},
        {"mean_span": 1.0},
        {"mean_span": -3.0},
        {"mean_span": float("nan")},
    ],
)
def test_impossible_shares_are_refused(values):
    with pytest.raises(CrossDNAError):
        MaskingConfig(**values)


def test_each_row_needs_its_index(rng):
    with pytest.raises(ValueError, match="one index a row"):
        mask_bases(random_bases(rng, 3, 5), [1, 2], seed=0, config=SINGLE)


def test_draws_are_philox_and_prefixes_of_longer_ones():
    draws = raw_draws(7, 2, [0, 9], 100)
    generator = np.random.Philox(key=[7, 9], counter=[0, 0, 0, 2])
    assert np.array_equal(draws[1], generator.random_raw(100))
    assert np.array_equal(raw_draws(7, 2, [9], 13)[0], draws[1, :13])
    assert raw_draws(7, 2, [], 3).shape == (0, 3)
    assert unit(np.array([0, 2**64 - 1], np.uint64)).tolist() == [0, 1 - 2**-53]
    # Stored once: a change of these would change every run's windows and masks.
    stored = [6312158256571094726, 10634814581434429480]
    assert raw_draws(0, 1, [0], 2).tolist() == [stored]
    for seed in (-1, 2**64):
        with pytest.raises(CrossDNAError, match="seed"):
            raw_draws(seed, 1, [0], 1)
