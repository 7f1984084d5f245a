"""Scores of alleles: what a model makes of the alternate against the reference.

All log-likelihoods are natural logarithms; a negative ratio means that the model
expects the alternate allele less than the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from crossdna import alphabet
from crossdna.analysis.heads import read_head
from crossdna.analysis.inference import Task, gives_base_probabilities, is_causal
from crossdna.analysis.variants.readings import (
    embedding_differences,
    entropy_bits,
    head_differences,
    likelihood_differences,
    masked_marginals,
)
from crossdna.data.variants import WindowPair, window_pair
from crossdna.errors import CrossDNAError
from crossdna.models.record import has_head

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crossdna.alphabet import Strand
    from crossdna.analysis.classical.opening import ClassicalModel
    from crossdna.data.genome import Genome
    from crossdna.data.variants import Allele


WINDOW: Final = 512
"""Bases a model sees around a variant when nothing else is asked for."""


class ScoreKind(NamedTuple):
    """One score that can be asked for."""

    task: str
    """What the model must have been loaded for; empty when any will do."""
    description: str
    """Sign, unit and meaning, as it stands in the header of a VCF."""


SCORES: Final = {
    "llr": ScoreKind(
        "masked-lm",
        "Log-likelihood ratio of a single-base substitution: log p(alternate) - "
        "log p(reference) at the masked base, natural logarithm; negative = less "
        "expected than the reference",
    ),
    "pll": ScoreKind(
        "masked-lm",
        "Pseudo-log-likelihood ratio of an insertion, deletion or multi-base "
        "substitution: sum over the window of log p(base | all but the masked bases), "
        "alternate minus reference window of equal length, natural logarithm; "
        "negative = less expected than the reference",
    ),
    "ll": ScoreKind(
        "causal-lm",
        "Log-likelihood ratio of a causal model: log p(alternate window) - "
        "log p(reference window of equal length), each base (or token) given those "
        "before it, natural logarithm; negative = less expected than the reference",
    ),
    "entropy": ScoreKind(
        "masked-lm",
        "Entropy of the model's prediction at the masked first base of the variant, "
        "0 to 2 bits; low = the model is sure what belongs there",
    ),
    "distance": ScoreKind(
        "",
        "Euclidean distance between the mean embeddings of the alternate and the "
        "reference window; 0 = no change, no sign",
    ),
    "head": ScoreKind(
        "classification",
        "Change of what the fine-tuned head says, alternate minus reference window; "
        "positive = the alternate allele raises it",
    ),
}


_TOKEN_PLL: Final = (
    "Pseudo-log-likelihood ratio of any variant: sum over the window's tokens of "
    "log p(token | all but the masked tokens), alternate minus reference window of "
    "equal length, natural logarithm; negative = less expected than the reference"
)
_DEFAULTS: Final[dict[Task, tuple[str, ...]]] = {
    "masked-lm": ("llr", "pll", "entropy"),
    "causal-lm": ("ll",),
    "classification": ("head",),
    "embedding": ("distance",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreSettings:
    """What is computed, and how."""

    scores: tuple[str, ...]
    """Names from `SCORES`."""
    window: int = WINDOW
    """Bases the model sees around a variant."""
    mask_spacing: int = 8
    """``pll`` masks every so-manieth base (or token) at once, so it takes as many
    passes."""
    strand: Strand = "both"
    """What the model reads; of both the predictions are averaged."""
    batch_size: int = 32
    """Windows per forward pass; changes results by rounding only."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.scores if name not in SCORES]
        if unknown or not self.scores:
            raise CrossDNAError(
                f"scores are {', '.join(SCORES)}; got {', '.join(unknown) or 'none'}"
            )
        alphabet.require_strand(self.strand)
        if self.window < 16:
            raise CrossDNAError(f"a window needs 16 bases, got {self.window}")
        for name in ("mask_spacing", "batch_size"):
            if getattr(self, name) < 1:
                raise CrossDNAError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )


def score_names(model: Any, scores: Sequence[str]) -> dict[str, str]:
    """Names of the columns that scores give, with their descriptions.

    A head gives one column for each label, of two classes for the second.

    Raises
    ------
    CrossDNAError
        A score that this model cannot give.
    """
    task = model_task(model)
    columns = {}
    for name in scores:
        kind = SCORES[name]
        if kind.task and kind.task != task:
            raise CrossDNAError(
                f"score {name!r} needs a model for {kind.task}, but this is a "
                f"{type(model).__name__}; it gives {', '.join(default_scores(model))}"
            )
        if name in ("llr", "entropy") and not gives_base_probabilities(model):
            raise CrossDNAError(
                f"score {name!r} needs the probability of a single base, which a model "
                "that reads byte pairs does not give; pll compares whole windows"
            )
        if name == "head":
            head = read_head(model)
            for label in head.labels:
                column = f"head_{label}" if label else "head"
                columns[column] = f"{kind.description}: {head.meaning(label)}"
        elif name == "pll" and not gives_base_probabilities(model):
            columns[name] = _TOKEN_PLL
        else:
            columns[name] = kind.description
    return columns


def default_scores(model: Any) -> tuple[str, ...]:
    """Give the scores that suit a model."""
    task = model_task(model)
    if task != "masked-lm":
        return _DEFAULTS[task]
    return _DEFAULTS[task] if gives_base_probabilities(model) else ("pll",)


def model_task(model: Any) -> Task:
    """What a model was loaded for; "embedding" where it has no head."""
    if has_head(model):
        return "classification"
    if is_causal(model):
        return "causal-lm"
    return "masked-lm" if type(model).__name__.endswith("ForMaskedLM") else "embedding"


def score_alleles(
    model: Any,
    genome: Genome,
    alleles: Sequence[Allele],
    settings: ScoreSettings,
) -> dict[str, NDArray[np.float64]]:
    """Score alleles.

    Windows that several alleles need, the reference above all, are computed once.

    Returns
    -------
    dict of column to (alleles,)
        NaN where a score does not apply: skipped alleles, ``llr`` of an insertion and
        so on.
    """
    columns = score_names(model, settings.scores)
    scores = {name: np.full(len(alleles), np.nan) for name in columns}
    placed = [
        _Placed(row, allele, window_pair(genome, allele, settings.window))
        for row, allele in enumerate(alleles)
        if not allele.skip
    ]
    if "llr" in scores or "entropy" in scores:
        _fill_masked(scores, model, placed, settings)
    several = [item for item in placed if not item.allele.is_substitution]
    if not gives_base_probabilities(model):
        several = placed
    heads = [name for name in columns if name.startswith("head")]
    for names, items, differences in (
        (["pll"], several, likelihood_differences),
        (["ll"], placed, likelihood_differences),
        (heads, placed, head_differences),
    ):
        if names and set(names) <= scores.keys():
            values = differences(model, [item.pair for item in items], settings)
            for name, column in zip(names, values.T, strict=True):
                scores[name][[item.row for item in items]] = column
    if "distance" in scores:
        values = embedding_differences(model, [item.pair for item in placed], settings)
        scores["distance"][[item.row for item in placed]] = np.linalg.norm(
            values, axis=1
        )
    return scores


def score_classically(
    model: ClassicalModel,
    genome: Genome,
    alleles: Sequence[Allele],
    settings: ScoreSettings,
) -> dict[str, NDArray[np.float64]]:
    """Score alleles with a classical model; as `score_alleles`."""
    scores = {name: np.full(len(alleles), np.nan) for name in model.scores}
    rows = [row for row, allele in enumerate(alleles) if not allele.skip]
    own = [alleles[row] for row in rows]
    pairs = [window_pair(genome, allele, settings.window) for allele in own]
    found = model.differences(own, pairs, strand=settings.strand)
    for name, values in found.items():
        scores[name][rows] = values
    return scores


class _Placed(NamedTuple):
    row: int
    allele: Allele
    pair: WindowPair


class _MaskedBase(NamedTuple):
    """One base of a window, to be predicted."""

    ids: bytes
    position: int


def _fill_masked(
    scores: dict[str, NDArray[np.float64]],
    model: Any,
    placed: Sequence[_Placed],
    settings: ScoreSettings,
) -> None:
    """Scores that come from one masked base: ``llr`` and ``entropy``."""
    asked: dict[_MaskedBase, int] = {}
    places = []
    for item in placed:
        reference = item.pair.reference.ids
        # An insertion behind the last base of a contig has no base of its own.
        position = min(item.pair.offset, len(reference) - 1)
        base = _MaskedBase(reference.tobytes(), position)
        wanted = "entropy" in scores or item.allele.is_substitution
        places.append(asked.setdefault(base, len(asked)) if wanted else -1)
    logs = masked_marginals(
        model,
        [np.frombuffer(base.ids, np.uint8) for base in asked],
        [base.position for base in asked],
        settings,
    )
    for item, place in zip(placed, places, strict=True):
        if place >= 0 and "entropy" in scores:
            scores["entropy"][item.row] = entropy_bits(logs[place])
        if item.allele.is_substitution and "llr" in scores:
            reference, alternate = alphabet.encode(
                item.allele.reference + item.allele.alternate
            )
            difference = logs[place, alternate] - logs[place, reference]
            scores["llr"][item.row] = difference
