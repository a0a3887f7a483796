"""How a graph was generated: kept with the graph object, never copied or written to a file."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from topokit.graph import LayerGraph
from topokit.plugins import place_of
from topokit.tables import as_generator

__all__ = ["Provenance", "guarantee_of", "note", "provenance_of", "recorded", "separate_notes"]

_NOTES: ContextVar[list[str] | None] = ContextVar("notes", default=None)


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a graph was requested, and what was changed to meet the request.

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
        Changes to the pure construction: units cropped, edges removed, added or swapped.
    """

    family: str
    density: float
    params: dict[str, Any] = field(default_factory=dict)
    guarantee: str = ""
    repairs: tuple[str, ...] = ()


def provenance_of(graph: LayerGraph) -> Provenance | None:
    """Return how this object was generated; None for equal graphs, copies and files.

    Examples
    --------
    >>> provenance_of(LayerGraph.from_edge_ids([0], (1, 1))) is None
    True
    """
    return graph._cache.get("provenance")


class Family:
    """A generator by its name, which records how each graph was made.

    Called as the generator itself; an integer is accepted as `rng`. It has the signature and the
    documentation of the generator, and can be pickled if that can be imported.
    """

    def __init__(self, name: str, function: Callable[..., LayerGraph]) -> None:
        functools.update_wrapper(self, function)
        self.recorded_as, self.function = name, function

    def __reduce__(self) -> tuple[Any, ...]:
        return Family, (self.recorded_as, self.function)

    def __repr__(self) -> str:
        return f"<generator {self.recorded_as}>"

    def __call__(self, *args: Any, **kwargs: Any) -> LayerGraph:
        name, function = self.recorded_as, self.function
        if "rng" in kwargs:
            kwargs["rng"] = as_generator(kwargs["rng"])
        with separate_notes() as notes:
            graph = function(*args, **kwargs)
        signature = inspect.signature(function)
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        if not isinstance(graph, LayerGraph):
            raise TypeError(
                f"generator {name!r}{place_of(function)}: expected it to return a LayerGraph, got "
                f"{type(graph).__name__}"
            )
        n_out, n_in = given.arguments.get("n_out"), given.arguments.get("n_in")
        if n_out is not None and n_in is not None:
            place = place_of(function)
            if graph.shape != (n_out, n_in):
                raise ValueError(
                    f"generator {name!r}{place}: expected a graph from {n_in} to {n_out} units, "
                    f"got one from {graph.n_in} to {graph.n_out}"
                )
            # Topokit's own are tested to be exact; another one may say in a note why it is not.
            if place and not notes and "density" in given.arguments:
                due = round(given.arguments["density"] * n_out * n_in)
                if graph.n_edges != due:
                    raise ValueError(
                        f"generator {name!r}{place}: expected round(density * n_in * n_out) = "
                        f"{due:,} edges, or a note that says why there are others "
                        f"(topokit.generators.provenance.note), got {graph.n_edges:,}"
                    )
        params: dict[str, Any] = {}
        for key, value in given.arguments.items():
            if signature.parameters[key].kind is inspect.Parameter.VAR_KEYWORD:
                params.update(value)
            elif key not in ("n_in", "n_out", "density", "rng"):
                params[key] = value
        graph._cache["provenance"] = Provenance(
            family=name,
            density=float(given.arguments.get("density", graph.density)),
            params=params,
            guarantee=guarantee_of(function),
            repairs=tuple(dict.fromkeys(notes)),
        )
        return graph


def recorded(name: str, function: Callable[..., LayerGraph]) -> Callable[..., LayerGraph]:
    """Return a generator that records the provenance of each graph."""
    if isinstance(function, Family) and function.recorded_as == name:
        return function
    return Family(name, function)


def guarantee_of(function: Callable[..., Any]) -> str:
    """Return what the docstring of a family promises: its line "Guarantee:" and those after it."""
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
    """Add a repair to the provenance of the graph that is being generated, if one is recorded."""
    notes = _NOTES.get()
    if notes is not None:
        notes.append(text)


@contextlib.contextmanager
def separate_notes() -> Iterator[list[str]]:
    """Collect the notes made within the block separately, not with those of the caller."""
    notes: list[str] = []
    token = _NOTES.set(notes)
    try:
        yield notes
    finally:
        _NOTES.reset(token)
