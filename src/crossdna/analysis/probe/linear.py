"""Linear probe: what a frozen model's embeddings say about two classes of windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from crossdna import alphabet
from crossdna.analysis.statistics import Interval, metric_interval
from crossdna.data.annotation import CDS, INTERGENIC, REPEAT
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from crossdna.data.annotation import Annotation
    from crossdna.data.regions import Region

KMER_SIZES = (3, 4, 5)
_PENALTIES = tuple(10.0**power for power in range(-5, 0))
_FOLDS = 5
_FEWEST = 2 * _FOLDS


class LabelledWindows(NamedTuple):
    """Windows of two classes."""

    ids: NDArray[np.uint8]
    """(windows, length), forward strand."""
    labels: NDArray[np.int64]
    """(windows,): 1 for the positive class."""


class ProbeScore(NamedTuple):
    """How well a classifier tells the classes of windows it was not fitted on."""

    auroc: Interval
    """Area under the ROC curve; 0.5 by chance."""
    mcc: Interval
    """Matthews correlation of the predicted classes; 0 by chance."""
    description: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeSettings:
    """What is probed."""

    window: int = 384
    """Bases in a window."""
    windows_per_class: int = 600
    """At most so many windows of each class, in training and in held-out regions."""
    batch_size: int = 32
    """Windows per forward pass."""
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("window", "windows_per_class", "batch_size", "resamples"):
            value = getattr(self, name)
            if value < 1:
                raise CrossDNAError(f"{name} must be positive, got {value}")
        if self.windows_per_class < _FEWEST:
            raise CrossDNAError(
                f"windows_per_class must be at least {_FEWEST}, two for each of the "
                f"{_FOLDS} folds, got {self.windows_per_class}"
            )


class Features(NamedTuple):
    """Numbers for each window, to train on and to be judged by."""

    train: NDArray[np.floating]
    """(training windows, features)"""
    held_out: NDArray[np.floating]
    """(held-out windows, features)"""


def draw_coding_windows(
    annotation: Annotation,
    regions: Sequence[Region],
    settings: ProbeSettings,
    *,
    where: str,
) -> LabelledWindows:
    """Draw as many coding windows (label 1) as intergenic ones (label 0).

    Windows do not overlap. Every base of a coding one is CDS; no base of an intergenic
    one lies in a gene, and at most half of them are lower-case repeats.

    Parameters
    ----------
    regions
        Where to look, 0-based half-open.
    where
        What to call these regions in an error.

    Raises
    ------
    CrossDNAError
        Fewer than ten windows of a class.
    """
    length = settings.window
    places: tuple[list[tuple[str, int]], ...] = ([], [])
    for region in regions:
        track = annotation.class_track(region.contig, region.start, region.end)
        coding = track.classes == CDS
        outside = track.classes == INTERGENIC
        # Repeats are told apart from intergenic bases, and lie in introns as well: a
        # window that is half intergenic and has no genic base is between genes.
        no_gene = outside | (track.classes == REPEAT)
        for place, inside in zip(places, (coding, no_gene), strict=True):
            for start in _starts_within(inside, length):
                core = inside if inside is coding else outside
                if core[start : start + length].mean() >= 0.5:
                    place.append((region.contig, region.start + start))
    number = min(settings.windows_per_class, *map(len, places))
    if number < _FEWEST:
        raise CrossDNAError(
            f"{where}: only {number} windows of {length} bases fit into one of the two "
            f"classes, which needs {_FEWEST}; take shorter windows or more chromosomes"
        )
    generator = np.random.default_rng(settings.seed)
    ids = []
    for place in places:
        for index in np.sort(generator.permutation(len(place))[:number]):
            contig, start = place[index]
            ids.append(annotation.genome.fetch(contig, start, start + length))
    return LabelledWindows(np.stack(ids), np.repeat([1, 0], number))


def _starts_within(inside: NDArray[np.bool_], length: int) -> Iterator[int]:
    """Tile the runs of True with windows, in the middle of each run."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]])))
    for first, last in edges.reshape(-1, 2).tolist():
        spare = (last - first) % length
        yield from range(first + spare // 2, last - length + 1, length)


def mean_embeddings(
    model: Any,
    ids: NDArray[np.uint8],
    *,
    batch_size: int,
    advance: Callable[[int], None] = lambda windows: None,
) -> NDArray[np.float32]:
    """Embed windows: the mean over bases and over both strands.

    Parameters
    ----------
    model
        A model without a head; see `crossdna.analysis.inference.load_model`.
    ids : (windows, length) uint8

    Returns
    -------
    embeddings : (windows, channels)
    """
    import torch

    from crossdna.analysis.inference import embeddings

    parts = []
    for first in range(0, len(ids), batch_size):
        batch = ids[first : first + batch_size].astype(np.int64)
        on_device = torch.from_numpy(batch).to(model.device)
        states = embeddings(model, on_device, strand="both")
        parts.append(states.mean(1).cpu().numpy())
        advance(len(batch))
    return np.concatenate(parts)


def random_copy(model: Any, *, seed: int) -> Any:
    """Build a model of the same configuration and precision with random weights."""
    import torch

    from crossdna.models.execution import Execution, precision_of
    from crossdna.models.tokenized import TokenizedPreTrainedModel
    from crossdna.models.vocabulary import speak_alphabet

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        copy = type(model)(model.config)
    if isinstance(model, TokenizedPreTrainedModel):
        copy.read_with(model.reader.tokenizer)
    copy = speak_alphabet(copy).to(model.device).eval()
    Execution(precision_of(model)).prepare(copy)
    return copy


def kmer_frequencies(ids: NDArray[np.uint8], size: int) -> NDArray[np.float64]:
    """Share of each k-mer in each window, a k-mer and its reverse complement as one.

    Parameters
    ----------
    ids : (windows, length) uint8
        Words that hold an N are not counted.

    Returns
    -------
    frequencies : (windows, distinct k-mers)
    """
    words = np.lib.stride_tricks.sliding_window_view(ids, size, axis=1)
    places = alphabet.NUM_BASES ** np.arange(size)
    forward = words @ places
    reverse = (3 - words[..., ::-1].astype(np.int64)) @ places
    codes = np.minimum(forward, reverse)
    known = (words < alphabet.NUM_BASES).all(-1)
    rows = np.broadcast_to(np.arange(len(ids))[:, None], codes.shape)
    number = alphabet.NUM_BASES**size
    flat = (rows * number + codes)[known]
    counts = np.bincount(flat, minlength=len(ids) * number).reshape(len(ids), number)
    total = counts.sum(1, keepdims=True).clip(min=1)
    return (counts / total)[:, _smaller_of_both_strands(size)]


def _smaller_of_both_strands(size: int) -> NDArray[np.bool_]:
    codes = np.arange(alphabet.NUM_BASES**size)
    digits = (
        codes[:, None] // alphabet.NUM_BASES ** np.arange(size) % alphabet.NUM_BASES
    )
    mirrored = (3 - digits[:, ::-1]) @ (alphabet.NUM_BASES ** np.arange(size))
    return codes <= mirrored


def score_features(
    train: LabelledWindows,
    held_out: LabelledWindows,
    features: Features,
    settings: ProbeSettings,
    *,
    description: str,
) -> ProbeScore:
    """Fit a logistic regression on training windows and judge it on held-out ones.

    Features are standardised; the penalty is chosen by cross-validation within the
    training windows.
    """
    classifier = _logistic_regression().fit(features.train, train.labels)
    scores = classifier.decision_function(features.held_out)
    return _score(held_out.labels, scores, settings, description)


def score_kmers(
    train: LabelledWindows, held_out: LabelledWindows, settings: ProbeSettings
) -> ProbeScore:
    """The same with k-mer frequencies; k is chosen by cross-validation too."""
    searches = {
        size: _logistic_regression().fit(
            kmer_frequencies(train.ids, size), train.labels
        )
        for size in KMER_SIZES
    }
    size = max(searches, key=lambda size: searches[size].best_score_)
    features = kmer_frequencies(held_out.ids, size)
    scores = searches[size].decision_function(features)
    description = f"{size}-mer frequencies, both strands"
    return _score(held_out.labels, scores, settings, description)


def score_majority(held_out: LabelledWindows, settings: ProbeSettings) -> ProbeScore:
    """The same answer for every window: what chance gives."""
    scores = np.zeros(len(held_out.labels))
    return _score(held_out.labels, scores, settings, "the same answer for every window")


def _score(
    labels: NDArray, scores: NDArray, settings: ProbeSettings, description: str
) -> ProbeScore:
    draws = {"resamples": settings.resamples, "seed": settings.seed}
    return ProbeScore(
        auroc=metric_interval(area_under_roc, labels, scores, **draws),
        mcc=metric_interval(matthews_correlation, labels, scores > 0, **draws),
        description=description,
    )


def area_under_roc(labels: NDArray, scores: NDArray) -> float:
    """Probability that a positive sample scores above a negative one; ties half."""
    positive = labels == 1
    number = int(positive.sum())
    ranks = rankdata(scores)[positive].sum() - number * (number + 1) / 2
    return float(ranks / (number * (len(labels) - number)))


def matthews_correlation(labels: NDArray, predicted: NDArray) -> float:
    """Correlation of true and predicted classes; 0 where one class is predicted."""
    if len(np.unique(predicted)) < 2:
        return 0.0
    return float(np.corrcoef(labels, predicted)[0, 1])


class Projection(NamedTuple):
    """Windows on the two main directions of their embeddings."""

    points: NDArray[np.floating]
    """(held-out windows, 2)"""
    explained: NDArray[np.floating]
    """(2,): share of the variance of the standardised training embeddings."""


def principal_components(features: Features) -> Projection:
    """Project held-out windows on the two main directions of the training windows."""
    mean, spread = features.train.mean(0), features.train.std(0) + 1e-12
    standard = (features.train - mean) / spread
    _, sizes, directions = np.linalg.svd(standard, full_matrices=False)
    points = (features.held_out - mean) / spread @ directions[:2].T
    return Projection(points, (sizes**2 / (sizes**2).sum())[:2])


def _folds() -> Any:
    from sklearn.model_selection import StratifiedKFold

    return StratifiedKFold(_FOLDS, shuffle=True, random_state=0)


def _logistic_regression() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    grid = {"logisticregression__C": _PENALTIES}
    return GridSearchCV(pipeline, grid, cv=_folds(), scoring="neg_log_loss")
