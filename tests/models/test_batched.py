"""Many sequences through a model: order, batches, strands."""

import numpy as np
import pytest
import torch

from crossdna import alphabet
from crossdna.models.batched import length_batches, pad_batch, predict_logits
from crossdna.models.crossdna import (
    CrossDNAConfig,
    CrossDNAForSequenceClassification,
    CrossDNAForTokenClassification,
)


def tiny(cls, pooling="attention"):
    torch.manual_seed(0)
    config = CrossDNAConfig(
        d_model=16, depth=1, num_heads=2, head_dim=4, attention_heads=2,
        window_size=16, use_bridge=False, num_labels=3, head_pooling=pooling,
    )  # fmt: skip
    return cls(config)


@pytest.fixture
def sequences(rng):
    return [rng.integers(0, 4, n).astype(np.uint8) for n in (30, 7, 30, 51, 1, 16)]


def test_batches_hold_every_row_once(rng):
    lengths = rng.integers(1, 200, 500)
    batches = list(length_batches(lengths, 1000))
    assert sorted(np.concatenate(batches)) == list(range(500))
    assert all(len(b) == 1 or len(b) * lengths[b].max() <= 1000 for b in batches)


@pytest.mark.parametrize("bases", [1, 60, 10_000])
@pytest.mark.parametrize("strand", alphabet.STRANDS)
def test_order_and_batch_size_change_nothing(sequences, bases, strand):
    model = tiny(CrossDNAForSequenceClassification).train()
    found = predict_logits(model, sequences, strand=strand, bases_per_batch=bases)
    assert model.training
    for row, ids in enumerate(sequences):
        alone = predict_logits(model, [ids], strand=strand)
        np.testing.assert_allclose(found[row], alone[0], atol=1e-5)


def test_averaged_strands_agree(sequences):
    model = tiny(CrossDNAForSequenceClassification)
    turned = [alphabet.reverse_complement(ids) for ids in sequences]
    found = predict_logits(model, sequences, strand="both")
    other = predict_logits(model, turned, strand="both")
    np.testing.assert_allclose(found, other, atol=1e-5)
    single = predict_logits(model, turned, strand="+")
    assert np.abs(found - single).max() > 1e-4
    np.testing.assert_allclose(
        predict_logits(model, sequences, strand="-"), single, atol=1e-5
    )


def test_per_base_logits_have_the_length_of_their_sequence(sequences):
    model = tiny(CrossDNAForTokenClassification)
    found = predict_logits(model, sequences, strand="both", per_base=True)
    assert [row.shape for row in found] == [(len(ids), 3) for ids in sequences]
    turned = [alphabet.reverse_complement(ids) for ids in sequences]
    other = predict_logits(model, turned, strand="both", per_base=True)
    for ahead, back in zip(found, other, strict=True):
        np.testing.assert_allclose(ahead, back[::-1], atol=1e-5)


def test_no_mask_without_padding(sequences):
    assert pad_batch([sequences[0], sequences[2]]).attention_mask is None
    batch = pad_batch(sequences[:2])
    assert batch.input_ids[1, 7:].tolist() == [alphabet.PAD] * 23
