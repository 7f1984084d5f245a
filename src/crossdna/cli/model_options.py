"""Options that every verb which loads a model shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from crossdna.alphabet import STRANDS
from crossdna.cli.numbers import count

if TYPE_CHECKING:
    import argparse

    from transformers import PreTrainedModel

    from crossdna.alphabet import Strand
    from crossdna.analysis.inference import Task
    from crossdna.models.execution import Execution

CHECKPOINT: Final = (
    "checkpoint directory, weights of this project by name (crossdna-small; `crossdna "
    "models` lists them) or hub id"
)
"""What --model takes, for its help."""
_FORWARD_HEAD: Final = (
    "note: this head was trained on the strand that it was given, so the forward "
    "strand of the genome alone is read; for what lies on the other (genes of strand "
    "-) add --strand -. A head that weighs positions knows its landmark (a start of "
    "transcription) at one place of the window: give sequences that are cut around it "
    "as --genome, a record each"
)
USUAL_WINDOW: Final = 1024
"""Bases that a model sees along a region when --window is not given."""


def add_device_option(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
) -> None:
    """Where a model is asked."""
    parser.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda, cuda:1 and so on, or auto: a GPU where there is one "
        "(default: %(default)s)",
    )


def add_strand_option(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    default: Strand | None = None,
) -> None:
    """Which strand a model reads; without a default what suits it."""
    usual = default or "both; + for a model fine-tuned on the strand it was given"
    parser.add_argument(
        "--strand",
        choices=STRANDS,
        default=default,
        help="what the model reads: the forward strand, the reverse one (-: for genes "
        "of that strand, where a head knows a direction), or both, averaged, in twice "
        f"the time (default: {usual})",
    )


def note_strand(arguments: argparse.Namespace, strand: Strand) -> None:
    """Say it where nobody asked for one strand, but one alone is read."""
    import sys

    if arguments.strand is None and strand != "both":
        print(_FORWARD_HEAD, file=sys.stderr)


def add_chunk_options(parser: argparse.ArgumentParser, rows: int) -> None:
    """How the rows of a table are shared out; `rows` are saved at a time."""
    parser.add_argument(
        "--batch-bases",
        type=count,
        default=1 << 15,
        help="bases that the model reads at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--chunk-size",
        type=count,
        default=rows,
        help="rows after which the work is saved (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=count,
        default=1,
        help="processes that share the rows (default: %(default)s)",
    )


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Whether code that comes with a checkpoint may run."""
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run code that comes with the checkpoint, with all your rights, for "
        "families that nothing else reads; look at it first (default: never)",
    )


def add_execution_options(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
) -> None:
    """How the network computes; `chosen_execution` reads them."""
    parser.add_argument(
        "--precision",
        choices=("float32", "bf16"),
        default="float32",
        help="bf16: products in bfloat16, faster on GPUs and on CPUs that have it "
        "(`crossdna env` tells); answers differ in the third digit (%(default)s)",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="on a GPU: compile the network's layers first, which takes minutes, most "
        "where lengths vary; for long runs",
    )


def add_training_execution(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
) -> None:
    """How many sequences a step of training has, in what precision, and where."""
    parser.add_argument(
        "--batch-size",
        type=count,
        default=32,
        help="sequences in a step (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bf16"),
        default="float32",
        help="auto: bf16 where the device gains by it (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto: a GPU where there is one (default: %(default)s)",
    )


def chosen_execution(arguments: argparse.Namespace) -> Execution:
    """What the options of `add_execution_options` say."""
    from crossdna.models.execution import Execution

    return Execution(arguments.precision, arguments.compile)


def load_chosen(arguments: argparse.Namespace, task: Task) -> PreTrainedModel:
    """Load --model as all of these options and --device say."""
    from crossdna.analysis.inference import load_model

    return load_model(
        arguments.model,
        task,
        arguments.device,
        trust_remote_code=arguments.trust_remote_code,
        execution=chosen_execution(arguments),
    )


def language_task(arguments: argparse.Namespace, does: str) -> Task:
    """What the language model --model is for; `does` says what others cannot.

    Raises
    ------
    CrossDNAError
        A checkpoint of anything but a language model.
    """
    from crossdna.analysis.inference import checkpoint_task
    from crossdna.errors import CrossDNAError

    task = checkpoint_task(
        arguments.model, trust_remote_code=arguments.trust_remote_code
    )
    if task not in ("masked-lm", "causal-lm"):
        raise CrossDNAError(
            f"{arguments.model}: saved for {task}; only a language model {does}"
        )
    return task


def chosen_window(arguments: argparse.Namespace, model: PreTrainedModel) -> int:
    """What --window says; without it what suits the model."""
    from crossdna.analysis.inference import default_window

    if arguments.window is None:
        return default_window(model, USUAL_WINDOW)
    return int(arguments.window)
