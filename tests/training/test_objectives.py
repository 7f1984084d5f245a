"""Each loss on small tensors against what it says it is."""

import math

import pytest
import torch

from crossdna.data.masking import IGNORED
from crossdna.training.objectives import (
    gate_supervision,
    gram_distance,
    masked_cross_entropy,
    semantic_preservation,
    strand_decorrelation,
    strand_kl,
    total_variation,
    warmed_up,
)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_masked_cross_entropy_counts_selected_bases_by_weight(generator):
    logits = torch.randn(2, 3, 5, generator=generator)
    labels = torch.tensor([[0, IGNORED, 3], [IGNORED, 2, IGNORED]])
    weights = torch.tensor([[1.0, 1.0, 0.5], [1.0, 2.0, 1.0]])
    log_p = logits.log_softmax(-1)
    expected = -(log_p[0, 0, 0] + 0.5 * log_p[0, 2, 3] + 2 * log_p[1, 1, 2])
    result = masked_cross_entropy(logits, labels, weights)
    torch.testing.assert_close(result.total, expected)
    assert result.weight.item() == 3.5
    assert masked_cross_entropy(logits, labels).weight.item() == 3


def test_masked_cross_entropy_of_nothing_is_zero(generator):
    logits = torch.randn(1, 4, 5, generator=generator)
    result = masked_cross_entropy(logits, torch.full((1, 4), IGNORED))
    assert result.total.item() == 0
    assert result.weight.item() == 0


def test_semantic_preservation_by_hand():
    features = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    target = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    # Gram matrices diag(1, 4) and diag(1, 0), divided by sqrt 17 and by 1.
    gram = ((1 / math.sqrt(17) - 1) ** 2 + (4 / math.sqrt(17)) ** 2) / 4
    expected = 4 / 4 + 0.5 * 4 / 2 + 0.2 * gram
    assert semantic_preservation(features, target).item() == pytest.approx(
        expected, abs=1e-5
    )


def test_semantic_preservation_is_zero_at_the_target_and_of_one_base(generator):
    target = torch.randn(2, 5, 4, generator=generator)
    assert semantic_preservation(target, target).item() == 0
    assert semantic_preservation(target[:, :1], target[:, :1] + 1).item() == (
        pytest.approx(1, abs=0.21)
    )


def test_semantic_preservation_is_float32_under_autocast(generator):
    features = torch.randn(2, 8, 4, generator=generator)
    target = torch.randn(2, 8, 4, generator=generator)
    plain = semantic_preservation(features, target)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = semantic_preservation(features, target)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, plain)


def test_gate_supervision_pulls_towards_the_forward_strand():
    logits = torch.tensor([[[1.0, 3.0]]])
    towards_a, towards_b = (gate_supervision(logits, a) for a in (True, False))
    assert towards_a.item() == pytest.approx(math.log1p(math.exp(-2)))
    assert towards_b.item() == pytest.approx(math.log1p(math.exp(2)))


def test_strand_kl_by_hand_and_symmetric():
    a = torch.tensor([[[0.5, 0.25, 0.125, 0.0625, 0.0625]]]).log()
    b = torch.tensor([[[0.25, 0.5, 0.125, 0.0625, 0.0625]]]).log()
    # KL either way is 0.5 log 2 - 0.25 log 2.
    assert strand_kl(a, b).item() == pytest.approx(0.25 * math.log(2), abs=1e-6)
    assert strand_kl(a, b) == strand_kl(b, a)
    assert strand_kl(a, a + 3).item() == pytest.approx(0, abs=1e-6)


def test_strand_decorrelation_is_least_for_equal_independent_channels():
    # Columns of a Hadamard matrix: mean 0, variance 1, uncorrelated.
    h2 = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    features = torch.kron(torch.kron(h2, h2), h2)[:, 1:5].unsqueeze(0)
    assert strand_decorrelation(features, features).item() == pytest.approx(0, abs=1e-5)
    shuffled = features.roll(1, dims=2)
    # No channel agrees (1 each); four pairs off the diagonal correlate fully.
    assert strand_decorrelation(features, shuffled).item() == pytest.approx(
        1 + 0.005, abs=1e-4
    )
    assert strand_decorrelation(features, -features).item() == pytest.approx(
        4, abs=1e-4
    )


def test_total_variation():
    features = torch.tensor([[[0.0, 1.0], [2.0, 1.0], [2.0, -3.0]]])
    assert total_variation(features).item() == pytest.approx((2 + 0 + 0 + 4) / 4)
    assert total_variation(features[:, :1]).item() == 0


@pytest.mark.parametrize(
    ("step", "weight"), [(0, 0.0), (100, 0.0), (150, 0.1), (200, 0.2), (9999, 0.2)]
)
def test_warm_up(step, weight):
    assert warmed_up(step, 0.2, 100, start=100) == pytest.approx(weight)


def test_warm_up_of_no_length_jumps():
    assert warmed_up(4, 0.2, 0, start=5) == 0
    assert warmed_up(5, 0.2, 0, start=5) == 0.2


@pytest.mark.parametrize("length", [1, 7, 40])
def test_gram_distance_against_the_matrices_themselves(length):
    torch.manual_seed(0)
    target = torch.randn(3, length, 12, dtype=torch.float64)
    near = target + 0.01 * torch.randn_like(target)
    for features in (near, torch.randn_like(target), torch.zeros_like(target)):
        fast, slow = (features.clone().requires_grad_() for _ in range(2))

        def normalised(x):
            gram = x @ x.transpose(1, 2)
            return gram / (torch.linalg.matrix_norm(gram, keepdim=True) + 1e-6)

        found = gram_distance(fast, target)
        expected = (normalised(slow) - normalised(target)).square().mean()
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-15)
        found.backward()
        expected.backward()
        torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-7, atol=1e-12)
