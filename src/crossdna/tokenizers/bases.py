"""One id per base in plain tokenizer files, for families without ids of their own."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from crossdna import alphabet
from crossdna.tokenizers.character import upper_case
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers


def base_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer with the ids of `crossdna.alphabet`.

    It adds nothing around a sequence, reads lower case as upper case and any other
    letter as N. What it saves loads wherever transformers is, without this package.
    """
    vocabulary = {token: number for number, token in enumerate(alphabet.TOKENS)}
    unknown = alphabet.TOKENS[alphabet.N]
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    backend.normalizer = upper_case()
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.decoder = decoders.Fuse()
    # N is no special token to transformers: it stays in what is decoded.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        mask_token=alphabet.TOKENS[alphabet.MASK],
        pad_token=alphabet.TOKENS[alphabet.PAD],
        model_input_names=["input_ids", "attention_mask"],
    )
