"""What labelled sets are, in a few hex digits, so that changed ones are noticed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from crossdna.data.sequence_tables import digest

if TYPE_CHECKING:
    from crossdna.data.labelled import LabelledSet
    from crossdna.data.labelled_inputs import Sets


def label_digest(data: LabelledSet) -> str:
    """32 hex digits that change with any label, or with what an output is called."""
    value = hashlib.blake2b(digest_size=16)
    for name in data.task.names:
        value.update(name.encode() + b"\0")
    for label in data.labels:
        value.update(np.ascontiguousarray(label).tobytes())
    return value.hexdigest()


def set_digests(sets: Sets) -> dict[str, str]:
    """Digests of the bases (``train_digest``) and labels (``train_label_digest``)."""
    found = {}
    for name, data in sets.named().items():
        found[f"{name}_digest"] = digest(data.table)
        found[f"{name}_label_digest"] = label_digest(data)
    return found
