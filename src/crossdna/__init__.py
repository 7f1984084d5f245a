"""crossdna: from a genome file to answers with DNA language models.

``import crossdna`` is instant: names load on first use, and our models join
transformers' Auto classes as soon as transformers itself is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from crossdna._autoclasses import register_when_transformers_loads

if TYPE_CHECKING:
    from crossdna.models.crossdna import (
        CrossDNAConfig,
        CrossDNAForMaskedLM,
        CrossDNAForSequenceClassification,
        CrossDNAForTokenClassification,
        CrossDNAModel,
    )
    from crossdna.tokenizers.nucleotide import CrossDNATokenizer

__version__ = "0.1.0"

_PUBLIC = {
    "CrossDNAConfig": "crossdna.models.crossdna",
    "CrossDNAModel": "crossdna.models.crossdna",
    "CrossDNAForMaskedLM": "crossdna.models.crossdna",
    "CrossDNAForSequenceClassification": "crossdna.models.crossdna",
    "CrossDNAForTokenClassification": "crossdna.models.crossdna",
    "CrossDNATokenizer": "crossdna.tokenizers.nucleotide",
}

__all__ = [
    "CrossDNAConfig",
    "CrossDNAForMaskedLM",
    "CrossDNAForSequenceClassification",
    "CrossDNAForTokenClassification",
    "CrossDNAModel",
    "CrossDNATokenizer",
    "__version__",
]

register_when_transformers_loads()


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'crossdna' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
