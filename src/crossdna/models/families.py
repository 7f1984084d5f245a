"""The families of language models that can be trained here, by model_type.

Ours have networks in this package, the others in transformers. Which network belongs to
a configuration is transformers' business (the Auto classes); this table says how a
family reads.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMaskedLM

from crossdna.errors import CrossDNAError
from crossdna.tokenizers.character import CaduceusTokenizer, HyenaDNATokenizer
from crossdna.tokenizers.nucleotide import CrossDNATokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Reading = Literal["masked", "causal"]


class Family(NamedTuple):
    """How a family reads a sequence.

    Attributes
    ----------
    model_type
        As in config.json.
    reading
        masked: hidden bases from both sides; causal: the next base from the left.
    tokenizer
        Of families whose ids are fixed, one per base; None: any tokenizer will do.
    """

    model_type: str
    reading: Reading
    tokenizer: type | None = None

    @property
    def config_class(self) -> type[PreTrainedConfig]:
        """Its configuration."""
        return CONFIG_MAPPING[self.model_type]


_TABLE: Final = (
    Family("crossdna", "masked", CrossDNATokenizer),
    Family("caduceus", "masked", CaduceusTokenizer),
    Family("hyenadna", "causal", HyenaDNATokenizer),
    Family("bert", "masked"),
    Family("roberta", "masked"),
    Family("esm", "masked"),
    Family("modernbert", "masked"),
    Family("big_bird", "masked"),
    Family("gpt2", "causal"),
    Family("gpt_neox", "causal"),
    Family("llama", "causal"),
    Family("mistral", "causal"),
    Family("gemma", "causal"),
    Family("mamba", "causal"),
    Family("mamba2", "causal"),
)
FAMILIES: Final = {one.model_type: one for one in _TABLE}


def family(model_type: Any) -> Family:
    """Look a family up.

    Raises
    ------
    CrossDNAError
        None of that name; the nearest one is suggested.
    """
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    near = difflib.get_close_matches(str(model_type), FAMILIES, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise CrossDNAError(
        f"model.type is {model_type!r}; {hint}models that can be trained: "
        f"{', '.join(FAMILIES)}"
    )


def new_language_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Build a family's language model with random weights from torch's generator."""
    reading = family(config.model_type).reading
    auto: Any = AutoModelForMaskedLM if reading == "masked" else AutoModelForCausalLM
    return auto.from_config(config)
