"""Cards of the checkpoints this project knows, and what can run a checkpoint at hand.

A card informs people. What runs a checkpoint is decided by the `model_type` in its
config.json and nothing else, never by its name.
"""

from __future__ import annotations

import difflib
import functools
import importlib.resources
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from crossdna.config import from_table
from crossdna.errors import CrossDNAError
from crossdna.zoo.families import FAMILIES, NATIVE, needed_code
from crossdna.zoo.shipped import shipped_cards

Runs = Literal["native", "transformers", "remote code", "nothing"]
NATIVE_TYPES = tuple(NATIVE)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One published set of weights.

    Attributes
    ----------
    name
        Hub id, where there is one.
    tested
        "shipped" (weights of this project, in the package), "weights", "fixture"
        (small random weights in the published format, with recorded outputs of the
        published code), "format" (tokenizer or class only) or "no": what this project
        has checked.
    parameters
        Trainable ones.
    context
        Longest sequence, in bases.
    window
        Recommended length, in bases, where it is not the whole context.
    pretraining, licence
        Where they differ within the family.
    """

    name: str
    tested: Literal["shipped", "weights", "fixture", "format", "no"]
    parameters: int | None = None
    context: int | None = None
    window: int | None = None
    pretraining: str | None = None
    licence: str | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the checkpoints of a family share; None: not known here.

    Attributes
    ----------
    model_type
        As in config.json.
    objective
        "masked" or "causal".
    runs
        "native" (this package), "transformers" (its own classes, wrapped: see
        `crossdna.models.tokenized`), "remote code" (code that comes with the
        checkpoint, run only when the user says so) or "nothing" (another package).
    strands
        How the two strands enter, and what to do about it.
    any_length
        Whether no checkpoint's length is limited.
    layer, pooling
        Recommended for embeddings.
    padding
        What padding does, and the policy.
    licence
        As its authors' page on the hub said when this was written; None: not checked.
    """

    name: str
    model_type: str
    objective: Literal["masked", "causal"]
    runs: Runs
    tokenizer: str
    strands: str
    layer: str
    pooling: str
    padding: str
    hardware: str
    any_length: bool = False
    pretraining: str | None = None
    licence: str | None = None
    checkpoint: tuple[Checkpoint, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Zoo:
    family: tuple[Family, ...]


class Card(NamedTuple):
    """A checkpoint and its family in one; fields as there."""

    name: str
    family: str
    model_type: str
    parameters: int | None
    context: int | Literal["any length"] | None
    window: int | None
    objective: str
    tokenizer: str
    pretraining: str | None
    strands: str
    layer: str
    pooling: str
    padding: str
    licence: str | None
    hardware: str
    runs: str
    tested: str


class LocalCheckpoint(NamedTuple):
    """What a directory's config.json says, and what can run it."""

    directory: str
    model_type: str
    architectures: tuple[str, ...]
    runs: str


@functools.cache
def cards() -> tuple[Card, ...]:
    """List all cards, those of shipped weights first, then family by family."""
    text = importlib.resources.files("crossdna.zoo").joinpath("cards.toml").read_text()
    zoo = from_table(tomllib.loads(text), _Zoo, where="cards.toml")
    own = next(family for family in zoo.family if family.model_type == "crossdna")
    ours = {"licence": "Apache-2.0"}
    shipped = [
        _card(own, from_table({**ours, "name": name, **facts}, Checkpoint, where=name))
        for name, facts in shipped_cards().items()
    ]
    known = [
        _card(family, checkpoint)
        for family in zoo.family
        for checkpoint in family.checkpoint
    ]
    return (*shipped, *known)


def card(name: str) -> Card:
    """Find the card of a checkpoint by its whole name.

    Raises
    ------
    CrossDNAError
        No such card; suggests the nearest names.
    """
    known = {card.name: card for card in cards()}
    if name in known:
        return known[name]
    plain = {_plain(one): one for one in known}
    near = [found.name for found in cards_with(name)[:3]] or [
        plain[one]
        for one in difflib.get_close_matches(_plain(name), plain, n=3, cutoff=0.4)
    ]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise CrossDNAError(f"no card for {name!r} and no such directory{hint}")


def cards_with(part: str) -> tuple[Card, ...]:
    """Cards whose name or kind of model has `part` in it, whatever case and dashes."""
    wanted = _plain(part)
    return tuple(
        card
        for card in cards()
        if wanted and (wanted in _plain(card.name) or wanted == _plain(card.model_type))
    )


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def describe_directory(directory: str | Path) -> LocalCheckpoint:
    """Say what runs the checkpoint in a directory.

    Raises
    ------
    CrossDNAError
        No config.json, one that cannot be read, or one without a model_type.
    """
    path = Path(directory) / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise CrossDNAError(f"{directory}: no config.json, so no checkpoint") from None
    except (OSError, ValueError) as error:
        raise CrossDNAError(f"{path}: cannot be read: {error}") from None
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise CrossDNAError(f"{path}: names no model_type, so nothing can be chosen")
    return LocalCheckpoint(
        directory=str(directory),
        model_type=model_type,
        architectures=tuple(config.get("architectures") or ()),
        runs=runner(model_type, remote_code=bool(needed_code(config))),
    )


def runner(model_type: str, *, remote_code: bool = False) -> str:
    """Say what runs a family: "native", "transformers", "remote code" or "nothing".

    Parameters
    ----------
    model_type
        As in config.json.
    remote_code
        Whether the checkpoint brings code of its own. Our own families do without it;
        for any other it means that transformers' classes do not read the weights.
    """
    if model_type in (*NATIVE_TYPES, "tokenized_dna"):
        return "native"
    if remote_code:
        return "remote code"
    return "transformers" if model_type in FAMILIES else "nothing"


def _card(family: Family, checkpoint: Checkpoint) -> Card:
    return Card(
        name=checkpoint.name,
        family=family.name,
        model_type=family.model_type,
        parameters=checkpoint.parameters,
        context=checkpoint.context or ("any length" if family.any_length else None),
        window=checkpoint.window or checkpoint.context,
        objective=family.objective,
        tokenizer=family.tokenizer,
        pretraining=checkpoint.pretraining or family.pretraining,
        strands=family.strands,
        layer=family.layer,
        pooling=family.pooling,
        padding=family.padding,
        licence=checkpoint.licence or family.licence,
        hardware=family.hardware,
        runs=family.runs,
        tested=checkpoint.tested,
    )
