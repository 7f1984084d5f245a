"""From windows of bases to what a family of models reads, and back to bits per base.

The same windows serve every family. With one id per base, the same bases are hidden for
the same seed, whatever the family's ids; longer tokens are hidden whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from crossdna import alphabet
from crossdna.data.masking import IGNORED, MaskingConfig, mask_tokens
from crossdna.errors import CrossDNAError
from crossdna.tokenizers.kmer import OverlappingKmerTokenizer
from crossdna.training.pretraining_data import MaskingCollator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from crossdna.data.windows import Window
    from crossdna.zoo.families import Objective

    Batch = dict[str, Tensor]
    Collator = Callable[[Sequence[Window]], Batch]


@dataclass(frozen=True)
class MaskedBases:
    """Windows with hidden bases, in a family's ids.

    Parameters
    ----------
    mask
        Hides bases in ids of `crossdna.alphabet`.
    ids
        The family's ids of A C G T N [MASK] [PAD].
    """

    mask: MaskingCollator
    ids: tuple[int, ...]

    def __call__(self, windows: Sequence[Window]) -> Batch:
        """Mask, stack and translate."""
        batch = self.mask(windows)
        table = torch.tensor(self.ids)
        batch["input_ids"] = table[batch["input_ids"]]
        known = batch["labels"] != IGNORED
        labels = table[batch["labels"].clamp(min=0)]
        batch["labels"] = labels.where(known, IGNORED)
        return batch


@dataclass(frozen=True)
class NextBases:
    """Windows to be read from the left, each base to be predicted from those before it.

    Parameters
    ----------
    ids
        The family's ids of A C G T N [MASK] [PAD].
    """

    ids: tuple[int, ...]

    def __call__(self, windows: Sequence[Window]) -> Batch:
        """Stack, translate and shift.

        Returns
        -------
        input_ids, labels : (B, L) int64
            Label i is base i + 1; there is none for N and behind the last base.
        weights : (B, L) float32
        index : (B,) int64
        """
        bases = np.stack([window.ids for window in windows]).astype(np.int64)
        weights = np.stack([window.weights for window in windows])
        known = np.zeros(bases.shape, np.bool_)
        known[:, :-1] = bases[:, 1:] < alphabet.NUM_BASES
        ids = np.array(self.ids)[bases]
        return _batch(
            windows,
            ids,
            labels=np.where(known, np.roll(ids, -1, axis=1), IGNORED),
            weights=np.where(known, np.roll(weights, -1, axis=1), 0),
        )


class TokenTable:
    """What is known of a tokenizer's tokens.

    Parameters
    ----------
    tokenizer
        A fast tokenizer with tokens of A C G T.

    Raises
    ------
    CrossDNAError
        No such tokens, or no padding token.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.words = {
            number: token
            for token, number in sorted(tokenizer.get_vocab().items(), key=_by_id)
            if token and set(token) <= set(alphabet.BASES)
        }
        if not self.words:
            raise CrossDNAError("the tokenizer has no tokens of A, C, G and T")
        if tokenizer.pad_token_id is None:
            raise CrossDNAError("the tokenizer has no padding token")
        self.overlapping = isinstance(tokenizer, OverlappingKmerTokenizer)
        self.size = tokenizer.k if self.overlapping else 1
        """Tokens that hold one base."""
        self.lengths = np.zeros(max(len(tokenizer), max(self.words) + 1), np.int64)
        self.lengths[list(self.words)] = [len(word) for word in self.words.values()]

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids of the tokens of A C G T, ascending."""
        return np.array(list(self.words))

    def encode(self, windows: Sequence[Window]) -> _Encoded:
        """Tokenize windows and pad them on the right."""
        texts = [alphabet.decode(window.ids) for window in windows]
        encoding = self.tokenizer(texts, return_offsets_mapping=True)
        longest = max(map(len, encoding["input_ids"]))
        shape = (len(windows), longest)
        ids = np.full(shape, self.tokenizer.pad_token_id, np.int64)
        seen, weights = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        rows = zip(
            windows, encoding["input_ids"], encoding["offset_mapping"], strict=True
        )
        for row, (window, tokens, places) in enumerate(rows):
            ids[row, : len(tokens)] = tokens
            seen[row, : len(tokens)] = 1
            starts, ends = np.array(places).T
            sums = np.concatenate([[0], window.weights.cumsum()])
            means = (sums[ends] - sums[starts]) / (ends - starts).clip(min=1)
            weights[row, : len(tokens)] = means
        # A special token, N and what is unknown have no length.
        return _Encoded(ids, seen, weights, self.lengths[ids] > 0)


def _by_id(item: tuple[str, int]) -> int:
    return item[1]


class _Encoded(NamedTuple):
    """Tokens of windows, each (batch, tokens)."""

    ids: NDArray[np.int64]
    seen: NDArray[np.int64]
    """1 at tokens, 0 at padding."""
    weights: NDArray[np.float32]
    """Mean weight of a token's bases."""
    dna: NDArray[np.bool_]
    """Whether a token is made of A C G T."""


@dataclass(frozen=True)
class MaskedTokens:
    """Tokenized windows with hidden tokens."""

    table: TokenTable
    config: MaskingConfig
    seed: int

    def __call__(self, windows: Sequence[Window]) -> Batch:
        """Tokenize, mask and stack.

        Returns
        -------
        input_ids, labels, attention_mask : (B, T) int64
        weights : (B, T) float32
        bases : (B, T) int64
            Bases that a prediction counts for in bits per base: those of the token; of
            overlapping ones the first base, if no visible token holds it.
        index : (B,) int64
        """
        encoded, table = self.table.encode(windows), self.table
        masked = mask_tokens(
            encoded.ids,
            encoded.dna,
            [window.index for window in windows],
            seed=self.seed,
            config=self.config,
            mask_id=table.tokenizer.mask_token_id,
            others=table.ids,
            run=table.size,
        )
        hidden = masked.labels != IGNORED
        bases = table.lengths[encoded.ids]
        if table.overlapping:
            fresh = hidden.copy()
            for back in range(1, table.size):
                fresh[:, back:] &= hidden[:, :-back]
                fresh[:, :back] = False
            bases = fresh.astype(np.int64)
        return _batch(
            windows,
            masked.input_ids,
            labels=masked.labels,
            weights=np.where(hidden, encoded.weights, 0),
            bases=np.where(hidden, bases, 0),
            attention_mask=encoded.seen,
        )


@dataclass(frozen=True)
class NextTokens:
    """Tokenized windows, each token to be predicted from those before it."""

    table: TokenTable

    def __call__(self, windows: Sequence[Window]) -> Batch:
        """Tokenize, shift and stack; see `MaskedTokens.__call__`.

        An overlapping token after another one adds one base.
        """
        encoded, table = self.table.encode(windows), self.table
        known = np.zeros(encoded.ids.shape, np.bool_)
        known[:, :-1] = encoded.dna[:, 1:]
        bases = np.roll(table.lengths[encoded.ids], -1, axis=1)
        if table.overlapping:
            bases = np.where(encoded.dna, 1, bases)
        return _batch(
            windows,
            encoded.ids,
            labels=np.where(known, np.roll(encoded.ids, -1, axis=1), IGNORED),
            weights=np.where(known, np.roll(encoded.weights, -1, axis=1), 0),
            bases=np.where(known, bases, 0),
            attention_mask=encoded.seen,
        )


def _batch(
    windows: Sequence[Window],
    input_ids: NDArray[np.int64],
    *,
    weights: NDArray[np.floating],
    **more: NDArray[np.int64],
) -> Batch:
    return {
        "input_ids": torch.from_numpy(input_ids),
        "weights": torch.from_numpy(weights.astype(np.float32)),
        "index": torch.tensor([window.index for window in windows]),
        **{name: torch.from_numpy(values) for name, values in more.items()},
    }


class Readout:
    """What a batch's logits are worth, counted in bases.

    Parameters
    ----------
    words
        Text of each token of A C G T by its id.
    first_base_only
        Predict the first base of a token, its other bases being held by neighbours too.
    """

    def __init__(self, words: dict[int, str], *, first_base_only: bool = False) -> None:
        self.ids = torch.tensor(list(words))
        self.places = torch.full((int(self.ids.max()) + 1,), IGNORED)
        self.places[self.ids] = torch.arange(len(words))
        self.first: Tensor | None = None
        if first_base_only:
            letters = [alphabet.BASES.index(word[0]) for word in words.values()]
            self.first = F.one_hot(torch.tensor(letters), alphabet.NUM_BASES).float()

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sums over the predictions of a batch.

        Returns
        -------
        (4,) float64
            Nats among all tokens, bits among those of A C G T, bases right (all of a
            token or none), bases predicted.
        """
        labels = batch["labels"]
        bases = batch.get("bases", (labels != IGNORED).long())
        chosen = bases > 0
        rows, truth = logits[chosen].float(), labels[chosen]
        counts = bases[chosen].double()
        ids, places = self.ids.to(rows.device), self.places.to(rows.device)
        among, place = rows[:, ids].log_softmax(-1), places[truth]
        nats = F.cross_entropy(rows, truth, reduction="none")
        if self.first is not None:
            first = self.first.to(rows.device)
            among, place = (among.exp() @ first).log(), first.argmax(-1)[place]
            nats = -among.gather(1, place[:, None])[:, 0]
        bits = -among.gather(1, place[:, None])[:, 0] / math.log(2)
        right = (among.argmax(-1) == place).double() * counts
        sums = (nats.double().sum(), bits.double().sum(), right.sum(), counts.sum())
        return torch.stack(sums)


class Encoding(NamedTuple):
    """How windows become batches of a run.

    Attributes
    ----------
    tokenizer
        Saved beside the model.
    train, held_out
        From windows to batches; `held_out` always hides the same.
    readout
        From logits and a batch to sums over bases.
    """

    tokenizer: Any
    train: Collator
    held_out: Collator
    readout: Readout


def encode_bases(
    tokenizer: Any,
    ids: tuple[int, ...],
    reading: Objective,
    config: MaskingConfig,
    seeds: tuple[int, int],
) -> Encoding:
    """One id per base.

    Parameters
    ----------
    ids
        The family's ids of A C G T N [MASK] [PAD].
    seeds
        Of the masks for training and for the held-out windows.
    """
    readout = Readout(dict(zip(ids, alphabet.BASES, strict=False)))
    if reading == "causal":
        return Encoding(tokenizer, NextBases(ids), NextBases(ids), readout)
    train, held_out = (MaskedBases(MaskingCollator(config, s), ids) for s in seeds)
    return Encoding(tokenizer, train, held_out, readout)


def encode_tokens(
    tokenizer: Any, reading: Objective, config: MaskingConfig, seeds: tuple[int, int]
) -> Encoding:
    """Tokens of several bases; see `encode_bases`.

    Raises
    ------
    CrossDNAError
        A tokenizer that cannot serve, or spans of bases to be masked.
    """
    table = TokenTable(tokenizer)
    if reading == "causal":
        readout = Readout(table.words)
        return Encoding(tokenizer, NextTokens(table), NextTokens(table), readout)
    if tokenizer.mask_token_id is None:
        raise CrossDNAError("the tokenizer has no mask token")
    if config.mean_span is not None:
        raise CrossDNAError("masking.mean_span is for models with one id per base")
    readout = Readout(table.words, first_base_only=table.overlapping)
    train, held_out = (MaskedTokens(table, config, seed) for seed in seeds)
    return Encoding(tokenizer, train, held_out, readout)
