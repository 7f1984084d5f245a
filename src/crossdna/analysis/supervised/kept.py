"""What a judged baseline came to, kept so that a resumed run need not fit it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crossdna.analysis.statistics import Interval
from crossdna.analysis.supervised.comparison import Judged, Orientation, judge
from crossdna.analysis.supervised.finetuned import pack_scores, unpack_scores
from crossdna.files import atomic_open, atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from crossdna.analysis.supervised.classical import Predictor
    from crossdna.data.labelled_inputs import Sets


def judged_once(path: Path, fit: Callable[[], Predictor], sets: Sets) -> Judged:
    """Fit and judge a baseline, or read back what was found before.

    Parameters
    ----------
    path
        A ``.json`` file; the arrays lie beside it as ``.npz``. Whoever calls this sees
        to it that the folder belongs to these sets.
    """
    if path.is_file():
        return read_judged(path)
    judged = judge(fit(), sets.valid, sets.test)
    write_judged(judged, path)
    return judged


def write_judged(judged: Judged, path: Path) -> None:
    """Write all of a result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {
        **pack_scores(judged.scores),
        "resampled": judged.resampled,
    }
    with atomic_path(path.with_suffix(".npz")) as temporary:
        np.savez(temporary, **arrays)
    facts = {
        "name": judged.name,
        "thresholds": judged.thresholds,
        "metrics": {name: value._asdict() for name, value in judged.metrics.items()},
        "orientation": judged.orientation._asdict(),
    }
    # Last: this file says that the other is whole.
    with atomic_open(path) as handle:
        json.dump(facts, handle, indent=1)


def read_judged(path: Path) -> Judged:
    """Read what `write_judged` wrote."""
    facts = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as arrays:
        loaded = dict(arrays)
    resampled = loaded.pop("resampled")
    return Judged(
        name=facts["name"],
        thresholds=tuple(facts["thresholds"]),
        scores=unpack_scores([loaded]),
        metrics={name: Interval(**value) for name, value in facts["metrics"].items()},
        resampled=resampled,
        orientation=Orientation(**facts["orientation"]),
    )
