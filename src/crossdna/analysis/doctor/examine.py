"""Proving a loaded model: its weights, its answers, what they must not depend on."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch

from crossdna.analysis.doctor.behaviour import (
    check_batch,
    check_bf16,
    check_gpu,
    check_padding,
    check_pieces,
    check_record,
    check_strands,
)
from crossdna.analysis.doctor.check import Check
from crossdna.analysis.doctor.loss import check_loss, real_sequences
from crossdna.analysis.doctor.weights import (
    check_buffers,
    check_trained,
    check_weights,
)
from crossdna.analysis.inference import pick_device
from crossdna.analysis.supervised.benchmark import PeakMemory
from crossdna.models.fingerprint import Fingerprint, fingerprint
from crossdna.models.opening import Opened
from crossdna.models.record import (
    RECORD_NAME,
    Record,
    answer,
    longest_sequence,
    read_record,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LENGTHS: Final = (1024, 8192, 65_536)
_ASKED: Final = 192


class Speed(NamedTuple):
    """One forward pass of one sequence.

    Attributes
    ----------
    length : int
        Bases.
    bases_per_second : float
    peak_memory_mib : float or None
        Of the whole process, or of the GPU.
    """

    length: int
    bases_per_second: float
    peak_memory_mib: float | None


class Examination(NamedTuple):
    """What the doctor found."""

    model: str
    task: str
    parameters: int
    fingerprint: Fingerprint
    device: str
    checks: tuple[Check, ...]
    speed: tuple[Speed, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.status != "fail" for check in self.checks)


def examine(
    model: Any,
    opened: Opened,
    *,
    lengths: Sequence[int] = LENGTHS,
    advance: Callable[[int], None] = lambda steps: None,
) -> Examination:
    """Look at everything that can be looked at.

    Parameters
    ----------
    model
        As loaded from `opened`, on the device where it shall run.
    lengths
        Bases at which speed and memory are measured; longer than the model reads is
        left out.
    advance
        Called with 1 after each of `steps(lengths)` parts.
    """
    record = read_record(opened.name)
    longest = longest_sequence(model)
    texts = [text[:_ASKED] for text in real_sequences().values()]
    if longest is not None:
        texts = [text[: longest - longest % 2] for text in texts]
    prints = fingerprint(model, opened.name)
    checks: list[Check] = []
    recorded = record is not None and record.fingerprint["weights"] == prints.weights
    looks: list[Callable[[], Check | list[Check]]] = [
        lambda: check_weights(model, opened),
        lambda: check_trained(model, opened, recorded=recorded),
        lambda: check_buffers(model, opened),
        lambda: _check_fingerprint(record, prints),
        lambda: _check_answers(model, record),
        lambda: check_loss(model, longest=longest),
        lambda: check_batch(model, texts),
        lambda: check_padding(model, texts, side="right"),
        lambda: check_padding(model, texts, side="left"),
        lambda: check_pieces(model, texts[0]),
        lambda: check_strands(model, texts[0]),
        lambda: check_bf16(model, texts[0]),
        lambda: check_gpu(model, texts[0]),
    ]
    for look in looks:
        found = look()
        checks += [found] if isinstance(found, Check) else found
        advance(1)
    speed = []
    for length in lengths:
        if longest is None or length <= longest:
            speed.append(measure_speed(model, length))
        advance(1)
    return Examination(
        opened.name,
        opened.task,
        sum(tensor.numel() for tensor in model.parameters()),
        prints,
        str(next(model.parameters()).device),
        tuple(checks),
        tuple(speed),
    )


def load_for_examination(
    name: str | Path, device: str = "auto", *, trust_remote_code: bool = False
) -> tuple[Any, Opened]:
    """Load a checkpoint for what it was saved for."""
    opened = Opened(name, trust_remote_code=trust_remote_code)
    model = opened.model(opened.task)
    return model.to(pick_device(device)).eval(), opened


def steps(lengths: Sequence[int]) -> int:
    """How many parts an examination has."""
    return 13 + len(lengths)


def measure_speed(model: Any, length: int) -> Speed:
    """Time one forward pass after a short one."""
    device = next(model.parameters()).device
    letters = "".join(real_sequences().values())
    text = "".join(itertools.islice(itertools.cycle(letters), length))
    codes = np.frombuffer(text.encode(), np.uint8)
    table = np.zeros(256, np.int64)
    table[np.frombuffer(b"ACGT", np.uint8)] = np.arange(4)
    ids = torch.from_numpy(table[codes])[None].to(device)
    answer(model, ids[:, : min(length, _ASKED)])
    memory = PeakMemory()
    _wait(device)
    start = time.perf_counter()
    answer(model, ids)
    _wait(device)
    return Speed(length, length / (time.perf_counter() - start), memory.read())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _check_fingerprint(record: Record | None, now: Fingerprint) -> Check:
    if record is None:
        detail = f"no {RECORD_NAME} beside the weights; --record writes one"
        return Check("fingerprint", "skip", detail)
    other = [
        name
        for name, digits in now._asdict().items()
        if digits != record.fingerprint[name]
    ]
    if other:
        detail = f"{' and '.join(other)} changed since {RECORD_NAME} was written"
        return Check("fingerprint", "fail", detail)
    return Check("fingerprint", "pass", "configuration, weights and tokenizer as saved")


def _check_answers(model: Any, record: Record | None) -> Check:
    if record is None:
        return Check("answers as recorded", "skip", f"no {RECORD_NAME}")
    return check_record(model, record)
