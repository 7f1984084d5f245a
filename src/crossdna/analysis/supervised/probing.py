"""Probing: frozen representations of a model, and a linear model on top."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from crossdna.analysis.embedding.embed import EmbedJob, embed_sequences
from crossdna.analysis.supervised.classical import LinearModel
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from crossdna.analysis.inference import Layer
    from crossdna.data.labelled import LabelledSet

CHOOSING_ROWS: Final = 2000
"""Training rows that layers are compared on: all layers at once take room."""


class ProbeModel:
    """A linear model on the mean representation of a sequence, strands averaged.

    Which hidden state, or all side by side, is decided on the development set; what
    suits one model or task is not what suits another. `job.layer` says what it came to.

    Raises
    ------
    CrossDNAError
        A per-base task: there a representation is no sequence's.
    """

    def __init__(
        self, name: str, model: PreTrainedModel, train: LabelledSet, valid: LabelledSet
    ) -> None:
        if train.task.kind == "per-base":
            raise CrossDNAError("probing is for labels of sequences, not of bases")
        self.name, self.model = name, model
        found = self._choose_layer(train.evenly(CHOOSING_ROWS), valid)
        self.job, self.linear = EmbedJob(model=name, layer=found.layer), found.linear
        if len(train) > CHOOSING_ROWS:
            features = self._features(train.table.ids)
            self.linear = LinearModel(train, valid, features, found.held_out)

    def scores(self, sequences: Sequence[NDArray[np.uint8]]) -> NDArray:
        """(sequences, outputs)."""
        return self.linear.scores(self._features(sequences))

    def _features(self, sequences: Sequence[NDArray[np.uint8]]) -> NDArray:
        return embed_sequences(self.model, sequences, self.job)

    def _choose_layer(self, train: LabelledSet, valid: LabelledSet) -> _Choice:
        job = EmbedJob(model=self.name, layer="all")
        features, held_out = (
            embed_sequences(self.model, rows.table.ids, job) for rows in (train, valid)
        )
        linear = LinearModel(train, valid, features, held_out)
        best = _Choice("all", linear, held_out)
        start = 0
        for layer, width in enumerate(self._widths(train.table.ids[0], job)):
            own = slice(start, start + width)
            start += width
            part = held_out[:, own]
            linear = LinearModel(train, valid, features[:, own], part)
            if linear.selected > best.linear.selected:
                best = _Choice(layer, linear, part)
        return best

    def _widths(self, ids: NDArray[np.uint8], job: EmbedJob) -> list[int]:
        """Channels of each hidden state."""
        total, widths = embed_sequences(self.model, [ids], job).shape[1], list[int]()
        while sum(widths) < total:
            one = replace(job, layer=len(widths))
            widths.append(embed_sequences(self.model, [ids], one).shape[1])
        return widths


class _Choice(NamedTuple):
    layer: Layer
    linear: LinearModel
    held_out: NDArray[np.float32]
    """Its representations of the development set."""
