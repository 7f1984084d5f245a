"""Networks that read tokens, under heads: one prediction per sequence or per base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.modeling_outputs import SequenceClassifierOutput

from crossdna.errors import CrossDNAError
from crossdna.models.headed import BasePrediction, SequencePrediction
from crossdna.models.heads import SequenceHead, TokenHead
from crossdna.models.tokenized.modeling import TokenizedTask

if TYPE_CHECKING:
    from torch import Tensor


class TokenizedForSequenceClassification(SequencePrediction, TokenizedTask):
    """A bare network under our head: one prediction per sequence."""

    head_class = SequenceHead


class TokenizedForTokenClassification(BasePrediction, TokenizedTask):
    """A bare network under our head: one prediction per base."""

    head_class = TokenHead


class OwnHeadForSequenceClassification(TokenizedTask):
    """A network with the sequence head of its own family, fine-tuned elsewhere."""

    def read_with(self, tokenizer: Any) -> None:
        """Give the network its tokenizer; see `TokenizedPreTrainedModel.read_with`."""
        super().read_with(tokenizer)
        if self.config.objective == "causal":
            if tokenizer.pad_token_id is None:
                raise CrossDNAError(
                    "this head reads the last token that is no padding, but the "
                    "tokenizer has no padding token"
                )
            self.network.net.config.pad_token_id = tokenizer.pad_token_id

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_unused: Any
    ) -> SequenceClassifierOutput:
        """Predict per sequence."""
        batch = self.network.tokens(input_ids, attention_mask)
        output = self.network.run(self.network.net, batch)
        return SequenceClassifierOutput(logits=output.logits)
