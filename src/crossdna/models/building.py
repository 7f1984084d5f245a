"""New language models of any family, by model_type."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMaskedLM

from crossdna.errors import CrossDNAError
from crossdna.models.tokenized.operators import use_operators
from crossdna.tokenizers.bases import base_tokenizer
from crossdna.tokenizers.character import CaduceusTokenizer, HyenaDNATokenizer
from crossdna.tokenizers.nucleotide import CrossDNATokenizer
from crossdna.zoo.families import FAMILIES, NATIVE

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

    from crossdna.zoo.families import Objective

_NATIVE_TOKENIZERS: Final[dict[str, Any]] = {
    "caduceus": CaduceusTokenizer,
    "crossdna": CrossDNATokenizer,
    "hyenadna": HyenaDNATokenizer,
}


def objective_of(model_type: Any) -> Objective:
    """Whether a family predicts hidden bases or the next one.

    Raises
    ------
    CrossDNAError
        No such family; the nearest name is suggested.
    """
    if model_type in NATIVE:
        return NATIVE[model_type]
    if model_type in FAMILIES:
        return FAMILIES[model_type].objective
    known = sorted({*NATIVE, *FAMILIES})
    near = difflib.get_close_matches(str(model_type), known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise CrossDNAError(
        f"model.type is {model_type!r}; {hint}models that can be trained: "
        f"{', '.join(known)}"
    )


def config_class(model_type: str) -> type[PreTrainedConfig]:
    """The configuration of a family."""
    return CONFIG_MAPPING[model_type]


def default_tokenizer(model_type: str) -> Any:
    """One id per base: a family's own ids, or those of `crossdna.alphabet`."""
    return _NATIVE_TOKENIZERS.get(model_type, base_tokenizer)()


def new_language_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Build a family's language model with random weights from torch's generator.

    Weights that no computation reads do not learn: data parallel training would wait
    for their gradients.

    Raises
    ------
    CrossDNAError
        Sizes that do not go together.
    """
    masked = objective_of(config.model_type) == "masked"
    auto: Any = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    try:
        model = auto.from_config(config)
    except CrossDNAError:
        raise
    except (ValueError, RuntimeError, AssertionError) as error:
        raise CrossDNAError(f"model: {str(error).splitlines()[0]}") from error
    use_operators(model)
    if config.model_type in FAMILIES:
        unused = FAMILIES[config.model_type].unused
        for name, parameter in model.named_parameters():
            if any(re.search(pattern, name) for pattern in unused):
                parameter.requires_grad = False
    return model


def require_reads(model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    """Refuse a model that cannot read inputs such as these, before a long run.

    Parameters
    ----------
    batch
        ``input_ids`` and perhaps ``attention_mask``, (batch, tokens); the rest is not
        read.

    Raises
    ------
    CrossDNAError
        Most often too few positions (``max_position_embeddings``).
    """
    read = {k: batch[k] for k in ("input_ids", "attention_mask") if k in batch}
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(**read)
    except CrossDNAError:
        raise
    except (IndexError, RuntimeError, ValueError) as error:
        length = batch["input_ids"].shape[1]
        reason = str(error).splitlines()[0]
        raise CrossDNAError(
            f"this {model.config.model_type} model cannot read {length} tokens "
            f"({reason}); change windows.length or the model's positions"
        ) from error
    finally:
        model.train(training)
