"""HyenaDNA with heads: the next token, one prediction per sequence or per token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.modeling_outputs import CausalLMOutput

from crossdna.models.headed import BasePrediction, Headed, SequencePrediction
from crossdna.models.heads import TokenHead, token_loss
from crossdna.models.hyenadna.configuration import HyenaDNAConfig
from crossdna.models.hyenadna.modeling import HyenaDNAModel, HyenaDNAPreTrainedModel


class HyenaDNAForCausalLM(Headed, HyenaDNAPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """HyenaDNA with the logits of the next token.

    `labels` are `input_ids` again (shifted here), -100 where no loss is wanted.
    """

    output_class = CausalLMOutput

    head_prefixes = ("lm_head.",)

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__(config)
        self.hyena = HyenaDNAModel(config)
        self.lm_head = nn.Linear(config.d_model, config.embedding_rows, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """The head over the alphabet."""
        return self.lm_head

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_unused: Any
    ) -> dict[str, Tensor | None]:
        """Read the whole sequence for each new token: nothing is cached."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def answer(
        self, hidden: Tensor, attention_mask: Tensor | None, input_ids: Tensor
    ) -> Tensor:
        """Logits (batch, length, vocabulary) of the next token at each position."""
        return self.lm_head(hidden)

    def loss_of(self, logits: Tensor, labels: Tensor) -> Tensor | None:
        """Cross-entropy of each token but the first, given those before it."""
        return token_loss(logits[:, :-1], labels[:, 1:])


class HyenaDNAForSequenceClassification(SequencePrediction, HyenaDNAPreTrainedModel):  # type: ignore[misc]
    """HyenaDNA with one prediction per sequence, read off its last token.

    Without a mask that is the one before the first pad, as published.
    """

    head_prefixes = ("score.",)

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__(config)
        self.hyena = HyenaDNAModel(config)
        labels = config.num_labels or 1
        self.score = nn.Linear(config.d_model, labels, bias=False)
        self.post_init()

    def answer(
        self, hidden: Tensor, attention_mask: Tensor | None, input_ids: Tensor
    ) -> Tensor:
        """Logits (batch, num_labels)."""
        logits = self.score(hidden)
        last = _last_token(input_ids, attention_mask, self.config.pad_token_id)
        return logits[torch.arange(len(logits), device=logits.device), last]


class HyenaDNAForTokenClassification(BasePrediction, HyenaDNAPreTrainedModel):  # type: ignore[misc]
    """HyenaDNA with one prediction per token, from it and what is before it."""

    head_prefixes = ("head.",)

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__(config)
        self.hyena = HyenaDNAModel(config)
        self.head = TokenHead(config)
        self.post_init()


def _last_token(
    input_ids: Tensor, attention_mask: Tensor | None, pad: int | None
) -> Tensor:
    """Index of each row's last token, -1 where that is the last position."""
    if attention_mask is not None:
        length = input_ids.shape[1]
        return length - 1 - attention_mask.ne(0).flip(1).int().argmax(1)
    # argmax of nothing but zeros is 0, so a row without pads gives -1.
    return input_ids.eq(-1 if pad is None else pad).int().argmax(1) - 1
