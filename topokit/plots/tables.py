"""Tables of the report: conditions compared, verdicts, measures and configurations."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from topokit.experiments.statistics import mean_interval, paired
from topokit.measures import CHANGE_MEASURES, NETWORK, VERDICTS
from topokit.measures.scalefree import joined_by_and
from topokit.toml import flattened, to_toml

if TYPE_CHECKING:
    from topokit.experiments.record import History

__all__ = [
    "compared",
    "configurations",
    "decimals",
    "listed_words",
    "measure_tables",
    "number",
    "unique",
    "verdict_table",
]

PAIRS = 4  # number of conditions up to which every pair is compared, else all with the first

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


def compared(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the tables of conditions and of pairs of them, with 95 % intervals over seeds."""
    arms = unique([row["condition"] for row in rows])
    groups = {arm: [row for row in rows if row["condition"] == arm] for arm in arms}
    labels = unique([row["label"] for row in rows])
    layers = unique([row["first_layer"] for row in rows])
    layer = layers[0] if len(layers) == 1 else "first layer"
    table = []
    for arm, mine in groups.items():
        table.append(
            [
                arm, len(mine), _scores(mine, named=len(labels) > 1),
                _interval([row["dispersion"] for row in mine], 2),
                _interval([row["gap"] for row in mine], 3),
                f"{np.mean([row['edges'] for row in mine]):,.0f}",
            ]
        )  # fmt: skip
    pairs = list(combinations(arms, 2)) if len(arms) <= PAIRS else [(arms[0], b) for b in arms[1:]]
    differences = []
    for first, second in pairs:
        both = [row for arm in (first, second) for row in groups[arm]]
        a, b = (
            {row["seed"]: row["value"] for row in groups[arm] if row["seed"] is not None}
            for arm in (first, second)
        )
        seeds = [seed for seed in a if seed in b and np.isfinite(a[seed] - b[seed])]
        if not seeds or len({row["label"] for row in both}) > 1:
            continue
        found = paired([a[s] for s in seeds], [b[s] for s in seeds], rng=0)
        ends = found[1:4] if found.n > 1 else (a[seeds[0]] - b[seeds[0]],)
        words = [f"{end:+.{decimals(ends, 4)}f}" for end in ends]
        text = f"{words[0]} [{words[1]}, {words[2]}]" if words[1:] else f"{words[0]} (no interval)"
        differences.append([f"{first} − {second}", text, len(seeds)])
    return {
        "heads": [
            "condition", "runs", listed_words(labels, 2), f"fan-in variance / mean, {layer}",
            f"normalized spectral gap, {layer}", "edges",
        ],
        "rows": table,
        "pairs": differences,
        "label": listed_words(labels, 2),
        "single": all(len(mine) == 1 for mine in groups.values()),
    }  # fmt: skip


def _scores(rows: Sequence[Mapping[str, Any]], *, named: bool) -> str:
    """Return the mean score of runs and its interval, for each kind of score if there are some."""
    by_label: dict[str, list[float]] = {}
    for row in rows:
        by_label.setdefault(row["label"], []).append(row["value"])
    return "; ".join(
        _interval(values, 4) + (f" ({label})" if named else "")
        for label, values in by_label.items()
    )


def decimals(values: Iterable[float], least: int) -> int:
    """Return the number of decimals that shows three digits of small values, at least so many.

    Examples
    --------
    >>> decimals([0.85], 4), decimals([0.00002], 4), decimals([0.0], 4)
    (4, 7, 4)
    """
    largest = max((abs(value) for value in values if np.isfinite(value)), default=0.0)
    if not 0 < largest < 10 ** (1 - least):
        return least
    return min(2 - math.floor(math.log10(largest)), 12)


def _interval(values: Sequence[float], digits: int) -> str:
    """Return a mean and its 95 % interval as text; one value has none.

    Values that are nan are left out, and the number of the others is said.

    Examples
    --------
    >>> _interval([0.5], 2), _interval([0.5, 0.5, np.nan], 2)
    ('0.50', '0.50 [0.50, 0.50] (n = 2)')
    """
    found = mean_interval(values)
    if not found.n:
        return "–"
    digits = decimals((found.mean, found.low, found.high), digits)
    text = f"{found.mean:.{digits}f}"
    if found.n > 1:
        text += f" [{found.low:.{digits}f}, {found.high:.{digits}f}]"
    return text if found.n == len(values) else f"{text} (n = {found.n})"


def verdict_table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return verdicts as a table: a row for each layer and side, a column for each condition."""
    arms = unique([row["condition"] for row in rows])
    cells: dict[tuple[str, str], dict[str, list[list[str]]]] = {}
    for row in rows:
        epochs = list(row["verdicts"].values())
        for before, after in zip(epochs[0], epochs[-1], strict=True):
            sides = cells.setdefault((after["layer"], after["side"]), {arm: [] for arm in arms})
            sides[row["condition"]].append([before["label"], after["label"]])
    table = []
    for (layer, side), by_arm in cells.items():
        line = [_verdict_cell(by_arm[arm]) for arm in arms]
        table.append({"layer": layer, "side": side, "cells": line})
    return {"heads": arms, "rows": table}


def _verdict_cell(pairs: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return verdicts at the first and the last epoch, counted where there are several runs."""
    before, after = (Counter(pair[i] for pair in pairs) for i in (0, 1))
    words = [
        [(w.partition(" (")[0], w if n == len(pairs) else f"{w} {n}/{len(pairs)}")
         for w, n in counts.most_common()]
        for counts in (before, after)
    ]  # fmt: skip
    return {"before": words[0], "after": words[1], "moved": before != after}


def configurations(runs: Sequence[History]) -> dict[str, Any]:
    """Return the configuration of one run, or what several share and a table of what differs."""
    if len(runs) == 1:
        return {"shared": to_toml(runs[0].config), "heads": [], "rows": []}
    flat = [flattened(run.config) for run in runs]
    keys = list(dict.fromkeys(key for config in flat for key in config))
    differ = [k for k in keys if any(c.get(k, "–") != flat[0].get(k, "–") for c in flat)]
    told = [key for key in differ if not key.startswith("about.")]
    shared = {key: flat[0][key] for key in keys if key not in differ}
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in shared.items()]
    return {
        "shared": "\n".join(lines),
        "heads": ["run", *told],
        "rows": [
            [run.name, *(str(c.get(k, "–")) for k in told)]
            for run, c in zip(runs, flat, strict=True)
        ],
    }


def unique(words: Sequence[str]) -> list[str]:
    """Return the words in order, each once."""
    return list(dict.fromkeys(words))


def listed_words(words: Sequence[str], most: int) -> str:
    """Return words as in a sentence, at most so many of them."""
    words = [*words[:most], f"{len(words) - most} more"] if len(words) > most else list(words)
    return joined_by_and(words)
