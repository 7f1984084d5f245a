"""Families of transformers (BERT, ESM, GPT-2, LLaMA, Mamba, ...) under all verbs.

A wrapper holds a network of transformers, unchanged, and its tokenizer, and takes what
CrossDNA takes: ids of `crossdna.alphabet`, one per base, (batch, length), MASK where a
base is hidden, an attention mask where rows are padded on either side. What it gives is
per base too:

``TokenizedModel``
    Hidden states (batch, length, channels): the mean of the tokens over each base.
``TokenizedForMaskedLM``, ``TokenizedForCausalLM``
    Logits (batch, length, 5), of which the first four are log-probabilities of A C G T
    at each base, for tokenizers of k-mers and characters; see `letters`. With byte
    pairs ``gives_base_probabilities`` is False and asking is an error;
    ``token_answers`` predicts their tokens whole. Whole windows have
    ``pseudo_log_likelihoods`` (masked) or ``log_likelihoods`` (causal) always.
``TokenizedForSequenceClassification``, ``TokenizedForTokenClassification``
    A bare network under our heads; saved with the tokenizer, and loaded again by the
    Auto classes and `crossdna.models.opening`.
``OwnHeadForSequenceClassification``
    A network that was fine-tuned elsewhere, with its family's own head.

Inside are ``model.network.net`` (what transformers made), ``model.reader`` (cuts bases
into tokens and keeps their places, `crossdna.tokenizers.reading`, with the tokenizer at
``reader.tokenizer``) and ``model.network.tokens(ids, mask)`` (a `batch.TokenBatch`).
Open one with ``crossdna.models.opening.Opened(name).model(task)``, or
`crossdna.analysis.inference.load_model`.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from crossdna.models.tokenized.configuration import TokenizedConfig
from crossdna.models.tokenized.language import (
    TokenizedForCausalLM,
    TokenizedForMaskedLM,
)
from crossdna.models.tokenized.modeling import TokenizedModel, TokenizedPreTrainedModel
from crossdna.models.tokenized.tasks import (
    OwnHeadForSequenceClassification,
    TokenizedForSequenceClassification,
    TokenizedForTokenClassification,
)
from crossdna.tokenizers.nucleotide import CrossDNATokenizer

__all__ = [
    "OwnHeadForSequenceClassification",
    "TokenizedConfig",
    "TokenizedForCausalLM",
    "TokenizedForMaskedLM",
    "TokenizedForSequenceClassification",
    "TokenizedForTokenClassification",
    "TokenizedModel",
    "TokenizedPreTrainedModel",
    "register",
]


def register() -> None:
    """Make transformers' Auto classes know what fine-tuning saves."""
    AutoConfig.register(TokenizedConfig.model_type, TokenizedConfig)
    AutoModel.register(TokenizedConfig, TokenizedModel)
    AutoModelForSequenceClassification.register(
        TokenizedConfig, TokenizedForSequenceClassification
    )
    AutoModelForTokenClassification.register(
        TokenizedConfig, TokenizedForTokenClassification
    )
    AutoTokenizer.register(TokenizedConfig, CrossDNATokenizer)
