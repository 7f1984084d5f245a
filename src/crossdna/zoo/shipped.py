"""Weights that come with this package, found by a bare name and without a network.

They lie in ``crossdna/weights/NAME`` of an installed package and in ``weights/NAME`` of
a source tree, in Hugging Face's layout, with a ``card.json`` of what the table of
models shows. A directory of the user's own goes before a name.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any, Final

from crossdna.errors import CrossDNAError

CARD_NAME: Final = "card.json"
_PACKAGE: Final = Path(__file__).resolve().parents[1]


def weights_folder() -> Path:
    """Where the shipped weights lie: in the package, or else in its source tree."""
    installed = _PACKAGE / "weights"
    return installed if installed.is_dir() else _PACKAGE.parents[1] / "weights"


def shipped() -> dict[str, Path]:
    """Directories of the shipped weights, by name."""
    return {
        path.parent.name: path.parent
        for path in sorted(weights_folder().glob("*/config.json"))
    }


def shipped_cards() -> dict[str, dict[str, Any]]:
    """What the table of models says of each; see `crossdna.zoo.cards.Card`."""
    return {
        name: json.loads((path / CARD_NAME).read_text())
        for name, path in shipped().items()
    }


def resolve(name: str | Path) -> str:
    """Give the directory of shipped weights for their name, anything else back.

    Raises
    ------
    CrossDNAError
        A name that begins as ours do and that there is no directory or weights of.
    """
    text = str(name)
    known = shipped()
    if text in known and not Path(text).is_dir():
        return str(known[text])
    if not text.startswith("crossdna-") or "/" in text or Path(text).exists():
        return text
    near = difflib.get_close_matches(text, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    names = ", ".join(known) or "none"
    raise CrossDNAError(
        f"no directory {text} and no weights of that name{hint} (shipped: {names})"
    )
