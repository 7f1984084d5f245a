"""Bootstrap intervals of ratios and of metrics; every draw comes from a given seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

# Weights of at most this many numbers are held at a time (32 MiB of float64).
_WEIGHTS_AT_ONCE = 1 << 22


class Interval(NamedTuple):
    """A number and its bootstrap interval; NaN where nothing was measured."""

    estimate: float
    low: float
    high: float


class Ratios(NamedTuple):
    """Ratios of sums, for the sample as it is and for each resample of its blocks."""

    estimate: NDArray[np.float64]
    """(...): the ratios of the sums over all blocks."""
    resampled: NDArray[np.float64]
    """(resamples, ...): the same with blocks drawn with replacement; NaN for a single
    block, which drawn again and again says nothing."""


def resampled_ratios(
    numerators: NDArray[np.floating],
    denominators: NDArray[np.floating],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Ratios:
    """Resample blocks (windows of a genome) and form ratios of their sums.

    All ratios of a call, and of two calls with the same seed, size and number of
    blocks, see the same draws, so that their differences are paired.

    Parameters
    ----------
    numerators : (blocks, ...)
        For example the bits spent on each window, for several models.
    denominators : (blocks, ...)
        For example the number of bases; broadcast against `numerators`.
    resamples
        How many times the blocks are drawn with replacement.
    """
    numerators, denominators = np.broadcast_arrays(
        np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    )
    blocks, shape = len(numerators), numerators.shape[1:]
    sums = np.concatenate(
        [numerators.reshape(blocks, -1), denominators.reshape(blocks, -1)], axis=1
    )
    parts = [weights @ sums for weights in _block_weights(blocks, resamples, seed)]
    resampled = np.concatenate([_ratio(part) for part in parts])
    if blocks == 1:
        resampled = np.full_like(resampled, np.nan)
    return Ratios(
        estimate=_ratio(sums.sum(0)).reshape(shape),
        resampled=resampled.reshape(resamples, *shape),
    )


def interval(
    estimate: float, resampled: NDArray[np.floating], *, level: float = 0.95
) -> Interval:
    """Percentile interval of one number.

    Resamples in which the number is undefined (NaN: the class was not drawn) are left
    out; without others there is no interval. If the number itself is undefined, so is
    the interval.

    Parameters
    ----------
    resampled : (resamples,)
    level
        The share of resamples between the two bounds.
    """
    defined = resampled[~np.isnan(resampled)]
    if np.isnan(estimate):
        return Interval(np.nan, np.nan, np.nan)
    if not defined.size:
        return Interval(float(estimate), np.nan, np.nan)
    tail = (1 - level) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(float(estimate), float(low), float(high))


def over_seeds(
    resampled: NDArray[np.floating], *, draws: int = 0
) -> NDArray[np.float64]:
    """Mean over seeds of each resample, with seeds drawn with replacement as well.

    What another training run would have given is then part of the spread. One seed
    cannot tell; then it is that of the resampled rows alone.

    Parameters
    ----------
    resampled : (seeds, resamples)
        A number for each training run, or its difference to the run of another model
        with the same seed, on the same resampled rows.
    draws
        Which seeds are drawn follows from this number and the shape alone.

    Returns
    -------
    (resamples,)
    """
    seeds, resamples = resampled.shape
    generator = np.random.default_rng(draws)
    chosen = generator.integers(seeds, size=(seeds, resamples))
    return np.take_along_axis(resampled, chosen, axis=0).mean(axis=0)


def metric_interval(
    metric: Callable[[NDArray, NDArray], float],
    labels: NDArray,
    scores: NDArray,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of a metric of labels and scores, sample by sample.

    Parameters
    ----------
    metric
        Called as ``metric(labels, scores)``.
    labels, scores : (samples, ...)
        Samples should be independent, for example windows that do not overlap.
        Resamples that hold one class only are drawn again.

    Raises
    ------
    ValueError
        All labels are the same: no metric compares them.
    """
    if len(np.unique(labels)) < 2:
        raise ValueError("a metric needs labels of at least two classes")
    generator = np.random.default_rng(seed)
    values = np.empty(resamples)
    for index in range(resamples):
        rows = _rows_with_two_classes(labels, generator)
        values[index] = metric(labels[rows], scores[rows])
    return interval(metric(labels, scores), values)


def _rows_with_two_classes(
    labels: NDArray, generator: np.random.Generator
) -> NDArray[np.int64]:
    while True:
        rows = generator.integers(len(labels), size=len(labels))
        if len(np.unique(labels[rows])) > 1:
            return rows


def _block_weights(
    blocks: int, resamples: int, seed: int
) -> Iterator[NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    at_once = max(1, _WEIGHTS_AT_ONCE // blocks)
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        drawn = generator.integers(blocks, size=(size, blocks))
        drawn += blocks * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * blocks)
        yield counts.reshape(size, blocks).astype(np.float64)


def _ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    numerators, denominators = np.split(sums, 2, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominators > 0, numerators / denominators, np.nan)
