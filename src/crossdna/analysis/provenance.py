"""How a result was made: every file with results carries this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch

import crossdna
from crossdna.command_line import command_line
from crossdna.models.execution import Precision, precision_of
from crossdna.models.fingerprint import fingerprint

if TYPE_CHECKING:
    from torch import nn

    from crossdna.alphabet import Strand

_POLICIES: Final = {"+": "forward", "-": "reverse", "both": "average"}


class Provenance(NamedTuple):
    """What is needed to make a result again."""

    version: str
    """Of this package."""
    torch: str
    checkpoint: str
    """Path or name of the model."""
    fingerprint: str
    """Of configuration, weights and tokenizer; see `crossdna.models.fingerprint`."""
    command: str
    strand_policy: str
    """``forward``, ``reverse`` or ``average`` over both strands."""
    precision: str
    """``float32`` or ``bf16``."""


def provenance(model: nn.Module, checkpoint: str, *, strand: Strand) -> Provenance:
    """Describe a result of this process."""
    return described(
        str(fingerprint(model, checkpoint)),
        checkpoint,
        strand=strand,
        precision=precision_of(model),
    )


def described(
    model_fingerprint: str,
    checkpoint: str,
    *,
    strand: Strand,
    precision: Precision = "float32",
) -> Provenance:
    """Describe a result of a model whose fingerprint is known."""
    return Provenance(
        version=crossdna.__version__,
        torch=str(torch.__version__),
        checkpoint=checkpoint,
        fingerprint=model_fingerprint,
        command=command_line(),
        strand_policy=_POLICIES[strand],
        precision=precision,
    )
