"""Byte-pair tokenizers of DNA, trained on FASTA files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pysam
from transformers import PreTrainedTokenizerFast

from crossdna import alphabet
from crossdna.errors import CrossDNAError
from crossdna.tokenizers.character import upper_case
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SPECIAL_TOKENS: Final = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
SMALLEST_VOCABULARY: Final = len(SPECIAL_TOKENS) + len(alphabet.LETTERS)
# Bases in a piece that merges are counted in; merges never cross a border.
PIECE: Final = 512


class BytePairTraining(NamedTuple):
    """A trained tokenizer and the number of bases it was trained on."""

    tokenizer: PreTrainedTokenizerFast
    bases: int


def train_byte_pairs(
    fastas: Sequence[str | Path],
    *,
    vocab_size: int = 4096,
    max_bases: int = 100_000_000,
    progress: Callable[[int], None] | None = None,
) -> BytePairTraining:
    """Merge the most frequent pairs of tokens until the vocabulary is full.

    Sennrich et al., Neural machine translation of rare words with subword units (2016);
    for DNA, DNABERT-2 (2023). N is a token of its own and never merged.

    Parameters
    ----------
    fastas
        FASTA files, plain or gzipped, read one contig at a time.
    vocab_size
        Tokens in all, five special ones and the letters included.
    max_bases
        Bases to use; of larger genomes, pieces of 512 bases evenly spread over all
        contigs. Training keeps them in memory.
    progress
        Called with the number of bases taken at each piece.

    Returns
    -------
    BytePairTraining
        The tokenizer adds ``[CLS]`` in front and ``[SEP]`` at the end.

    Raises
    ------
    CrossDNAError
        Too small a vocabulary, unreadable or empty files, or too little sequence for
        this many tokens.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise CrossDNAError(
            f"the vocabulary must hold at least {SMALLEST_VOCABULARY} tokens, "
            f"got {vocab_size}"
        )
    keep = min(1.0, max_bases / max(1, count_bases(fastas)))
    taken = 0

    def pieces() -> Iterator[str]:
        nonlocal taken
        for piece in _spread(_pieces(fastas), keep):
            taken += len(piece)
            if progress is not None:
                progress(len(piece))
            yield piece

    backend = Tokenizer(models.BPE(unk_token="[UNK]"))
    backend.normalizer = upper_case()
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("[^ACGT]"), "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=list(alphabet.LETTERS),
        show_progress=False,
    )
    backend.train_from_iterator(pieces(), trainer)
    if taken == 0:
        raise CrossDNAError(f"no bases in {', '.join(map(str, fastas))}")
    if backend.get_vocab_size() < vocab_size:
        raise CrossDNAError(
            f"{taken} bases give only {backend.get_vocab_size()} tokens, not "
            f"{vocab_size}; ask for fewer or give more sequence"
        )
    return BytePairTraining(_wrap(backend), taken)


def _wrap(backend: Tokenizer) -> PreTrainedTokenizerFast:
    # Text comes back as it went in, without spaces between tokens.
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[
            (token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")
        ],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )


def _contigs(path: str | Path) -> Iterator[tuple[str, str]]:
    if not Path(path).is_file():
        raise CrossDNAError(f"{path}: no such file")
    try:
        with pysam.FastxFile(str(path)) as handle:
            for record in handle:
                yield record.name or "", record.sequence or ""
    except (OSError, ValueError) as error:
        raise CrossDNAError(f"{path}: cannot be read as FASTA: {error}") from None


def count_bases(fastas: Sequence[str | Path]) -> int:
    """Count the letters of all contigs.

    Raises
    ------
    CrossDNAError
        A file that is missing or cannot be read.
    """
    return sum(len(sequence) for path in fastas for _, sequence in _contigs(path))


def _pieces(fastas: Sequence[str | Path]) -> Iterator[str]:
    for path in fastas:
        for name, sequence in _contigs(path):
            ids = alphabet.encode(sequence, name=f"{path}: {name}")
            for run in re.finditer("[ACGT]+", alphabet.decode(ids)):
                for start in range(run.start(), run.end(), PIECE):
                    yield run.string[start : min(start + PIECE, run.end())]


def _spread(pieces: Iterator[str], keep: float) -> Iterator[str]:
    """Keep a share of the pieces, as evenly as whole pieces allow."""
    due = 0.0
    for piece in pieces:
        due += keep
        if due >= 1.0 - 1e-9:
            due -= 1.0
            yield piece
