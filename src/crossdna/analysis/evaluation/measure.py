"""Accuracy and bits per base on regions that a model has not seen.

Windows are tiled over the regions. Under each condition some of their bases are hidden,
and everything that predicts bases predicts the same ones. The language model sees the
window with all of those bases masked; the counting baselines see its true bases, to the
left (Markov) or on both sides (k-mer). With few, isolated bases hidden (condition
``isolated``) the language model's context is as complete as theirs.

A causal model has nothing hidden from it: it predicts every base from those to its left
(condition ``next``), beside Markov chains, which do the same. Its numbers are another
quantity than those of hidden bases, for which both sides are known.

Byte pairs have no single bases to hide: whole tokens are hidden (or asked for next), as
many as would be bases. Each base of a token counts an equal part of the token's bits,
and is right if the most probable token has it at its place. The model pays for where a
token ends as well, which the baselines, asked for the same bases, need not tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from crossdna.analysis.evaluation.hidden import (
    Hidden,
    Predicted,
    ask_next,
    batches,
    hide_isolated,
    hide_random,
    masked_log_probabilities,
    predicts_tokens,
    tile_windows,
    token_predictions,
)
from crossdna.analysis.statistics import Interval, interval, resampled_ratios
from crossdna.data.annotation import repeat_track
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from crossdna.alphabet import Strand
    from crossdna.analysis.evaluation.baselines import Baselines
    from crossdna.data.annotation import Annotation, ClassTrack
    from crossdna.data.genome import Genome
    from crossdna.data.regions import Region

MODEL = "model"
ALL = "all bases"
_MIN_WINDOWS = 10


if TYPE_CHECKING:
    Predictor = Callable[[Hidden], Predicted]
    # Names of groups of bases and which bases of some windows belong to each:
    # (contig, starts, length) -> {name: (windows, length) bool}. Groups may overlap.
    Grouping = Callable[[str, NDArray[np.int64], int], Mapping[str, NDArray[np.bool_]]]
    Hide = Callable[[NDArray[np.uint8], NDArray[np.int64]], Hidden]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSettings:
    """What is measured."""

    window: int = 1024
    """Bases the model sees at once."""
    max_windows: int = 1000
    """At most so many windows, spread evenly over the regions; 0 for all."""
    mask_share: float = 0.15
    """Share of bases hidden under the condition ``random``."""
    spacing: int = 32
    """Bases from one hidden base to the next under the condition ``isolated``."""
    batch_size: int = 16
    """Windows per forward pass."""
    resamples: int = 1000
    """Bootstrap resamples of windows."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("window", "spacing", "batch_size", "resamples"):
            if getattr(self, name) < 1:
                raise CrossDNAError(
                    f"{name} must be positive, got {getattr(self, name)}"
                )
        if self.max_windows < 0:
            raise CrossDNAError(
                f"max_windows must be 0 or more, got {self.max_windows}"
            )
        if not 0 < self.mask_share < 1:
            raise CrossDNAError(
                f"mask_share must lie between 0 and 1, got {self.mask_share}"
            )


def class_grouping(genome: Genome, annotation: Annotation | None) -> Grouping:
    """Group bases by their class in an annotation, or else by lower case (repeats)."""
    tracks: dict[str, ClassTrack] = {}

    def groups(
        contig: str, starts: NDArray[np.int64], length: int
    ) -> dict[str, NDArray[np.bool_]]:
        if contig not in tracks:
            # Windows come contig by contig: one track at a time is enough.
            tracks.clear()
            tracks[contig] = (
                repeat_track(genome, contig)
                if annotation is None
                else annotation.class_track(contig)
            )
        track = tracks[contig]
        classes = track.classes[starts[:, None] + np.arange(length)]
        return {name: classes == index for index, name in enumerate(track.names)}

    return groups


class Score(NamedTuple):
    """How well one predictor predicts one group of bases."""

    accuracy: Interval
    """Share of hidden bases that got the highest probability."""
    bits: Interval
    """Mean of -log2 of the true base's probability; 2 for a blind guess."""
    accuracy_gain: Interval
    """The first predictor's accuracy minus this one's, windows paired."""
    bits_gain: Interval
    """This one's bits minus those of the first: positive where the first is better."""


class Group(NamedTuple):
    """One class of bases under one condition."""

    name: str
    positions: int
    scores: dict[str, Score]

    def bits(self) -> dict[str, float]:
        """Bits per base of each predictor."""
        return {name: score.bits.estimate for name, score in self.scores.items()}


class Condition(NamedTuple):
    """One way of hiding bases."""

    name: str
    description: str
    groups: tuple[Group, ...]


def predictor_label(name: str, model_name: str) -> str:
    """What tables and figures call a predictor."""
    kind, _, size = name.rpartition("-")
    if kind == "markov":
        return f"Markov order {size}"
    if kind == "two-sided":
        return f"Two-sided {size}+{size}-mer"
    return model_name


def strongest_baselines(bits: Mapping[str, float]) -> list[str]:
    """Names of the best Markov model and of the two-sided model.

    Parameters
    ----------
    bits
        Bits per base of each predictor, by name.
    """
    markov = [name for name in bits if name.startswith("markov")]
    two_sided = [name for name in bits if name.startswith("two-sided")]
    return [min(markov, key=lambda name: bits[name]), *two_sided]


def count_windows(
    regions: Sequence[Region], settings: EvaluationSettings, *, causal: bool = False
) -> int:
    """How many windows `measure` goes through, all conditions together."""
    tiles = tile_windows(regions, settings.window, settings.max_windows)
    return len(_conditions(settings, causal)) * sum(len(tile.starts) for tile in tiles)


def baseline_predictors(
    baselines: Baselines, *, causal: bool = False
) -> dict[str, Predictor]:
    """Every baseline under the name that tables and figures use.

    Parameters
    ----------
    causal
        Only those that look to the left.
    """

    def markov(order: int) -> Predictor:
        def predict(hidden: Hidden) -> Predicted:
            asked = hidden.windows, hidden.rows, hidden.columns
            return Predicted.of(baselines.markov.probabilities(*asked, order), hidden)

        return predict

    def two_sided(hidden: Hidden) -> Predicted:
        asked = hidden.windows, hidden.rows, hidden.columns
        return Predicted.of(baselines.two_sided.probabilities(*asked), hidden)

    orders = range(len(baselines.markov.tables))
    predictors = {f"markov-{order}": markov(order) for order in orders}
    if causal:
        return predictors
    predictors[f"two-sided-{baselines.two_sided.size}"] = two_sided
    return predictors


def model_predictor(model: Any, *, strand: Strand) -> Predictor:
    """Let a language model predict the bases that are asked for.

    Raises
    ------
    CrossDNAError
        Another strand than the forward one of a model that predicts whole tokens.
    """
    if predicts_tokens(model):
        if strand != "+":
            raise CrossDNAError(
                "the two strands of a window are cut into different byte pairs: such a "
                "model is measured on the forward strand"
            )
        return lambda hidden: token_predictions(model, hidden)

    def predict(hidden: Hidden) -> Predicted:
        logs = masked_log_probabilities(model, hidden.masked, strand=strand)
        return Predicted.of(np.exp(logs[hidden.rows, hidden.columns]), hidden)

    return predict


def measure(
    genome: Genome,
    regions: Sequence[Region],
    predictors: Mapping[str, Predictor],
    *,
    grouping: Grouping,
    settings: EvaluationSettings,
    causal: bool = False,
    whole: Callable[[Hidden], Hidden] | None = None,
    advance: Callable[[int], None] = lambda windows: None,
) -> tuple[Condition, ...]:
    """Measure predictors on the same bases.

    Parameters
    ----------
    regions
        Where to measure, 0-based half-open.
    predictors
        The first is compared with each of the others.
    grouping
        Classes of bases to report beside all bases; those with hidden bases in fewer
        than ten windows are left out.
    causal
        Hide nothing, ask for the next base.
    whole
        Turns hidden bases into hidden tokens; see `hidden.hide_whole`.
    advance
        Told how many windows have been done (each counts once per condition).

    Returns
    -------
    conditions : (random, isolated) or, causal, (next,)
    """
    tiles = tile_windows(regions, settings.window, settings.max_windows)
    results = []
    for name, (hide, description) in _conditions(
        settings, causal, tokens=whole is not None
    ).items():
        tally = _Tally(list(predictors))
        for tile in tiles:
            for batch in batches(tile, settings.batch_size):
                windows = genome.gather(batch.contig, batch.starts, settings.window).ids
                hidden = hide(windows, batch.indices)
                hidden = hidden if whole is None else whole(hidden)
                groups = grouping(batch.contig, batch.starts, settings.window)
                tally.add(hidden, groups, predictors)
                advance(len(windows))
        results.append(Condition(name, description, tally.groups(settings)))
    return tuple(results)


def _conditions(
    settings: EvaluationSettings, causal: bool, *, tokens: bool = False
) -> dict[str, tuple[Hide, str]]:
    base, bases = ("token", "tokens") if tokens else ("base", "bases")
    if causal:
        described = f"each {base} predicted from those to its left"
        return {"next": (lambda windows, indices: ask_next(windows), described)}
    share, spacing, seed = settings.mask_share, settings.spacing, settings.seed
    return {
        "random": (
            lambda windows, indices: hide_random(
                windows, indices, share=share, seed=seed
            ),
            f"{share * 100:.3g} % of the {bases} hidden",
        ),
        "isolated": (
            lambda windows, indices: hide_isolated(
                windows, indices, spacing=spacing, seed=seed
            ),
            f"one {base} in {spacing} hidden",
        ),
    }


class _Tally:
    """Sums for each window: hidden bases, right answers and bits, for each group."""

    def __init__(self, predictors: list[str]) -> None:
        self._predictors = predictors
        self._names: list[str] = []
        # Per batch: (windows, groups) and twice (windows, predictors, groups).
        self._counts: list[NDArray[np.float64]] = []
        self._correct: list[NDArray[np.float64]] = []
        self._bits: list[NDArray[np.float64]] = []

    def add(
        self,
        hidden: Hidden,
        groups: Mapping[str, NDArray[np.bool_]],
        predictors: Mapping[str, Predictor],
    ) -> None:
        self._names = [ALL, *groups]
        at = hidden.rows, hidden.columns
        members = np.ones((len(self._names), len(hidden.rows)))
        for place, mask in enumerate(groups.values(), 1):
            members[place] = mask[at]
        correct, bits = [], []
        for predict in predictors.values():
            predicted = predict(hidden)
            correct.append(predicted.right)
            bits.append(predicted.bits)
        self._counts.append(window_sums(members, hidden))
        for sums, values in ((self._correct, correct), (self._bits, bits)):
            parts = [window_sums(members * value, hidden) for value in values]
            sums.append(np.stack(parts, axis=1))

    def groups(self, settings: EvaluationSettings) -> tuple[Group, ...]:
        counts = np.concatenate(self._counts)[:, None, :]
        if not counts[:, 0, 0].any():
            raise CrossDNAError("the windows hold no A C G T to be predicted, only N")
        draws = {"resamples": settings.resamples, "seed": settings.seed}
        accuracy = resampled_ratios(np.concatenate(self._correct), counts, **draws)
        bits = resampled_ratios(np.concatenate(self._bits), counts, **draws)
        found = []
        for group, name in enumerate(self._names):
            # A class in a handful of windows has no interval worth the name.
            windows = int((counts[:, 0, group] > 0).sum())
            if name != ALL and windows < _MIN_WINDOWS:
                continue
            scores = {
                predictor: Score(
                    accuracy=_interval_of(accuracy, (index, group)),
                    bits=_interval_of(bits, (index, group)),
                    accuracy_gain=_interval_of(accuracy, (0, group), (index, group)),
                    bits_gain=_interval_of(bits, (index, group), (0, group)),
                )
                for index, predictor in enumerate(self._predictors)
            }
            found.append(Group(name, int(counts[:, 0, group].sum()), scores))
        return tuple(found)


def window_sums(values: NDArray[np.float64], hidden: Hidden) -> NDArray[np.float64]:
    """Sum (groups, positions) over the positions of each window: (windows, groups)."""
    number = len(hidden.windows)
    sums = [np.bincount(hidden.rows, weights=row, minlength=number) for row in values]
    return np.stack(sums, axis=1)


def _interval_of(
    ratios: Any, place: tuple[int, int], minus: tuple[int, int] | None = None
) -> Interval:
    estimate, resampled = ratios.estimate[place], ratios.resampled[(..., *place)]
    if minus is not None:
        estimate = estimate - ratios.estimate[minus]
        resampled = resampled - ratios.resampled[(..., *minus)]
    return interval(float(estimate), resampled)
