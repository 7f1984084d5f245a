"""Probing: frozen representations of a model, and a linear model on top."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossdna.analysis.embedding.embed import EmbedJob, embed_sequences
from crossdna.analysis.supervised.classical import LinearModel
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from crossdna.data.labelled import LabelledSet


class ProbeModel:
    """A linear model on the mean representation of a sequence, strands averaged.

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
        self.job = EmbedJob(model=name)
        features = self._features(train.table.ids)
        held_out = self._features(valid.table.ids)
        self.linear = LinearModel(train, valid, features, held_out)

    def scores(self, sequences: Sequence[NDArray[np.uint8]]) -> NDArray:
        """(sequences, outputs)."""
        return self.linear.scores(self._features(sequences))

    def _features(self, sequences: Sequence[NDArray[np.uint8]]) -> NDArray:
        return embed_sequences(self.model, sequences, self.job)
