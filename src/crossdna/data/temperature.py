"""Temperature scaling: probabilities no surer than the development set allows.

A network that was trained for long on few sequences is right more or less as often as
before, but far too sure. One number that its logits are divided by mends that without
changing an order or a decision at one half (Guo et al., 2017).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_expit, log_softmax

from crossdna.data.metrics import flatten_bases

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crossdna.data.labelled import Task

HIGHEST: Final = 20.0


def fit_temperature(task: Task, labels: NDArray, logits: NDArray) -> float:
    """The temperature with the lowest log-loss on a development set.

    At least 1, which leaves logits as they are, since a small set that happens to be
    told apart without an error would make everything certain; at most `HIGHEST`.

    Parameters
    ----------
    labels
        As in `crossdna.data.labelled.LabelledSet`.
    logits : (rows, outputs)
        Of a per-base task an object array of (length, outputs).
    """
    if task.kind == "regression":
        return 1.0
    if task.kind == "per-base":
        logits, labels = flatten_bases(logits, labels)
    logits = np.asarray(logits, np.float64)

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        if task.kind == "multilabel":
            return -float(log_expit(np.where(labels > 0.5, scaled, -scaled)).mean())
        taken = np.take_along_axis(log_softmax(scaled, 1), labels[:, None], 1)
        return -float(taken.mean())

    found = minimize_scalar(loss, bounds=(0.0, np.log(HIGHEST)), method="bounded")
    # The search never quite reaches an end of its range.
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0
