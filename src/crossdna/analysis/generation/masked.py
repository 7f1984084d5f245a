"""Sequences from a masked model: hidden at first, revealed in rounds.

Each round asks the model about all hidden bases at once, draws a whole sequence from
its answers that meets all constraints, and keeps a random part of it; the rest is
hidden again. What is kept can thus always be completed. With one base a round this is
any-order sampling; more bases a round are faster and less coherent. Sweeps go on from
there: every base is hidden and drawn again given the others (Gibbs sampling in random
blocks).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from crossdna import alphabet
from crossdna.analysis.generation.sampling import draw_sequence
from crossdna.analysis.inference import base_log_probabilities

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crossdna.alphabet import Strand
    from crossdna.analysis.generation.constraints import Plan
    from crossdna.analysis.generation.sampling import Truncation


def reveal(
    model: Any,
    plan: Plan,
    truncation: Truncation,
    randoms: Sequence[np.random.Generator],
    *,
    rounds: int,
    sweeps: int,
    strand: Strand,
) -> NDArray[np.uint8]:
    """Draw one sequence for each generator: (sequences, length).

    Parameters
    ----------
    rounds
        Times that the model is asked to fill a template, or in a sweep.
    sweeps
        How often every base is drawn again.
    """
    free = np.flatnonzero(plan.allowed.sum(1) > 1)
    ids = np.tile(plan.allowed.argmax(1).astype(np.uint8), (len(randoms), 1))
    ids[:, free] = alphabet.MASK
    for sweep in range(1 + sweeps):
        orders = np.stack([random.permutation(free) for random in randoms])
        for places in np.array_split(orders, min(rounds, max(1, len(free))), axis=1):
            if sweep:
                np.put_along_axis(ids, places, np.uint8(alphabet.MASK), 1)
            logs = _ask(model, ids, strand)
            for row, random in enumerate(randoms):
                weights = np.where(
                    (ids[row] == alphabet.MASK)[:, None],
                    truncation.weights(logs[row]),
                    ids[row][:, None] == np.arange(alphabet.NUM_BASES),
                )
                drawn = draw_sequence(plan, weights, random)
                ids[row, places[row]] = drawn[places[row]]
    return ids


def _ask(model: Any, ids: NDArray[np.uint8], strand: Strand) -> NDArray[np.float64]:
    asked = torch.from_numpy(ids.astype(np.int64)).to(model.device)
    logs = base_log_probabilities(model, asked, strand=strand)
    return logs.double().cpu().numpy()
