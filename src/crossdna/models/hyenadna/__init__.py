"""HyenaDNA: configuration, network and the table of published checkpoints."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

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
    # By these names Trainer knows whose labels label smoothing has to shift.
    name = HyenaDNAForCausalLM.__name__
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[HyenaDNAConfig.model_type] = name
    AutoModelForSequenceClassification.register(
        HyenaDNAConfig, HyenaDNAForSequenceClassification
    )
    AutoModelForTokenClassification.register(
        HyenaDNAConfig, HyenaDNAForTokenClassification
    )
    AutoTokenizer.register(HyenaDNAConfig, HyenaDNATokenizer)
