"""What a head's outputs mean, label by label.

The logits of a head that chooses among classes mean nothing one by one: a number added
to all of them changes no probability, so a variant may raise a class's logit and make
the class less probable. Log-odds have no such freedom.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from crossdna.analysis.inference import card_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Head(NamedTuple):
    """How a model's logits are read.

    Attributes
    ----------
    kind
        ``classes``: one of them is true; ``labels``: each is true or not; ``numbers``.
    labels : tuple of str
        Names of the outputs as letters, digits and ``_``: of two classes the second,
        which the other follows from; of a single label or number ``""``.
    means, scales : (numbers,)
        From the network's numbers to the unit of the training labels.
    in_unit : bool
        Whether these are known.
    """

    kind: Literal["classes", "labels", "numbers"]
    labels: tuple[str, ...]
    means: NDArray[np.float64]
    scales: NDArray[np.float64]
    in_unit: bool = False

    def outputs(self, logits: NDArray[Any]) -> NDArray[np.float64]:
        """Log-odds (natural logarithm of p / (1 - p)), or numbers in their unit.

        Parameters
        ----------
        logits : (..., logits)

        Returns
        -------
        (..., labels)
        """
        logits = np.asarray(logits, np.float64)
        if self.kind == "numbers":
            return logits * self.scales + self.means
        if self.kind == "labels":
            return logits
        if logits.shape[-1] == 2:
            return logits[..., 1:] - logits[..., :1]
        others = np.stack(
            [
                np.logaddexp.reduce(np.delete(logits, number, -1), axis=-1)
                for number in range(logits.shape[-1])
            ],
            axis=-1,
        )
        difference: NDArray[np.float64] = logits - others
        return difference

    def what(self, label: str) -> str:
        """What the output of a label is, in two or three words."""
        name = "prediction" if self.kind == "numbers" else "log-odds"
        return f"{name} of {label}" if label else name

    def meaning(self, label: str) -> str:
        """The same with its unit."""
        if self.kind != "numbers":
            return f"{self.what(label)} (natural logarithm of p / (1 - p))"
        unit = "the unit of the training labels" if self.in_unit else "the model's unit"
        return f"{self.what(label)} in {unit}"


def read_head(model: Any) -> Head:
    """Find out what a fine-tuned model's logits are.

    By its configuration (`problem_type`, as in transformers), and for numbers by the
    task.json that ``crossdna finetune`` puts beside the checkpoint.
    """
    config, count = model.config, model.config.num_labels
    problem = getattr(config, "problem_type", None)
    means, scales = np.zeros(count), np.ones(count)
    names = [str(config.id2label[number]) for number in range(count)]
    if problem == "regression" or (problem is None and count == 1):
        card = card_of(model)
        in_unit = card is not None and len(card.scales) == count
        if card is not None and in_unit:
            means, scales = np.array(card.means), np.array(card.scales)
        return Head("numbers", _plain(names), means, scales, in_unit)
    if problem == "multi_label_classification" or count == 1:
        return Head("labels", _plain(names), means, scales)
    chosen = _plain(names)
    return Head("classes", chosen[1:] if count == 2 else chosen, means, scales)


def _plain(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels that come out alike, whatever the case, have their numbers behind."""
    if len(labels) == 1:
        return ("",)
    plain = [re.sub(r"[^A-Za-z0-9_]", "_", label) for label in labels]
    shared = Counter(name.upper() for name in plain)
    return tuple(
        f"{name}_{number}" if shared[name.upper()] > 1 else name
        for number, name in enumerate(plain)
    )
