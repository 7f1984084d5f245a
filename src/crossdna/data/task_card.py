"""The card beside a fine-tuned checkpoint: what its outputs mean.

Training writes it, prediction reads it, so that the numbers that a user gets are those
that the metrics were computed from.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from crossdna.data.labelled import Task
from crossdna.errors import CrossDNAError
from crossdna.files import atomic_open

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crossdna.alphabet import Strand

CARD_NAME: Final = "task.json"

Strands = Literal["both", "forward"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskCard:
    """What a fine-tuned model predicts and how its outputs are read."""

    task: Task
    strands: Strands
    """both: predictions are averaged over the strands; forward: of the strand given."""
    max_length: int
    """Bases of the longest training sequence; longer input is read in windows."""
    thresholds: tuple[float, ...] = ()
    """Chosen on the development set; one per label of a binary or multi-label task."""
    means: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    """Regression: mean and standard deviation of each target in the training set."""

    @property
    def strand(self) -> Strand:
        """What the model is to read of a sequence."""
        return "both" if self.strands == "both" else "+"

    def scores(self, logits: NDArray) -> NDArray:
        """Turn logits into probabilities, or into quantities in their own unit."""
        if self.task.kind == "per-base":
            ragged = np.empty(len(logits), object)
            ragged[:] = [_softmax(row) for row in logits]
            return ragged
        if self.task.kind == "regression":
            return logits * np.asarray(self.scales) + np.asarray(self.means)
        if self.task.kind == "multilabel":
            return 1 / (1 + np.exp(-logits.astype(np.float64)))
        return _softmax(logits)

    def write(self, folder: str | Path) -> None:
        """Put the card beside a checkpoint."""
        with atomic_open(Path(folder) / CARD_NAME) as handle:
            json.dump(asdict(self), handle, indent=1)

    @classmethod
    def read(cls, folder: str | Path) -> TaskCard:
        """Read the card beside a checkpoint.

        Raises
        ------
        CrossDNAError
            No card: the checkpoint was not made by ``crossdna finetune``.
        """
        path = Path(folder) / CARD_NAME
        if not path.is_file():
            raise CrossDNAError(
                f"{folder}: no {CARD_NAME}, so this is no model that crossdna finetune "
                "made; it predicts bases, and becomes a classifier or regressor with "
                f"crossdna finetune --model {folder} --train LABELLED --output DIR"
            )
        try:
            table: dict[str, Any] = json.loads(path.read_text())
            task = Task(
                kind=table["task"]["kind"],
                columns=tuple(table["task"]["columns"]),
                classes=tuple(table["task"]["classes"]),
            )
            return cls(
                task=task,
                strands=table["strands"],
                max_length=table["max_length"],
                thresholds=tuple(table["thresholds"]),
                means=tuple(table["means"]),
                scales=tuple(table["scales"]),
            )
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise CrossDNAError(f"{path}: damaged: {error}") from None


def _softmax(logits: NDArray) -> NDArray[np.float64]:
    shifted = np.asarray(logits, np.float64)
    shifted = np.exp(shifted - shifted.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)
