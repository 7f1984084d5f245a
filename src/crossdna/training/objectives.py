"""Losses of pretraining, each a pure function of tensors.

Shapes use B for sequences in the batch, L for bases, d for channels. All of them are
computed in float32, also under autocast: differences and Gram matrices of normalised
features lose their meaning in bfloat16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from crossdna.data.masking import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

DIFFERENCE_WEIGHT = 0.5
GRAM_WEIGHT = 0.2
NORM_FLOOR = 1e-6
OFF_DIAGONAL_WEIGHT = 0.005


class WeightedSum(NamedTuple):
    """A sum of weighted terms and the sum of their weights, both scalar tensors.

    Kept apart because a mean over several processes and micro-batches is the ratio
    of the summed parts, not the mean of the ratios.
    """

    total: Tensor
    weight: Tensor


def masked_cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None
) -> WeightedSum:
    """Cross-entropy in nats over the bases that were selected for prediction.

    Parameters
    ----------
    logits : (B, L, classes)
    labels : (B, L) int64
        The true base, `IGNORED` where nothing is predicted.
    weights : (B, L) float, optional
        Weight of each base; 1 when not given.
    """
    losses = F.cross_entropy(
        logits.float().flatten(0, 1),
        labels.flatten(),
        ignore_index=IGNORED,
        reduction="none",
    )
    selected = (labels != IGNORED).flatten().to(losses.dtype)
    if weights is not None:
        selected = selected * weights.flatten().to(losses.dtype)
    return WeightedSum((losses * selected).sum(), selected.sum())


def semantic_preservation(features: Tensor, target: Tensor) -> Tensor:
    """How far a branch has moved from its teacher: values, slopes and geometry.

    ``mse + 0.5 mse(first differences along L) + 0.2 mse(normalised Gram matrices)``.

    Parameters
    ----------
    features, target : (B, L, d)
        The slopes of a one-base block count as zero.
    """
    features, target = features.float(), target.float()
    loss = F.mse_loss(features, target)
    loss = loss + GRAM_WEIGHT * gram_distance(features, target)
    if features.shape[1] > 1:
        slopes = F.mse_loss(features.diff(dim=1), target.diff(dim=1))
        loss = loss + DIFFERENCE_WEIGHT * slopes
    return loss


def gram_distance(features: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of the normalised Gram matrices of positions.

    The (L, L) matrices X X^T, each divided by its Frobenius norm + 1e-6, are never
    formed: their inner products are those of small ones, <X X^T, Y Y^T> = |X^T Y|^2.

    Parameters
    ----------
    features, target : (B, L, d) float32
    """
    with torch.autocast(features.device.type, enabled=False):
        own, other, between = (
            (x.transpose(1, 2) @ y).double().square().sum((1, 2))
            for x, y in (
                (features, features),
                (target, target),
                (features, target),
            )
        )
    # Clamped, since the slope of a square root at zero is no number.
    norms = tuple(x.clamp(min=1e-30).sqrt() + NORM_FLOOR for x in (own, other))
    squares = own / norms[0] ** 2 + other / norms[1] ** 2
    distances = squares - 2 * between / (norms[0] * norms[1])
    return (distances / features.shape[1] ** 2).mean().to(features.dtype)


def gate_supervision(fusion_logits: Tensor, a_read_forward: bool) -> Tensor:
    """Binary cross-entropy that makes the fusion gate favour the forward strand.

    Parameters
    ----------
    fusion_logits : (B, L, d)
        The gate's logits, divided by its temperature, in one block.
    a_read_forward
        Whether branch A read the forward strand in this block.
    """
    mean = fusion_logits.float().mean(-1)
    return F.binary_cross_entropy_with_logits(
        mean, torch.full_like(mean, float(a_read_forward))
    )


def strand_kl(logits_a: Tensor, logits_b: Tensor) -> Tensor:
    """Symmetric divergence between what the two branches predict for the same loci.

    The head names the base of the forward strand whichever strand a branch read (both
    branches share it with the fused prediction), and the branch outputs are already in
    forward order, so the right complement here is none: swapping A with T on one side
    would set the branches against the fused prediction.

    Parameters
    ----------
    logits_a, logits_b : (B, L, 5)
    """
    log_a, log_b = (x.float().log_softmax(-1) for x in (logits_a, logits_b))
    # sum p log(p / q) + q log(q / p) = sum (p - q) (log p - log q)
    return ((log_a.exp() - log_b.exp()) * (log_a - log_b)).sum(-1).mean() / 2


def strand_decorrelation(features_a: Tensor, features_b: Tensor) -> Tensor:
    """Barlow-twins loss: the branches agree channel by channel, channels differ.

    Zbontar et al. 2021, on the cross-correlation over all positions of the batch,
    divided by the number of channels.

    Parameters
    ----------
    features_a, features_b : (B, L, d)
        Both branches at the same loci.
    """
    first, second = (
        _standardised(x.float().flatten(0, 1)) for x in (features_a, features_b)
    )
    with torch.autocast(first.device.type, enabled=False):
        correlation = first.T @ second / first.shape[0]
    diagonal = correlation.diagonal()
    off_diagonal = correlation.square().sum() - diagonal.square().sum()
    agreement = (1 - diagonal).square().sum()
    return (agreement + OFF_DIAGONAL_WEIGHT * off_diagonal) / correlation.shape[0]


def _standardised(values: Tensor) -> Tensor:
    spread = values.var(0, unbiased=False).add(1e-6).sqrt()
    return (values - values.mean(0)) / spread


def total_variation(features: Tensor) -> Tensor:
    """Mean absolute step between neighbouring positions; zero for a single one.

    Parameters
    ----------
    features : (B, L, d)
    """
    if features.shape[1] < 2:
        return features.sum() * 0.0
    return features.float().diff(dim=1).abs().mean()


def warmed_up(step: int, maximum: float, length: int, start: int = 0) -> float:
    """A weight: 0 until `start`, then growing to `maximum` in `length` steps."""
    if step < start:
        return 0.0
    return maximum * min(1.0, (step - start) / length) if length else maximum
