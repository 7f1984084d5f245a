"""One alphabet for all families that read one id per base.

Everything in this package speaks the ids of `crossdna.alphabet`. Families from
elsewhere have ids of their own: given ours, they would read special tokens and answer
all the same. `speak_alphabet` puts the translation into the model, where nobody can
forget it.
"""

from __future__ import annotations

import threading
from typing import Any, Final

import torch

from crossdna import alphabet
from crossdna.errors import CrossDNAError

# Ids of A C G T N [MASK] [PAD], in the order of `crossdna.alphabet`, by model_type.
_CHARACTER_LAYOUT: Final = (7, 8, 9, 10, 11, 3, 4)
IDS_BY_FAMILY: Final = {
    "crossdna": tuple(range(alphabet.VOCAB_SIZE)),
    "hyenadna": _CHARACTER_LAYOUT,
    "caduceus": _CHARACTER_LAYOUT,
    # Wrapped networks translate bases to their tokens themselves.
    "tokenized_dna": tuple(range(alphabet.VOCAB_SIZE)),
}
_BUFFER: Final = "ids_of_alphabet"
_reading: Final = threading.local()
"""Of each thread: which networks are asked by the model around them, which has
translated already."""


def alphabet_ids(config: Any) -> tuple[int, ...]:
    """Ids that a model's family gives A C G T N [MASK] [PAD].

    Raises
    ------
    CrossDNAError
        The family does not read one id per base.
    """
    if config.model_type not in IDS_BY_FAMILY:
        raise CrossDNAError(
            f"models of type {config.model_type!r} do not read one id per base; "
            "use them with their own tokenizer"
        )
    return IDS_BY_FAMILY[config.model_type]


def require_batch(ids: torch.Tensor) -> None:
    """Raise a `CrossDNAError` for ids that are not (batch, length), or for none."""
    if ids.dim() != 2 or ids.numel() == 0:
        raise CrossDNAError(
            f"input_ids must be (batch, length) with bases, got {tuple(ids.shape)}"
        )


def require_letters(low: int, high: int) -> None:
    """Raise a `CrossDNAError` if a batch's lowest or highest id is no letter."""
    if low < 0 or high >= alphabet.VOCAB_SIZE:
        raise CrossDNAError(
            f"input_ids from {low} to {high}: letters are 0 to "
            f"{alphabet.VOCAB_SIZE - 1}, in the order of crossdna.alphabet"
        )


def require_alphabet(model: Any) -> None:
    """Raise a `CrossDNAError` for a model that would read our ids as its own."""
    ours = IDS_BY_FAMILY["crossdna"]
    own = IDS_BY_FAMILY.get(model.config.model_type)
    if own != ours and not hasattr(model, _BUFFER):
        raise CrossDNAError(
            f"this {model.config.model_type} model reads ids of its own: open it with "
            "crossdna.analysis.inference.load_model, which teaches it those of "
            "crossdna.alphabet"
        )


def speak_alphabet(model: Any) -> Any:
    """Make a model take ids of `crossdna.alphabet` and give logits over A C G T N.

    The model itself is changed and returned, for asking, not for saving and training
    elsewhere: what it is asked is translated on the way in, and logits over its own
    vocabulary are put in our order on the way out. Logits of classes stay as they are.
    The network under a head (`base_model`) takes our ids too when it is asked directly.
    Doing it twice does nothing more.

    Raises
    ------
    CrossDNAError
        The family does not read one id per base.
    """
    ids = alphabet_ids(model.config)
    if ids == IDS_BY_FAMILY["crossdna"] or hasattr(model, _BUFFER):
        return model
    network = model.base_model
    for part in {model, network}:
        part.register_buffer(_BUFFER, torch.tensor(ids), persistent=False)
    if network is not model:
        network.register_forward_pre_hook(_translate_direct_input, with_kwargs=True)
        model.register_forward_hook(_stop_reading, always_call=True)
    model.register_forward_pre_hook(_translate_input, with_kwargs=True)
    if hasattr(model, "lm_head"):
        model.register_forward_hook(_translate_logits)
    return model


def _translate_input(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if hasattr(model, "lm_head") and kwargs.get("labels") is not None:
        raise CrossDNAError(
            "labels would be read in the model's own ids; compute the loss outside"
        )
    if model.base_model is not model:
        _networks_read().add(id(model.base_model))
    return _translated(model, args, kwargs)


def _translate_direct_input(
    network: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if id(network) in _networks_read():
        return args, kwargs
    return _translated(network, args, kwargs)


def _translated(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    table = getattr(model, _BUFFER)
    if args:
        return (table[args[0]], *args[1:]), kwargs
    return args, {**kwargs, "input_ids": table[kwargs["input_ids"]]}


def _networks_read() -> set[int]:
    """Ids of the networks that models of this thread are asking just now."""
    if not hasattr(_reading, "networks"):
        _reading.networks = set()
    return _reading.networks


def _stop_reading(model: Any, *_: Any) -> None:
    _networks_read().discard(id(model.base_model))


def _translate_logits(model: Any, _args: tuple[Any, ...], output: Any) -> Any:
    order = getattr(model, _BUFFER)[: len(alphabet.LETTERS)]
    if isinstance(output, tuple):
        raise CrossDNAError("ask for named outputs (return_dict), not for a tuple")
    output.logits = output.logits[..., order]
    return output
