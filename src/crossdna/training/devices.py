"""Where a model is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from transformers import TrainingArguments

TrainingDevice = Literal["auto", "cpu", "cuda"]


def trains_on_cpu(device: TrainingDevice) -> bool:
    """Say whether the CPU is what is asked for, or all there is.

    Raises
    ------
    CrossDNAError
        ``cuda`` is asked for, and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise CrossDNAError("device is cuda, but torch finds no CUDA device here")
    return device == "cpu" or not torch.cuda.is_available()


def keep_to_one_device(arguments: TrainingArguments) -> None:
    """Let one process train on one device.

    Several GPUs are what torchrun is for, and transformers would else replicate the
    model within each step.
    """
    arguments._n_gpu = min(arguments.n_gpu, 1)
