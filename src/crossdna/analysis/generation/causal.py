"""Sequences from a causal model: token after token, with every dead end avoided.

transformers' own `generate` runs the network and keeps its caches, for every family;
the choice of each token is made here, so that constraints hold and a sequence depends
on its own random numbers only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from crossdna import alphabet
from crossdna.analysis.generation.sampling import draw
from crossdna.analysis.inference import asking
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from crossdna.analysis.generation.constraints import Plan
    from crossdna.analysis.generation.sampling import Truncation


# The checkpoint's own end token would stop a sequence that is not whole.
_NEVER: Final = 1 << 30


class Writer(NamedTuple):
    """A network and the words that it can write.

    Attributes
    ----------
    network
        A causal model of transformers' kind.
    words : (words, longest) int64
        Bases; -1 behind the end of a word.
    tokens : (words,) int64
        Their ids.
    unit : int
        Bases in a k-mer: shorter words come only where fewer bases are left. 1 where
        words may follow each other in any way.
    prefix : tuple of int
        Tokens in front of every sequence.
    longest : int or None
        The most tokens that the network reads.
    """

    network: Any
    words: NDArray[np.int64]
    tokens: NDArray[np.int64]
    unit: int
    prefix: tuple[int, ...]
    longest: int | None


def writer(model: Any) -> Writer:
    """See how a causal model writes.

    Raises
    ------
    CrossDNAError
        A tokenizer whose tokens overlap, or that lacks one of the bases.
    """
    longest = getattr(model.config, "max_seq_len", None)
    if not hasattr(model, "reader"):
        bases = np.arange(alphabet.NUM_BASES)
        return Writer(model, bases[:, None], bases, 1, (), longest)
    reader, network = model.reader, model.network.net
    if getattr(reader, "overlapping", False) and reader.unit > 1:
        raise CrossDNAError("a model of overlapping k-mers cannot write a sequence")
    # A vocabulary comes in any order, and draws must not depend on it.
    vocabulary = sorted(reader.tokenizer.get_vocab().items(), key=lambda item: item[1])
    known = {
        word: token
        for word, token in vocabulary
        if word and set(word) <= set(alphabet.BASES)
    }
    if not set(alphabet.BASES) <= known.keys():
        raise CrossDNAError("its tokenizer lacks single bases, so some ends are closed")
    words = np.full((len(known), max(map(len, known))), -1)
    for row, word in enumerate(known):
        words[row, : len(word)] = alphabet.encode(word)
    # A sequence of its own may end with special tokens; in front of it stands the rest.
    (probe,) = reader.read([np.zeros(reader.unit, np.uint8)])
    first = int((probe.spans[:, 0] >= 0).argmax())
    return Writer(
        network,
        words,
        np.array(list(known.values())),
        reader.unit,
        tuple(int(token) for token in probe.ids[:first]),
        model.config.family.longest(network.config),
    )


def write_on(
    model: Any,
    plan: Plan,
    truncation: Truncation,
    randoms: Sequence[np.random.Generator],
) -> NDArray[np.uint8]:
    """Draw one sequence for each generator, from left to right: (sequences, length)."""
    own = writer(model)
    plans = [plan.place_motifs(random) for random in randoms]
    chooser = _Chooser(own, plans, truncation, randoms)
    start = torch.tensor([own.prefix] * len(randoms), dtype=torch.long)
    if not own.prefix:
        # Nothing stands before the first word, so the model has no say in it.
        start = chooser.first_words()[:, None]
    if not chooser.unfinished().any():
        return chooser.ids
    config = GenerationConfig(
        max_new_tokens=plan.length, do_sample=False, use_cache=True, pad_token_id=0,
        eos_token_id=_NEVER,
    )  # fmt: skip
    with asking(own.network):
        own.network.generate(
            start.to(model.device),
            attention_mask=torch.ones_like(start).to(model.device),
            generation_config=config,
            logits_processor=LogitsProcessorList([chooser]),
            stopping_criteria=StoppingCriteriaList([_Finished(chooser)]),
        )
    return chooser.ids


class _Chooser(LogitsProcessor):
    """Chooses the next word of every sequence, and leaves `generate` no other."""

    def __init__(
        self,
        own: Writer,
        plans: Sequence[Plan],
        truncation: Truncation,
        randoms: Sequence[np.random.Generator],
    ) -> None:
        self.own, self.plans, self.truncation = own, plans, truncation
        self.randoms = randoms
        self.length = plans[0].length
        self.sizes = (own.words >= 0).sum(1)
        self.ids = np.zeros((len(randoms), self.length), np.uint8)
        self.positions = np.zeros(len(randoms), np.int64)
        self.places = [(0, 0)] * len(randoms)

    def unfinished(self) -> NDArray[np.bool_]:
        """Which sequences have bases to come."""
        return self.positions < self.length

    def first_words(self) -> Tensor:
        """A word each, all open ones equally likely; their tokens (sequences,)."""
        blind = np.zeros((len(self.randoms), len(self.own.words)))
        return torch.from_numpy(self.own.tokens[self._choose(blind)])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits under which the chosen tokens are the most probable."""
        if self.own.longest is not None and input_ids.shape[1] >= self.own.longest:
            raise CrossDNAError(
                f"the model reads {self.own.longest} tokens at most, and "
                f"{self.length} bases need more; ask for shorter sequences"
            )
        tokens = torch.from_numpy(self.own.tokens).to(scores.device)
        logs = scores[:, tokens].float().log_softmax(-1).double().cpu().numpy()
        chosen = tokens[torch.from_numpy(self._choose(logs)).to(scores.device)]
        only = torch.full_like(scores, -torch.inf)
        return only.scatter(1, chosen[:, None], 0.0)

    def _choose(self, logs: NDArray[np.float64]) -> NDArray[np.int64]:
        """Numbers of the words (sequences,) that come next; 0 where nothing does."""
        chosen = np.zeros(len(self.randoms), np.int64)
        for row in map(int, np.flatnonzero(self.unfinished())):
            position = int(self.positions[row])
            plan, (state, count) = self.plans[row], self.places[row]
            open_ = plan.lead_on(self.own.words, position, state, count)
            if self.own.unit > 1:
                whole = self.length - position >= self.own.unit
                open_ &= self.sizes == (self.own.unit if whole else 1)
            # Truncation is of what the constraints leave.
            weights = np.zeros(len(open_))
            weights[open_] = self.truncation.weights(logs[row, open_])
            number = draw(weights, self.randoms[row].random())
            word = self.own.words[number][: self.sizes[number]]
            self.ids[row, position : position + len(word)] = word
            self.positions[row] += len(word)
            self.places[row] = plan.after(word, state, count)
            chosen[row] = number
        return chosen


class _Finished(StoppingCriteria):
    def __init__(self, chooser: _Chooser) -> None:
        self.chooser = chooser

    def __call__(self, input_ids: Tensor, scores: Tensor, **_unused: Any) -> Tensor:
        """Which sequences are whole (sequences,)."""
        done = torch.from_numpy(~self.chooser.unfinished())
        return done.to(input_ids.device)
