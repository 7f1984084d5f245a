"""Caduceus with heads: masked tokens, one prediction per sequence or per token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import MaskedLMOutput, SequenceClassifierOutput

from crossdna.errors import CrossDNAError
from crossdna.models.caduceus.configuration import CaduceusConfig
from crossdna.models.caduceus.modeling import CaduceusModel, CaduceusPreTrainedModel
from crossdna.models.headed import BasePrediction, Headed
from crossdna.models.heads import TokenHead, pool_mean, sequence_loss, token_loss


class StrandHead(nn.Module):
    """Logits of a PS model: both strands' vectors against the embedding."""

    complement_map: Tensor

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__()
        self.register_buffer("complement_map", torch.tensor(config.complement_ids))

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """(batch, length, 2 d_model) to (batch, length, vocabulary)."""
        first, second = hidden.chunk(2, dim=-1)
        complement = embedding[self.complement_map]
        return F.linear(first, embedding) + F.linear(second.flip(-1), complement)


class CaduceusForMaskedLM(Headed, CaduceusPreTrainedModel):  # type: ignore[misc]
    """Caduceus with the logits of each token, against its own embedding.

    `labels` are (batch, length) int64, -100 where no loss is wanted.
    """

    output_class = MaskedLMOutput

    head_prefixes = ("lm_head.",)

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__(config)
        self.caduceus = CaduceusModel(config)
        self.lm_head = StrandHead(config) if config.rcps else None
        self.post_init()

    def answer(
        self, hidden: Tensor, attention_mask: Tensor | None, input_ids: Tensor
    ) -> Tensor:
        """Logits (batch, length, vocabulary)."""
        embedding = self.caduceus.backbone.embedding.weight
        if self.lm_head is None:
            return F.linear(hidden, embedding)
        return self.lm_head(hidden, embedding)

    def loss_of(self, logits: Tensor, labels: Tensor) -> Tensor | None:
        """Cross-entropy of the labelled tokens."""
        return token_loss(logits, labels)


class CaduceusForSequenceClassification(CaduceusPreTrainedModel):
    """Caduceus with one prediction per sequence.

    Positions are pooled (`pooling_strategy`), pads included unless a mask is given.
    The predictions of the two strands are averaged: PS models have both; a Ph model is
    given both as (batch, length, 2) ids.
    """

    head_prefixes = ("score.",)

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__(config)
        self.caduceus = CaduceusModel(config)
        labels = config.num_labels or 1
        self.score = nn.Linear(config.d_model, labels, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **_unused: Any,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """Predict per sequence; `problem_type` as in transformers.

        Parameters
        ----------
        input_ids : (batch, length) or, for a Ph model, (batch, length, 2) int64
            In the last axis, a sequence and its reverse complement.
        attention_mask : like `input_ids`, optional
        output_hidden_states
            As for `CaduceusModel.forward`.
        labels : (batch,) int64, or (batch, num_labels) float, optional
            Classes; targets for a regression or several labels.
        """
        both = input_ids.ndim == 3
        if both and self.config.rcps:
            raise CrossDNAError("a PS model reads both strands itself: give 2-D ids")
        mask = attention_mask
        if both:
            input_ids = torch.cat(input_ids.unbind(-1))
            mask = None if mask is None else torch.cat(mask.unbind(-1))
        output = self.caduceus(
            input_ids, mask, output_hidden_states=output_hidden_states
        )
        hidden = output.last_hidden_state
        if self.config.rcps:
            first, second = hidden.chunk(2, dim=-1)
            # Pooling does not see the order of positions, so length stays as it is.
            strands = [(first, mask), (second.flip(-1), mask)]
        elif both:
            masks = (None, None) if mask is None else mask.chunk(2)
            strands = list(zip(hidden.chunk(2), masks, strict=True))
        else:
            strands = [(hidden, mask)]
        scores = [self.score(self._pool(*strand)) for strand in strands]
        logits = torch.stack(scores).mean(0)
        prediction = SequenceClassifierOutput(
            loss=sequence_loss(self.config, logits, labels),
            logits=logits,
            hidden_states=output.hidden_states,
        )
        return prediction if return_dict in (None, True) else prediction.to_tuple()

    def _pool(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        if self.config.pooling_strategy == "mean":
            return pool_mean(hidden, mask)
        if mask is not None:
            hidden = hidden.masked_fill((mask == 0)[..., None], -torch.inf)
        return hidden.amax(1)


class CaduceusForTokenClassification(BasePrediction, CaduceusPreTrainedModel):  # type: ignore[misc]
    """Caduceus with one prediction per token.

    Of a PS model the mean of both strands' predictions: that of the reverse complement
    is the same, mirrored.
    """

    head_prefixes = ("head.",)

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__(config)
        self.caduceus = CaduceusModel(config)
        self.head = TokenHead(config)
        self.post_init()

    def answer(
        self, hidden: Tensor, attention_mask: Tensor | None, input_ids: Tensor
    ) -> Tensor:
        """What the head says of (batch, length, d_model or, for PS, 2 d_model)."""
        if not self.config.rcps:
            return self.head(hidden)
        first, second = hidden.chunk(2, dim=-1)
        return (self.head(first) + self.head(second.flip(-1))) / 2
