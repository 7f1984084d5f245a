"""Asking a fine-tuned model: probabilities, decisions, and the columns they become."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import polars as pl

from crossdna.analysis.inference import FLOAT32, Execution, load_model
from crossdna.analysis.supervised.ensemble import read_ensemble
from crossdna.data import metrics
from crossdna.data.task_card import TaskCard
from crossdna.errors import CrossDNAError
from crossdna.models.batched import predict_logits
from crossdna.models.fingerprint import fingerprint
from crossdna.models.opening import require_directory
from crossdna.zoo.shipped import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from crossdna.analysis.chunks import Arrays
    from crossdna.data.labelled import LabelledSet, Task
    from crossdna.data.task_card import Strands

BASES_PER_BATCH: Final = 1 << 15


class Scored(NamedTuple):
    """What a model makes of sequences.

    Attributes
    ----------
    scores : (sequences, outputs)
        Probabilities or quantities; see `crossdna.data.metrics`.
    spread : like `scores`, or None
        Standard deviation between the networks of an ensemble.
    """

    scores: NDArray
    spread: NDArray | None


@dataclass(frozen=True, slots=True)
class FinetunedModel:
    """One network or several, and the card that says what they answer.

    Several were trained alike but for their seed; what they say is averaged.

    A sequence longer than those of the training set is read in windows of that length,
    each half a window further; what the windows say is averaged (per base: where they
    overlap).
    """

    name: str
    networks: tuple[PreTrainedModel, ...]
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
        execution: Execution = FLOAT32,
    ) -> FinetunedModel:
        """Load what ``crossdna finetune`` wrote: a checkpoint, or an ensemble of them.

        Parameters
        ----------
        trust_remote_code
            Run code that came with the network.
        execution
            Precision, and whether layers are compiled.

        Raises
        ------
        CrossDNAError
            No card or no checkpoint in `folder`.
        """
        path = Path(resolve(folder))
        if not path.is_dir():
            raise CrossDNAError(f"{folder}: no such directory")
        require_directory(path)
        card = TaskCard.read(path)
        places, several = [path], read_ensemble(path)
        if several is not None:
            places = [path / member for member in several.members]
            card = replace(card, thresholds=several.thresholds)
        networks = [
            load_model(
                place,
                "per-base" if card.task.kind == "per-base" else "classification",
                device,
                trust_remote_code=trust_remote_code,
                execution=execution,
            )
            for place in places
        ]
        return cls(name or str(folder), tuple(networks), card)

    @classmethod
    def ensemble(
        cls, members: Sequence[FinetunedModel], valid: LabelledSet
    ) -> FinetunedModel:
        """Join models of one task; thresholds are chosen for their mean on `valid`."""
        first = members[0]
        networks = tuple(network for one in members for network in one.networks)
        joint = replace(first, networks=networks)
        scores = joint.scores(valid.table.ids)
        thresholds = metrics.choose_thresholds(first.card.task, valid.labels, scores)
        return replace(joint, card=replace(first.card, thresholds=thresholds))

    def fingerprint(self, checkpoint: str) -> str:
        """Fingerprints of all networks; see `crossdna.models.fingerprint`."""
        return "+".join(str(fingerprint(one, checkpoint)) for one in self.networks)

    @property
    def anchored_length(self) -> int | None:
        """Bases of the windows that a head with weights for positions knows."""
        config = self.networks[0].config
        if getattr(config, "head_pooling", None) != "position":
            return None
        return int(config.head_length)

    def on_strands(self, strands: Strands) -> FinetunedModel:
        """The same model, asked with or without averaging over the strands."""
        return replace(self, card=replace(self.card, strands=strands))

    def scores(self, sequences: Sequence[NDArray[np.uint8]]) -> NDArray:
        """Probabilities or quantities; see `crossdna.data.metrics`."""
        return self.scored(sequences).scores

    def scored(self, sequences: Sequence[NDArray[np.uint8]]) -> Scored:
        """The mean of what the networks say, and how far they are apart."""
        each = [self._answer(network, sequences) for network in self.networks]
        if len(each) == 1:
            return Scored(each[0], None)
        # Also right for rows of different lengths, which are arrays in an array.
        mean: NDArray = np.add.reduce(each, axis=0) / len(each)
        squares: NDArray = np.add.reduce([(one - mean) ** 2 for one in each], axis=0)
        return Scored(mean, (squares / (len(each) - 1)) ** 0.5)

    def _answer(
        self, network: PreTrainedModel, sequences: Sequence[NDArray[np.uint8]]
    ) -> NDArray:
        per_base = self.card.task.kind == "per-base"
        windows, owners, starts = _windows(sequences, self.card.max_length)
        logits = predict_logits(
            network,
            windows,
            strand=self.card.strand,
            per_base=per_base,
            bases_per_batch=self.bases_per_batch,
        )
        found = self.card.scores(logits)
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


def prediction_columns(card: TaskCard, scored: Scored) -> pl.DataFrame:
    """Columns that say what a model predicts, one row per sequence.

    binary: ``probability`` (of the positive class), ``prediction``. multiclass:
    ``probability_CLASS`` for each, ``prediction``. Several labels: for each
    ``probability_LABEL`` and ``prediction_LABEL`` (0 or 1). regression: ``prediction``,
    or ``prediction_TARGET`` for several. per base: ``probability`` and ``prediction``
    are lists with an entry per base (the most probable class). An ensemble adds a
    column ``..._sd`` for each of probabilities or quantities: how far its networks are
    apart.
    """
    task, scores = card.task, scored.scores
    decided = metrics.decide(task, scores, card.thresholds)
    if task.kind == "per-base":
        return _base_columns(task, scored, decided)
    columns: dict[str, Any] = {}
    for key, number in _score_columns(task).items():
        columns[key] = scores[:, number]
        if scored.spread is not None:
            columns[f"{key}_sd"] = scored.spread[:, number]
        if task.kind == "multilabel":
            columns[f"prediction_{task.classes[number]}"] = decided[:, number]
    if task.kind in ("binary", "multiclass"):
        columns["prediction"] = [task.classes[number] for number in decided]
    return pl.DataFrame(columns)


def _score_columns(task: Task) -> dict[str, int]:
    """Names of the columns with scores, and which output each shows."""
    if task.kind == "binary":
        return {"probability": 1}
    if task.kind == "regression" and len(task.columns) == 1:
        return {"prediction": 0}
    kind = "prediction" if task.kind == "regression" else "probability"
    names = task.columns if task.kind == "regression" else task.classes
    return {f"{kind}_{name}": number for number, name in enumerate(names)}


def _base_columns(task: Task, scored: Scored, decided: NDArray) -> pl.DataFrame:
    columns: dict[str, Any] = {
        "probability": [bases.max(1).tolist() for bases in scored.scores]
    }
    if scored.spread is not None:
        columns["probability_sd"] = [
            np.take_along_axis(bases, chosen[:, None], 1)[:, 0].tolist()
            for bases, chosen in zip(scored.spread, decided, strict=True)
        ]
    columns["prediction"] = [[task.classes[n] for n in row] for row in decided]
    return pl.DataFrame(columns)


def nothing_scored(task: Task, networks: int) -> Scored:
    """Scores of no sequence, to learn which columns there will be."""
    per_base = task.kind == "per-base"
    empty = np.empty(0, object) if per_base else np.empty((0, task.outputs))
    return Scored(empty, empty if networks > 1 else None)


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
    execution: Execution = FLOAT32

    def open(self, device: str) -> Callable[[Any], Arrays]:
        """Load the model for this process."""
        loaded = FinetunedModel.load(
            self.folder,
            device,
            trust_remote_code=self.trust_remote_code,
            execution=self.execution,
        )
        model = replace(loaded, bases_per_batch=self.bases_per_batch)

        def work(sequences: Sequence[NDArray[np.uint8]]) -> Arrays:
            return packed(model.scored(sequences))

        return work


def pack_scores(scores: NDArray) -> Arrays:
    """Scores as plain arrays, also where rows have different lengths."""
    if scores.dtype != object:
        return {"scores": scores}
    lengths = np.array([len(row) for row in scores])
    return {"scores": np.concatenate(list(scores)), "lengths": lengths}


def packed(scored: Scored) -> Arrays:
    """Scores, and their spread if there is one, as plain arrays."""
    arrays = pack_scores(scored.scores)
    if scored.spread is not None:
        arrays["spread"] = pack_scores(scored.spread)["scores"]
    return arrays


def unpack_scored(chunks: Sequence[Arrays]) -> Scored:
    """Undo `packed` for all chunks together."""
    if "spread" not in chunks[0]:
        return Scored(unpack_scores(chunks), None)
    spreads = [{**chunk, "scores": chunk["spread"]} for chunk in chunks]
    return Scored(unpack_scores(chunks), unpack_scores(spreads))


def unpack_scores(chunks: Sequence[Arrays]) -> NDArray:
    """Undo `pack_scores` for all chunks together."""
    scores = np.concatenate([chunk["scores"] for chunk in chunks])
    if "lengths" not in chunks[0]:
        return scores
    lengths = np.concatenate([chunk["lengths"] for chunk in chunks])
    ragged = np.empty(len(lengths), object)
    ragged[:] = np.split(scores, np.cumsum(lengths)[:-1])
    return ragged
