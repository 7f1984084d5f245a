"""The loss of each kind of labelled task."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

IGNORED = -100
"""Label of a base that does not count."""


def task_loss(
    kind: str, logits: Tensor, labels: Tensor, weights: Tensor | None
) -> Tensor:
    """Cross-entropy, its several-label form, or squared error of scaled targets."""
    logits = logits.float()
    if weights is not None:
        weights = weights.to(logits.device)
    if kind == "regression":
        return F.mse_loss(logits, labels.to(logits.dtype))
    if kind == "multilabel":
        return F.binary_cross_entropy_with_logits(
            logits, labels.to(logits.dtype), pos_weight=weights
        )
    if kind == "per-base":
        logits, labels = logits.flatten(0, 1), labels.flatten()
    return F.cross_entropy(logits, labels, weight=weights, ignore_index=IGNORED)
