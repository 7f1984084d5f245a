"""Networks that read tokens, asked and answering about bases.

Every class here takes what CrossDNA takes: ids of `crossdna.alphabet`, one per base,
(batch, length), with an optional attention mask that may leave out either side. Inside,
the network's own tokenizer cuts the bases into tokens, its special tokens stand around
them, and padding is put on the right behind an attention mask, so that each row gets
what it gets alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)
from transformers.dynamic_module_utils import custom_object_save
from transformers.modeling_outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from crossdna import alphabet
from crossdna.errors import CrossDNAError
from crossdna.models.heads import SequenceHead, TokenHead, sequence_loss, token_loss
from crossdna.models.loading import StrictLoadingMixin
from crossdna.models.tokenized.batch import TokenBatch, spread, token_batch
from crossdna.models.tokenized.configuration import Part, TokenizedConfig
from crossdna.models.tokenized.letters import base_log_probabilities
from crossdna.tokenizers.loading import load_tokenizer
from crossdna.tokenizers.reading import Reader, make_reader


def network_class(part: Part, objective: str) -> Any:
    """Transformers' Auto class for a part of a family."""
    if part == "language":
        return AutoModelForCausalLM if objective == "causal" else AutoModelForMaskedLM
    return {
        "base": AutoModel,
        "sequence": AutoModelForSequenceClassification,
        "token": AutoModelForTokenClassification,
    }[part]


class TokenizedPreTrainedModel(StrictLoadingMixin, PreTrainedModel):
    """Loading, saving and initialisation shared by all classes here."""

    config: TokenizedConfig
    config_class = TokenizedConfig
    base_model_prefix = "network"
    main_input_name = "input_ids"
    head_prefixes: ClassVar[tuple[str, ...]] = ("head.",)
    _supports_sdpa = True

    @classmethod
    def is_published_layout(cls, config: dict[str, Any]) -> bool:
        """Never: only we write this layout."""
        return False

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any
    ) -> Any:
        """Load what `save_pretrained` wrote, the tokenizer included."""
        want_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        model.read_with(load_tokenizer(pretrained_model_name_or_path))
        return (model, info) if want_info else model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save network, head and tokenizer, and code that came with the network."""
        if self.config.remote_code:
            base: Any = self.base_model
            net = base.net
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            for part in net, net.config:
                custom_object_save(part, save_directory)
            assert self.config.network is not None
            classes = self.config.network["auto_map"]
            # The code lies beside the weights now, not in a repository elsewhere.
            local = {
                key: name.split("--")[-1] if isinstance(name, str) else name
                for key, name in classes.items()
            }
            self.config.network = {**self.config.network, "auto_map": local}
        super().save_pretrained(save_directory, *args, **kwargs)
        self.reader.tokenizer.save_pretrained(save_directory)

    @property
    def reader(self) -> Reader:
        """Cuts bases into the network's tokens; see `crossdna.tokenizers.reading`."""
        network: Any = self.base_model
        if network.own_reader is None:
            raise CrossDNAError("this model was given no tokenizer; see read_with")
        return network.own_reader

    def read_with(self, tokenizer: Any) -> None:
        """Give the network its tokenizer.

        Raises
        ------
        CrossDNAError
            A tokenizer that has no words over A C G T, or not as many tokens as the
            network has vectors for.
        """
        network: Any = self.base_model
        network.check_vocabulary(tokenizer)
        network.own_reader = make_reader(tokenizer)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv1d):
            module.reset_parameters()


# Vectors beyond the tokenizer's tokens, where they only fill up a multiple of 8.
_FILLING = 128


class TokenizedModel(TokenizedPreTrainedModel):
    """A network of transformers and, where it was given one, its tokenizer.

    Parameters
    ----------
    config : TokenizedConfig
    net : PreTrainedModel, optional
        The loaded network; else one with random weights is made.

    Attributes
    ----------
    net : PreTrainedModel
        As transformers knows it: reads tokens.
    """

    def __init__(
        self, config: TokenizedConfig, net: PreTrainedModel | None = None
    ) -> None:
        super().__init__(config)
        self.own_reader: Reader | None = None
        if net is None:
            net = random_network(config)
        else:
            for module in net.modules():
                # What was loaded is not to be drawn anew below.
                module._is_hf_initialized = True  # type: ignore[assignment]
        self.net = net
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The table of token vectors."""
        return self.net.get_input_embeddings()

    def check_vocabulary(self, tokenizer: Any) -> None:
        """Refuse a tokenizer that has more or fewer tokens than there are vectors."""
        try:
            vectors: Any = self.get_input_embeddings()
            rows = int(vectors.weight.shape[0])
        except NotImplementedError:
            # Code that came with a checkpoint need not say where they are.
            rows = int(self.net.config.vocab_size)
        tokens = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values()))
        filled = rows % 8 == 0 and tokens <= rows < tokens + _FILLING
        if rows != tokens and not filled:
            raise CrossDNAError(
                f"the tokenizer has {tokens} tokens, but the network has vectors for "
                f"{rows}: they do not belong together"
            )
        if self.config.family.positions == "after padding":
            expected = self.net.config.pad_token_id
            if tokenizer.pad_token_id != expected:
                raise CrossDNAError(
                    f"the tokenizer pads with {tokenizer.pad_token_id}, but the "
                    f"network counts positions by its pad_token_id {expected}"
                )

    def tokens(self, ids: Tensor, attention_mask: Tensor | None = None) -> TokenBatch:
        """Cut base ids (batch, length) into the network's tokens."""
        longest = self.config.family.longest(self.net.config)
        return token_batch(self.reader, ids, attention_mask, longest)

    def run(self, net: Any, batch: TokenBatch, **options: Any) -> Any:
        """Give a batch of tokens to the network, or to a part of it."""
        if self.config.objective == "causal":
            options["use_cache"] = False
        return net(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, **options
        )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **_unused: Any,
    ) -> BaseModelOutput:
        """Represent each base: the mean of the tokens that stand for it.

        Parameters
        ----------
        input_ids : (batch, length) int64
            Ids of `crossdna.alphabet`; hidden bases are MASK.
        attention_mask : (batch, length), optional
            Non-zero at bases.
        output_hidden_states : bool, optional
            Also return all of the network's hidden states, each for bases.
        """
        batch = self.tokens(input_ids, attention_mask)
        base = self.net.base_model
        options = {"output_hidden_states": True} if output_hidden_states else {}
        output = self.run(base, batch, **options)
        states = output.hidden_states if output_hidden_states else None
        return BaseModelOutput(
            last_hidden_state=spread(output[0], batch),
            hidden_states=tuple(spread(x, batch) for x in states) if states else None,
        )


def random_network(config: TokenizedConfig) -> PreTrainedModel:
    """Make a network with random weights, without layers that nothing here reads."""
    auto = network_class(config.part, config.objective)  # type: ignore[arg-type]
    if config.remote_code:
        made = config.remote_class(auto.__name__)
        return made._from_config(config.network_config())
    bare = config.part == "base" and config.family.pooler
    return auto.from_config(
        config.network_config(), **({"add_pooling_layer": False} if bare else {})
    )


@dataclass
class BaseLMOutput(MaskedLMOutput):
    """Logits (batch, length, 5) of A C G T N at each base, N impossible."""


class _TokenizedForLanguage(TokenizedPreTrainedModel):
    """A network with its own language head."""

    causal: ClassVar[bool]

    def __init__(
        self, config: TokenizedConfig, net: PreTrainedModel | None = None
    ) -> None:
        super().__init__(config)
        self.network = TokenizedModel(config, net)
        self.post_init()

    @property
    def gives_base_probabilities(self) -> bool:
        """Whether a base has a probability of its own: not with byte pairs."""
        return self.reader.hides_bases

    def token_logits(self, batch: TokenBatch) -> Tensor:
        """Prediction (batch, tokens, vocabulary) of each token, at its own place.

        A causal model does not predict the first token: zeros, all tokens alike.
        """
        logits = self.network.run(self.network.net, batch).logits
        if not self.causal:
            return logits
        return torch.cat([torch.zeros_like(logits[:, :1]), logits[:, :-1]], dim=1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **_unused: Any,
    ) -> BaseLMOutput:
        """Predict each base from the others (masked) or from those before it (causal).

        See `crossdna.models.tokenized.letters` for what that means with k-mers. Rows
        whose tokens are equal are computed once.

        Raises
        ------
        CrossDNAError
            A tokenizer whose bases have no probability of their own.
        """
        reader = self.reader
        if not self.gives_base_probabilities:
            # Says why, and what can be asked instead.
            reader.read([torch.tensor([alphabet.MASK]).numpy()])
        batch = self.network.tokens(input_ids, attention_mask)
        rows, place = _distinct(batch)
        logits = self.token_logits(rows)[place]
        logs = base_log_probabilities(
            reader,  # type: ignore[arg-type]
            logits,
            input_ids,
            batch,
            causal=self.causal,
        )
        states = None
        if output_hidden_states:
            states = self.network(
                input_ids, attention_mask, output_hidden_states=True
            ).hidden_states
        impossible = logs.new_full((*logs.shape[:2], 1), -torch.inf)
        return BaseLMOutput(
            logits=torch.cat([logs, impossible], dim=-1), hidden_states=states
        )

    def countable(self, input_ids: Tensor, batch: TokenBatch) -> Tensor:
        """Which tokens (batch, tokens) stand for bases, none of them N."""
        gaps = (input_ids >= alphabet.NUM_BASES).long().cumsum(1)
        gaps = torch.cat([gaps.new_zeros(len(gaps), 1), gaps], dim=1)
        start = batch.start.clamp(min=0)
        inside = gaps.gather(1, start + batch.size) - gaps.gather(1, start)
        return (batch.start >= 0) & (inside == 0)


def _distinct(batch: TokenBatch) -> tuple[TokenBatch, Tensor]:
    """Rows whose tokens differ, and for each row which of those it is.

    One hidden k-mer stands for k hidden bases, which are often asked together.
    """
    both = torch.cat([batch.input_ids, batch.attention_mask], dim=1)
    unique, place = torch.unique(both, dim=0, return_inverse=True)
    if len(unique) == len(both):
        return batch, torch.arange(len(both), device=both.device)
    ids, mask = unique.chunk(2, dim=1)
    return batch._replace(input_ids=ids, attention_mask=mask), place


class TokenizedForMaskedLM(_TokenizedForLanguage):
    """A masked model: predicts hidden tokens."""

    causal = False

    def pseudo_log_likelihoods(
        self, input_ids: Tensor, loci: Tensor, *, spacing: int
    ) -> Tensor:
        """Sum of the log-probability of each token while it is hidden, (batch,).

        In each of `spacing` passes, those tokens are hidden whose first base leaves the
        same rest: of its number among k-mers, for byte pairs of its position. Tokens
        with an N are neither hidden nor counted.

        Parameters
        ----------
        input_ids : (batch, length)
            Without padding.
        loci : (batch, length) int64
            The position of each base in the genome.

        Raises
        ------
        CrossDNAError
            Overlapping k-mers, each of which is plain from its neighbours; or no mask
            token.
        """
        reader = self.reader
        if reader.overlapping and reader.unit > 1:
            raise CrossDNAError("overlapping k-mers are hidden base by base")
        if reader.mask_id is None:
            raise CrossDNAError("the tokenizer has no mask token, so nothing is hidden")
        batch = self.network.tokens(input_ids)
        counts = self.countable(input_ids, batch)
        place = loci.gather(1, batch.start.clamp(min=0)) // reader.unit
        total = torch.zeros(len(input_ids), dtype=torch.float64, device=loci.device)
        for rest in range(spacing):
            hidden = counts & (place % spacing == rest)
            ids = batch.input_ids.masked_fill(hidden, reader.mask_id)
            logits = self.token_logits(batch._replace(input_ids=ids))
            total += _log_probability(logits, batch.input_ids, hidden)
        return total


class TokenizedForCausalLM(_TokenizedForLanguage):
    """A causal model: predicts the next token."""

    causal = True

    def log_likelihoods(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Sum of the log-probability of each token given those before it, (batch,).

        Tokens with an N and special tokens are not counted; nor is the first token
        where no special token stands in front of it.
        """
        batch = self.network.tokens(input_ids, attention_mask)
        counts = self.countable(input_ids, batch)
        counts[:, 0] = False
        return _log_probability(self.token_logits(batch), batch.input_ids, counts)


def _log_probability(logits: Tensor, ids: Tensor, counts: Tensor) -> Tensor:
    """Sum of the log-probabilities of the counted tokens, (batch,) float64."""
    logs = logits.float().log_softmax(-1).gather(2, ids[..., None])[..., 0]
    return logs.double().masked_fill(~counts, 0).sum(1)


class TokenizedForSequenceClassification(TokenizedPreTrainedModel):
    """A bare network under our head: one prediction per sequence."""

    def __init__(
        self, config: TokenizedConfig, net: PreTrainedModel | None = None
    ) -> None:
        super().__init__(config)
        self.network = TokenizedModel(config, net)
        self.head = SequenceHead(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_unused: Any,
    ) -> SequenceClassifierOutput:
        """Predict per sequence; `problem_type` as in transformers.

        Parameters
        ----------
        input_ids, attention_mask
            As for `TokenizedModel.forward`.
        labels : (batch,) int64, or (batch, num_labels) float, optional
            Classes; targets for a regression or several labels.
        """
        hidden = self.network(input_ids, attention_mask).last_hidden_state
        logits = self.head(hidden, attention_mask, input_ids)
        return SequenceClassifierOutput(
            loss=sequence_loss(self.config, logits, labels), logits=logits
        )


class TokenizedForTokenClassification(TokenizedPreTrainedModel):
    """A bare network under our head: one prediction per base."""

    def __init__(
        self, config: TokenizedConfig, net: PreTrainedModel | None = None
    ) -> None:
        super().__init__(config)
        self.network = TokenizedModel(config, net)
        self.head = TokenHead(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_unused: Any,
    ) -> TokenClassifierOutput:
        """Predict per base.

        Parameters
        ----------
        input_ids, attention_mask
            As for `TokenizedModel.forward`.
        labels : (batch, length) int64, optional
            -100 where no loss is wanted.
        """
        logits = self.head(self.network(input_ids, attention_mask).last_hidden_state)
        loss = None if labels is None else token_loss(logits, labels)
        return TokenClassifierOutput(loss=loss, logits=logits)


class OwnHeadForSequenceClassification(TokenizedPreTrainedModel):
    """A network with the sequence head of its own family, fine-tuned elsewhere."""

    def __init__(
        self, config: TokenizedConfig, net: PreTrainedModel | None = None
    ) -> None:
        super().__init__(config)
        self.network = TokenizedModel(config, net)
        self.post_init()

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
