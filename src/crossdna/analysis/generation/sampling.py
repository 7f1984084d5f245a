"""Drawing bases: temperature, truncation, and whole sequences that fit a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crossdna.analysis.generation.constraints import Plan

# What truncation leaves of a choice: taken only where constraints leave nothing else.
_LAST_RESORT: Final = 1e-30
# A way this unlikely is as good as closed; where it is the only one it stays open.
_LEAST: Final = 1e-200


@dataclass(frozen=True, kw_only=True, slots=True)
class Truncation:
    """How a model's probabilities are sharpened before a draw.

    Attributes
    ----------
    temperature : float
        Log-probabilities are divided by it; below 1 sharpens.
    top_k : int
        Only the so many most probable choices; 0 for all.
    top_p : float
        Only the most probable choices that together have this probability.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise CrossDNAError(f"temperature must be above 0, got {self.temperature}")
        if self.top_k < 0:
            raise CrossDNAError(f"top_k must be 0 or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise CrossDNAError(f"top_p must be above 0 and at most 1: {self.top_p}")

    def weights(self, logs: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities (..., choices) from log-probabilities.

        A choice that is cut away keeps a trace: constraints outrank truncation.
        """
        scaled = np.asarray(logs, np.float64) / self.temperature
        weights = np.exp(scaled - scaled.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        order = np.argsort(-weights, axis=-1, kind="stable")
        ranked = np.take_along_axis(weights, order, -1)
        # The choice that reaches top_p is the last one in.
        cut = ranked.cumsum(-1) - ranked >= self.top_p
        if self.top_k:
            cut[..., self.top_k :] = True
        gone = np.zeros_like(cut)
        np.put_along_axis(gone, order, cut, -1)
        return np.where(gone, weights * _LAST_RESORT, weights)


def draw(weights: NDArray[np.float64], uniform: float) -> int:
    """Choose by a number from 0 to 1; weights (choices,) need not add up to one."""
    sums = weights.cumsum()
    choice = int(np.searchsorted(sums, uniform * sums[-1], side="right"))
    # Rounding may leave the number at the very end.
    return min(choice, int(np.flatnonzero(weights)[-1]))


def draw_sequence(
    plan: Plan, weights: NDArray[np.float64], random: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw a sequence from independent bases, given that it meets all constraints.

    Backward sums over the plan's states, then one draw per base from the left: exact.

    Parameters
    ----------
    weights : (length, 4)
        Of each base at each position, not all zero.

    Returns
    -------
    ids : (length,) uint8
    """
    sums = _sums(plan, weights)
    ids = np.empty(plan.length, np.uint8)
    state = count = 0
    for position, uniform in enumerate(random.random(plan.length)):
        onward = np.zeros(4)
        for base in map(int, np.flatnonzero(plan.allowed[position])):
            gc = count + int(plan.gc_step[base])
            if gc < sums.shape[2]:
                onward[base] = sums[position + 1, plan.steps[state, base], gc]
        after = weights[position] * onward
        # Where every product of traces is too small for a number, any way will do.
        base = draw(after if after.any() else onward, uniform)
        ids[position] = base
        state = int(plan.steps[state, base])
        count += int(plan.gc_step[base])
    return ids


def _sums(plan: Plan, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weight of all ways from each state to the end, each position scaled to 1."""
    sums = np.zeros(plan.reach.shape)
    sums[-1] = plan.reach[-1]
    for position in reversed(range(plan.length)):
        here = sums[position]
        for base in np.flatnonzero(plan.allowed[position]):
            after = sums[position + 1][plan.steps[:, base]]
            step = int(plan.gc_step[base])
            size = after.shape[1] - step
            here[:, :size] += weights[position, base] * after[:, step:]
        here /= max(here.max(), _LEAST)
        np.maximum(here, _LEAST, out=here, where=plan.reach[position])
    return sums
