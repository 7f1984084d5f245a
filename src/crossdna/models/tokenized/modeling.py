"""Networks that read tokens, asked and answering about bases.

Every class here takes what CrossDNA takes: ids of `crossdna.alphabet`, one per base,
(batch, length), with an optional attention mask that may leave out either side. Inside,
the network's own tokenizer cuts the bases into tokens, its special tokens stand around
them, and padding is put on the right behind an attention mask, so that each row gets
what it gets alone.
"""

from __future__ import annotations

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
from transformers.modeling_outputs import BaseModelOutput

from crossdna.errors import CrossDNAError
from crossdna.models.heads import Standard
from crossdna.models.loading import StrictLoadingMixin, hub_options
from crossdna.models.tokenized.batch import TokenBatch, spread, token_batch
from crossdna.models.tokenized.configuration import Part, TokenizedConfig
from crossdna.models.tokenized.operators import use_operators
from crossdna.tokenizers.loading import NETWORK_TOKENIZER, load_network_tokenizer
from crossdna.tokenizers.nucleotide import CrossDNATokenizer
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
    # Losses are means: Trainer divides them over accumulated batches itself.
    accepts_loss_kwargs = False
    head_prefixes: ClassVar[tuple[str, ...]] = ("head.",)
    # Saved by earlier versions.
    _keys_to_ignore_on_load_unexpected = [r"(^|\.)contact_head\."]  # noqa: RUF012
    _supports_sdpa = True

    @classmethod
    def is_published_layout(cls, config: dict[str, Any]) -> bool:
        """Never: only we write this layout."""
        return False

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any
    ) -> Any:
        """Load what `save_pretrained` wrote, the network's tokenizer included."""
        want_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        hub = hub_options(kwargs)
        model.read_with(load_network_tokenizer(pretrained_model_name_or_path, **hub))
        return (model, info) if want_info else model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save network, head and tokenizers, and code that came with the network.

        Beside the weights lies the tokenizer whose ids this model reads, one per base;
        the one that cuts these into the network's tokens has a folder of its own.
        """
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
        CrossDNATokenizer().save_pretrained(save_directory)
        within = Path(save_directory) / NETWORK_TOKENIZER
        self.reader.tokenizer.save_pretrained(within)

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
        if isinstance(module, nn.Linear | nn.Conv1d | Standard):
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
        use_operators(net)
        _drop_unread(net)
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
        return_dict: bool | None = None,
        **_unused: Any,
    ) -> BaseModelOutput | tuple[Any, ...]:
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
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        batch = self.tokens(input_ids, attention_mask)
        base = self.net.base_model
        options = {"output_hidden_states": True} if output_hidden_states else {}
        output = self.run(base, batch, **options)
        states = output.hidden_states if output_hidden_states else None
        represented = BaseModelOutput(
            last_hidden_state=spread(output[0], batch),
            hidden_states=tuple(spread(x, batch) for x in states) if states else None,
        )
        return represented if return_dict in (None, True) else represented.to_tuple()


def _drop_unread(net: PreTrainedModel) -> None:
    """Take out a part that nothing here asks, whose name ends in our head's.

    peft, told to train "head", would train ESM's "contact_head" too and could not load
    what it saved.
    """
    base: Any = net.base_model
    if hasattr(base, "contact_head"):
        del base.contact_head


def random_network(config: TokenizedConfig) -> PreTrainedModel:
    """Make a network with random weights, without layers that nothing here reads."""
    auto = network_class(config.part, config.objective)  # type: ignore[arg-type]
    if config.remote_code:
        made = config.remote_class(auto.__name__)
        return made._from_config(config.network_config())
    bare = config.part == "base" and config.family.pooler
    # What from_pretrained was asked for, which the network's own file need not say.
    options: dict[str, Any] = {"dtype": torch.get_default_dtype()}
    if bare:
        options["add_pooling_layer"] = False
    return auto.from_config(config.network_config(), **options)


class TokenizedTask(TokenizedPreTrainedModel):
    """A network with its own head, or under one of ours."""

    head_class: ClassVar[type[nn.Module] | None] = None

    def __init__(
        self, config: TokenizedConfig, net: PreTrainedModel | None = None
    ) -> None:
        super().__init__(config)
        self.network = TokenizedModel(config, net)
        if self.head_class is not None:
            self.head = self.head_class(config)
        self.post_init()
