"""Recipes: TOML files read into frozen dataclasses; an unknown key is an error."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

T = TypeVar("T")


def read_recipe(path: str | Path, kind: type[T], overrides: Sequence[str] = ()) -> T:
    """Read a recipe file.

    Parameters
    ----------
    path
        A TOML file.
    kind
        The dataclass to build; its fields may be dataclasses, tuples of them,
        numbers, strings, booleans, paths or ``X | None``.
    overrides
        ``section.key=value`` with a TOML value (a bare word is taken as a string).

    Raises
    ------
    CrossDNAError
        Missing or malformed file, unknown key (the nearest known one is suggested),
        wrong type, or a value that the dataclass refuses.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise CrossDNAError(f"{path}: no such recipe") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CrossDNAError(f"{path}: not a TOML file: {error}") from None
    for text in overrides:
        override(table, text)
    return from_table(table, kind, where=str(path))


def from_table(table: Mapping[str, Any], kind: type[T], where: str = "recipe") -> T:
    """Build the dataclass `kind` from a table, checking every key and type."""
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    for key in table:
        if key not in fields:
            raise CrossDNAError(f"{where}: unknown key {key!r}{_suggest(key, fields)}")
    required = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and name not in table
    ]
    if required:
        raise CrossDNAError(f"{where}: missing key {required[0]!r}")
    values = {
        key: _convert(value, hints[key], f"{where}: {key}")
        for key, value in table.items()
    }
    try:
        return kind(**values)
    except CrossDNAError:
        raise
    except ValueError as error:
        raise CrossDNAError(f"{where}: {error}") from None


def to_table(value: Any) -> Any:
    """Turn a dataclass back into plain tables, lists and numbers; drops None."""
    if dataclasses.is_dataclass(value):
        items = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: to_table(item) for name, item in items if item is not None}
    if isinstance(value, tuple | list):
        return [to_table(item) for item in value]
    if isinstance(value, dict):
        return {key: to_table(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def write_toml(table: Mapping[str, Any]) -> str:
    """Format a table from `to_table` as TOML."""
    return "\n".join(_toml_lines(table, ())) + "\n"


def _toml_lines(table: Mapping[str, Any], prefix: tuple[str, ...]) -> list[str]:
    lines = [
        f"{_toml_key(key)} = {toml_value(value)}"
        for key, value in table.items()
        if not _is_section(value)
    ]
    for key, value in table.items():
        if not _is_section(value):
            continue
        name = ".".join((*prefix, _toml_key(key)))
        for part in [value] if isinstance(value, dict) else value:
            header = f"[{name}]" if isinstance(value, dict) else f"[[{name}]]"
            body = _toml_lines(part, (*prefix, _toml_key(key)))
            lines += ["", header, *body]
    return lines


def _is_section(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, dict) for item in value)
    return isinstance(value, dict)


def _toml_key(key: str) -> str:
    bare = key.replace("_", "").replace("-", "").isalnum() and key.isascii()
    return key if bare else toml_value(key)


def toml_value(value: Any) -> str:
    """Format a truth value, number, text or list as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return repr(value)


def require_same(
    path: Path,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    free: Collection[str] = (),
) -> None:
    """Refuse to go on with a run whose settings are not those it was started with.

    Parameters
    ----------
    path
        Where the settings of before are, for errors.
    before, now
        Tables; what is None in one may be missing in the other.
    free
        ``section.key`` of what may differ.

    Raises
    ------
    CrossDNAError
        Names the first setting that differs.
    """
    was, is_now = _flat(before), _flat(now)
    for key in {**is_now, **was}:
        if was.get(key) != is_now.get(key) and key not in free:
            raise CrossDNAError(
                f"{path}: the run was started with {key} = {was.get(key)!r}, not "
                f"{is_now.get(key)!r}; resume it unchanged or start another one"
            )


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def override(table: dict[str, Any], setting: str) -> None:
    """Put ``section.key=value`` into a table; a bare word is taken as a string."""
    path, equals, text = setting.partition("=")
    if not equals or not path.strip():
        raise CrossDNAError(f"--set {setting}: write section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, key = path.strip().split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise CrossDNAError(f"--set {setting}: {section} is not a section")
    table[key] = value


def _suggest(key: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known keys: {', '.join(known)}"


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, parts, where)
    if origin is typing.Literal:
        if value not in parts:
            known = ", ".join(map(repr, parts))
            raise CrossDNAError(f"{where}: {value!r} is not one of {known}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise CrossDNAError(f"{where}: expected a list, got {value!r}")
        return tuple(
            _convert(item, parts[0], f"{where}[{i}]") for i, item in enumerate(value)
        )
    if origin is dict:
        if not isinstance(value, dict):
            raise CrossDNAError(f"{where}: expected a table, got {value!r}")
        return {
            key: _convert(item, parts[1], f"{where}.{key}")
            for key, item in value.items()
        }
    if hint is Any or (value is None and hint is type(None)):
        return value
    return _convert_plain(value, hint, where)


def _convert_union(value: Any, parts: tuple[Any, ...], where: str) -> Any:
    failures = []
    for part in parts:
        try:
            return _convert(value, part, where)
        except CrossDNAError as error:
            if part is not type(None):
                failures.append(error)
    raise failures[0]


def _convert_plain(value: Any, kind: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise CrossDNAError(f"{where}: expected a table, got {value!r}")
        return from_table(value, kind, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    name = "nothing" if kind is type(None) else kind.__name__
    raise CrossDNAError(f"{where}: expected {name}, got {value!r}")
