"""Which models a fine-tuned directory answers with when it is more than one.

Networks that differ in nothing but their random start agree where the data decides,
and differ where it does not: their mean is usually better than the best of them, and
how far they are apart says how sure it is (deep ensembles, Lakshminarayanan et al.,
2017).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from crossdna.errors import CrossDNAError
from crossdna.files import atomic_open

if TYPE_CHECKING:
    from collections.abc import Sequence

ENSEMBLE_NAME: Final = "ensemble.json"


class EnsembleCard(NamedTuple):
    """What lies beside the checkpoint of a directory that answers with several.

    Attributes
    ----------
    members : tuple of str
        Directories of the models, relative to the card's.
    thresholds : tuple of float
        For their mean, chosen on the development set; as in `TaskCard`.
    """

    members: tuple[str, ...]
    thresholds: tuple[float, ...]


def write_ensemble(
    folder: Path, members: Sequence[Path], thresholds: tuple[float, ...]
) -> None:
    """Put the card of an ensemble into a directory that holds its members."""
    names = [str(member.relative_to(folder).as_posix()) for member in members]
    with atomic_open(folder / ENSEMBLE_NAME) as handle:
        json.dump({"members": names, "thresholds": list(thresholds)}, handle, indent=1)


def read_ensemble(folder: Path) -> EnsembleCard | None:
    """Read the card of an ensemble, if `folder` is one.

    Raises
    ------
    CrossDNAError
        A damaged card, or one whose members are not there.
    """
    path = folder / ENSEMBLE_NAME
    if not path.is_file():
        return None
    try:
        table: dict[str, Any] = json.loads(path.read_text())
        card = EnsembleCard(tuple(table["members"]), tuple(table["thresholds"]))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CrossDNAError(f"{path}: damaged: {error}") from None
    for member in card.members:
        if not (folder / member).is_dir():
            raise CrossDNAError(
                f"{path}: its model {member} is not there; copy the directory whole, "
                "or delete this file to predict with the checkpoint beside it alone"
            )
    return card
