"""Tables of measures for the report: a row for each layer and run, columns by family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from topokit.measures import CHANGE_MEASURES, NETWORK, VERDICTS

if TYPE_CHECKING:
    from topokit.experiments.record import History

__all__ = ["measure_tables", "number"]

COLUMNS = 8  # largest number of measures in a table
FAMILIES = {
    "Fan-in": ("fan_in", "evenness_fan_in"),
    "Fan-out": ("fan_out", "evenness_fan_out"),
    "Power-law fit of the fan-in": ("power_law",),
    "Power-law fit of the fan-out": ("power_law_fan_out",),
    "Spectrum and connectivity": (
        "spectral_gap", "normalized_spectral_gap", "ramanujan_margin", "algebraic_connectivity",
        "algebraic_connectivity_giant", "components", "giant_share", "active_flow",
    ),
    "Change of edges": (*CHANGE_MEASURES, "explored_fraction"),
}  # fmt: skip


def measure_tables(runs: Sequence[History]) -> list[dict[str, Any]]:
    """Return the measures of runs at their first and last measured epochs, in tables by family.

    Parameters
    ----------
    runs : sequence of History

    Returns
    -------
    list of dict
        ``title``, ``heads`` and ``rows`` (texts): a row for each layer, and for each run within
        it; values are ``first → last``. Tables have at most 8 measures.

    Examples
    --------
    >>> from topokit.experiments.record import Recording
    >>> measure_tables([Recording()])
    []
    """
    cells: dict[tuple[int, str, str], dict[int, float]] = {}
    ends = [_ends(history) for history in runs]
    for i, history in enumerate(runs):
        frame = history.measures
        part = frame[frame["epoch"].isin(ends[i])][["epoch", "layer", "measure", "value"]]
        for epoch, layer, measure, value in part.itertuples(index=False):
            cells.setdefault((i, str(layer), str(measure)), {})[int(epoch)] = float(value)
    layers = dict.fromkeys(layer for _, layer, _ in cells)
    named = ["layer", "run"] if len(runs) > 1 else ["layer"]
    tables = []
    for title, measures in _families(list(dict.fromkeys(measure for _, _, measure in cells))):
        rows = []
        for layer in sorted(layers, key=lambda name: name == NETWORK):
            for i, history in enumerate(runs):
                found = [_cell(cells.get((i, layer, m)), ends[i], m) for m in measures]
                if any(found):
                    rows.append([layer, *([history.name] if len(runs) > 1 else []), *found])
        heads = [_head(measure, title) for measure in measures]
        tables.append(
            {"title": title, "heads": [*named, *heads], "rows": rows, "fixed": len(named)}
        )
    return tables


def _ends(history: History) -> list[int]:
    """Return the first and the last epoch with measures."""
    epochs = history.measures["epoch"]
    return sorted({int(epochs.min()), int(epochs.max())}) if len(epochs) else []


def _families(measures: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Divide measures into families, and those into tables of at most `COLUMNS`."""
    left = list(measures)
    found = []
    for title, bases in {**FAMILIES, "Other measures": None}.items():
        mine = [m for m in left if bases is None or m.partition(".")[0] in bases]
        left = [m for m in left if m not in mine]
        parts = -(-len(mine) // COLUMNS)
        for k in range(parts):
            part = mine[k * len(mine) // parts : (k + 1) * len(mine) // parts]
            found.append((title if k == 0 else f"{title}, continued", part))
    return found


def _head(measure: str, title: str) -> str:
    """Return a measure's name in words, without what the title of its table says."""
    field = measure.partition(".")[2]
    if field and title.startswith(("Fan-", "Power-law")):
        return field.replace("_", " ")
    return measure.replace(".", ", ").replace("_", " ")


def _cell(values: dict[int, float] | None, ends: Sequence[int], measure: str) -> str:
    """Return the values of a measure at the first and the last epoch, joined by an arrow."""
    if values is None:
        return ""
    words = [number(values[e], measure) if e in values else "–" for e in ends]
    return words[0] if len(set(words)) == 1 else " → ".join(words)


def number(value: float, measure: str) -> str:
    """Return a value as text: four digits, verdicts in words, no probability of 0.

    Examples
    --------
    >>> number(2.0, "power_law.verdict"), number(0.0, "fan_in.dispersion_p"), number(1 / 3, "gini")
    ('heavy-tailed (not bootstrapped)', '< 1e-300', '0.3333')
    """
    if np.isnan(value):
        return "–"
    if measure.endswith(".verdict") and 0 <= value < len(VERDICTS):
        word = VERDICTS[int(value)]
        return f"{word} (not bootstrapped)" if word == "heavy-tailed" else word
    if measure.endswith("_p") and value == 0:
        return "< 1e-300"
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e9 else f"{value:.4g}"
