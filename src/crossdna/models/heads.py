"""Heads on a per-base representation: one prediction per sequence or per base."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossdna.errors import CrossDNAError


def pool_mean(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the bases of (batch, length, channels)."""
    if mask is None:
        return hidden.mean(dim=1)
    weights = (mask != 0).unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


class SequenceHead(nn.Module):
    """Pool over the bases, then a linear layer."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.head_dropout)
        self.linear = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(batch, length, channels) to logits (batch, num_labels)."""
        return self.linear(self.dropout(pool_mean(hidden, attention_mask)))


class TokenHead(nn.Module):
    """A linear layer on each base."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.head_dropout)
        self.linear = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, length, channels) to logits (batch, length, num_labels)."""
        return self.linear(self.dropout(hidden))


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the positions whose label is not -100, in float32."""
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


def sequence_loss(config: Any, logits: Tensor, labels: Tensor | None) -> Tensor | None:
    """Loss by ``config.problem_type``, which is inferred once as transformers does.

    Raises
    ------
    CrossDNAError
        A `problem_type` that does not exist.
    """
    if labels is None:
        return None
    if config.problem_type is None:
        if config.num_labels == 1:
            config.problem_type = "regression"
        elif labels.dtype in (torch.long, torch.int):
            config.problem_type = "single_label_classification"
        else:
            config.problem_type = "multi_label_classification"
    logits = logits.float()
    if config.problem_type == "regression":
        return F.mse_loss(logits, labels.float().view_as(logits))
    if config.problem_type == "single_label_classification":
        return F.cross_entropy(logits, labels.view(-1))
    if config.problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels.float())
    raise CrossDNAError(
        f"problem_type {config.problem_type!r} is not one of regression, "
        "single_label_classification, multi_label_classification"
    )
