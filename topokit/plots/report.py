"""One self-contained HTML page about one or more runs: words, figures, tables, configuration."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

import topokit
from topokit.graph import Topology
from topokit.graph.files import write_atomic
from topokit.measures import describe_fit, power_law_of
from topokit.measures.scalefree import bootstrap_stream
from topokit.plots import HISTORY_PLOTS, degree_distribution, frames, mean_over_seeds
from topokit.plots.history import scores_of
from topokit.plots.style import figure, save
from topokit.toml import to_toml

if TYPE_CHECKING:
    from topokit.experiments.record import History

__all__ = ["verdict_sentences", "write_report"]

BOOTSTRAP = 100
FRAMES = 60  # epochs in the player

CAPTIONS = {
    "degree_evolution": "Degrees of the first layer from the first epoch (lightest) to the last. "
    "Curves to the right of the dotted line have more links on few units than chance gives.",
    "measure_over_epochs": "Variance over mean of the fan-in; a random graph stays near 1.",
    "accuracy_over_epochs": "Accuracy on the test set, measured before each rewiring.",
    "accuracy_against_measure": "The path of the run through topology and accuracy; the colour is "
    "the epoch. Neighbouring epochs share most of their edges, so this is one path, no sample.",
    "degree_heatmap": "Every column is an epoch, every cell the share of units with about so many "
    "links. A random graph is a band that stays; hubs climb away from it.",
    "degree_multiples": "All layers on common scales, from the first epoch (light) to the last.",
    "edge_survival": "Share of edges that live at least so many epochs (Kaplan-Meier; edges alive "
    "at the end are censored). Where a curve flattens, the survivors stay.",
    "spectrum_over_epochs": "The first singular value follows degrees and hubs; its distance to "
    "the second is the raw spectral gap.",
    "network": "The last epoch: units by links from the top, hubs in orange; darkness is the share "
    "of links present, of each layer's densest pair of groups. Evenly grey is random.",
    "turnover": "Share of edges that were not there in the epoch recorded before.",
    "verdict_timeline": "What the scale-free test concluded on the fan-in, without bootstrap: "
    "darker is further from random.",
}


def verdict_sentences(
    topology: Topology, *, bootstrap: int = BOOTSTRAP, seed: int = 0
) -> list[dict[str, str]]:
    """Judge the degrees of every layer and side, in words.

    Parameters
    ----------
    topology : dict of LayerGraph
    bootstrap : int
        Replicates behind each p-value; 0 for none, and then no verdict "power law".
    seed : int
        Of the bootstrap; the same for equal topologies whatever else is judged.

    Returns
    -------
    list of dict
        ``layer``, ``side`` ("fan-in" or "fan-out"), ``verdict`` and ``sentence``.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> layer = LayerGraph.from_edge_ids(range(12), (3, 4))
    >>> [row["verdict"] for row in verdict_sentences({"fc1": layer})]
    ['random', 'random']
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
    histories: Sequence[History], path: str | Path, *, bootstrap: int = BOOTSTRAP
) -> Path:
    """Write one HTML page that needs nothing else: no network, no files beside it.

    Parameters
    ----------
    histories : sequence of History
        Shown one after the other, with a table that compares them on top.
    path : path
    bootstrap : int
        Replicates behind the p-values of the verdicts.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If a run has not recorded an epoch.
    """
    import jinja2

    path = Path(path)
    for history in histories:
        if not history.recorded:
            raise ValueError(f"run {history.name} has not recorded an epoch yet")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html.jinja").render(
        title="topokit: " + ", ".join(history.name for history in histories),
        version=topokit.__version__,
        bootstrap=bootstrap,
        runs=[_run(history, i, bootstrap) for i, history in enumerate(histories)],
        across=_across(histories) if len(histories) > 1 else [],
    )
    with write_atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _run(history: History, number: int, bootstrap: int) -> dict[str, Any]:
    """Everything the page says about one run."""
    epochs, recorded = history.epochs, history.recorded
    first, last = recorded[0], recorded[-1]
    scores, label = scores_of(history)
    best = int(scores.argmin() if label == "test error" else scores.argmax())
    seed = int(history.config.get("seed", 0))
    links = sum(graph.n_edges for graph in history.topology(last).values())
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
        "epochs": len(epochs),
        "final": f"{scores[-1]:.4f}",
        "best": f"{scores[best]:.4f}",
        "best_epoch": int(epochs["epoch"].iloc[best]),
        "links": f"{links:,}",
        "seed": seed,
        "words": _words(history, verdicts),
        "verdicts": verdicts,
        "n_tests": sum(len(when["rows"]) for when in verdicts),
        "player": Markup(json.dumps(_player(history)).replace("<", "\\u003c")),
        "figures": _figures(history),
        "tables": [_table(history, first, last)],
        "command": history.environment.get("command", "not recorded"),
        "config": to_toml(history.config),
        "environment": json.dumps(history.environment, indent=2),
    }


def _player(history: History) -> dict[str, Any]:
    """Degrees and blocks of every layer at up to `FRAMES` epochs, for the player."""
    film = frames(history, n_frames=FRAMES)
    scores, label = scores_of(history)
    score_of = dict(zip(history.epochs["epoch"], scores, strict=True))
    curves: dict[str, Any] = {}
    for name, layer in film["layers"].items():
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
        for name, layer in film["layers"].items()
    }
    return {
        "epochs": film["epochs"],
        "label": label,
        "scores": [f"{score_of[epoch]:.4f}" for epoch in film["epochs"]],
        "curves": curves,
        "blocks": blocks,
    }


def _bytes(rows: list[list[int]]) -> str:
    """Small numbers as base64, a byte each."""
    return base64.b64encode(np.array(rows, np.uint8).tobytes()).decode("ascii")


def _across(histories: Sequence[History]) -> list[dict[str, str]]:
    """Accuracy and the first layer's dispersion of all runs in one figure each."""
    import pandas as pd

    frames, moving = [], []
    for history in histories:
        scores, label = scores_of(history)
        column = label.replace(" ", "_")
        columns = {"epoch": history.epochs["epoch"], column: scores, "arm": history.name}
        frames.append(pd.DataFrame(columns))
        measures = history.measures
        first = next(iter(history.topology(history.recorded[0])))
        rows = measures[(measures["layer"] == first) & (measures["measure"] == "fan_in.dispersion")]
        moving.append(rows[["epoch", "value"]].assign(arm=history.name))
    spread = "fan-in variance / mean, first layer"
    drawn = [
        (f"Each run's {label} over epochs.", pd.concat(frames), column, f"{label}, all runs"),
        ("Variance over mean of the first layer's fan-in; a random graph stays near 1.",
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
    """Lines of several runs under a title."""
    mean_over_seeds(frame, column, ax=ax)
    ax.set_title(title)


def _words(history: History, verdicts: list[dict[str, Any]]) -> str:
    """Say in two sentences what happened."""
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
    scores, label = scores_of(history)
    return (
        f"{len(history.epochs)} epochs ended at a {label} of {scores[-1]:.4f} "
        f"(one run, one seed). {change}."
    )


def _figures(history: History) -> list[dict[str, str]]:
    """Draw every history plot and the last degrees of every layer, as base64 PNG."""
    drawn = [
        (name, CAPTIONS.get(name, ""), partial(plot, history))
        for name, plot in HISTORY_PLOTS.items()
    ]
    first, last = (history.topology(history.recorded[i]) for i in (0, -1))
    for layer, graph in last.items():
        for side in ("fan_in", "fan_out"):
            word = side.replace("_", "-")
            drawn.append(
                (
                    f"degrees of {layer}, {word}",
                    f"{layer}: {word} at the last epoch against the first and against chance.",
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
            "alt": f"Plot for {history.name}: {name.replace('_', ' ')}. {caption}",
            "caption": caption,
        }
        for name, caption, draw in drawn
    ]


def _png(draw: Any) -> str:
    with figure() as ax:
        draw(ax=ax)
        buffer = io.BytesIO()
        save(ax, buffer, format="png", dpi=150, metadata={"Software": "topokit"})
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _table(history: History, first: int, last: int) -> dict[str, Any]:
    """Every measure at the first and the last recorded epoch, a column for each layer."""
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
    caption = f"Measures at epochs {' → '.join(map(str, measured))}; a dash is undefined."
    return {"caption": caption, "heads": ["measure", *layers], "rows": rows}


def _arrow(cells: dict[Any, float], epochs: list[int], measure: str, layer: str) -> str:
    values = [cells.get((epoch, measure, layer)) for epoch in epochs]
    if all(value is None for value in values):
        return ""
    return " → ".join("–" if v is None or np.isnan(v) else f"{v:.4g}" for v in values)
