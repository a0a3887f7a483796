"""TOML: reading files of others, writing, and reading ``key=value`` settings."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from topokit.foreign import printable, read_text

__all__ = [
    "flattened",
    "parse_assignment",
    "parse_settings",
    "parse_toml",
    "read_toml",
    "to_toml",
]

LIMIT = 2**18
"""Characters of a configuration; a recipe has some 2,000."""


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not valid TOML, no regular file, or longer than `LIMIT`.
    """
    try:
        text = read_text(path, limit=LIMIT)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"expected a TOML file, found none at {printable(str(path))}"
        ) from None
    except ValueError as error:
        raise ValueError(f"{printable(str(path))} is not valid TOML: {error}") from None
    return parse_toml(text, str(path))


# Python's parser keeps every beginning of a dotted key: 100,000 parts take 40 GB.
_PART = r"(?:[\w-]+|\"[^\"\n]*\"|'[^'\n]*')"
_LONG_KEY = re.compile(rf"(?<![\w-]){_PART}(?:[ \t]*\.[ \t]*{_PART}){{64}}")


def parse_toml(text: str, origin: str = "the configuration") -> dict[str, Any]:
    """Return TOML text as a dictionary.

    Raises
    ------
    ValueError
        If it is not valid TOML, nested too deeply, or longer than `LIMIT`.

    Examples
    --------
    >>> parse_toml("epochs = 3")
    {'epochs': 3}
    >>> parse_toml("epochs = ")
    Traceback (most recent call last):
    ValueError: the configuration is not valid TOML: Invalid value (at end of document)
    """
    try:
        if len(text) > LIMIT:
            raise ValueError(f"more than {LIMIT:,} characters")
        if _LONG_KEY.search(text):
            raise ValueError("a key of more than 64 parts")
        return tomllib.loads(text)
    except RecursionError:
        reason = "parts nested too deeply"
    except ValueError as error:  # of the parser, and of integers with thousands of digits
        reason = printable(" ".join(str(error).split()))
    raise ValueError(f"{printable(origin)} is not valid TOML: {reason}")


def to_toml(table: Mapping[str, Any]) -> str:
    """Return a dictionary of strings, numbers, booleans, lists and dictionaries as TOML text.

    Dictionaries at the first level become ``[sections]``, deeper ones inline tables; keys whose
    value is `None` are left out, as TOML has no null.

    Raises
    ------
    TypeError
        If a value is of a kind TOML does not have.

    Examples
    --------
    >>> print(to_toml({"epochs": 3, "rule": {"name": "set", "drop_fraction": 0.3}}), end="")
    epochs = 3
    <BLANKLINE>
    [rule]
    name = "set"
    drop_fraction = 0.3
    """
    lines = [
        f"{_key(key)} = {_value(value)}"
        for key, value in table.items()
        if value is not None and not isinstance(value, Mapping)
    ]
    for key, section in table.items():
        if isinstance(section, Mapping):
            lines += ["", f"[{_key(key)}]"] if lines else [f"[{_key(key)}]"]
            lines += [f"{_key(k)} = {_value(v)}" for k, v in section.items() if v is not None]
    return "\n".join(lines) + "\n"


def _key(key: str) -> str:
    """Return a key, in quotes if TOML requires them."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(str(key))


def _value(value: Any) -> str:
    """Return a value as TOML text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        items = (f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None)
        return "{" + ", ".join(items) + "}"
    raise TypeError(
        f"expected a string, number, boolean, list or dictionary, got {type(value).__name__}"
    )


def parse_assignment(text: str) -> tuple[tuple[str, ...], Any]:
    """Split ``section.key=value`` into its path and its value.

    The value is read as TOML; if it is not valid TOML, it is taken as a string, or as a list of
    strings if it is words in brackets.

    Raises
    ------
    ValueError
        If there is no ``=``, or a part of the path is empty.

    Examples
    --------
    >>> parse_assignment("rule.drop_fraction=0.2"), parse_assignment("rule.name=rigl")
    ((('rule', 'drop_fraction'), 0.2), (('rule', 'name'), 'rigl'))
    >>> parse_assignment("measures.names=[turnover,fan_in.mean]")[1]
    ['turnover', 'fan_in.mean']
    """
    path, equals, value = text.partition("=")
    parts = tuple(part.strip() for part in path.split("."))
    if not equals or not all(parts):
        raise ValueError(f"expected key=value such as rule.drop_fraction=0.2, got {text!r}")
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")
    except (ValueError, RecursionError):
        value = value.strip()
        if re.fullmatch(r"\[\s*[A-Za-z_][\w.]*(\s*,\s*[A-Za-z_][\w.]*)*\s*\]", value):
            return parts, [word.strip() for word in value[1:-1].split(",")]
        return parts, value
    return parts, parsed["value"] if len(parsed) == 1 else value.strip()


def parse_settings(assignments: Iterable[str]) -> dict[str, Any]:
    """Return ``key=value`` assignments as a dictionary; keys with dots make nested ones.

    Raises
    ------
    ValueError
        As in `parse_assignment`, or if a key is given both a value and keys below it.

    Examples
    --------
    >>> parse_settings(["exponent=2.5", "side=out", "hub.size=3"])
    {'exponent': 2.5, 'side': 'out', 'hub': {'size': 3}}
    """
    settings: dict[str, Any] = {}
    for path, value in map(parse_assignment, assignments):
        table_at(settings, path)[path[-1]] = value
    return settings


def table_at(tables: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Return the dictionary that holds the last key of a path; missing ones are created."""
    for part in path[:-1]:
        tables = tables.setdefault(part, {})
        if not isinstance(tables, dict):
            raise ValueError(f"{'.'.join(path)}: expected a table at {part!r}, got a value")
    return tables


def flattened(table: Any, before: str = "") -> dict[str, Any]:
    """Return nested tables as one table with dotted keys.

    Raises
    ------
    ValueError
        If it is no table, or a key is there twice: with dots in quotes, and in a nested table.
    """
    if not isinstance(table, Mapping):
        raise ValueError(f"expected a table of configuration keys, got {table!r}")
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{before}{key}"
        found = flattened(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
        if twice := flat.keys() & found.keys():
            raise ValueError(f"the key {min(twice)!r} is given twice; give it once")
        flat |= found
    return flat
