"""What a model is shown, and what its answer is worth per base."""

import numpy as np
import pytest
import torch

from crossdna import alphabet
from crossdna.data.masking import IGNORED, MaskingConfig, mask_tokens
from crossdna.data.windows import Locus, Window
from crossdna.errors import CrossDNAError
from crossdna.tokenizers.bases import base_tokenizer
from crossdna.tokenizers.kmer import OverlappingKmerTokenizer, separate_kmer_tokenizer
from crossdna.training.pretraining_encoding import encode_bases, encode_tokens

SEEDS = (1, 2)
CAUSAL = MaskingConfig()


@pytest.fixture
def windows(rng):
    """Forty windows of sixty bases; the first has two N."""
    made = []
    for index in range(40):
        ids = rng.integers(0, 4, 60).astype(np.uint8)
        if index == 0:
            ids[10:12] = alphabet.N
        weights = np.linspace(0.5, 1, 60, dtype=np.float32)
        made.append(Window(index, ids, weights, Locus("x", "y", 0, 60, "+")))
    return made


def flat(encoding, batch):
    """Logits of a model that thinks all tokens equally likely."""
    return torch.zeros(*batch["input_ids"].shape, len(encoding.tokenizer))


def test_next_bases_are_the_window_shifted(windows):
    ids = (7, 8, 9, 10, 11, 3, 4)
    batch = encode_bases(base_tokenizer(), ids, "causal", CAUSAL, SEEDS).train(windows)
    table = np.array(ids)
    for row, window in enumerate(windows):
        own = table[window.ids]
        assert batch["input_ids"][row].tolist() == own.tolist()
        following = np.where(window.ids[1:] == alphabet.N, IGNORED, own[1:])
        assert batch["labels"][row].tolist() == [*following, IGNORED]
        known = following != IGNORED
        weights = np.where(known, window.weights[1:], 0)
        assert batch["weights"][row].tolist() == [*weights, 0]


def test_a_known_answer_per_base(windows):
    encoding = encode_bases(base_tokenizer(), tuple(range(7)), "causal", CAUSAL, SEEDS)
    batch = encoding.train(windows[1:3])
    logits = torch.zeros(2, 60, 7)
    logits[..., 0] = np.log(5)  # A with 5/8 among A C G T, 5/11 among all
    nats, bits, right, count = encoding.readout(logits, batch).tolist()
    truth = np.concatenate([w.ids[1:] for w in windows[1:3]])
    is_a = truth == alphabet.A
    assert count == len(truth) == 118
    assert right == is_a.sum()
    assert bits == pytest.approx(-np.log2(np.where(is_a, 5 / 8, 1 / 8)).sum())
    assert nats == pytest.approx(-np.log(np.where(is_a, 5 / 11, 1 / 11)).sum())


def test_overlapping_tokens_count_only_bases_that_nothing_shows(windows):
    tokenizer = OverlappingKmerTokenizer(4)
    encoding = encode_tokens(tokenizer, "masked", MaskingConfig(share=0.3), SEEDS)
    batch = encoding.train(windows)
    hidden = batch["labels"] != IGNORED
    assert 0.2 < hidden.float().mean() < 0.4
    for row, token in batch["bases"].nonzero().tolist():
        # A token's first base lies in it and in the three tokens before it.
        assert hidden[row, token - 3 : token + 1].all()
        assert batch["bases"][row, token] == 1
    _, bits, _, count = encoding.readout(flat(encoding, batch), batch).tolist()
    assert count > 100
    assert bits / count == pytest.approx(2, abs=1e-5)


def test_the_first_letter_of_a_token_is_what_counts(windows):
    tokenizer = OverlappingKmerTokenizer(3)
    encoding = encode_tokens(tokenizer, "masked", MaskingConfig(share=0.4), SEEDS)
    batch = encoding.held_out(windows)
    logits = flat(encoding, batch)
    starts_with_g = [i for t, i in tokenizer.get_vocab().items() if t.startswith("G")]
    logits[..., starts_with_g] = np.log(2)  # G 2/5, the others 1/5 each
    _, bits, right, count = encoding.readout(logits, batch).tolist()
    place = batch["bases"] > 0
    words = tokenizer.convert_ids_to_tokens(batch["labels"][place].tolist())
    is_g = np.array([word[0] == "G" for word in words])
    assert count == len(words)
    assert right == is_g.sum()
    expected = -np.log2(np.where(is_g, 2 / 5, 1 / 5)).sum()
    assert bits == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("objective", ["masked", "causal"])
def test_separate_tokens_count_all_their_bases(windows, objective):
    tokenizer = separate_kmer_tokenizer(4)
    encoding = encode_tokens(tokenizer, objective, MaskingConfig(), SEEDS)
    batch = encoding.train(windows[1:])
    predicted = batch["labels"] != IGNORED
    assert (batch["bases"][predicted] == 4).all()
    _, bits, _, count = encoding.readout(flat(encoding, batch), batch).tolist()
    if objective == "causal":
        assert count == 39 * 60
    # 256 k-mers and four single bases share the probability.
    assert bits / count == pytest.approx(np.log2(260) / 4, abs=1e-5)


def test_overlapping_tokens_read_from_the_left_add_a_base_each(windows):
    encoding = encode_tokens(OverlappingKmerTokenizer(4), "causal", CAUSAL, SEEDS)
    batch = encoding.train(windows[1:])
    assert batch["bases"].sum(1).tolist() == [60] * 39
    assert batch["bases"][0, :3].tolist() == [4, 1, 1]


def test_weights_of_tokens_are_means_over_their_bases(windows):
    encoding = encode_tokens(separate_kmer_tokenizer(4), "causal", CAUSAL, SEEDS)
    batch = encoding.train(windows[1:2])
    means = windows[1].weights.reshape(15, 4).mean(1)
    np.testing.assert_allclose(batch["weights"][0], [*means, 0], rtol=1e-5)


def test_what_is_hidden_depends_on_no_batch_mate(windows):
    encoding = encode_tokens(OverlappingKmerTokenizer(4), "masked", CAUSAL, SEEDS)
    whole, alone = encoding.train(windows), encoding.train(windows[7:8])
    for name in ("input_ids", "labels", "weights", "bases"):
        assert torch.equal(whole[name][7:8], alone[name]), name


def test_spans_of_bases_are_refused_for_tokens():
    config = MaskingConfig(mean_span=5.0)
    with pytest.raises(CrossDNAError, match="mean_span is for models with one id"):
        encode_tokens(OverlappingKmerTokenizer(4), "masked", config, SEEDS)


@pytest.mark.parametrize("run", [1, 4])
def test_shares_of_tokens(run):
    ids = np.full((50, 400), 9, np.int64)
    eligible = np.ones(ids.shape, np.bool_)
    eligible[:, ::7] = False
    others = np.array([20, 21, 22])
    masked = mask_tokens(
        ids,
        eligible,
        range(50),
        seed=3,
        config=MaskingConfig(),
        mask_id=1,
        others=others,
        run=run,
    )
    chosen = masked.labels != IGNORED
    assert not chosen[~eligible].any()
    assert (masked.labels[chosen] == 9).all()
    assert chosen[eligible].mean() == pytest.approx(0.15, abs=0.02)
    shown = masked.input_ids[chosen]
    assert (shown == 1).mean() == pytest.approx(0.8, abs=0.05)
    assert np.isin(shown, others).mean() == pytest.approx(0.1, abs=0.05)
    assert (masked.input_ids[~chosen] == 9).all()
