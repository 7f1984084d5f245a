"""HyenaDNA with heads: the next token, one prediction per sequence or per token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin
from transformers.modeling_outputs import CausalLMOutput, SequenceClassifierOutput

from crossdna.models.headed import BasePrediction
from crossdna.models.heads import TokenHead, sequence_loss
from crossdna.models.hyenadna.configuration import HyenaDNAConfig
from crossdna.models.hyenadna.modeling import HyenaDNAModel, HyenaDNAPreTrainedModel


class HyenaDNAForCausalLM(HyenaDNAPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """HyenaDNA with the logits of the next token."""

    head_prefixes = ("lm_head.",)

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__(config)
        self.hyena = HyenaDNAModel(config)
        self.lm_head = nn.Linear(config.d_model, config.embedding_rows, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """The head over the alphabet."""
        return self.lm_head

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_unused: Any
    ) -> dict[str, Tensor | None]:
        """Read the whole sequence for each new token: nothing is cached."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **_unused: Any,
    ) -> CausalLMOutput | tuple[Any, ...]:
        """Predict the next token at each position.

        Parameters
        ----------
        input_ids, attention_mask, output_hidden_states
            As for `HyenaDNAModel.forward`.
        labels : (batch, length) int64, optional
            `input_ids` again (shifted here), -100 where no loss is wanted.
        """
        output = self.hyena(
            input_ids, attention_mask, output_hidden_states=output_hidden_states
        )
        logits = self.lm_head(output.last_hidden_state)
        loss = None
        if labels is not None:
            predicted = logits[:, :-1].flatten(0, 1).float()
            loss = F.cross_entropy(predicted, labels[:, 1:].flatten())
        prediction = CausalLMOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states
        )
        return prediction if return_dict in (None, True) else prediction.to_tuple()


class HyenaDNAForSequenceClassification(HyenaDNAPreTrainedModel):
    """HyenaDNA with one prediction per sequence, read off its last token."""

    head_prefixes = ("score.",)

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__(config)
        self.hyena = HyenaDNAModel(config)
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
        input_ids, attention_mask, output_hidden_states
            As for `HyenaDNAModel.forward`. Without a mask the last token is the one
            before the first pad, as published.
        labels : (batch,) int64, or (batch, num_labels) float, optional
            Classes; targets for a regression or several labels.
        """
        output = self.hyena(
            input_ids, attention_mask, output_hidden_states=output_hidden_states
        )
        logits = self.score(output.last_hidden_state)
        last = _last_token(input_ids, attention_mask, self.config.pad_token_id)
        logits = logits[torch.arange(len(logits), device=logits.device), last]
        prediction = SequenceClassifierOutput(
            loss=sequence_loss(self.config, logits, labels),
            logits=logits,
            hidden_states=output.hidden_states,
        )
        return prediction if return_dict in (None, True) else prediction.to_tuple()


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
