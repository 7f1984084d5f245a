"""What can stand in a recipe, told by the dataclasses that read it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
import types
import typing
from pathlib import Path
from typing import Any, Final, NamedTuple

from crossdna.config import to_table, toml_value

_NAMES: Final = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    Path: "path",
}


class Key(NamedTuple):
    """One key of a section."""

    name: str
    values: str
    """What it takes, in words."""
    default: str | None
    """As TOML; empty: not set, None: the key must be given."""
    text: str
    """What it does; empty where nothing says so."""


def recipe_keys(kind: type) -> tuple[Key, ...]:
    """List the keys of a dataclass, in its order, with the strings below its fields."""
    hints = typing.get_type_hints(kind)
    texts = _field_strings(kind)
    return tuple(
        Key(
            field.name,
            _in_words(hints[field.name]),
            _default(field),
            texts.get(field.name, ""),
        )
        for field in dataclasses.fields(kind)
    )


def config_keys(kind: type) -> tuple[Key, ...]:
    """List the fields of a configuration that its NumPy docstring names."""
    hints = inspect.get_annotations(kind, eval_str=True)
    return tuple(
        Key(name, choices or _in_words(hints[name]), _toml(getattr(kind, name)), text)
        for names, choices, text in _numpy_parameters(inspect.getdoc(kind) or "")
        for name in names
    )


def markdown_list(keys: tuple[Key, ...]) -> str:
    """Write keys as a Markdown list that reads as well on a terminal.

    Neighbours of which the same is said share an item.
    """
    groups = itertools.groupby(keys, key=lambda key: key.text or key.name)
    return "\n".join(_item(list(group)) for _, group in groups)


def _item(keys: list[Key]) -> str:
    names = ", ".join(f"`{key.name}`" for key in keys)
    values = " or ".join(dict.fromkeys(key.values for key in keys))
    known = {None: "must be given", "": "optional"}
    defaults = [known.get(key.default, f"default `{key.default}`") for key in keys]
    if len(set(defaults)) == 1:
        defaults = defaults[:1]
    facts = f"{values}; {', '.join(defaults).replace(', default ', ', ')}"
    text = f": {keys[0].text}" if keys[0].text else ""
    return textwrap.fill(
        f"- {names} ({facts}){text}",
        width=88,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _field_strings(kind: type) -> dict[str, str]:
    """Read the string literal below each field, which Python itself throws away."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[field.target.id] = _one_line(below.value.value)
    return found


def _numpy_parameters(doc: str) -> list[tuple[list[str], str, str]]:
    """Split the section Parameters into names, choices where listed, and the text."""
    section = re.search(
        r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)", doc, re.MULTILINE | re.DOTALL
    )
    parts = re.split(r"^(?=\S)", section[1] if section else "", flags=re.MULTILINE)
    found = []
    for part in filter(None, parts):
        head, _, text = part.partition("\n")
        names, _, kind = head.partition(" : ")
        listed = re.findall(r'"[^"]*"', kind)
        choices = " or ".join(f"`{choice}`" for choice in listed)
        found.append((names.split(", "), choices, _one_line(text)))
    return found


def _one_line(text: str) -> str:
    """Join lines, with Markdown's quotes, and TOML's way to say None: not at all."""
    text = re.sub(r"\bNone\b", "not set", text.replace("``", "`"))
    return " ".join(text.split())


def _in_words(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        words = [_in_words(part) for part in parts if part is not type(None)]
        return " or ".join(dict.fromkeys(words))
    if origin is typing.Literal:
        return " or ".join(f"`{toml_value(part)}`" for part in parts)
    if origin is tuple:
        plural = {"text": "texts", "path": "paths"}
        word = _in_words(parts[0])
        return f"list of {plural.get(word, word + 's')}"
    return "table" if dict in (hint, origin) else _NAMES.get(hint, hint.__name__)


def _default(field: dataclasses.Field[Any]) -> str | None:
    if field.default is not dataclasses.MISSING:
        return _toml(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return _toml(field.default_factory())
    return None


def _toml(value: Any) -> str:
    return "" if value is None else toml_value(to_table(value))
