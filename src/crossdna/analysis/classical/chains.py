"""Markov chains and hidden Markov models of sequence, fitted to a genome."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from crossdna import alphabet
from crossdna.analysis.evaluation.baselines import MAX_ORDER, fit_baselines
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from crossdna.alphabet import Strand
    from crossdna.analysis.evaluation.baselines import MarkovChain
    from crossdna.data.variants import Allele, WindowPair

_PIECE: Final = 500
_MOST_PIECES: Final = 400
_ITERATIONS: Final = 25
_MOST_STATES: Final = 32


class Chain(Protocol):
    """Anything that gives a sequence a likelihood."""

    description: str

    def log_likelihoods(self, sequences: Sequence[NDArray[np.uint8]]) -> NDArray:
        """Natural logarithms (sequences,) on the strand that is given; N skipped."""


class ChainScorer:
    """Scores alleles by the likelihood of their windows; see `opening`."""

    def __init__(self, chain: Chain, fingerprint: str) -> None:
        self.chain, self.fingerprint = chain, fingerprint
        self.scores = {
            "ll": "Log-likelihood ratio: log p(alternate window) - log p(reference "
            f"window of equal length) under {chain.description}, natural logarithm; "
            "negative = less expected than the reference"
        }

    def differences(
        self, alleles: Sequence[Allele], pairs: Sequence[WindowPair], *, strand: Strand
    ) -> dict[str, NDArray[np.float64]]:
        """Alternate minus reference window."""
        windows = [pair.alternate.ids for pair in pairs]
        windows += [pair.reference.ids for pair in pairs]
        turned = map(alphabet.reverse_complement, windows)
        found = alphabet.of_strand(
            strand,
            lambda: self.chain.log_likelihoods(windows),
            lambda: self.chain.log_likelihoods(list(turned)),
        )
        return {"ll": found[: len(pairs)] - found[len(pairs) :]}


class VisibleChain:
    """A Markov chain; see `crossdna.analysis.evaluation.baselines`."""

    def __init__(self, chain: MarkovChain, order: int) -> None:
        self.chain, self.order = chain, order
        self.description = f"a Markov chain of order {order}"

    @classmethod
    def fit(cls, sequences: Iterable[NDArray[np.uint8]], order: int) -> VisibleChain:
        """Count both strands.

        Raises
        ------
        CrossDNAError
            An order that is too high, or too little sequence.
        """
        if order > MAX_ORDER:
            raise CrossDNAError(f"a Markov chain has an order of 0 to {MAX_ORDER}")
        # The two-sided models that come of it too need words with a middle.
        fitted = fit_baselines(sequences, max_order=order + order % 2)
        return cls(fitted.markov, order)

    def log_likelihoods(
        self, sequences: Sequence[NDArray[np.uint8]]
    ) -> NDArray[np.float64]:
        """Sum over A C G T of the log-probability after the bases before them."""
        found = np.zeros(len(sequences))
        for row, ids in enumerate(sequences):
            columns = np.flatnonzero(ids < alphabet.NUM_BASES)
            rows = np.zeros_like(columns)
            said = self.chain.probabilities(ids[None], rows, columns, self.order)
            found[row] = np.log(said[np.arange(len(columns)), ids[columns]]).sum()
        return found


class HiddenChain:
    """A hidden Markov model with a distribution over A C G T in each state.

    Fitted by expectation and maximisation (hmmlearn) to pieces of both strands spread
    evenly over the sequences.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.description = f"a hidden Markov model of {model.n_components} states"

    @classmethod
    def fit(cls, sequences: Iterable[NDArray[np.uint8]], states: int) -> HiddenChain:
        """Fit, always from the same start.

        Raises
        ------
        CrossDNAError
            Too many states, no sequence, or hmmlearn is not installed.
        """
        try:
            from hmmlearn.hmm import CategoricalHMM
        except ImportError:
            raise CrossDNAError(
                "hidden Markov models need hmmlearn: pip install 'crossdna[classical]'"
            ) from None
        if not 1 <= states <= _MOST_STATES:
            raise CrossDNAError(f"states are 1 to {_MOST_STATES}, got {states}")
        parts = [part for ids in sequences for part in _known(ids, _PIECE)]
        if not parts:
            raise CrossDNAError(
                "a hidden Markov model was given no bases to learn from"
            )
        step = math.ceil(len(parts) / _MOST_PIECES)
        chosen = parts[::step]
        chosen += [alphabet.reverse_complement(ids) for ids in chosen]
        model = CategoricalHMM(
            states,
            n_features=alphabet.NUM_BASES,
            n_iter=_ITERATIONS,
            tol=1e-4 * sum(map(len, chosen)),
            random_state=0,
        )
        # How well it has converged shows in the likelihood, not in its log.
        logging.getLogger("hmmlearn").setLevel(logging.ERROR)
        rows = np.concatenate(chosen).astype(np.int64)[:, None]
        model.fit(rows, [len(ids) for ids in chosen])
        return cls(model)

    @classmethod
    def uniform(cls) -> HiddenChain:
        """One state that gives A C G T alike: what is known without a sequence."""
        from hmmlearn.hmm import CategoricalHMM

        model = CategoricalHMM(1, n_features=alphabet.NUM_BASES)
        model.startprob_, model.transmat_ = np.ones(1), np.ones((1, 1))
        model.emissionprob_ = np.full((1, alphabet.NUM_BASES), 1 / alphabet.NUM_BASES)
        return cls(model)

    def log_likelihoods(
        self, sequences: Sequence[NDArray[np.uint8]]
    ) -> NDArray[np.float64]:
        """Sum over the stretches between N."""
        return np.array(
            [
                sum(
                    float(self.model.score(part.astype(np.int64)[:, None]))
                    for part in _known(ids, len(ids), least=1)
                )
                for ids in sequences
            ]
        )


def _known(
    ids: NDArray[np.uint8], longest: int, *, least: int = 20
) -> list[NDArray[np.uint8]]:
    """Pieces without N of at most `longest` bases, short rests left out."""
    edges = np.flatnonzero(np.diff(ids < alphabet.NUM_BASES, prepend=0, append=0))
    pieces = []
    for start, end in edges.reshape(-1, 2):
        cuts = range(int(start), int(end), max(1, longest))
        pieces += [ids[cut : min(cut + longest, int(end))] for cut in cuts]
    return [piece for piece in pieces if len(piece) >= least]
