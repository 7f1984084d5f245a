"""Loading a checkpoint's tokenizer: the right one, or an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer

from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from pathlib import Path


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
