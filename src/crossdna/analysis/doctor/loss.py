"""A trained model expects real DNA more than chance does."""

from __future__ import annotations

import importlib.resources
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from crossdna import alphabet
from crossdna.analysis.doctor.check import Check, within
from crossdna.analysis.variants.readings import window_likelihoods
from crossdna.analysis.variants.score import ScoreSettings
from crossdna.data.variants import Window
from crossdna.models.record import is_language_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Two bits are a blind guess; the composition alone of these sequences needs 1.96.
_BITS: Final = 1.99
_WINDOW: Final = 510
_SPACING: Final = 16


def real_sequences() -> dict[str, str]:
    """Stretches of yeast, human and thale cress: name to bases."""
    package = importlib.resources.files("crossdna.analysis.doctor")
    text = package.joinpath("real_dna.fa").read_text()
    records = [part.splitlines() for part in text.split(">")[1:]]
    return {name: "".join(lines) for name, *lines in records}


def check_loss(model: Any, *, longest: int | None) -> Check:
    """Bits per base on real DNA; the organism that the model knows best counts."""
    if not is_language_model(model):
        return Check("real DNA", "skip", "predicts no bases")
    window = min(_WINDOW, longest or _WINDOW)
    found = {
        name.split()[0]: bits_per_base(model, alphabet.encode(bases[:window]))
        for name, bases in real_sequences().items()
    }
    detail = "bits per base: " + ", ".join(f"{k} {v:.3f}" for k, v in found.items())
    return within("real DNA", min(found.values()), _BITS, detail)


def bits_per_base(model: Any, ids: NDArray[np.uint8]) -> float:
    """Mean of -log2 of the probability of a base (length,), hidden or next."""
    settings = ScoreSettings(scores=("pll",), mask_spacing=_SPACING, strand="+")
    window = Window(ids, np.arange(len(ids)))
    (total,) = window_likelihoods(model, [window], settings)
    return -float(total) / len(ids) / math.log(2)
