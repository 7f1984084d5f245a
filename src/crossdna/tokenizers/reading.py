"""Reading base ids as the tokens of any tokenizer, with the place of every token.

Everything in this package speaks the ids of `crossdna.alphabet`; other people's models
speak tokens. A reader turns one into the other. k-mers are cut without going through
text, so that a hidden base is possible: every token that would show it is then the mask
token. Byte pairs depend on the letters around, so a hidden base has no meaning for
them.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from crossdna import alphabet
from crossdna.errors import CrossDNAError
from crossdna.tokenizers.kmer import LARGEST_K, OverlappingKmerTokenizer
from crossdna.tokenizers.spans import TokenSpans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_PROBES: Final = ("N", "NN", "")


@dataclass(frozen=True)
class KmerReader:
    """Cuts k-mers, with or without overlap.

    Attributes
    ----------
    tokenizer
        What it stands for.
    k : int
        Bases in a token; 1 for characters.
    overlapping : bool
        A token for every base (DNABERT) or for every k bases.
    kmer_ids : (4^k,) int64
        In the order A C G T, the last base changing fastest.
    letter_ids : (5,) int64
        Of A C G T N by themselves; what is left over between k-mers.
    prefix, suffix : tuple of int
        Special tokens around a sequence.
    mask_id : int or None
    pad_id : int
    """

    tokenizer: Any
    k: int
    overlapping: bool
    kmer_ids: NDArray[np.int64]
    letter_ids: NDArray[np.int64]
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    mask_id: int | None
    pad_id: int

    @property
    def hides_bases(self) -> bool:
        """Whether a single base can be hidden."""
        return True

    @property
    def unit(self) -> int:
        """How many bases share their tokens."""
        return self.k

    def read(self, sequences: Sequence[NDArray[np.uint8]]) -> list[TokenSpans]:
        """Tokens of sequences of base ids, special tokens included.

        Raises
        ------
        CrossDNAError
            A sequence shorter than an overlapping k-mer, or a hidden base for a
            tokenizer without a mask token.
        """
        return [self._read_one(np.asarray(ids)) for ids in sequences]

    def _read_one(self, ids: NDArray[np.uint8]) -> TokenSpans:
        if self.overlapping:
            if len(ids) < self.k:
                raise CrossDNAError(
                    f"a sequence of {len(ids)} bases has no {self.k}-mer"
                )
            starts = np.arange(len(ids) - self.k + 1)
            sizes = np.full(len(starts), self.k)
        else:
            starts, sizes = _cut(ids, self.k)
        spans = np.stack([starts, starts + sizes], axis=1)
        tokens = self._ids_of(ids, starts, sizes)
        special = np.full((1, 2), -1)
        return TokenSpans(
            np.concatenate([self.prefix, tokens, self.suffix]).astype(np.int64),
            np.concatenate(
                [
                    special.repeat(len(self.prefix), 0),
                    spans,
                    special.repeat(len(self.suffix), 0),
                ]
            ),
        )

    def _ids_of(
        self,
        ids: NDArray[np.uint8],
        starts: NDArray[np.int64],
        sizes: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Ids of the tokens at `starts`: k-mers where they have k bases, else letters.

        A k-mer with an N is the unknown token, whatever is hidden in it.
        """
        whole = sizes == self.k
        offsets = np.arange(self.k)
        places = np.minimum(starts[:, None] + offsets * whole[:, None], len(ids) - 1)
        letters = ids[places].astype(np.int64)
        known = np.minimum(letters, alphabet.N)
        digits = known @ (alphabet.NUM_BASES ** offsets[::-1])
        unknown = (letters == alphabet.N).any(1)
        hidden = (letters == alphabet.MASK).any(1) & ~unknown
        kmers = self.kmer_ids[np.where(unknown | hidden | ~whole, 0, digits)]
        # The letter's id of N is the unknown token where there is no N.
        tokens = np.where(whole & ~unknown, kmers, self.letter_ids[known[:, 0]])
        if self.k > 1:
            tokens = np.where(whole & unknown, self._unknown, tokens)
        if (tokens < 0).any():
            raise CrossDNAError("its tokenizer has neither an N nor an unknown token")
        if hidden.any():
            if self.mask_id is None:
                raise CrossDNAError(
                    "its tokenizer has no mask token, so no base can be hidden"
                )
            tokens = np.where(hidden, self.mask_id, tokens)
        return tokens

    @property
    def _unknown(self) -> int:
        unknown = self.tokenizer.unk_token_id
        return -1 if unknown is None else int(unknown)


def _cut(ids: NDArray[np.uint8], k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and sizes of k-mers from the start of each stretch without N.

    What is left over in front of an N or at the end becomes single letters.
    """
    places = np.arange(len(ids))
    gap = ids == alphabet.N
    behind = np.where(gap, places + 1, 0)
    begin = np.maximum.accumulate(np.concatenate([[0], behind]))[: len(ids)]
    ahead = np.where(gap, places, len(ids))[::-1]
    end = np.minimum.accumulate(ahead)[::-1]
    within = places - begin
    whole = ~gap & (within < (end - begin) // k * k)
    starts = np.flatnonzero(~whole | (within % k == 0))
    return starts, np.where(whole[starts], k, 1)


class Words(NamedTuple):
    """Tokens that stand for bases.

    Attributes
    ----------
    ids : (words,)
        Of the tokens, ascending.
    bases : (words, longest)
        Base ids; N behind a word's last base.
    """

    ids: NDArray[np.int64]
    bases: NDArray[np.uint8]


@dataclass(frozen=True)
class TextReader:
    """Byte pairs and whatever else only its tokenizer can cut.

    Attributes
    ----------
    tokenizer
        A fast one, which keeps places.
    mask_id : int or None
    pad_id : int
    """

    tokenizer: Any
    mask_id: int | None
    pad_id: int
    overlapping: Final = False

    @property
    def hides_bases(self) -> bool:
        """Whether a single base can be hidden."""
        return False

    @property
    def unit(self) -> int:
        """How many bases share their tokens; not fixed."""
        return 1

    @cached_property
    def words(self) -> Words:
        """The tokens of A C G T."""
        found = sorted(
            (number, word)
            for word, number in self.tokenizer.get_vocab().items()
            if word and set(word) <= set(alphabet.BASES)
        )
        longest = max((len(word) for _, word in found), default=0)
        padded = "".join(word.ljust(longest, "N") for _, word in found)
        return Words(
            np.array([number for number, _ in found], np.int64),
            alphabet.encode(padded).reshape(len(found), longest),
        )

    def read(self, sequences: Sequence[NDArray[np.uint8]]) -> list[TokenSpans]:
        """Tokens of sequences of base ids, special tokens included.

        Raises
        ------
        CrossDNAError
            A hidden base, or bases that no token stands for.
        """
        if any((ids == alphabet.MASK).any() for ids in sequences):
            raise CrossDNAError(
                "this model reads byte pairs, whose borders depend on every letter, so "
                "single bases cannot be hidden and have no probability of their own; "
                "windows can be compared (crossdna score --scores pll or ll, crossdna "
                "ism), and embeddings and heads work"
            )
        encoded = self.tokenizer(
            [alphabet.decode(ids) for ids in sequences],
            return_offsets_mapping=True,
            verbose=False,
        )
        results = []
        pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        for ids, (tokens, offsets) in zip(sequences, pairs, strict=True):
            spans = np.array(offsets, np.int64).reshape(-1, 2)
            spans[spans[:, 0] == spans[:, 1]] = -1
            real = spans[spans[:, 0] >= 0]
            if not np.array_equal(real[:, 0], [0, *real[:-1, 1]][: len(real)]) or (
                len(ids) and (not len(real) or real[-1, 1] != len(ids))
            ):
                raise CrossDNAError(
                    f"{type(self.tokenizer).__name__} leaves out letters of a "
                    "sequence, so its tokens cannot be mapped to bases"
                )
            results.append(TokenSpans(np.array(tokens, np.int64), spans))
        return results


Reader = KmerReader | TextReader


def make_reader(tokenizer: Any) -> Reader:
    """Find out from its vocabulary how a tokenizer cuts, and check that on examples.

    Raises
    ------
    CrossDNAError
        A tokenizer that knows no bases, or one that keeps no places and does not cut
        k-mers.
    """
    vocabulary = tokenizer.get_vocab()
    words = [word for word in vocabulary if word and set(word) <= set(alphabet.BASES)]
    sizes = {len(word) for word in words}
    k = max(sizes, default=0)
    if not k:
        raise CrossDNAError(
            f"the vocabulary of {type(tokenizer).__name__} has no words over A C G T"
        )
    complete = k <= LARGEST_K and sum(len(w) == k for w in words) == 4**k
    if complete and sizes <= {1, k}:
        for overlapping in (False, True):
            reader = _kmer_reader(tokenizer, vocabulary, k, overlapping)
            if reader is not None:
                return reader
    if not getattr(tokenizer, "is_fast", False):
        raise CrossDNAError(
            f"{type(tokenizer).__name__} neither cuts k-mers nor keeps the places of "
            "its tokens; use a fast tokenizer"
        )
    text = TextReader(tokenizer, tokenizer.mask_token_id, tokenizer.pad_token_id or 0)
    text.read([alphabet.encode(_probe(8))])
    return text


def _kmer_reader(
    tokenizer: Any, vocabulary: dict[str, int], k: int, overlapping: bool
) -> KmerReader | None:
    """Build a reader of k-mers if it gives what the tokenizer gives, else None."""
    words = ("".join(bases) for bases in itertools.product(alphabet.BASES, repeat=k))
    kmers = np.array([vocabulary[word] for word in words], np.int64)
    unknown = tokenizer.unk_token_id
    letters = [vocabulary.get(letter, unknown) for letter in alphabet.LETTERS]
    if not overlapping and None in letters[:4]:
        return None
    # Without an unknown token an N cannot be told; -1 would be caught when looked up.
    letters = [-1 if letter is None else letter for letter in letters]
    bare = KmerReader(
        tokenizer, k, overlapping, kmers, np.array(letters, np.int64), (), (),
        tokenizer.mask_token_id, tokenizer.pad_token_id or 0,
    )  # fmt: skip
    whole = _encode(tokenizer, _probe(k), k, overlapping)
    body = bare.read([alphabet.encode(_probe(k))])[0].ids.tolist()
    at = _find(whole, body)
    if at is None:
        return None
    reader = KmerReader(
        tokenizer, k, overlapping, kmers, bare.letter_ids, tuple(whole[:at]),
        tuple(whole[at + len(body) :]), bare.mask_id, bare.pad_id,
    )  # fmt: skip
    return reader if _agrees(reader) else None


def _agrees(reader: KmerReader) -> bool:
    """Whether reader and tokenizer cut sequences with N alike."""
    for gap in _PROBES:
        text = _probe(reader.k) + gap + _probe(reader.k)[: 2 * reader.k + 1]
        expected = _encode(reader.tokenizer, text, reader.k, reader.overlapping)
        if reader.read([alphabet.encode(text)])[0].ids.tolist() != expected:
            return False
    return True


def _encode(tokenizer: Any, text: str, k: int, overlapping: bool) -> list[int]:
    if overlapping and not isinstance(tokenizer, OverlappingKmerTokenizer):
        # DNABERT's own files hold a plain tokenizer of words: k-mers are spelled out.
        text = " ".join(text[i : i + k] for i in range(len(text) - k + 1))
    return list(tokenizer(text, verbose=False)["input_ids"])


def _probe(k: int) -> str:
    """A sequence of k-mers and a rest, always the same."""
    draw = random.Random(k)
    return "".join(draw.choices(alphabet.BASES, k=5 * k + k // 2))


def _find(whole: list[int], body: list[int]) -> int | None:
    for at in range(len(whole) - len(body) + 1):
        if whole[at : at + len(body)] == body:
            return at
    return None
