"""Checking arguments: names in a table, parameters of its functions, random generators."""

from __future__ import annotations

import difflib
import html
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from topokit.foreign import printable

__all__ = [
    "Table",
    "as_html",
    "as_generator",
    "check_names",
    "check_parameters",
    "choose",
    "hint",
    "is_integer",
    "is_number",
    "listed",
    "nearest",
    "need",
    "parameters_of",
    "plural",
    "sparkline",
    "unknown_key",
]

T = TypeVar("T")

# Arguments that topokit itself passes to the functions of a table; a configuration cannot set them.
SUPPLIED = frozenset(
    {"n_in", "n_out", "density", "rng", "data_dir", "topology", "widths", "generator"}
)


def choose(kind: str, name: Any, table: Mapping[str, T]) -> T:
    """Return the entry of a table; the error for an unknown name has the nearest or all names.

    Parameters
    ----------
    kind : str
        What the table holds, in the singular ("rule", "data set"): used in the message.
    name : str
        Or, where the table holds functions, a function, which is returned.
    table : mapping

    Returns
    -------
    object
        ``table[name]``.

    Raises
    ------
    ValueError
        If the table has no such name.

    Examples
    --------
    >>> choose("rule", "katz", {"katz": 1, "set": 2})
    1
    >>> choose("rule", "katzz", {"katz": 1, "set": 2})
    Traceback (most recent call last):
    ValueError: unknown rule 'katzz'; did you mean 'katz'? rules: katz, set
    """
    if isinstance(name, str) and name in table:
        return table[name]
    if callable(name) and all(map(callable, table.values())):
        return cast("T", name)
    raise ValueError(f"unknown {kind} {name!r}; {nearest(kind, name, table)}")


def nearest(kind: str, name: Any, names: Iterable[str]) -> str:
    """Return the name that may have been meant and, if there is none or few, all names.

    Examples
    --------
    >>> nearest("rule", "katzz", ["katz", "set"])
    "did you mean 'katz'? rules: katz, set"
    >>> nearest("unit", "unit7x", [f"unit{i}" for i in range(44)])
    "did you mean 'unit7'? (one of 44 units)"
    """
    names, near = list(names), hint(name, names)
    if near and len(names) > MOST_LISTED:
        return f"{near}(one of {len(names)} {plural(kind)})"
    return f"{near}{plural(kind)}: {listed(names)}"


def plural(kind: str) -> str:
    """Return the plural of a noun: "rules", "studies"."""
    return f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"


MOST_LISTED = 12
"""Names listed in a message that has a suggestion; without one all are listed."""


class Table(dict[str, T]):
    """A dict of named entries that is short to look at, and suggests names.

    Parameters
    ----------
    kind : str
        What it holds, in the singular.
    entries : mapping

    Examples
    --------
    >>> rules = Table("rule", {"set": 1, "katz": 2})
    >>> rules
    2 rules: set, katz
    >>> rules["kat"]
    Traceback (most recent call last):
    KeyError: "unknown rule 'kat'; did you mean 'katz'? rules: katz, set"
    """

    def __init__(self, kind: str, entries: Mapping[str, T]) -> None:
        super().__init__(entries)
        self.kind = kind

    def __missing__(self, name: Any) -> T:
        raise KeyError(f"unknown {self.kind} {name!r}; {nearest(self.kind, name, self)}")

    def __reduce__(self) -> tuple[Any, ...]:
        return Table, (self.kind, dict(self))

    def __repr__(self) -> str:
        return f"{len(self)} {plural(self.kind)}: {', '.join(self)}"

    def _repr_html_(self) -> str:
        rows = {
            name: (inspect.getdoc(entry) or "").partition("\n")[0] if callable(entry) else entry
            for name, entry in self.items()
        }
        return as_html(f"{len(self)} {plural(self.kind)}", rows)


def as_html(title: str, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """Return a small table for a notebook: names and values, or a row for each mapping.

    Texts are escaped; numbers have four significant digits.

    Examples
    --------
    >>> as_html("x", {"a<b": 0.123456})
    '<table><caption>x</caption><tr><th>a&lt;b</th><td>0.1235</td></tr></table>'
    """
    if isinstance(rows, Mapping):
        body = [_html_row([name, value]) for name, value in rows.items()]
    else:
        heads = list(dict.fromkeys(key for row in rows for key in row))
        body = [_html_row([head, *(row.get(head, "") for row in rows)]) for head in heads]
    return f"<table><caption>{_html(title)}</caption>{''.join(body)}</table>"


def _html_row(cells: Sequence[Any]) -> str:
    return (
        f"<tr><th>{_html(cells[0])}</th>"
        + "".join(f"<td>{_html(cell)}</td>" for cell in cells[1:])
        + "</tr>"
    )


def _html(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else printable(str(value))
    return html.escape(text)


BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Any, *, bins: int = 24) -> str:
    """Return a histogram as a line of bars, with the range of values.

    Examples
    --------
    >>> sparkline([1, 1, 1, 2, 3, 3])
    '1 █▃▆ 3'
    """
    array = np.asarray(values)
    if not array.size:
        return "no units"
    low, high = int(array.min()), int(array.max())
    counts, _ = np.histogram(array, bins=min(bins, high - low + 1), range=(low - 0.5, high + 0.5))
    heights = np.ceil(counts / counts.max() * len(BARS)).astype(int)
    bars = "".join(BARS[height - 1] if height else " " for height in heights)
    return f"{low} {bars} {high}"


def as_generator(rng: Any, name: str = "rng") -> np.random.Generator:
    """Return a numpy Generator for a Generator or an integer seed.

    Parameters
    ----------
    rng : numpy.random.Generator or int
        A Generator is returned as it is, so that its stream continues; an integer of at least 0
        (numpy's integers included) seeds a new one, ``numpy.random.default_rng(rng)``.
    name : str
        What the argument is called, for the message.

    Raises
    ------
    TypeError
        If `rng` is neither; `None` is refused as results could not be repeated.
    ValueError
        If it is a negative integer.

    Examples
    --------
    >>> float(as_generator(0).random()) == float(np.random.default_rng(0).random())
    True
    >>> as_generator(None)
    Traceback (most recent call last):
    TypeError: expected rng to be a numpy.random.Generator or an integer seed such as 0, got None
    """
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, int | np.integer) and not isinstance(rng, bool):
        if rng < 0:
            raise ValueError(f"expected {name} to be an integer seed of at least 0, got {rng}")
        return np.random.default_rng(int(rng))
    came = "None" if rng is None else repr(rng) if isinstance(rng, bool) else type(rng).__name__
    raise TypeError(
        f"expected {name} to be a numpy.random.Generator or an integer seed such as 0, got {came}"
    )


def listed(names: Iterable[str]) -> str:
    """Return the names in alphabetical order, separated by commas, or "none"."""
    return ", ".join(sorted(names)) or "none"


def hint(name: Any, names: Iterable[str]) -> str:
    """Return "did you mean 'x'? " with the most similar of the names, or an empty string."""
    near = difflib.get_close_matches(str(name).lower(), sorted(names), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}? " if near else ""


def unknown_key(key: str, known: Iterable[str], *, section: str = "", near: str = "") -> ValueError:
    """Return the error about a key that none of the known ones is.

    Parameters
    ----------
    key : str
    known : iterable of str
        The keys that there may be in its place.
    section : str
        Of a configuration or study, which holds the key.
    near : str
        The key that may have been meant; by default the most similar of the known ones.

    Examples
    --------
    >>> raise unknown_key("lrr", ["lr", "name"], section="optimizer")
    Traceback (most recent call last):
    ValueError: unknown key 'optimizer.lrr'; did you mean 'lr'? keys: lr, name
    """
    known = list(known)
    where = f"{section}.{key}" if section else key
    meant = f"did you mean {near!r}? " if near else hint(key, known)
    return ValueError(f"unknown key {where!r}; {meant}keys: {listed(known)}")


def need(condition: bool, key: str, expected: str, got: Any) -> None:
    """Raise a ValueError about the value of a key if `condition` is false.

    Examples
    --------
    >>> need(False, "rule.every", "a positive number", 0)
    Traceback (most recent call last):
    ValueError: rule.every: expected a positive number, got 0
    """
    if not condition:
        raise ValueError(f"{key}: expected {expected}, got {got!r}")


def is_integer(value: Any, least: int) -> bool:
    """Return whether a value is an integer, numpy's included but no bool, of at least `least`."""
    integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return bool(integer and value >= least)


def is_number(value: Any) -> bool:
    """Return whether a value is a real number of magnitude below 1e300, and not a bool."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return bool(number and abs(value) < 1e300)


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters that a configuration may set of a function in a table, by name.

    Left out are positional-only parameters, ``*args``, and those that topokit itself passes:
    ``n_in``, ``n_out``, ``density``, ``rng``, ``data_dir``, ``topology``, ``widths`` and
    ``generator``. Annotations given as strings are resolved where possible.

    Examples
    --------
    >>> def katz(*, n_paths: int = 3, rng): ...
    >>> {name: p.default for name, p in parameters_of(katz).items()}
    {'n_paths': 3}
    """
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        hints = {}
    left_out = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    return {
        name: parameter.replace(annotation=hints.get(name, Any))
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in SUPPLIED and parameter.kind not in left_out
    }


def check_names(
    kind: str,
    name: str,
    function: Callable[..., Any],
    given: Iterable[str],
    *,
    others: Iterable[str] = (),
) -> None:
    """Check that a function of a table has the parameters given to it, and gets those it needs.

    Parameters
    ----------
    kind, name : str
        What was chosen ("rule", "set"), for the message.
    function : callable
    given : iterable of str
    others : iterable of str
        Further names that may have been meant.

    Raises
    ------
    ValueError

    Examples
    --------
    >>> def katz(*, n_paths: int = 3): ...
    >>> check_names("rule", "katz", katz, ["n_path"])
    Traceback (most recent call last):
    ValueError: unknown parameter 'n_path' of rule 'katz'; did you mean 'n_paths'? parameters:
    n_paths
    """
    known, given = parameters_of(function), list(given)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()):
        return
    for key in given:
        if key not in known:
            raise ValueError(
                f"unknown parameter {key!r} of {kind} {name!r}; {hint(key, [*known, *others])}"
                f"parameters: {listed(known)}"
            )
    for key, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and key not in given:
            raise ValueError(f"{kind} {name!r} needs the parameter {key!r}")


def check_parameters(
    kind: str,
    name: str,
    function: Callable[..., Any],
    given: Mapping[str, Any],
    *,
    section: str,
    reserved: Iterable[str] = (),
) -> None:
    """Check names, presence and types of the parameters given to a function of a table.

    Parameters
    ----------
    kind, name : str
        What was chosen ("rule", "set"), for the message.
    function : callable
        Its signature and annotations decide; see `parameters_of`.
    given : mapping
    section : str
        The section of a configuration that holds the parameters, for the message.
    reserved : iterable of str
        Further keys of that section, also suggested for a misspelt one.

    Raises
    ------
    ValueError
        If a parameter is unknown, missing or of another type.

    Examples
    --------
    >>> def katz(*, n_paths: int = 3): ...
    >>> check_parameters("rule", "katz", katz, {"n_path": 2}, section="rule")
    Traceback (most recent call last):
    ValueError: unknown key 'rule.n_path'; did you mean 'n_paths'? parameters of rule 'katz':
    n_paths (int)
    >>> check_parameters("rule", "katz", katz, {"n_paths": "two"}, section="rule")
    Traceback (most recent call last):
    ValueError: rule.n_paths: expected int, got 'two'
    """
    accepted, reserved = parameters_of(function), set(reserved)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values()):
        return
    for key, value in given.items():
        if key not in accepted:
            words = [f"{k} ({_in_words(p.annotation)})" for k, p in accepted.items()]
            raise ValueError(
                f"unknown key '{section}.{key}'; {hint(key, [*accepted, *reserved])}"
                f"parameters of {kind} {name!r}: {listed(words)}"
                + (f"; further keys of [{section}]: {listed(reserved)}" if reserved else "")
            )
        annotation = accepted[key].annotation
        if not _fits(value, annotation):
            expected = _in_words(annotation)
            raise ValueError(f"{section}.{key}: expected {expected}, got {value!r}")
    for key, parameter in accepted.items():
        if parameter.default is inspect.Parameter.empty and key not in given:
            raise ValueError(
                f"missing key '{section}.{key}' ({_in_words(parameter.annotation)}): "
                f"{kind} {name!r} needs it"
            )


def _fits(value: Any, annotation: Any) -> bool:
    """Return whether a TOML value fits an annotation; annotations not handled here accept any."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return any(value == option and type(value) is type(option) for option in inner)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in inner)
    if annotation is bool or annotation is str:
        return isinstance(value, annotation)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is type(None):
        return value is None
    holder = origin or annotation
    if holder in (list, tuple, set, frozenset, Sequence, Iterable):
        item = inner[0] if inner else Any
        return isinstance(value, list | tuple) and all(_fits(part, item) for part in value)
    if holder in (dict, Mapping):
        return isinstance(value, Mapping)
    return True


def _in_words(annotation: Any) -> str:
    """Return an annotation in words for a message; the options of a `Literal` as 'a' or 'b'."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(repr(option) for option in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_in_words(part) for part in inner if part is not type(None))
    if origin in (list, tuple, set, frozenset, Sequence, Iterable):
        return f"a list of {_in_words(inner[0])}"
    if annotation is Any:
        return "any value"
    return getattr(annotation, "__name__", str(annotation))
