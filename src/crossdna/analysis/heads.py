"""What a head's outputs mean, label by label.

The logits of a head that chooses among classes mean nothing one by one: a number added
to all of them changes no probability, so a variant may raise a class's logit and make
the class less probable. Log-odds have no such freedom.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from crossdna.analysis.inference import card_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Head(NamedTuple):
    """How a model's logits are read.

    Attributes
    ----------
    kind
        ``classes``: one of them is true; ``labels``: each is true or not; ``numbers``.
    labels : tuple of str
        Names of the outputs as letters, digits and ``_``: of two classes the second,
        which the other follows from; of a single label or number ``""``.
    means, scales : tuple of float
        From the network's numbers to those of the training labels; empty where nobody
        knows, and numbers stay as they are.
    """

    kind: Literal["classes", "labels", "numbers"]
    labels: tuple[str, ...]
    means: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()

    def outputs(self, logits: Tensor) -> Tensor:
        """Log-odds (natural logarithm of p / (1 - p)), or numbers in their unit.

        Parameters
        ----------
        logits : (..., logits)

        Returns
        -------
        (..., labels)
        """
        if self.kind == "labels":
            return logits
        if self.kind == "numbers":
            if not self.scales:
                return logits
            scales, means = map(logits.new_tensor, (self.scales, self.means))
            return logits * scales + means
        if logits.shape[-1] == 2:
            return logits[..., 1:] - logits[..., :1]
        own = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
        others = logits[..., None, :].masked_fill(own, -torch.inf)
        return logits - others.logsumexp(-1)

    def what(self, label: str) -> str:
        """What the output of a label is, in two or three words."""
        name = "prediction" if self.kind == "numbers" else "log-odds"
        return f"{name} of {label}" if label else name

    def meaning(self, label: str) -> str:
        """The same with its unit."""
        if self.kind != "numbers":
            return f"{self.what(label)} (natural logarithm of p / (1 - p))"
        unit = "the unit of the training labels" if self.scales else "the model's unit"
        return f"{self.what(label)} in {unit}"


def read_head(model: Any) -> Head:
    """Find out what a fine-tuned model's logits are.

    By its configuration (`problem_type`, as in transformers), and for numbers by the
    task.json that ``crossdna finetune`` puts beside the checkpoint.
    """
    config, count = model.config, model.config.num_labels
    problem = getattr(config, "problem_type", None)
    labels = _plain([str(config.id2label[number]) for number in range(count)])
    if problem == "regression" or (problem is None and count == 1):
        card = card_of(model)
        if card is None or len(card.scales) != count:
            return Head("numbers", labels)
        return Head("numbers", labels, card.means, card.scales)
    if problem == "multi_label_classification" or count == 1:
        return Head("labels", labels)
    return Head("classes", labels[1:] if count == 2 else labels)


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
