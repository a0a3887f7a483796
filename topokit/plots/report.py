"""A self-contained HTML report on one or more runs: text, figures, tables, configuration."""

from __future__ import annotations

import base64
import inspect
import io
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

import topokit
from topokit.experiments.record import (
    History,
    Recording,
    as_run,
    best_epoch,
    score_column,
    unfinished,
)
from topokit.graph import Topology
from topokit.graph.files import write_atomic
from topokit.measures import describe_fit, power_law_of
from topokit.measures.scalefree import bootstrap_stream
from topokit.plots import CAPTIONS, degree_distribution, drawable, frames, mean_over_seeds
from topokit.plots.history import scores_of
from topokit.plots.style import figure, save
from topokit.toml import to_toml

if TYPE_CHECKING:
    from topokit.experiments.record import RunLike

__all__ = ["verdict_sentences", "write_report"]

BOOTSTRAP = 100
FRAMES = 60  # largest number of epochs in the player


def verdict_sentences(
    topology: Topology, *, bootstrap: int = BOOTSTRAP, seed: int = 0
) -> list[dict[str, str]]:
    """Return the verdict on the degrees of every layer and side, in words.

    Parameters
    ----------
    topology : dict of LayerGraph
    bootstrap : int
        Number of replicates for each p-value; with 0 the verdict is never "power law".
    seed : int
        Seed of the bootstrap. Each layer and side has a random stream of its own.

    Returns
    -------
    list of dict
        ``layer``, ``side`` ("fan-in" or "fan-out"), ``verdict`` and ``sentence``.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> layer = LayerGraph.from_edge_ids(range(12), (3, 4))
    >>> [row["verdict"] for row in verdict_sentences({"fc1": layer})]
    ['complete', 'complete']
    """
    rows = []
    for i, (layer, graph) in enumerate(topology.items()):
        for side in ("fan_in", "fan_out"):
            rng = bootstrap_stream(seed, i, side) if bootstrap else None
            fit = power_law_of(graph, side, bootstrap=bootstrap, rng=rng)
            rows.append(
                {
                    "layer": layer,
                    "side": side.replace("_", "-"),
                    "verdict": fit.verdict,
                    "sentence": describe_fit(fit),
                }
            )
    return rows


def write_report(
    histories: RunLike | Sequence[RunLike],
    path: str | os.PathLike[str],
    *,
    bootstrap: int = BOOTSTRAP,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Write a self-contained HTML page, which loads nothing from the network or other files.

    Parameters
    ----------
    histories : run or sequence of runs
        A section for each, after a table that compares them if there are several.
    path : path
    bootstrap : int
        Number of replicates for the p-values of the verdicts.
    progress : callable, optional
        Called with the name of a figure, its number from 0 and their number before it is drawn.

    Returns
    -------
    Path
        The page, as `path`.

    Raises
    ------
    ValueError
        If a run has not recorded an epoch.
    """
    import jinja2

    path = Path(path)
    if isinstance(histories, str | os.PathLike | History | Recording):
        histories = [histories]
    runs = [as_run(history) for history in histories]
    for history in runs:
        if not history.recorded:
            raise ValueError(f"run {history.name} has not recorded an epoch yet")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html.jinja").render(
        title="topokit: " + ", ".join(history.name for history in runs),
        version=topokit.__version__,
        bootstrap=bootstrap,
        runs=[_run(history, i, bootstrap) for i, history in enumerate(runs)],
        across=_across(runs) if len(runs) > 1 else [],
    )
    with write_atomic(path, sync=False) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _run(history: History, number: int, bootstrap: int) -> dict[str, Any]:
    """Return the template's values for one run: summary, verdicts, figures, tables."""
    epochs, recorded = history.epochs, history.recorded
    first, last = recorded[0], recorded[-1]
    scores, _ = _scores(history)
    best = best_epoch(epochs) if score_column(epochs) else len(epochs) - 1
    seed = int(history.config.get("seed", 0))
    n_edges = sum(graph.n_edges for graph in history.topology(last).values())
    verdicts: list[dict[str, Any]] = []
    for epoch in dict.fromkeys((first, last)):
        rows = verdict_sentences(history.topology(epoch), bootstrap=bootstrap, seed=seed)
        for row in rows:
            row["reason"] = row["sentence"].partition(": ")[2]
        verdicts.append({"epoch": epoch, "rows": rows})
    return {
        "name": history.name,
        "anchor": f"run-{number}",
        "rule": history.config.get("rule", {}).get("name", "–"),
        "epochs": unfinished(history).removesuffix(" epochs") or len(epochs),
        "final": scores[-1],
        "best": scores[best],
        "best_epoch": int(epochs["epoch"].iloc[best]) if score_column(epochs) else "–",
        "edges": f"{n_edges:,}",
        "seed": seed,
        "summary": _summary(history, verdicts),
        "verdicts": verdicts,
        "n_tests": sum(len(when["rows"]) for when in verdicts),
        "player": Markup(json.dumps(_player(history)).replace("<", "\\u003c")),
        "figures": _figures(history),
        "tables": [_table(history, first, last)],
        "command": history.environment.get("command", "not recorded"),
        "config": to_toml(history.config),
        "environment": json.dumps(history.environment, indent=2),
    }


def _scores(history: History) -> tuple[list[str], str]:
    """Return the scores of all epochs as text, a dash for one that is missing, and their name."""
    if score_column(history.epochs) is None:
        return ["–"] * len(history.epochs), "score"
    scores, label = scores_of(history)
    return [f"{score:.4f}" if np.isfinite(score) else "–" for score in scores], label


def _player(history: History) -> dict[str, Any]:
    """Return the data of the player: degrees and blocks of every layer at up to `FRAMES` epochs."""
    # The page holds them as JSON: distributions as [k, share] pairs, which the player draws as
    # steps, and block densities (0..99) as one base64 string for each epoch, with one byte for each
    # block, row by row. That is a third of the length of a list of numbers, and one call of `atob`
    # decodes it.
    data = frames(history, n_frames=FRAMES)
    scores, label = _scores(history)
    score_of = dict(zip(history.epochs["epoch"], scores, strict=True))
    curves: dict[str, Any] = {}
    for name, layer in data["layers"].items():
        for side in ("fan_in", "fan_out"):
            curves[f"{name} {side.replace('_', '-')}"] = {
                "side": side.replace("_", "-"),
                "units": layer[side]["units"],
                "null": list(zip(*layer[side]["null"], strict=True)),
                "epochs": [list(zip(*curve, strict=True)) for curve in layer[side]["ccdf"]],
                "dispersion": [
                    "–" if value is None else f"{value:.2f}" for value in layer[side]["dispersion"]
                ],
                "layer": name,
            }
    blocks = {
        name: {
            "shape": [len(layer["blocks"][0]), len((layer["blocks"][0] or [[]])[0])],
            "units": layer["shape"],
            "densest": f"{100 * layer['densest']:.3g} %",
            "epochs": [_bytes(rows) for rows in layer["blocks"]],
        }
        for name, layer in data["layers"].items()
    }
    return {
        "epochs": data["epochs"],
        "label": label,
        "scores": [score_of[epoch] for epoch in data["epochs"]],
        "curves": curves,
        "blocks": blocks,
    }


def _bytes(rows: list[list[int]]) -> str:
    """Encode numbers in 0..255 as base64, one byte each."""
    return base64.b64encode(np.array(rows, np.uint8).tobytes()).decode("ascii")


def _across(histories: Sequence[History]) -> list[dict[str, str]]:
    """Draw the accuracy and the first layer's dispersion of all runs, a figure each."""
    import pandas as pd

    scored: dict[str, list[pd.DataFrame]] = {}
    moving = []
    for history in histories:
        if score_column(history.epochs) is not None:
            scores, label = scores_of(history)
            columns = {"epoch": history.epochs["epoch"], "score": scores, "arm": history.name}
            scored.setdefault(label, []).append(pd.DataFrame(columns))
        measures = history.measures
        first = next(iter(history.topology(history.recorded[0])))
        rows = measures[(measures["layer"] == first) & (measures["measure"] == "fan_in.dispersion")]
        moving.append(rows[["epoch", "value"]].assign(arm=history.name))
    spread = "fan-in variance / mean, first layer"
    drawn = [
        *((f"{label.capitalize()} of each run over epochs.",
           pd.concat(frames).rename(columns={"score": label}), label,
           f"{label.capitalize()}, all runs") for label, frames in scored.items()),
        ("Variance over mean of the first layer's fan-in; about 1 in a random graph.",
         pd.concat(moving).rename(columns={"value": spread}), spread, "Topology, all runs"),
    ]  # fmt: skip
    return [
        {
            "data": _png(partial(_titled, frame, column, title)),
            "alt": f"Plot of all runs. {caption}",
            "caption": caption,
        }
        for caption, frame, column, title in drawn
        if column in frame.columns
    ]


def _titled(frame: Any, column: str, title: str, *, ax: Any) -> None:
    """Draw `column` of several runs under a title."""
    mean_over_seeds(frame, column, ax=ax)
    ax.set_title(title)


def _summary(history: History, verdicts: list[dict[str, Any]]) -> str:
    """Return two sentences on the outcome of a run."""
    start, end = verdicts[0], verdicts[-1]
    moved = [
        f"{b['layer']} {b['side']} ({a['verdict']} → {b['verdict']})"
        for a, b in zip(start["rows"], end["rows"], strict=True)
        if a["verdict"] != b["verdict"]
    ]
    change = (
        f"Between epoch {start['epoch']} and {end['epoch']} the verdict changed for "
        + ", ".join(moved)
        if moved
        else f"No verdict changed between epoch {start['epoch']} and {end['epoch']}"
    )
    part = unfinished(history)
    if score_column(history.epochs) is None:
        done = f"Unfinished: {part}" if part else f"{len(history.epochs)} epochs"
        return f"{done} (one run, one seed). {change}."
    scores, label = _scores(history)
    article = "an" if label[0] in "aeiou" else "a"
    done = f"Unfinished: {part} reached" if part else f"{len(history.epochs)} epochs ended at"
    return f"{done} {article} {label} of {scores[-1]} (one run, one seed). {change}."


def _figures(history: History) -> list[dict[str, str]]:
    """Draw every history plot and the last degrees of every layer as base64 PNG."""
    drawn = [
        (name, CAPTIONS.get(name) or _first_line(plot), partial(plot, history))
        for name, plot in drawable(history).items()
    ]
    first, last = (history.topology(history.recorded[i]) for i in (0, -1))
    for layer, graph in last.items():
        for side in ("fan_in", "fan_out"):
            word = side.replace("_", "-")
            drawn.append(
                (
                    f"degrees of {layer}, {word}",
                    f"{layer}: {word} at the last epoch, at the first epoch and of a random graph.",
                    partial(
                        degree_distribution,
                        graph,
                        side=side,
                        initial=first[layer],
                        title=f"{layer} {word}, last epoch",
                    ),
                )
            )
    return [
        {
            "data": _png(draw),
            "alt": f"Plot of {history.name}: {name.replace('_', ' ')}. {caption}",
            "caption": caption,
        }
        for name, caption, draw in drawn
    ]


def _first_line(plot: Callable[..., Any]) -> str:
    """Return the first line of a plot function's docstring, the caption of a user's plot."""
    return (inspect.getdoc(plot) or "").partition("\n")[0]


def _png(draw: Callable[..., Any]) -> str:
    """Return a figure as base64 PNG."""
    with figure() as ax:
        draw(ax=ax)
        buffer = io.BytesIO()
        save(ax, buffer, format="png", dpi=150, metadata={"Software": "topokit"})
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _table(history: History, first: int, last: int) -> dict[str, Any]:
    """Return a table of every measure at the first and the last epoch, a column for each layer."""
    frame = history.measures
    layers = list(dict.fromkeys(frame["layer"]))
    measured = sorted({int(e) for e in frame["epoch"]} & {first, last})
    cells = {
        (epoch, measure, layer): value
        for epoch, layer, measure, value in frame[frame["epoch"].isin(measured)][
            ["epoch", "layer", "measure", "value"]
        ].itertuples(index=False)
    }
    rows = [
        [measure, *(_arrow(cells, measured, measure, layer) for layer in layers)]
        for measure in dict.fromkeys(key[1] for key in cells)
    ]
    caption = f"Measures at epochs {' → '.join(map(str, measured))}; a dash means undefined."
    return {"caption": caption, "heads": ["measure", *layers], "rows": rows}


def _arrow(cells: dict[Any, float], epochs: list[int], measure: str, layer: str) -> str:
    """Return the values of a measure at `epochs`, joined by arrows."""
    values = [cells.get((epoch, measure, layer)) for epoch in epochs]
    if all(value is None for value in values):
        return ""
    return " → ".join("–" if v is None or np.isnan(v) else f"{v:.4g}" for v in values)
