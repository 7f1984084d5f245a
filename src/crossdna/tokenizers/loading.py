"""Loading a checkpoint's tokenizer: the right one, or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from transformers import AutoTokenizer
from transformers.utils.hub import cached_file

from crossdna.errors import CrossDNAError

NETWORK_TOKENIZER: Final = "network-tokenizer"
"""Folder in a checkpoint of ours with the tokenizer of the network that it wraps."""


def load_tokenizer(
    name: str | Path, *, trust_remote_code: bool = False, **options: Any
) -> Any:
    """Load the tokenizer of a checkpoint directory or hub id.

    Parameters
    ----------
    name
        Directory or hub id.
    trust_remote_code
        Run tokenizer code that comes with the checkpoint.
    **options
        Of transformers' `AutoTokenizer.from_pretrained`.

    Raises
    ------
    CrossDNAError
        Anything that keeps it from loading. Nothing is put in its place: another
        tokenizer would give the model ids that mean something else.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(name), trust_remote_code=trust_remote_code, **options
        )
    except CrossDNAError as error:
        raise CrossDNAError(f"{name}: {error}") from error
    except Exception as error:
        hint = ""
        if "trust_remote_code" in str(error):
            hint = (
                " (it is code that comes with the checkpoint; --trust-remote-code runs "
                "it, with all your rights)"
            )
        raise CrossDNAError(
            f"{name}: no tokenizer could be loaded{hint}: {error}"
        ) from error
    if len(tokenizer) == 0:
        raise CrossDNAError(f"{name}: its tokenizer has an empty vocabulary")
    return tokenizer


def load_network_tokenizer(name: str | Path, **options: Any) -> Any:
    """Load the tokenizer of the network that a checkpoint of ours wraps.

    It has a folder of its own; earlier versions put it beside the weights. Parameters
    and errors are those of `load_tokenizer`.
    """
    if Path(name).is_dir():
        within = Path(name) / NETWORK_TOKENIZER
        return load_tokenizer(within if within.is_dir() else name, **options)
    found = cached_file(
        str(name),
        f"{NETWORK_TOKENIZER}/tokenizer_config.json",
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if found is not None:
        options["subfolder"] = NETWORK_TOKENIZER
    return load_tokenizer(name, **options)
