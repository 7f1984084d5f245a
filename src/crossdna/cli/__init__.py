"""The command line: a table of verbs, each loaded only when it is called."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from crossdna.errors import CrossDNAError
from crossdna.files import split_named
from crossdna.memory import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

# Verb: module in this package, and the line that --help shows. A module offers
# add_arguments(parser) and run(arguments) -> int, and imports nothing heavy before run.
VERBS: dict[str, str] = {
    "env": "show versions, devices and which operator backends can run here",
    "pretrain": "train a model on genomes from a recipe",
    "evaluate": "measure a model on held-out chromosomes beside baselines",
    "probe": "see whether embeddings tell coding from intergenic windows",
    "demo": "pretrain from a recipe, measure, and write a report with pictures",
    "split": "split labelled sequences so that relatives stay on one side",
    "finetune": "train a model on labelled sequences, with baselines and a report",
    "embed": "turn sequences into vectors, with a picture if wanted",
    "predict": "ask a fine-tuned model about every row of a table",
    "audit": "find duplicates and relatives between training and test sequences",
    "ism": "change every base of a locus and see what it does",
    "track": "what a model says along chromosomes, as bigWig",
    "score": "score variants: VCF in, the same VCF with scores out",
    "generate": "write new sequences under constraints",
    "doctor": "prove a model: weights, answers, padding, strands, speed",
    "models": "list the models this package knows, with a card each",
    "tokenizer": "train or create a tokenizer, or see its tokens on a sequence",
    "benchmark": "compare models on all tasks of a suite, with intervals",
    "convert": "rewrite a published checkpoint in this package's layout",
}
# Arguments of any verb that name files to read.
_INPUTS: Final = (
    "recipe", "genome", "regions", "train_regions", "annotation", "input", "train",
    "valid", "test", "base_labels", "corpus",
)  # fmt: skip


def _parser(verb: str | None) -> argparse.ArgumentParser:
    from crossdna import __version__

    parser = argparse.ArgumentParser(
        prog="crossdna",
        description="From a genome file to answers with DNA language models.",
        epilog="`crossdna VERB --help` explains a verb.",
    )
    parser.add_argument(
        "--version", action="version", version=f"crossdna {__version__}"
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, line in VERBS.items():
        sub = verbs.add_parser(
            name, help=line, description=line[0].upper() + line[1:] + "."
        )
        if name == verb:
            _module(name).add_arguments(sub)
    return parser


def _module(verb: str) -> ModuleType:
    return importlib.import_module(f"crossdna.cli.{verb}")


def _quiet_libraries() -> None:
    """Let our own messages and progress stand alone; users may ask for more."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _find_shipped(arguments: argparse.Namespace) -> None:
    """Put the directory of shipped weights where their name was given as a model."""
    name = getattr(arguments, "model", None)
    if isinstance(name, str) and not Path(name).exists():
        from crossdna.zoo.shipped import resolve

        arguments.model = resolve(name)


def _need_inputs(arguments: argparse.Namespace) -> None:
    """Miss a file before torch is loaded, which takes seconds."""
    for name in _INPUTS:
        given = getattr(arguments, name, None) or []
        for text in given if isinstance(given, list) else [given]:
            _, path = split_named(str(text))
            if not path.exists():
                kind = "recipe" if name == "recipe" else "file"
                raise CrossDNAError(f"{path}: no such {kind}")


def _reason(error: OSError) -> str:
    """What the system refused; a traceback would not help to mend it."""
    reason = str(error)
    if error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        reason = f"{where}{error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason += "; free some, then start again (with --resume, where a verb has it)"
    return reason


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns
    -------
    int
        0 on success, 2 on an error the user can mend, 130 when interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    verb = next((word for word in argv if word in VERBS), None)
    arguments = _parser(verb).parse_args(argv)
    _quiet_libraries()
    keep_freed_memory()
    try:
        _find_shipped(arguments)
        _need_inputs(arguments)
        return int(_module(arguments.verb).run(arguments) or 0)
    except CrossDNAError as error:
        print(f"crossdna {arguments.verb}: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (head, less) went away: no error, but stdout must not be flushed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"crossdna {arguments.verb}: error: {_reason(error)}", file=sys.stderr)
        return 2
    except MemoryError as error:
        why = f": {error}" if str(error) else ""
        print(f"crossdna {arguments.verb}: error: out of memory{why}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"crossdna {arguments.verb}: interrupted", file=sys.stderr)
        return 130
