"""Networks under a head: the forward pass that tasks of all families share.

A class that inherits one of these names its network by `base_model_prefix`, as
transformers does. They stand first among the bases.
"""

from __future__ import annotations

from abc import abstractmethod
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


class Headed(PreTrainedModel):
    """A network, what a head says of its last layer, and a loss."""

    output_class: ClassVar[Any]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **_unused: Any,
    ) -> Any:
        """Predict.

        Parameters
        ----------
        input_ids, attention_mask, output_hidden_states
            As for the forward of the bare network.
        labels : optional
            What the class says of them.
        """
        output = self.base_model(
            input_ids, attention_mask, output_hidden_states=output_hidden_states
        )
        logits = self.answer(output.last_hidden_state, attention_mask, input_ids)
        prediction = self.output_class(
            loss=None if labels is None else self.loss_of(logits, labels),
            logits=logits,
            hidden_states=output.hidden_states,
        )
        return prediction if return_dict in (None, True) else prediction.to_tuple()

    @abstractmethod
    def answer(
        self, hidden: Tensor, attention_mask: Tensor | None, input_ids: Tensor
    ) -> Tensor:
        """What the head says of (batch, length, channels)."""

    @abstractmethod
    def loss_of(self, logits: Tensor, labels: Tensor) -> Tensor | None:
        """Mean loss over what `labels` ask for."""


class SequencePrediction(Headed):
    """A network under a `SequenceHead`: one prediction per sequence.

    `labels` are classes (batch,) int64, or (batch, num_labels) float: targets for a
    regression or several labels; `problem_type` as in transformers.
    """

    head: nn.Module
    output_class: ClassVar[Any] = SequenceClassifierOutput

    def answer(
        self, hidden: Tensor, attention_mask: Tensor | None, input_ids: Tensor
    ) -> Tensor:
        """Logits (batch, num_labels)."""
        return self.head(hidden, attention_mask, input_ids)

    def loss_of(self, logits: Tensor, labels: Tensor) -> Tensor | None:
        """By `problem_type`."""
        return sequence_loss(self.config, logits, labels)


class BasePrediction(Headed):
    """A network under a `TokenHead`: one prediction per base.

    `labels` are the classes (batch, length) int64 of the bases, -100 where no loss is
    wanted.
    """

    head: nn.Module
    output_class: ClassVar[Any] = TokenClassifierOutput

    def answer(
        self, hidden: Tensor, attention_mask: Tensor | None, input_ids: Tensor
    ) -> Tensor:
        """Logits (batch, length, num_labels)."""
        return self.head(hidden)

    def loss_of(self, logits: Tensor, labels: Tensor) -> Tensor | None:
        """Cross-entropy of the labelled bases."""
        return token_loss(logits, labels)
