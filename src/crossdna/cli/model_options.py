"""Options that every verb which loads a model shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import argparse

    from transformers import PreTrainedModel

    from crossdna.analysis.inference import Task
    from crossdna.models.execution import Execution

CHECKPOINT: Final = (
    "checkpoint directory, weights of this project by name (crossdna-small; `crossdna "
    "models` lists them) or hub id"
)
"""What --model takes, for its help."""
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


def add_training_device(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
) -> None:
    """Where a model is trained."""
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto: a GPU where there is one (default: %(default)s)",
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


def add_training_precision(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
) -> None:
    """What training multiplies in, where the device may decide."""
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bf16"),
        default="float32",
        help="auto: bf16 where the device gains by it (default: %(default)s)",
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


def chosen_window(arguments: argparse.Namespace, model: PreTrainedModel) -> int:
    """What --window says; without it what suits the model."""
    from crossdna.models.record import default_window

    if arguments.window is None:
        return default_window(model, USUAL_WINDOW)
    return int(arguments.window)
