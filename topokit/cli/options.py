"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

__all__ = [
    "DataDir",
    "Device",
    "Json",
    "MaybeWhole",
    "Nproc",
    "Plugins",
    "Settings",
    "Whole",
    "comma_separated",
    "some",
    "words_of",
]


def _whole(_: Any, tokens: Sequence[Any]) -> int:
    """Return a whole number; cyclopts would round 2.5 to 2."""
    value = tokens[0].value
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"expected a whole number, got {value}") from None


Whole = Annotated[int, Parameter(converter=_whole)]
MaybeWhole = Annotated[int | None, Parameter(converter=_whole)]

Settings = Annotated[
    list[str],
    Parameter(name="--set", consume_multiple=True),  # each command describes its keys
]
Plugins = Annotated[
    list[str],
    Parameter(
        name="--plugin",
        help="Python file (./mine.py) or module of your own measures, rules, generators and plots. "
        "Its code is run. May be repeated.",
    ),
]
Json = Annotated[bool, Parameter(name="--json", help="Print the result as JSON.")]
Nproc = Annotated[
    int | None,
    Parameter(
        converter=_whole,
        name="--nproc",
        help="Processes that train together, each on its share of every batch; under torchrun, "
        "those it started.",
    ),
]
DataDir = Annotated[
    Path | None, Parameter(name="--data-dir", help="Folder of data sets; by default TOPOKIT_DATA.")
]
Device = Annotated[
    Literal["cpu", "cuda", "auto"] | None,
    Parameter(
        name="--device",
        help="Where to train; by default as the configuration says, or on the CPU. See 'topokit "
        "info'.",
    ),
]


def words_of(option: str, words: list[str] | None) -> list[str]:
    """Return the words after an option, none if it was not given; refuse an option without any."""
    if words is not None and not words:
        raise ValueError(f"expected at least one word after {option}, got none")
    return words or []


def some(runs: list[Path]) -> list[Path]:
    """Return the run directories; raise a ValueError if there are none."""
    if not runs:
        raise ValueError("expected at least one run directory, got none")
    return runs


def comma_separated(text: str) -> list[str]:
    """Return the words of a comma-separated list."""
    return [word.strip() for word in text.split(",") if word.strip()]
