"""One id per base: the tokenizer of CrossDNA."""

from __future__ import annotations

import re
from typing import Any

from transformers import PreTrainedTokenizer

from crossdna import alphabet
from crossdna.errors import CrossDNAError

_SPECIAL = re.compile(r"(\[MASK\]|\[PAD\])")
_IDS = {token: i for i, token in enumerate(alphabet.TOKENS)}


class CrossDNATokenizer(PreTrainedTokenizer):
    """Turns sequences into ids of `crossdna.alphabet`, one per base.

    Lower case is accepted, IUPAC ambiguity letters become N, ``[MASK]`` and ``[PAD]``
    may stand in the text. No tokens are added around a sequence.

    Raises
    ------
    CrossDNAError
        An empty sequence, or a character that stands for no base; names the character
        and its 1-based position.
    """

    vocab_files_names: dict[str, str] = {}  # noqa: RUF012 - transformers' own form
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("mask_token", "[MASK]")
        kwargs.setdefault("pad_token", "[PAD]")
        kwargs.setdefault("padding_side", "right")
        super().__init__(**kwargs)

    @property
    def vocab_size(self) -> int:
        """Number of ids, [MASK] and [PAD] included."""
        return alphabet.VOCAB_SIZE

    def get_vocab(self) -> dict[str, int]:
        """All tokens and their ids."""
        return dict(_IDS)

    def _encode_plus(  # type: ignore[override]
        self, text: Any, text_pair: Any = None, **kwargs: Any
    ) -> Any:
        if text_pair is not None:
            raise CrossDNAError("pairs of sequences mean nothing to this tokenizer")
        if kwargs.pop("is_split_into_words", False) and text:
            one = isinstance(text, str) or isinstance(text[0], str)
            text = "".join(text) if one else ["".join(words) for words in text]
        if isinstance(text, str):
            text = _to_ids(text, "sequence")
        elif isinstance(text, list | tuple) and text and isinstance(text[0], str):
            text = [_to_ids(part, f"sequence {i + 1}") for i, part in enumerate(text)]
        return super()._encode_plus(text, **kwargs)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return [alphabet.TOKENS[i] for i in _to_ids(text, "sequence")]

    def _convert_token_to_id(self, token: str) -> int:
        if token in _IDS:
            return _IDS[token]
        ids = alphabet.encode(token, name="token")
        if len(ids) != 1:
            raise CrossDNAError(f"{token!r} is no token: each stands for one base")
        return int(ids[0])

    def _convert_id_to_token(self, index: int) -> str:
        if not 0 <= index < len(alphabet.TOKENS):
            raise CrossDNAError(
                f"id {index} is no token: there are 0 to {len(alphabet.TOKENS) - 1}"
            )
        return alphabet.TOKENS[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join letters without spaces."""
        return "".join(tokens)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Add nothing."""
        return token_ids_0

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Nothing to save: the alphabet is fixed."""
        return ()


def _to_ids(text: str, name: str) -> list[int]:
    if not text:
        raise CrossDNAError(f"{name} is empty")
    ids: list[int] = []
    for part in _SPECIAL.split(text):
        if part in _IDS:
            ids.append(_IDS[part])
        else:
            ids += _encode_at(part, name, offset=len(ids))
    return ids


def _encode_at(part: str, name: str, offset: int) -> list[int]:
    # Behind a special token an error must still count positions from the start.
    padded = "N" * offset + part if offset else part
    return alphabet.encode(padded, name=name)[offset:].tolist()
