"""Caduceus, Ph and PS: configuration, network, table of published checkpoints."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from crossdna.models.caduceus.configuration import CaduceusConfig
from crossdna.models.caduceus.modeling import CaduceusModel
from crossdna.models.caduceus.tasks import (
    CaduceusForMaskedLM,
    CaduceusForSequenceClassification,
    CaduceusForTokenClassification,
)
from crossdna.tokenizers.character import CaduceusTokenizer

__all__ = [
    "CaduceusConfig",
    "CaduceusForMaskedLM",
    "CaduceusForSequenceClassification",
    "CaduceusForTokenClassification",
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
    AutoModelForTokenClassification.register(
        CaduceusConfig, CaduceusForTokenClassification
    )
    AutoTokenizer.register(CaduceusConfig, CaduceusTokenizer)
