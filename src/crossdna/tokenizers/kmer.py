"""k-mer tokenizers in the layouts of DNABERT and the Nucleotide Transformer."""

from __future__ import annotations

import itertools
from typing import Any, Final

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from crossdna.errors import CrossDNAError
from crossdna.tokenizers.character import upper_case
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

LARGEST_K: Final = 8
# Both published vocabularies count through the bases in this order.
PUBLISHED_ORDER: Final = "ATCG"
OVERLAPPING_SPECIALS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SEPARATE_SPECIALS: Final = ("<unk>", "<pad>", "<mask>", "<cls>")


def overlapping_vocabulary(k: int) -> dict[str, int]:
    """Ids as in DNABERT: specials, then all k-mers."""
    return _number((*OVERLAPPING_SPECIALS, *_all_kmers(k)))


def separate_vocabulary(k: int) -> dict[str, int]:
    """Ids as in the Nucleotide Transformer: specials, k-mers, single bases, N."""
    singles = "N" if k == 1 else PUBLISHED_ORDER + "N"
    return _number((*SEPARATE_SPECIALS, *_all_kmers(k), *singles))


class OverlappingKmerTokenizer(PreTrainedTokenizerFast):
    """One token per base: the k-mer that starts there (DNABERT).

    ``[CLS]`` stands first, ``[SEP]`` last. The last k - 1 bases start no k-mer and have
    no token of their own. A k-mer with N or any other letter is [UNK]; lower case
    counts as upper case. ``[MASK]`` cannot stand in the text: mask ids.

    Parameters
    ----------
    k : int
        1 to 8; published models have 3 to 6.

    Raises
    ------
    CrossDNAError
        `k` out of range, or a sequence shorter than k.
    """

    vocab_files_names: dict[str, str] = {}  # noqa: RUF012 - transformers' own form
    model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, k: int = 6, **kwargs: Any) -> None:
        _check_k(k)
        self.k = k
        kwargs["tokenizer_object"] = _overlapping_backend(k)
        for name in ("pad", "unk", "cls", "sep", "mask"):
            kwargs.setdefault(f"{name}_token", f"[{name.upper()}]")
        super().__init__(k=k, **kwargs)

    def spell(self, sequence: str) -> str:
        """Write a sequence as its k-mers with spaces between them.

        Raises
        ------
        CrossDNAError
            The sequence is shorter than k, or is cut into words already.
        """
        if any(map(str.isspace, sequence)):
            raise CrossDNAError(
                f"{sequence[:40]!r} has spaces: give the sequence itself, which is cut "
                "into k-mers here"
            )
        if len(sequence) < self.k:
            raise CrossDNAError(
                f"a sequence of {len(sequence)} bases has no {self.k}-mer"
            )
        starts = range(len(sequence) - self.k + 1)
        return " ".join(sequence[i : i + self.k] for i in starts)

    def _encode_plus(  # type: ignore[override]
        self, text: Any, text_pair: Any = None, **kwargs: Any
    ) -> Any:
        if text_pair is not None or kwargs.get("is_split_into_words"):
            raise CrossDNAError("give whole sequences, neither pairs nor pieces")
        if kwargs.get("return_offsets_mapping") and kwargs.get("return_tensors"):
            raise CrossDNAError("places of k-mers come as lists, not as tensors")
        batched = not isinstance(text, str)
        spelled = [self.spell(part) for part in text] if batched else self.spell(text)
        encoding = super()._encode_plus(spelled, **kwargs)
        if "offset_mapping" in encoding:
            offsets = encoding["offset_mapping"]
            encoding["offset_mapping"] = (
                [self._base_offsets(row) for row in offsets]
                if batched or kwargs.get("return_overflowing_tokens")
                else self._base_offsets(offsets)
            )
        return encoding

    def _base_offsets(self, offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Turn places in the spelled text into places in the sequence."""
        # (0, 0) is how transformers marks special tokens.
        return [
            (start // (self.k + 1), start // (self.k + 1) + self.k)
            if end > start
            else (0, 0)
            for start, end in offsets
        ]


def register() -> None:
    """Let transformers' AutoTokenizer find the class that a saved tokenizer names.

    Without it a saved tokenizer would load as one that does not spell k-mers.
    """
    # k-mers belong to no single family of models; the key only has to be a class.
    AutoTokenizer.register(OverlappingKmerTokenizer, OverlappingKmerTokenizer)


def separate_kmer_tokenizer(k: int = 6) -> PreTrainedTokenizerFast:
    """Build the tokenizer of the Nucleotide Transformer (first version).

    k-mers follow each other without overlap. What is left over before an N or at the
    end becomes single bases; N is a token; other letters are ``<unk>``; lower case
    counts as upper case. ``<cls>`` stands first.

    Raises
    ------
    CrossDNAError
        `k` is not 1 to 8.
    """
    _check_k(k)
    vocabulary = separate_vocabulary(k)
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = upper_case()
    backend.pre_tokenizer = pre_tokenizers.Split(
        Regex(f"[ACGT]{{{k}}}|."), behavior="isolated"
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<cls> $A", special_tokens=[("<cls>", vocabulary["<cls>"])]
    )
    # Text comes back as it went in, without spaces between tokens.
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(list(SEPARATE_SPECIALS))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
        cls_token="<cls>",
        model_input_names=["input_ids", "attention_mask"],
    )


def _overlapping_backend(k: int) -> Tokenizer:
    vocabulary = overlapping_vocabulary(k)
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = upper_case()
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    backend.add_special_tokens(list(OVERLAPPING_SPECIALS))
    return backend


def _all_kmers(k: int) -> list[str]:
    return ["".join(bases) for bases in itertools.product(PUBLISHED_ORDER, repeat=k)]


def _number(tokens: tuple[str, ...]) -> dict[str, int]:
    return {token: i for i, token in enumerate(tokens)}


def _check_k(k: int) -> None:
    if not 1 <= k <= LARGEST_K:
        raise CrossDNAError(f"k must lie between 1 and {LARGEST_K}, got {k}")
