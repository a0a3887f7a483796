"""Options that several commands share, and what is done with them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

__all__ = ["DataDir", "Json", "Plugins", "Settings", "import_plugins", "some"]

Settings = Annotated[
    list[str],
    Parameter(name="--set", consume_multiple=True, help="KEY=VALUE, e.g. rule.drop_fraction=0.2"),
]
Plugins = Annotated[
    list[str], Parameter(name="--plugin", help="Python module that adds to the tables.")
]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print the result as JSON.")]
DataDir = Annotated[
    Path | None, Parameter(name="--data-dir", help="Folder of data sets (else TOPOKIT_DATA).")
]


def import_plugins(names: list[str] | None) -> None:
    """Import the modules that add to the tables."""
    for name in names or []:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(f"expected an importable module for --plugin: {error}") from error


def some(runs: list[Path]) -> list[Path]:
    """Return the given run directories; there must be one."""
    if not runs:
        raise ValueError("expected at least one run directory, got none")
    return runs
