"""One id per base in the layout of HyenaDNA and Caduceus."""

from __future__ import annotations

from typing import Any, Final

from transformers import PreTrainedTokenizerFast

from crossdna.errors import CrossDNAError
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

SPECIAL_TOKENS: Final = (
    "[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]",
)  # fmt: skip
CHARACTERS: Final = "ACGTN"


def upper_case() -> normalizers.Normalizer:
    """Turn soft-masked bases into capitals, letter by letter, so that places stay."""
    return normalizers.Sequence(
        [normalizers.Replace(base.lower(), base) for base in CHARACTERS]
    )


class CaduceusTokenizer(PreTrainedTokenizerFast):
    """``[CLS] 0 ... [UNK] 6, A 7, C 8, G 9, T 10, N 11``, with [SEP] at the end.

    With ``ends_with_sep=False`` bases alone: what fine-tuned networks read.

    Lower case counts as upper case (the published HyenaDNA tokenizer reads [UNK]);
    other letters are [UNK]. Pads stand on the left, as published. The vocabulary is
    fixed, so a directory without tokenizer files, or with those of the published
    classes, loads.

    Raises
    ------
    CrossDNAError
        The directory's tokenizer has other characters than A C G T N.
    """

    vocab_files_names: dict[str, str] = {}  # noqa: RUF012 - transformers' own form
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, **kwargs: Any) -> None:
        characters = kwargs.pop("characters", None)
        if characters is not None and "".join(characters) != CHARACTERS:
            raise CrossDNAError(
                f"this tokenizer's characters are {characters}; only A C G T N, in "
                "this order, have been described"
            )
        kwargs["tokenizer_object"] = _character_backend(
            sep=kwargs.setdefault("ends_with_sep", True)
        )
        for name in ("cls", "sep", "bos", "mask", "pad", "unk"):
            kwargs.setdefault(f"{name}_token", f"[{name.upper()}]")
        kwargs.setdefault("eos_token", "[SEP]")
        kwargs.setdefault("padding_side", "left")
        super().__init__(**kwargs)


class HyenaDNATokenizer(CaduceusTokenizer):
    """The same under the name that HyenaDNA checkpoints give it."""


def _character_backend(*, sep: bool) -> Tokenizer:
    vocabulary = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *CHARACTERS))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = upper_case()
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    if sep:
        backend.post_processor = processors.TemplateProcessing(
            single="$A [SEP]",
            pair="$A [SEP] $B [SEP]",
            special_tokens=[("[SEP]", vocabulary["[SEP]"])],
        )
    # Text comes back as it went in, without spaces between tokens.
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    return backend
