"""What a checkpoint answered when it was written, kept beside it in doctor.json.

A loaded model that gives another answer to the same sequence is not the model that was
saved: a weight, the configuration, the tokenizer or the code has changed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

import crossdna
from crossdna import alphabet
from crossdna.errors import CrossDNAError
from crossdna.files import atomic_open
from crossdna.models.fingerprint import Fingerprint, fingerprint
from crossdna.models.opening import Opened
from crossdna.models.strands import asking

RECORD_NAME: Final = "doctor.json"
# From the yeast genome (sacCer3, chrIV:500,001-500,096).
SEQUENCE: Final = (
    "AGCGTTGTCCTCTATAATTTCTGTGACGGTTCTCTTCTTCAAAATTGG"
    "TTTCGGAGCAGCTGCGATCGACTTTGAATTTTTAGTGGGCATTGAAAT"
)
# One base in so many is hidden from a masked model.
HIDDEN: Final = 8
_DECIMALS: Final = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """An answer and what gave it.

    Attributes
    ----------
    version : str
        Of this package.
    torch : str
    task : str
        What the model was loaded for.
    fingerprint : dict
        Its parts; see `crossdna.models.fingerprint`.
    sequence : str
        What was asked.
    answer : list of list of float
        See `answer`.
    """

    version: str
    torch: str
    task: str
    fingerprint: dict[str, str]
    sequence: str
    answer: list[list[float]]


def answer(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """What a model of any kind says about sequences, in float32.

    Parameters
    ----------
    input_ids, attention_mask : (batch, length)
        Ids of `crossdna.alphabet`.

    Returns
    -------
    (batch, length, channels), or (batch, labels) of a sequence head
        Log-probabilities of A C G T where bases have some; else the model's logits or
        its last hidden state.
    """
    with asking(model):
        if not getattr(model, "gives_base_probabilities", True):
            base = model.base_model
            return base(input_ids, attention_mask).last_hidden_state.float()
        output = model(input_ids=input_ids, attention_mask=attention_mask)
        if not hasattr(output, "logits"):
            return output.last_hidden_state.float()
        if is_language_model(model):
            return output.logits[..., : alphabet.NUM_BASES].float().log_softmax(-1)
        return output.logits.float()


def is_language_model(model: Any) -> bool:
    """Whether a model predicts bases or tokens."""
    return type(model).__name__.endswith(("ForMaskedLM", "ForCausalLM"))


def has_head(model: Any) -> bool:
    """Whether a model predicts one thing per sequence."""
    return type(model).__name__.endswith("ForSequenceClassification")


def hides(model: Any) -> bool:
    """Whether a model is asked about hidden bases."""
    masked = type(model).__name__.endswith("ForMaskedLM")
    return masked and getattr(model, "gives_base_probabilities", True)


def question(model: Any, sequence: str) -> torch.Tensor:
    """Ids (1, length) as a model is asked about them: some hidden from a masked one."""
    ids = torch.from_numpy(alphabet.encode(sequence).astype(np.int64))[None]
    if hides(model):
        ids[:, HIDDEN // 2 :: HIDDEN] = alphabet.MASK
    return ids.to(next(model.parameters()).device)


def longest_sequence(model: Any) -> int | None:
    """Bases that a model surely reads at once; None where there is no limit."""
    limits = [longest_read(model), getattr(model.config, "head_length", None)]
    return min((limit for limit in limits if limit is not None), default=None)


def longest_read(model: Any) -> int | None:
    """Bases that a network reads at once, whatever its head; None: any number."""
    if not hasattr(model, "reader"):
        return getattr(model.config, "max_seq_len", None)
    # A bare network is read by itself, one with a head stands around it.
    net = getattr(model, "network", model).net
    tokens = model.config.family.longest(net.config)
    if tokens is None:
        return None
    reader = model.reader
    overlapping = getattr(reader, "overlapping", False)
    # Two special tokens around, and what is left over between k-mers.
    return (tokens - 2) * (1 if overlapping else reader.unit) - reader.unit


def write_record(directory: str | Path, *, trust_remote_code: bool = False) -> Record:
    """Load a checkpoint as it lies there, ask it, and keep its answer beside it.

    Raises
    ------
    CrossDNAError
        The checkpoint does not load.
    """
    opened = Opened(directory, trust_remote_code=trust_remote_code)
    model = opened.model(opened.task)
    asked = SEQUENCE[: longest_sequence(model)]
    said = answer(model, question(model, asked))[0]
    rows = said.reshape(-1, said.shape[-1]).double().cpu().numpy()
    record = Record(
        version=crossdna.__version__,
        torch=str(torch.__version__),
        task=opened.task,
        fingerprint=fingerprint(model, directory)._asdict(),
        sequence=asked,
        answer=np.round(rows, _DECIMALS).tolist(),
    )
    with atomic_open(Path(directory) / RECORD_NAME) as handle:
        json.dump(asdict(record), handle)
    return record


def read_record(directory: str | Path) -> Record | None:
    """Read the record beside a checkpoint; None where there is none.

    Raises
    ------
    CrossDNAError
        It cannot be read.
    """
    path = Path(directory) / RECORD_NAME
    if not path.is_file():
        return None
    try:
        record = Record(**json.loads(path.read_text()))
        Fingerprint(**record.fingerprint)
    except (OSError, ValueError, TypeError) as error:
        raise CrossDNAError(f"{path}: cannot be read: {error}") from None
    return record
