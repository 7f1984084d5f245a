"""How a result was made: every file with results carries this."""

from __future__ import annotations

import hashlib
import shlex
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

import crossdna

if TYPE_CHECKING:
    from torch import nn


class Provenance(NamedTuple):
    """What is needed to make a result again."""

    version: str
    """Of this package."""
    torch: str
    checkpoint: str
    """Path or name of the model."""
    fingerprint: str
    """Of the model's weights; see `weights_fingerprint`."""
    command: str
    strand_policy: str
    """``forward`` or ``average`` over both strands."""


def provenance(
    model: nn.Module, checkpoint: str, *, strand_average: bool
) -> Provenance:
    """Describe a result of this process."""
    return Provenance(
        version=crossdna.__version__,
        torch=str(torch.__version__),
        checkpoint=checkpoint,
        fingerprint=weights_fingerprint(model),
        command=shlex.join(sys.argv),
        strand_policy="average" if strand_average else "forward",
    )


def weights_fingerprint(model: nn.Module) -> str:
    """32 hex digits that change with any weight or its name.

    The same whatever the device and the files that the weights came from.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values: Any = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
