"""Where a graph came from: noted beside the graph while it lives, never in it."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ParamSpec
from weakref import WeakKeyDictionary

from topokit.graph import LayerGraph

__all__ = ["Origin", "apart", "guarantee_of", "note", "origin_of", "recorded"]

P = ParamSpec("P")

_ORIGINS: WeakKeyDictionary[LayerGraph, Origin] = WeakKeyDictionary()
_NOTES: ContextVar[list[str] | None] = ContextVar("notes", default=None)


@dataclass(frozen=True, slots=True)
class Origin:
    """What was asked for and what had to be done to meet it.

    Attributes
    ----------
    family : str
        Name in the table of generators.
    params : dict
        All parameters of the family, defaults included.
    density : float
        As requested.
    guarantee : str
        What the family promises.
    repairs : tuple of str
        Everything done to the pure construction: cropping, thinning, topping up, swaps.
    """

    family: str
    density: float
    params: dict[str, Any] = field(default_factory=dict)
    guarantee: str = ""
    repairs: tuple[str, ...] = ()


def origin_of(graph: LayerGraph) -> Origin | None:
    """Return how this very object was generated, or None: files and copies do not tell.

    Examples
    --------
    >>> origin_of(LayerGraph.from_edge_ids([0], (1, 1))) is None
    True
    """
    return _ORIGINS.get(graph)


def recorded(name: str, function: Callable[P, LayerGraph]) -> Callable[P, LayerGraph]:
    """Make a family remember, for each graph it returns, what was asked and what was repaired."""
    if getattr(function, "recorded_as", None) == name:
        return function

    @functools.wraps(function)
    def build(*args: P.args, **kwargs: P.kwargs) -> LayerGraph:
        with apart() as notes:
            graph = function(*args, **kwargs)
        given = inspect.signature(function).bind(*args, **kwargs)
        given.apply_defaults()
        params: dict[str, Any] = {}
        for key, value in given.arguments.items():
            if inspect.signature(function).parameters[key].kind is inspect.Parameter.VAR_KEYWORD:
                params.update(value)
            elif key not in ("n_in", "n_out", "density", "rng"):
                params[key] = value
        _ORIGINS[graph] = Origin(
            family=name,
            density=float(given.arguments.get("density", graph.density)),
            params=params,
            guarantee=guarantee_of(function),
            repairs=tuple(dict.fromkeys(notes)),
        )
        return graph

    build.recorded_as = name  # type: ignore[attr-defined]
    return build


def guarantee_of(function: Callable[..., Any]) -> str:
    """What the docstring of a family promises, its continuation lines joined."""
    lines = (inspect.getdoc(function) or "").splitlines()
    found: list[str] = []
    for line in lines:
        if line.startswith("Guarantee:"):
            found.append(line.split(":", 1)[1].strip())
        elif found and (not line.strip() or line.startswith("Cost:")):
            break
        elif found:
            found.append(line.strip())
    return " ".join(found)


def note(text: str) -> None:
    """Add a repair to the record of the graph that is being generated, if one is kept."""
    notes = _NOTES.get()
    if notes is not None:
        notes.append(text)


@contextlib.contextmanager
def apart() -> Iterator[list[str]]:
    """Collect the notes of a part of the work by themselves."""
    notes: list[str] = []
    token = _NOTES.set(notes)
    try:
        yield notes
    finally:
        _NOTES.reset(token)
