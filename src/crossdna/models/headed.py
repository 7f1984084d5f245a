"""Networks under a head of ours: the forward passes that all families share.

A class that inherits one of these names its network by `base_model_prefix`, as
transformers does, and its head `head`. They stand first among the bases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import (
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from crossdna.models.heads import sequence_loss, token_loss

if TYPE_CHECKING:
    from torch import Tensor


class SequencePrediction(PreTrainedModel):
    """A network under a `SequenceHead`: one prediction per sequence."""

    head: nn.Module
    output_class: ClassVar[Any] = SequenceClassifierOutput

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **_unused: Any,
    ) -> Any:
        """Predict per sequence; `problem_type` as in transformers.

        Parameters
        ----------
        input_ids, attention_mask, output_hidden_states
            As for the forward of the bare network.
        labels : (batch,) int64, or (batch, num_labels) float, optional
            Classes; targets for a regression or several labels.
        """
        output = self.base_model(
            input_ids, attention_mask, output_hidden_states=output_hidden_states
        )
        logits = self.head(output.last_hidden_state, attention_mask, input_ids)
        prediction = self.output_class(
            loss=sequence_loss(self.config, logits, labels),
            logits=logits,
            hidden_states=output.hidden_states,
        )
        return prediction if return_dict in (None, True) else prediction.to_tuple()


class BasePrediction(PreTrainedModel):
    """A network under a `TokenHead`: one prediction per base."""

    head: nn.Module
    output_class: ClassVar[Any] = TokenClassifierOutput

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **_unused: Any,
    ) -> Any:
        """Predict per base.

        Parameters
        ----------
        input_ids, attention_mask, output_hidden_states
            As for the forward of the bare network.
        labels : (batch, length) int64, optional
            Class of each base, -100 where no loss is wanted.
        """
        output = self.base_model(
            input_ids, attention_mask, output_hidden_states=output_hidden_states
        )
        logits = self.base_logits(output.last_hidden_state)
        prediction = self.output_class(
            loss=None if labels is None else token_loss(logits, labels),
            logits=logits,
            hidden_states=output.hidden_states,
        )
        return prediction if return_dict in (None, True) else prediction.to_tuple()

    def base_logits(self, hidden: Tensor) -> Tensor:
        """What the head says of (batch, length, channels)."""
        return self.head(hidden)
