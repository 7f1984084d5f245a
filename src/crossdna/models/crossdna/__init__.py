"""CrossDNA: configuration, network and the map of published checkpoints."""

from crossdna.models.crossdna.configuration import CrossDNAConfig
from crossdna.models.crossdna.modeling import (
    CrossDNAForMaskedLM,
    CrossDNAForSequenceClassification,
    CrossDNAForTokenClassification,
    CrossDNAModel,
    CrossDNAModelOutput,
    CrossDNAPredictionOutput,
)
from crossdna.models.crossdna.streams import StrandContext

__all__ = [
    "CrossDNAConfig",
    "CrossDNAForMaskedLM",
    "CrossDNAForSequenceClassification",
    "CrossDNAForTokenClassification",
    "CrossDNAModel",
    "CrossDNAModelOutput",
    "CrossDNAPredictionOutput",
    "StrandContext",
]
