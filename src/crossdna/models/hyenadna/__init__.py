"""HyenaDNA: configuration, network and the table of published checkpoints."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from crossdna.models.hyenadna.configuration import HyenaDNAConfig
from crossdna.models.hyenadna.modeling import HyenaDNAModel
from crossdna.models.hyenadna.tasks import (
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
)
from crossdna.tokenizers.character import HyenaDNATokenizer

__all__ = [
    "HyenaDNAConfig",
    "HyenaDNAForCausalLM",
    "HyenaDNAForSequenceClassification",
    "HyenaDNAForTokenClassification",
    "HyenaDNAModel",
    "register",
]


def register() -> None:
    """Make transformers' Auto classes know this family."""
    AutoConfig.register(HyenaDNAConfig.model_type, HyenaDNAConfig)
    AutoModel.register(HyenaDNAConfig, HyenaDNAModel)
    AutoModelForCausalLM.register(HyenaDNAConfig, HyenaDNAForCausalLM)
    AutoModelForSequenceClassification.register(
        HyenaDNAConfig, HyenaDNAForSequenceClassification
    )
    AutoModelForTokenClassification.register(
        HyenaDNAConfig, HyenaDNAForTokenClassification
    )
    AutoTokenizer.register(HyenaDNAConfig, HyenaDNATokenizer)
