"""Rows of ``topokit list``: name, parameters and first docstring line of the entries of a table."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from topokit import tables

__all__ = ["NOTES", "TABLES", "about", "rows_of"]


def _generators() -> Mapping[str, Any]:
    from topokit.generators import GENERATORS

    return GENERATORS


def _initial_topologies() -> Mapping[str, Any]:
    from topokit.nn.initial_topology import INITIAL_TOPOLOGIES

    return INITIAL_TOPOLOGIES


def _densities() -> Mapping[str, Any]:
    from topokit.generators import DENSITIES

    return DENSITIES


def _rules() -> Mapping[str, Any]:
    from topokit.rules import RULES

    return RULES


def _measures() -> Mapping[str, Any]:
    from topokit.measures import CHANGE_MEASURES, LAYER_MEASURES, NETWORK_MEASURES

    scopes: dict[str, Mapping[str, Any]] = {
        "layer": LAYER_MEASURES,
        "network": NETWORK_MEASURES,
        "change": CHANGE_MEASURES,
    }
    return {
        name if scope == "layer" else f"{name} ({scope})": measure
        for scope, table in scopes.items()
        for name, measure in table.items()
    }


def _plots() -> Mapping[str, Any]:
    from topokit.plots import ACROSS_PLOTS, HISTORY_PLOTS, LAYER_PLOTS

    return {**LAYER_PLOTS, **HISTORY_PLOTS, **ACROSS_PLOTS}


def _datasets() -> Mapping[str, Any]:
    from topokit.data import DATASETS

    return DATASETS


def _models() -> Mapping[str, Any]:
    from topokit.nn.models import MODELS

    return MODELS


def _recipes() -> Mapping[str, Any]:
    from topokit.experiments.config import RECIPES

    return RECIPES


def _studies() -> Mapping[str, Any]:
    from topokit.experiments.study import STUDIES

    return STUDIES


def _formats() -> Mapping[str, Any]:
    from topokit.read import READERS

    return READERS


TABLES: dict[str, Callable[[], Mapping[str, Any]]] = {
    "generators": _generators,
    "starts": _initial_topologies,
    "densities": _densities,
    "rules": _rules,
    "measures": _measures,
    "plots": _plots,
    "datasets": _datasets,
    "models": _models,
    "recipes": _recipes,
    "studies": _studies,
    "formats": _formats,
}
"""Name of each table and a function that imports only that table."""


def rows_of(table: str) -> list[dict[str, str]]:
    """Return the rows of a table: name, parameters, first line and further documented facts."""
    own = {
        "recipes": _recipe_row,
        "studies": _study_row,
        "measures": _measure_row,
        "formats": _format_row,
    }
    return [
        own[table](name) if table in own else {"name": name, **_function_row(entry)}
        for name, entry in TABLES[table]().items()
    ]


def about(table: str, name: str) -> tuple[dict[str, str], str]:
    """Return the row of one entry and all that is written about it."""
    entries = TABLES[table]()
    if name not in entries:  # a measure, without its scope
        name = next((each for each in entries if each.startswith(f"{name} (")), name)
    entry = tables.choose(table.rstrip("s"), name, entries)
    row = next(row for row in rows_of(table) if row["name"] == name)
    if not callable(entry):  # a recipe or study
        return row, entry.read_text(encoding="utf-8").rstrip()
    signature = f"parameters: {row['parameters']}\n\n" if row.get("parameters") else ""
    return row, f"{name}\n\n{signature}{inspect.getdoc(entry) or ''}"


def _rule_options() -> str:
    """Return the options that every rule has in a configuration."""
    from topokit.experiments.config import RuleSpec

    options = ", ".join(
        f"{item.name}={item.default!r}"
        for item in dataclasses.fields(RuleSpec)
        if item.name not in ("name", "params")
    )
    return f"every rule also has: {options}; for example --set rule.drop_fraction=0.2"


NOTES: dict[str, Callable[[], str]] = {"rules": _rule_options}
"""What is said below a table."""


def _recipe_row(name: str) -> dict[str, str]:
    from topokit.experiments.config import load_recipe

    about = load_recipe(name).about
    return {"name": name, "what": about.get("title", ""), "paper": about.get("paper", "")}


def _measure_row(name: str) -> dict[str, str]:
    scope = name.partition(" (")[2]
    row = _function_row(_measures()[name])
    del row["parameters"]
    return {"name": name, "scope": scope.rstrip(")") or "layer", **row}


def _format_row(name: str) -> dict[str, str]:
    return {"name": name, "what": _function_row(_formats()[name])["what"]}


def _study_row(name: str) -> dict[str, str]:
    from topokit.experiments.study import load_study

    study = load_study(name)
    runs = f"{len(study.runs())} runs, {len(study.seeds)} seeds"
    return {"name": name, "what": study.title, "size": runs}


# Arguments that topokit itself passes, which a user cannot set.
SUPPLIED = tables.SUPPLIED | {
    "ax", "graph", "history", "update", "shapes", "style", "budget",
}  # fmt: skip


def _function_row(function: Callable[..., Any]) -> dict[str, str]:
    """Return the parameters a user may set, the first line and what the docstring states."""
    parameters = ", ".join(
        f"{p.name}={p.default!r}" if p.default is not p.empty else p.name
        for p in inspect.signature(function).parameters.values()
        if p.name not in SUPPLIED and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    )
    doc = (inspect.getdoc(function) or "").replace("``", "")
    row = {"parameters": parameters, "what": doc.split("\n", 1)[0]}
    for key in ("Guarantee", "Range", "Cost"):
        if text := _entry(doc, f"{key}:"):
            row[key.lower()] = text
    if papers := [paper for n in range(1, 10) if (paper := _entry(doc, f".. [{n}] "))]:
        row["paper"] = " ".join(papers)
    return row


def _entry(doc: str, start: str) -> str:
    """Return the text after `start` in a docstring, to the end of its paragraph, on one line."""
    lines = iter(doc.splitlines())
    first = next((line for line in lines if line.strip().startswith(start)), "")
    found = [first.strip().removeprefix(start).strip()]
    for line in lines:
        if not line.strip() or line.startswith((".. [", "Cost:", "Guarantee:", "Range:")):
            break
        found.append(line.strip())
    return " ".join(found) if first else ""
