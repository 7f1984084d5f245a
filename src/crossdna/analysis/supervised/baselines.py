"""Baselines by name: how each is fitted, what it is called, which tasks it suits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

from crossdna.analysis.classical.motifs import Motifs, split_motif_name
from crossdna.analysis.supervised.classical import (
    HiddenMarkovClassifier,
    KmerModel,
    Majority,
    MarkovClassifier,
    MotifModel,
    PositionWeights,
)
from crossdna.analysis.supervised.compact import (
    BaseNet,
    PositionNet,
    SymmetricNet,
    fit_compact,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from crossdna.analysis.supervised.classical import Predictor
    from crossdna.data.labelled import LabelledSet

Group = Literal["classical", "compact"]


class Baseline(NamedTuple):
    """A model to compare with.

    Attributes
    ----------
    title : str
        What it is called in a report.
    fit : callable
        From training set, development set and seed to a predictor.
    group : {"classical", "compact"}
    seeded : bool
        Whether the seed matters.
    """

    title: str
    fit: Callable[[LabelledSet, LabelledSet, int], Predictor]
    group: Group
    seeded: bool


def _compact(
    title: str, build: Callable[[int, int], nn.Module], *, augment: bool = False
) -> Baseline:
    def fit(train: LabelledSet, valid: LabelledSet, seed: int) -> Predictor:
        return fit_compact(title, build, train, valid, seed=seed, augment=augment)

    return Baseline(title, fit, "compact", seeded=True)


BASELINES: Final[dict[str, Baseline]] = {
    "majority": Baseline(
        "majority", lambda train, valid, seed: Majority(train), "classical", False
    ),
    "kmer": Baseline(
        "k-mer", lambda train, valid, seed: KmerModel(train, valid), "classical", False
    ),
    "markov": Baseline(
        "markov",
        lambda train, valid, seed: MarkovClassifier(train, valid),
        "classical",
        False,
    ),
    "pwm": Baseline(
        "position weights",
        lambda train, valid, seed: PositionWeights(train, valid),
        "classical",
        False,
    ),
    "cnn-symmetric": _compact("CNN, strand-symmetric", SymmetricNet),
    "cnn-position": _compact("CNN, position-aware", PositionNet),
    "cnn-position-augmented": _compact(
        "CNN, position-aware, both strands shown", PositionNet, augment=True
    ),
    "cnn-base": _compact("CNN, per base", BaseNet),
}
"""In the order in which they are fitted, quick ones first."""
_ON_REQUEST: Final[dict[str, Baseline]] = {
    "hmm": Baseline(
        "hidden Markov",
        lambda train, valid, seed: HiddenMarkovClassifier(train, valid),
        "classical",
        False,
    ),
}
"""Not fitted unless they are asked for: they need libraries of their own."""
_FIXED_LENGTH: Final = ("pwm", "cnn-position", "cnn-position-augmented")


def names() -> str:
    """What `find` knows, for an error that lists it."""
    return ", ".join((*BASELINES, *_ON_REQUEST, "pwm:FILE.meme"))


def find(name: str) -> Baseline | None:
    """Look a baseline up by name; ``pwm:FILE.meme[:MOTIF]`` scans motifs of a file.

    Raises
    ------
    CrossDNAError
        A motif file that cannot be read.
    """
    if not name.startswith("pwm:"):
        return {**BASELINES, **_ON_REQUEST}.get(name)
    motifs = Motifs.read(*split_motif_name(name.removeprefix("pwm:")))
    return Baseline(
        name,
        lambda train, valid, seed: MotifModel(name, motifs, train, valid),
        "classical",
        False,
    )


def unsuited(name: str, sets: Mapping[str, LabelledSet]) -> str | None:
    """Why a baseline cannot do a task, or None if it can."""
    kind = sets["train"].task.kind
    if kind == "per-base" and name not in ("majority", "cnn-base"):
        return "not for labels of bases"
    if kind != "per-base" and name == "cnn-base":
        return "for labels of bases only"
    if name in ("markov", "pwm", "hmm") and kind not in ("binary", "multiclass"):
        return f"for classes, not for {kind}"
    lengths = {int(n) for d in sets.values() for n in np.unique(d.table.lengths)}
    if name in _FIXED_LENGTH and len(lengths) > 1:
        return "for windows of one length"
    return None
