"""Asking a fine-tuned model: probabilities, decisions, and the columns they become."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from crossdna.analysis.inference import load_model
from crossdna.data import metrics
from crossdna.data.task_card import TaskCard
from crossdna.errors import CrossDNAError
from crossdna.models.batched import predict_logits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from crossdna.analysis.chunks import Arrays
    from crossdna.data.task_card import Strands

BASES_PER_BATCH: Final = 1 << 15


@dataclass(frozen=True, slots=True)
class FinetunedModel:
    """A model and its card.

    A sequence longer than those of the training set is read in windows of that length,
    each half a window further; what the windows say is averaged (per base: where they
    overlap).
    """

    name: str
    model: PreTrainedModel
    card: TaskCard
    bases_per_batch: int = BASES_PER_BATCH

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str = "auto",
        name: str | None = None,
        *,
        trust_remote_code: bool = False,
    ) -> FinetunedModel:
        """Load what ``crossdna finetune`` wrote.

        Parameters
        ----------
        trust_remote_code
            Run code that came with the network.

        Raises
        ------
        CrossDNAError
            No card or no checkpoint in `folder`.
        """
        path = Path(folder)
        if not path.is_dir():
            raise CrossDNAError(f"{folder}: no such directory")
        card = TaskCard.read(path)
        model = load_model(
            path,
            "per-base" if card.task.kind == "per-base" else "classification",
            device,
            trust_remote_code=trust_remote_code,
        )
        return cls(name or str(folder), model, card)

    def on_strands(self, strands: Strands) -> FinetunedModel:
        """The same model, asked with or without averaging over the strands."""
        return replace(self, card=replace(self.card, strands=strands))

    def scores(
        self,
        sequences: Sequence[NDArray[np.uint8]],
        advance: Callable[[int], None] = lambda rows: None,
    ) -> NDArray:
        """Probabilities or quantities; see `crossdna.data.metrics`."""
        per_base = self.card.task.kind == "per-base"
        windows, owners, starts = _windows(sequences, self.card.max_length)
        logits = predict_logits(
            self.model,
            windows,
            strand_average=self.card.strands == "both",
            per_base=per_base,
            bases_per_batch=self.bases_per_batch,
        )
        found = self.card.scores(logits)
        advance(len(sequences))
        if len(windows) == len(sequences):
            return found
        if per_base:
            return _overlaid(sequences, found, owners, starts)
        sums = np.zeros((len(sequences), found.shape[1]))
        np.add.at(sums, owners, found)
        counts = np.bincount(owners, minlength=len(sequences))
        return sums / counts[:, None]


def _windows(
    sequences: Sequence[NDArray[np.uint8]], size: int
) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64], NDArray[np.int64]]:
    """Windows of at most `size` bases, whose sequence each is, and where it starts."""
    windows, owners, starts = [], [], []
    for owner, ids in enumerate(sequences):
        last = max(0, len(ids) - size)
        for start in [*range(0, last, max(1, size // 2)), last]:
            windows.append(ids[start : start + size])
            owners.append(owner)
            starts.append(start)
    return windows, np.array(owners), np.array(starts)


def _overlaid(
    sequences: Sequence[NDArray[np.uint8]],
    scores: NDArray,
    owners: NDArray[np.int64],
    starts: NDArray[np.int64],
) -> NDArray:
    results = np.empty(len(sequences), object)
    results[:] = [np.zeros((len(ids), scores[0].shape[1])) for ids in sequences]
    counts = [np.zeros((len(ids), 1)) for ids in sequences]
    for values, owner, start in zip(scores, owners, starts, strict=True):
        results[owner][start : start + len(values)] += values
        counts[owner][start : start + len(values)] += 1
    for row, count in enumerate(counts):
        results[row] /= count
    return results


def prediction_columns(card: TaskCard, scores: NDArray) -> pl.DataFrame:
    """Columns that say what a model predicts, one row per sequence.

    binary: ``probability`` (of the positive class), ``prediction``. multiclass:
    ``probability_CLASS`` for each, ``prediction``. Several labels: for each
    ``probability_LABEL`` and ``prediction_LABEL`` (0 or 1). regression: ``prediction``,
    or ``prediction_TARGET`` for several. per base: ``probability`` and ``prediction``
    are lists with an entry per base (the most probable class).
    """
    task = card.task
    decided = metrics.decide(task, scores, card.thresholds)
    columns: dict[str, Any] = {}
    if task.kind == "binary":
        columns["probability"] = scores[:, 1]
        columns["prediction"] = [task.classes[number] for number in decided]
    elif task.kind == "multiclass":
        for number, name in enumerate(task.classes):
            columns[f"probability_{name}"] = scores[:, number]
        columns["prediction"] = [task.classes[number] for number in decided]
    elif task.kind == "multilabel":
        for number, name in enumerate(task.classes):
            columns[f"probability_{name}"] = scores[:, number]
            columns[f"prediction_{name}"] = decided[:, number]
    elif task.kind == "regression":
        single = len(task.columns) == 1
        for number, name in enumerate(task.columns):
            key = "prediction" if single else f"prediction_{name}"
            columns[key] = scores[:, number]
    else:
        columns["probability"] = [bases.max(1).tolist() for bases in scores]
        columns["prediction"] = [[task.classes[n] for n in row] for row in decided]
    return pl.DataFrame(columns)


def empty_scores(card: TaskCard) -> NDArray:
    """Scores of no sequence, to learn which columns there will be."""
    if card.task.kind == "per-base":
        return np.empty(0, object)
    return np.empty((0, card.task.outputs))


def joined(table: pl.DataFrame, added: pl.DataFrame, source: str) -> pl.DataFrame:
    """Put columns beside those of a table.

    Raises
    ------
    CrossDNAError
        A column of that name is there already.
    """
    for name in added.columns:
        if name in table.columns:
            raise CrossDNAError(
                f"{source} already has a column {name!r}, which the predictions are "
                "called; rename it"
            )
    return pl.concat([table, added], how="horizontal")


@dataclass(frozen=True)
class PredictJob:
    """Scores chunks of sequences; see `crossdna.analysis.chunks.Job`."""

    folder: str
    bases_per_batch: int
    trust_remote_code: bool = False

    def open(self, device: str) -> Callable[[Any], Arrays]:
        """Load the model for this process."""
        loaded = FinetunedModel.load(
            self.folder, device, trust_remote_code=self.trust_remote_code
        )
        model = replace(loaded, bases_per_batch=self.bases_per_batch)

        def work(sequences: Sequence[NDArray[np.uint8]]) -> Arrays:
            return pack_scores(model.scores(sequences))

        return work


def pack_scores(scores: NDArray) -> Arrays:
    """Scores as plain arrays, also where rows have different lengths."""
    if scores.dtype != object:
        return {"scores": scores}
    lengths = np.array([len(row) for row in scores])
    return {"scores": np.concatenate(list(scores)), "lengths": lengths}


def unpack_scores(chunks: Sequence[Arrays]) -> NDArray:
    """Undo `pack_scores` for all chunks together."""
    scores = np.concatenate([chunk["scores"] for chunk in chunks])
    if "lengths" not in chunks[0]:
        return scores
    lengths = np.concatenate([chunk["lengths"] for chunk in chunks])
    ragged = np.empty(len(lengths), object)
    ragged[:] = np.split(scores, np.cumsum(lengths)[:-1])
    return ragged
