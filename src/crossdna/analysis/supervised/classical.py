"""Classical predictors to beat: majority, k-mers, position weights, Markov chains.

All are fitted on the training set; what is left open (regularisation, order) is decided
on the development set.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy import sparse
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from crossdna import alphabet
from crossdna.analysis.classical.chains import HiddenChain
from crossdna.analysis.classical.motifs import best_sites
from crossdna.data import metrics
from crossdna.data.labelled import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crossdna.analysis.classical.motifs import Motifs
    from crossdna.data.labelled import LabelledSet, Task

KMERS = (3, 4, 5, 6)
_STRENGTHS = (0.001, 0.01, 0.1, 1.0)
_LEAST_SPREAD = 1e-5
_ORDERS = (0, 1, 2, 3, 4, 5)
_STATES = (2, 4, 8)
_PSEUDO = 1.0
_TEMPERATURES = tuple(float(value) for value in np.geomspace(0.02, 1, 18))


class Predictor(Protocol):
    """Anything that scores sequences."""

    @property
    def name(self) -> str:
        """What to call it in a table."""

    def scores(self, sequences: Sequence[NDArray[np.uint8]]) -> NDArray:
        """(sequences, outputs); see `crossdna.data.metrics`."""


class Majority:
    """Says what is most common in training: shares of classes, means of quantities."""

    name = "majority"

    def __init__(self, train: LabelledSet) -> None:
        self.per_base = train.task.kind == "per-base"
        labels = train.labels
        if train.task.kind in ("regression", "multilabel"):
            self.constant = labels.mean(0)
        else:
            flat = np.concatenate(list(labels)) if self.per_base else labels
            counts = np.bincount(flat[flat != IGNORED], minlength=train.task.outputs)
            self.constant = counts / counts.sum()

    def scores(self, sequences: Sequence[NDArray[np.uint8]]) -> NDArray:
        """The same for every sequence (or base)."""
        if not self.per_base:
            return np.tile(self.constant, (len(sequences), 1))
        ragged = np.empty(len(sequences), object)
        ragged[:] = [np.tile(self.constant, (len(ids), 1)) for ids in sequences]
        return ragged


class LinearModel:
    """Logistic or ridge regression on features; its strength is chosen on `valid`.

    `selected` is how well the chosen one does there, by the metric it is chosen by.

    Parameters
    ----------
    features, held_out : (rows, features), dense or sparse
        Of the training and the development set; scaled here, without shifting, by the
        deviations in training.
    """

    def __init__(
        self, train: LabelledSet, valid: LabelledSet, features: Any, held_out: Any
    ) -> None:
        self.task = train.task
        spread = StandardScaler(with_mean=False).fit(features).scale_
        # What does not vary in training tells nothing and must not explode in testing.
        self.scale = np.where(spread > _LEAST_SPREAD, 1 / spread, 0.0)
        scaled, other = self._scaled(features), self._scaled(held_out)
        self.selected = -np.inf
        for strength in _STRENGTHS:
            fitted = [
                _fit(self.task, scaled, labels, strength)
                for labels in _columns(self.task, train.labels)
            ]
            found = metrics.selecting(
                self.task, valid.labels, self._apply(fitted, other)
            )
            if found > self.selected:
                self.selected, self.fitted, self.strength = found, fitted, strength

    def scores(self, features: Any) -> NDArray:
        """(rows, outputs)."""
        return self._apply(self.fitted, self._scaled(features))

    def _scaled(self, features: Any) -> Any:
        if sparse.issparse(features):
            return (features @ sparse.diags(self.scale)).tocsr()
        return features * self.scale

    def _apply(self, fitted: list[Any], features: Any) -> NDArray:
        if self.task.kind == "regression":
            return np.stack([model.predict(features) for model in fitted], axis=1)
        if self.task.kind == "multilabel":
            parts = [_probabilities(model, features, 2)[:, 1] for model in fitted]
            return np.stack(parts, axis=1)
        return _probabilities(fitted[0], features, self.task.outputs)


class KmerModel:
    """Counts of 3- to 6-mers on both strands, then logistic or ridge regression."""

    name = "k-mer"

    def __init__(self, train: LabelledSet, valid: LabelledSet) -> None:
        counts, held_out = kmer_counts(train.table.ids), kmer_counts(valid.table.ids)
        self.linear = LinearModel(train, valid, counts, held_out)

    def scores(self, sequences: Sequence[NDArray[np.uint8]]) -> NDArray:
        """(sequences, outputs)."""
        return self.linear.scores(kmer_counts(sequences))


def kmer_counts(sequences: Sequence[NDArray[np.uint8]]) -> sparse.csr_matrix:
    """Share of each 3- to 6-mer among the words of its length in a sequence.

    A k-mer and its reverse complement count as one; words with N are left out.

    Returns
    -------
    (sequences, 2760) sparse
    """
    blocks = []
    for k in KMERS:
        column = _canonical_columns(k)
        rows, columns, values = [], [], []
        for row, ids in enumerate(sequences):
            codes = column[_words(ids, k)]
            distinct, counts = np.unique(codes, return_counts=True)
            rows.append(np.full(len(distinct), row))
            columns.append(distinct)
            values.append(counts / max(len(codes), 1))
        shape = (len(sequences), int(column.max()) + 1)
        entries = (np.concatenate(rows), np.concatenate(columns))
        blocks.append(sparse.csr_matrix((np.concatenate(values), entries), shape=shape))
    return sparse.hstack(blocks, format="csr")


def _words(ids: NDArray[np.uint8], k: int) -> NDArray[np.int64]:
    """Codes of the words of k bases without N, base 4, leftmost base highest."""
    if len(ids) < k:
        return np.zeros(0, np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(ids.astype(np.int64), k)
    windows = windows[(windows < alphabet.NUM_BASES).all(1)]
    return windows @ (4 ** np.arange(k - 1, -1, -1))


def _canonical_columns(k: int) -> NDArray[np.int64]:
    """Column of each of the 4**k words: that of the smaller of both strands."""
    codes = np.arange(4**k)
    mirrored = np.zeros_like(codes)
    for place in range(k):
        digit = codes >> 2 * place & 3
        mirrored |= (3 - digit) << 2 * (k - 1 - place)
    return np.unique(np.minimum(codes, mirrored), return_inverse=True)[1]


def _columns(task: Task, labels: NDArray) -> list[NDArray]:
    if task.kind in ("regression", "multilabel"):
        return list(labels.T)
    return [labels]


def _fit(task: Task, features: Any, labels: NDArray, strength: float) -> Any:
    if task.kind == "regression":
        return Ridge(alpha=1 / strength).fit(features, labels)
    if len(np.unique(labels)) < 2:
        return DummyClassifier().fit(features, labels)
    model = LogisticRegression(C=strength, max_iter=300)
    with warnings.catch_warnings():
        # Not quite converged is good enough: the development set judges it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, labels)


def _probabilities(model: Any, features: Any, classes: int) -> NDArray[np.float64]:
    """(rows, classes); zero for those that training had no row of."""
    found = np.zeros((features.shape[0], classes))
    found[:, model.classes_.astype(int)] = model.predict_proba(features)
    return found


class MarkovClassifier:
    """Log-odds of Markov chains, one per class; the order is chosen.

    Both strands of the training sequences are counted, and the strand of a sequence is
    the one that fits better.
    """

    name = "markov"

    def __init__(self, train: LabelledSet, valid: LabelledSet) -> None:
        self.prior = _prior(train)
        best = -np.inf
        for order in _ORDERS:
            tables = [
                _chain([ids for ids, y in _rows(train) if y == number], order)
                for number in range(train.task.outputs)
            ]
            odds = self._odds(valid.table.ids, tables, order)
            found = metrics.selecting(train.task, valid.labels, _softmax(odds))
            if found > best:
                best, self.tables, self.order = found, tables, order
        odds = self._odds(valid.table.ids, self.tables, self.order)
        self.temperature = _temperature(odds, valid.labels)

    def scores(self, sequences: Sequence[NDArray[np.uint8]]) -> NDArray:
        """(sequences, classes)."""
        odds = self._odds(sequences, self.tables, self.order)
        return _softmax(self.temperature * odds)

    def _odds(
        self, sequences: Sequence[NDArray[np.uint8]], tables: list[NDArray], order: int
    ) -> NDArray:
        odds = np.empty((len(sequences), len(tables)))
        for row, ids in enumerate(sequences):
            strands = [
                _words(ids, order + 1),
                _words(alphabet.reverse_complement(ids), order + 1),
            ]
            odds[row] = [
                np.logaddexp(*(table[words].sum() for words in strands))
                for table in tables
            ]
        return odds + self.prior


class HiddenMarkovClassifier:
    """Log-odds of hidden Markov models, one per class; how many states is chosen.

    The strand of a sequence is the one that fits better.
    """

    name = "hidden Markov"

    def __init__(self, train: LabelledSet, valid: LabelledSet) -> None:
        self.prior = _prior(train)
        best = -np.inf
        for states in _STATES:
            chains = [
                _hidden_chain(train, number, states)
                for number in range(train.task.outputs)
            ]
            odds = self._odds(valid.table.ids, chains)
            found = metrics.selecting(train.task, valid.labels, _softmax(odds))
            if found > best:
                best, self.chains, self.states = found, chains, states
        odds = self._odds(valid.table.ids, self.chains)
        self.temperature = _temperature(odds, valid.labels)

    def scores(self, sequences: Sequence[NDArray[np.uint8]]) -> NDArray:
        """(sequences, classes)."""
        return _softmax(self.temperature * self._odds(sequences, self.chains))

    def _odds(
        self, sequences: Sequence[NDArray[np.uint8]], chains: list[HiddenChain]
    ) -> NDArray:
        turned = [alphabet.reverse_complement(ids) for ids in sequences]
        odds = [
            np.logaddexp(*(chain.log_likelihoods(strand) for strand in both))
            for chain, both in ((chain, (sequences, turned)) for chain in chains)
        ]
        return np.stack(odds, axis=1) + self.prior


def _hidden_chain(train: LabelledSet, number: int, states: int) -> HiddenChain:
    """Fit the model of a class; one that training lacks is never called anyway."""
    sequences = [ids for ids, y in _rows(train) if y == number]
    return HiddenChain.fit(sequences, states) if sequences else HiddenChain.uniform()


class MotifModel:
    """Best site of each motif in a file, then logistic or ridge regression."""

    def __init__(
        self, name: str, motifs: Motifs, train: LabelledSet, valid: LabelledSet
    ) -> None:
        self.name, self.motifs = name, motifs
        sites, held_out = self._sites(train.table.ids), self._sites(valid.table.ids)
        self.linear = LinearModel(train, valid, sites, held_out)

    def scores(self, sequences: Sequence[NDArray[np.uint8]]) -> NDArray:
        """(sequences, outputs)."""
        return self.linear.scores(self._sites(sequences))

    def _sites(self, sequences: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        return best_sites(self.motifs, sequences).scores


def _rows(data: LabelledSet) -> list[tuple[NDArray[np.uint8], int]]:
    return list(zip(data.table.ids, data.labels, strict=True))


def _prior(train: LabelledSet) -> NDArray[np.float64]:
    """(classes,) logarithm of how many rows each has."""
    # Minus infinity for a class without any: it is never called.
    with np.errstate(divide="ignore"):
        return np.log(np.bincount(train.labels, minlength=train.task.outputs))


def _chain(sequences: Sequence[NDArray[np.uint8]], order: int) -> NDArray[np.float64]:
    """Log-probability of the last base of each word of `order` + 1 bases."""
    counts = np.full(4 ** (order + 1), _PSEUDO)
    for ids in sequences:
        for strand in (ids, alphabet.reverse_complement(ids)):
            counts += np.bincount(_words(strand, order + 1), minlength=len(counts))
    table = counts.reshape(-1, 4)
    return np.log(table / table.sum(1, keepdims=True)).ravel()


class PositionWeights:
    """Log-odds of position weight matrices of pairs of bases, one per class.

    For windows of one length: P(base at i | base at i - 1) for each position, on the
    strand that is given.
    """

    name = "position weights"

    def __init__(self, train: LabelledSet, valid: LabelledSet) -> None:
        self.length = int(train.table.lengths[0])
        self.prior = _prior(train)
        pairs = _pairs(train.table.ids, self.length)
        places = np.arange(self.length)
        tables = []
        for number in range(train.task.outputs):
            counts = np.full((self.length, 25), _PSEUDO)
            for row in pairs[train.labels == number]:
                counts[places, row] += 1
            table = counts.reshape(self.length, 5, 5)
            tables.append(np.log(table / table.sum(2, keepdims=True)))
        self.tables = np.stack(tables).reshape(len(tables), self.length, 25)
        odds = self._odds(valid.table.ids)
        self.temperature = _temperature(odds, valid.labels)

    def scores(self, sequences: Sequence[NDArray[np.uint8]]) -> NDArray:
        """(sequences, classes)."""
        return _softmax(self.temperature * self._odds(sequences))

    def _odds(self, sequences: Sequence[NDArray[np.uint8]]) -> NDArray:
        pairs = _pairs(sequences, self.length)
        places = np.arange(self.length)
        odds = [table[places, pairs].sum(1) for table in self.tables]
        return np.stack(odds, axis=1) + self.prior


def _pairs(sequences: Sequence[NDArray[np.uint8]], length: int) -> NDArray[np.int64]:
    """Code of each base with the one before it; N stands before the first."""
    ids = np.stack([row[:length] for row in sequences]).astype(np.int64)
    before = np.pad(ids, ((0, 0), (1, 0)), constant_values=alphabet.N)[:, :-1]
    return 5 * before + ids


def _temperature(odds: NDArray, labels: NDArray) -> float:
    """The factor under which log-odds give the likeliest probabilities.

    Bases are not independent, so plain products of probabilities are far too sure.
    """
    rows = np.arange(len(labels))
    loss = [
        -np.log(np.maximum(_softmax(factor * odds)[rows, labels], 1e-12)).mean()
        for factor in _TEMPERATURES
    ]
    return _TEMPERATURES[int(np.argmin(loss))]


def _softmax(odds: NDArray) -> NDArray[np.float64]:
    exponents = np.exp(odds - odds.max(1, keepdims=True))
    return exponents / exponents.sum(1, keepdims=True)
