"""Networks that read tokens, under the language head they were pretrained with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from transformers.modeling_outputs import MaskedLMOutput

from crossdna import alphabet
from crossdna.errors import CrossDNAError
from crossdna.models.tokenized.letters import base_log_probabilities
from crossdna.models.tokenized.modeling import TokenizedTask
from crossdna.tokenizers.reading import KmerReader, TextReader

if TYPE_CHECKING:
    from crossdna.models.tokenized.batch import TokenBatch


class TokenAnswer(NamedTuple):
    """What a model says of tokens, given to the bases that they stand for.

    Attributes
    ----------
    logs : (batch, length) float64
        The log-probability of a base's token among all tokens of A C G T, an equal part
        to each of the token's bases.
    letters : (batch, length) int64
        What the most probable token has at the base's place; N where it is shorter.
    """

    logs: Tensor
    letters: Tensor


@dataclass
class BaseLMOutput(MaskedLMOutput):
    """Logits (batch, length, 5) of A C G T N at each base, N impossible."""


class _TokenizedForLanguage(TokenizedTask):
    """A network with its own language head."""

    causal: ClassVar[bool]

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
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **_unused: Any,
    ) -> BaseLMOutput | tuple[Any, ...]:
        """Predict each base from the others (masked) or from those before it (causal).

        See `crossdna.models.tokenized.letters` for what that means with k-mers. Rows
        whose tokens are equal are computed once.

        Raises
        ------
        CrossDNAError
            A tokenizer whose bases have no probability of their own; or `labels`, since
            such a network learns tokens.
        """
        if labels is not None:
            raise CrossDNAError(
                "labels would be bases, but this network learns tokens: compute the "
                "loss from `token_logits`, or train it with crossdna pretrain"
            )
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
        output = BaseLMOutput(
            logits=torch.cat([logs, impossible], dim=-1), hidden_states=states
        )
        return output if return_dict in (None, True) else output.to_tuple()

    def countable(self, input_ids: Tensor, batch: TokenBatch) -> Tensor:
        """Which tokens (batch, tokens) stand for bases, none of them N."""
        gaps = (input_ids >= alphabet.NUM_BASES).long().cumsum(1)
        gaps = torch.cat([gaps.new_zeros(len(gaps), 1), gaps], dim=1)
        start = batch.start.clamp(min=0)
        inside = gaps.gather(1, start + batch.size) - gaps.gather(1, start)
        return (batch.start >= 0) & (inside == 0)

    def whole_tokens(self, input_ids: Tensor, chosen: Tensor) -> Tensor:
        """The bases (batch, length) bool of tokens whose first base is chosen.

        Left out are tokens of other letters than A C G T, and what a causal model has
        nothing in front of.

        Parameters
        ----------
        input_ids : (batch, length)
            Without padding.
        chosen : (batch, length) bool
        """
        batch = self.network.tokens(input_ids)
        words = _Words.of(self._text_reader(), input_ids.device)
        return self._asked(batch, words, chosen).gather(1, batch.first)

    def token_answers(self, input_ids: Tensor, hidden: Tensor) -> TokenAnswer:
        """Predict tokens of several bases whole; for readers that hide no single base.

        Parameters
        ----------
        input_ids : (batch, length)
            True bases, without padding.
        hidden : (batch, length) bool
            Bases to be predicted, as `whole_tokens` gives them: a masked model sees
            the mask token for all of theirs. What is said elsewhere means nothing.
        """
        reader = self._text_reader()
        batch = self.network.tokens(input_ids)
        words = _Words.of(reader, input_ids.device)
        asked = self._asked(batch, words, hidden)
        shown = batch
        if not self.causal:
            shown = batch._replace(input_ids=self._hide(batch, asked))
        logs = self.token_logits(shown)[..., words.ids].float().log_softmax(-1)
        truth = words.places[batch.input_ids].clamp(min=0)[..., None]
        own = logs.gather(2, truth)[..., 0].double() / batch.size.clamp(min=1)
        best = words.letters[logs.argmax(-1)]
        columns = torch.arange(input_ids.shape[1], device=input_ids.device)
        offset = (columns - batch.start.gather(1, batch.first)).clamp(min=0)
        offset = offset.clamp(max=best.shape[2] - 1)[..., None]
        rows = batch.first[..., None].expand(-1, -1, best.shape[2])
        return TokenAnswer(
            own.gather(1, batch.first), best.gather(1, rows).gather(2, offset)[..., 0]
        )

    def _hide(self, batch: TokenBatch, which: Tensor) -> Tensor:
        """Token ids with the mask token in some places."""
        mask = self.reader.mask_id
        if mask is None:
            raise CrossDNAError("the tokenizer has no mask token, so nothing is hidden")
        return batch.input_ids.masked_fill(which, mask)

    def _text_reader(self) -> TextReader:
        if isinstance(self.reader, TextReader):
            return self.reader
        raise CrossDNAError("tokens are predicted whole only where no base can be")

    def _asked(self, batch: TokenBatch, words: _Words, chosen: Tensor) -> Tensor:
        """Tokens (batch, tokens) that can be predicted and begin with a chosen base."""
        asked = (batch.start >= 0) & (words.places[batch.input_ids] >= 0)
        asked = asked & chosen.gather(1, batch.start.clamp(min=0))
        if self.causal:
            asked[:, 0] = False
        return asked


class _Words(NamedTuple):
    """The tokens of A C G T.

    Attributes
    ----------
    ids : (words,) int64
    places : (ids,) int64
        Number of a token among the words; -1 for others.
    letters : (words, longest) int64
        N behind a word's last base.
    """

    ids: Tensor
    places: Tensor
    letters: Tensor

    @classmethod
    def of(cls, reader: TextReader, device: torch.device) -> _Words:
        ids = torch.from_numpy(reader.words.ids)
        letters = torch.from_numpy(reader.words.bases).long()
        last = max(reader.tokenizer.get_vocab().values())
        places = torch.full((last + 1,), -1)
        places[ids] = torch.arange(len(ids))
        return cls(ids.to(device), places.to(device), letters.to(device))


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
        batch = self.network.tokens(input_ids)
        counts = self.countable(input_ids, batch)
        place = loci.gather(1, batch.start.clamp(min=0)) // reader.unit
        total = torch.zeros(len(input_ids), dtype=torch.float64, device=loci.device)
        for rest in range(spacing):
            hidden = counts & (place % spacing == rest)
            shown = batch._replace(input_ids=self._hide(batch, hidden))
            logits = self.token_logits(shown)
            total += _log_probability(logits, batch.input_ids, hidden)
        return total


class TokenizedForCausalLM(_TokenizedForLanguage):
    """A causal model: predicts the next token."""

    causal = True

    def log_likelihoods(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Sum of the log-probability of each token given those before it, (batch,).

        Of characters and k-mers the probability among tokens of as many bases A C G T,
        as bases are predicted and sequences generated; of byte pairs among all tokens.
        Tokens with an N and special tokens are not counted; nor is the first token
        where no special token stands in front of it.
        """
        batch = self.network.tokens(input_ids, attention_mask)
        counts = self.countable(input_ids, batch)
        counts[:, 0] = False
        logits = self.token_logits(batch)
        if isinstance(self.reader, KmerReader):
            logits = logits.float() - _of_as_many_bases(self.reader, logits, batch)
            own = logits.gather(2, batch.input_ids[..., None])[..., 0].double()
            return own.masked_fill(~counts, 0).sum(1)
        return _log_probability(logits, batch.input_ids, counts)


def _of_as_many_bases(reader: KmerReader, logits: Tensor, batch: TokenBatch) -> Tensor:
    """(batch, tokens, 1): logarithm of the sum over a token's rivals."""
    kmers = torch.from_numpy(reader.kmer_ids).to(logits.device)
    singles = torch.from_numpy(reader.letter_ids[: alphabet.NUM_BASES])
    whole = logits[..., kmers].float().logsumexp(-1, keepdim=True)
    alone = logits[..., singles.to(logits.device)].float().logsumexp(-1, keepdim=True)
    return torch.where(batch.size[..., None] == reader.k, whole, alone)


def _log_probability(logits: Tensor, ids: Tensor, counts: Tensor) -> Tensor:
    """Sum of the log-probabilities of the counted tokens, (batch,) float64."""
    logs = logits.float().log_softmax(-1).gather(2, ids[..., None])[..., 0]
    return logs.double().masked_fill(~counts, 0).sum(1)
