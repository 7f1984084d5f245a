"""``crossdna tokenizer``: make a tokenizer, or see what one does to a sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crossdna.cli.numbers import count

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Three actions: train, create, show."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    train = actions.add_parser("train", help="learn a vocabulary from FASTA files")
    train.add_argument("fasta", nargs="+", help="FASTA files, plain or gzipped")
    train.add_argument(
        "--type",
        choices=["bpe"],
        default="bpe",
        help="byte pairs (default: %(default)s)",
    )
    train.add_argument(
        "--vocab", type=count, default=4096, help="tokens in all (default: %(default)s)"
    )
    train.add_argument(
        "--max-bases",
        type=count,
        default=100_000_000,
        help="bases to learn from, spread evenly over larger genomes "
        "(default: %(default)s)",
    )
    train.add_argument("--output", required=True, help="directory to create")

    create = actions.add_parser("create", help="write a tokenizer of a fixed layout")
    create.add_argument(
        "--type",
        choices=["overlapping-kmer", "separate-kmer", "character"],
        required=True,
        help="DNABERT's, the Nucleotide Transformer's, or HyenaDNA's and Caduceus's",
    )
    create.add_argument(
        "--k",
        type=count,
        default=6,
        help="bases in a k-mer, 1 to 8 (default: %(default)s)",
    )
    create.add_argument("--output", required=True, help="directory to create")

    show = actions.add_parser(
        "show", help="print each token with its bases (0-based, half-open)"
    )
    show.add_argument("tokenizer", help="directory or hub id")
    show.add_argument("sequence", help="letters")


def run(arguments: argparse.Namespace) -> int:
    """Do the action."""
    return {"train": _train, "create": _create, "show": _show}[arguments.action](
        arguments
    )


def _train(arguments: argparse.Namespace) -> int:
    from crossdna.cli.progress import progress
    from crossdna.files import claim_output_directory
    from crossdna.tokenizers.bpe import count_bases, train_byte_pairs

    claim_output_directory(arguments.output)
    total = min(arguments.max_bases, count_bases(arguments.fasta))
    with progress("reading", total, "bases") as advance:
        training = train_byte_pairs(
            arguments.fasta,
            vocab_size=arguments.vocab,
            max_bases=arguments.max_bases,
            progress=advance,
        )
    _save(training.tokenizer, arguments.output)
    print(
        f"{arguments.output}: {len(training.tokenizer)} tokens from "
        f"{training.bases:,} bases"
    )
    return 0


def _create(arguments: argparse.Namespace) -> int:
    from crossdna.files import claim_output_directory
    from crossdna.tokenizers.character import CaduceusTokenizer
    from crossdna.tokenizers.kmer import (
        OverlappingKmerTokenizer,
        separate_kmer_tokenizer,
    )

    claim_output_directory(arguments.output)
    if arguments.type == "character":
        tokenizer: Any = CaduceusTokenizer()
    elif arguments.type == "overlapping-kmer":
        tokenizer = OverlappingKmerTokenizer(arguments.k)
    else:
        tokenizer = separate_kmer_tokenizer(arguments.k)
    _save(tokenizer, arguments.output)
    print(f"{arguments.output}: {len(tokenizer)} tokens")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from crossdna.tokenizers.loading import load_tokenizer
    from crossdna.tokenizers.spans import token_spans

    tokenizer = load_tokenizer(arguments.tokenizer)
    result = token_spans(tokenizer, arguments.sequence)
    tokens = tokenizer.convert_ids_to_tokens(result.ids.tolist())
    print("token\tid\tstart\tend")
    for token, number, (start, end) in zip(
        tokens, result.ids, result.spans, strict=True
    ):
        place = f"{start}\t{end}" if start >= 0 else ".\t."
        print(f"{token}\t{number}\t{place}")
    return 0


def _save(tokenizer: Any, directory: str) -> None:
    from crossdna.files import atomic_directory

    with atomic_directory(directory) as staging:
        tokenizer.save_pretrained(staging)
