"""Edits read from where they differ, against whole windows read one by one."""

import numpy as np
import pytest
import torch

from crossdna import alphabet
from crossdna.analysis.inference import load_model
from crossdna.analysis.variants.edits import Edit
from crossdna.analysis.variants.reuse import (
    can_reuse,
    edited_logits,
    masked_probabilities,
)
from crossdna.models.execution import Execution
from crossdna.models.heads import POOLINGS

BEHAVIOURS = {
    "one block": {"block_size": 200},
    "no blocks": {"block_size": None},
    "no bridge": {"block_size": None, "use_bridge": False},
    "several blocks": {"block_size": 24},
    "swapping": {"block_size": 24, "swap_strands": True},
    "independent": {"block_size": 40, "block_context": "independent"},
    "published": {"strand_alignment": "sequence", "block_context": "independent"},
    "no mask channel": {"block_size": 64, "mask_channel": False},
}


@pytest.fixture(params=BEHAVIOURS.values(), ids=BEHAVIOURS)
def changes(request):
    return request.param


@pytest.fixture(params=[1, 5])
def ids(rng, request):
    windows = torch.from_numpy(rng.integers(0, 4, (request.param, 97)))
    windows[0, 60:63] = alphabet.N
    return windows


def test_masked_probabilities(tiny_checkpoint, changes, ids):
    model = load_model(tiny_checkpoint(**changes), "masked-lm", "cpu")
    assert can_reuse(model, ids.shape[1])
    positions = [0, 1, 96, 3, 23, 24, 22, 25, 26, 47, 48, 60, 71, 70, 95]
    edits = [
        Edit(i * i % len(ids), position, alphabet.MASK)
        for i, position in enumerate(positions)
    ]
    masked = ids[[edit.window for edit in edits]]
    rows = range(len(positions))
    masked[rows, positions] = alphabet.MASK
    with torch.inference_mode():
        expected = model(masked).logits[rows, positions, :4].softmax(-1)
    for group in (1, 4, 100):
        found = masked_probabilities(model, ids, edits, group=group)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


HEADS = {
    f"{pooling}, {motifs} motifs": {
        "head_pooling": pooling,
        "head_length": 97,
        "head_motifs": motifs,
        "head_width": 8 if motifs else 0,
    }
    for pooling in POOLINGS
    for motifs in (0, 4)
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_edited_logits(tiny_checkpoint, changes, head, ids):
    kind = "CrossDNAForSequenceClassification"
    path = tiny_checkpoint(kind, num_labels=2, **head, **changes)
    model = load_model(path, "classification", "cpu")
    positions = [0, 0, 5, 9, 23, 24, 50, 88, 96, 96]
    bases = [1, 2, 3, 2, 0, 1, 2, 0, 3, 0]
    edits = [
        Edit(i * i % len(ids), *place)
        for i, place in enumerate(zip(positions, bases, strict=True))
    ]
    found = edited_logits(model, ids, edits)
    edited = ids[[edit.window for edit in edits]]
    edited[range(len(positions)), positions] = torch.tensor(bases)
    with torch.inference_mode():
        expected = model(edited).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert np.ptp(found[:, 0].numpy()) > 1e-4


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_edited_logits_in_bfloat16(tiny_checkpoint, head, ids):
    path = tiny_checkpoint("CrossDNAForSequenceClassification", num_labels=2, **head)
    model = load_model(path, "classification", "cpu", execution=Execution("bf16"))
    edits = [Edit(0, position, 1) for position in (0, 30, 96)]
    found = edited_logits(model, ids, edits)
    edited = ids[[0, 0, 0]]
    edited[range(3), [0, 30, 96]] = 1
    with torch.inference_mode():
        expected = model(edited).logits
    # What is read from where edits differ is rounded in another order.
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0, check_dtype=False)


def test_windows_of_several_blocks_in_the_published_alignment(tiny_checkpoint):
    path = tiny_checkpoint(strand_alignment="sequence", block_size=32)
    model = load_model(path, "masked-lm", "cpu")
    assert can_reuse(model, 32)
    assert not can_reuse(model, 33)
