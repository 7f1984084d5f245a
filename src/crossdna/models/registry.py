"""Which model families exist, and their entry into transformers' Auto classes.

Importing this module registers them; `crossdna` does so when transformers loads.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from crossdna.models import caduceus, hyenadna, tokenized
from crossdna.models.crossdna import (
    CrossDNAConfig,
    CrossDNAForMaskedLM,
    CrossDNAForSequenceClassification,
    CrossDNAForTokenClassification,
    CrossDNAModel,
)
from crossdna.tokenizers import kmer
from crossdna.tokenizers.nucleotide import CrossDNATokenizer

AutoConfig.register(CrossDNAConfig.model_type, CrossDNAConfig)
AutoModel.register(CrossDNAConfig, CrossDNAModel)
AutoModelForMaskedLM.register(CrossDNAConfig, CrossDNAForMaskedLM)
AutoModelForSequenceClassification.register(
    CrossDNAConfig, CrossDNAForSequenceClassification
)
AutoModelForTokenClassification.register(CrossDNAConfig, CrossDNAForTokenClassification)
AutoTokenizer.register(CrossDNAConfig, CrossDNATokenizer)

hyenadna.register()
caduceus.register()
tokenized.register()
kmer.register()
