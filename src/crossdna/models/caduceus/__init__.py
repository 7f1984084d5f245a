"""Caduceus, Ph and PS: configuration, network, table of published checkpoints."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from crossdna.models.caduceus.configuration import CaduceusConfig
from crossdna.models.caduceus.modeling import (
    CaduceusForMaskedLM,
    CaduceusForSequenceClassification,
    CaduceusModel,
)
from crossdna.tokenizers.character import CaduceusTokenizer

__all__ = [
    "CaduceusConfig",
    "CaduceusForMaskedLM",
    "CaduceusForSequenceClassification",
    "CaduceusModel",
    "register",
]


def register() -> None:
    """Make transformers' Auto classes know this family."""
    AutoConfig.register(CaduceusConfig.model_type, CaduceusConfig)
    AutoModel.register(CaduceusConfig, CaduceusModel)
    AutoModelForMaskedLM.register(CaduceusConfig, CaduceusForMaskedLM)
    AutoModelForSequenceClassification.register(
        CaduceusConfig, CaduceusForSequenceClassification
    )
    AutoTokenizer.register(CaduceusConfig, CaduceusTokenizer)
