"""Figures: functions that take a graph or a history and an axes, and return the axes.

This package holds the figures of a layer, of a run and across runs, animations, their common style
and the report page. A figure is a function and a line in `LAYER_PLOTS`, `HISTORY_PLOTS` or
`ACROSS_PLOTS`. Imports from `graph`, `measures` and the records of `experiments`; never torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from topokit.experiments.record import as_run, score_column
from topokit.graph.files import safe_name
from topokit.plots.across import accuracy_against, arms_side_by_side, mean_over_seeds
from topokit.plots.animation import frames, javascript_player, save_gif
from topokit.plots.history import (
    accuracy_against_measure,
    accuracy_over_epochs,
    degree_evolution,
    degree_heatmap,
    degree_multiples,
    edge_survival,
    measure_over_epochs,
    spectrum_over_epochs,
    turnover,
    verdict_timeline,
)
from topokit.plots.layer import (
    adjacency,
    degree_distribution,
    degree_histogram,
    input_map,
    spectrum,
)
from topokit.plots.network import network
from topokit.plots.style import figure, house_style
from topokit.plots.style import save as save_axes

if TYPE_CHECKING:
    from topokit.experiments.record import RunLike

__all__ = [
    "ACROSS_PLOTS",
    "CAPTIONS",
    "HISTORY_PLOTS",
    "LAYER_PLOTS",
    "accuracy_against",
    "accuracy_against_measure",
    "accuracy_over_epochs",
    "adjacency",
    "arms_side_by_side",
    "degree_distribution",
    "degree_evolution",
    "degree_heatmap",
    "degree_histogram",
    "degree_multiples",
    "drawable",
    "edge_survival",
    "frames",
    "house_style",
    "input_map",
    "javascript_player",
    "mean_over_seeds",
    "measure_over_epochs",
    "network",
    "save_figures",
    "save_gif",
    "spectrum",
    "spectrum_over_epochs",
    "turnover",
    "verdict_timeline",
]

LAYER_PLOTS: dict[str, Callable[..., Axes]] = {
    "degree_distribution": degree_distribution,
    "degree_histogram": degree_histogram,
    "spectrum": spectrum,
    "adjacency": adjacency,
    "input_map": input_map,
}

HISTORY_PLOTS: dict[str, Callable[..., Axes]] = {
    "degree_evolution": degree_evolution,
    "measure_over_epochs": measure_over_epochs,
    "accuracy_over_epochs": accuracy_over_epochs,
    "accuracy_against_measure": accuracy_against_measure,
    "turnover": turnover,
    "verdict_timeline": verdict_timeline,
    "degree_heatmap": degree_heatmap,
    "degree_multiples": degree_multiples,
    "edge_survival": edge_survival,
    "spectrum_over_epochs": spectrum_over_epochs,
    "network": network,
}

CAPTIONS = {
    "degree_evolution": "Degree distribution of the first layer at several epochs, from light "
    "(first) to dark (last). A curve to the right of the dotted line has more units of high degree "
    "than a random graph.",
    "measure_over_epochs": "Variance over mean of the fan-in; about 1 in a random graph.",
    "accuracy_over_epochs": "Accuracy on the test set, measured before each rewiring.",
    "accuracy_against_measure": "Accuracy against topology; the colour is the epoch. Neighbouring "
    "epochs share most of their edges: this is the trajectory of one run, not a sample.",
    "degree_heatmap": "Each column is an epoch; the colour is the share of units with that degree. "
    "A random graph is a band that does not move; hubs appear above it.",
    "degree_multiples": "Degree distributions of all layers on common scales, from light (first "
    "epoch) to dark (last).",
    "edge_survival": "Share of edges that reach a given age (Kaplan-Meier estimate; edges present "
    "at the last epoch are censored). A flat curve means that old edges are rarely dropped.",
    "spectrum_over_epochs": "Largest singular values of the first layer. The first follows the "
    "degrees and hubs; its distance to the second is the spectral gap.",
    "network": "The last epoch: units in order of decreasing degree, hubs in orange. The grey "
    "level is the share of edges present, relative to the densest pair of groups in each layer; a "
    "random network is evenly grey.",
    "turnover": "Share of edges that were absent at the previously recorded epoch.",
    "verdict_timeline": "Verdict of the scale-free test on the fan-in, without bootstrap: darker "
    "is further from random.",
}
"""Captions of history plots in the report; a plot without one gets its first docstring line."""

ACROSS_PLOTS: dict[str, Callable[..., Axes]] = {
    "accuracy_against": accuracy_against,
    "mean_over_seeds": mean_over_seeds,
    "arms_side_by_side": arms_side_by_side,
}
"""Figures of a tidy frame with many runs."""

OF_SCORES = ("accuracy_over_epochs", "accuracy_against_measure")


def drawable(history: RunLike) -> dict[str, Callable[..., Axes]]:
    """Return the history plots of which a run has the data.

    Records without accuracies and losses have no figures of them.

    Examples
    --------
    >>> from topokit.experiments.record import Recording
    >>> recording = Recording()
    >>> recording.note(0, learning_rate=0.1)
    >>> sorted(set(HISTORY_PLOTS) - set(drawable(recording)))
    ['accuracy_against_measure', 'accuracy_over_epochs']
    """
    epochs = as_run(history).epochs
    without = OF_SCORES if len(epochs) and score_column(epochs) is None else ()
    return {name: plot for name, plot in HISTORY_PLOTS.items() if name not in without}


KINDS = ("png", "pdf", "svg", "gif")


def save_figures(
    history: RunLike, directory: str | os.PathLike[str], *, formats: tuple[str, ...] = ("png",)
) -> list[Path]:
    """Save the history plots, and the degrees of every layer at the last epoch, to a folder.

    Figures of which the run has no data are left out (see `drawable`).

    Parameters
    ----------
    history : History
        Or a Recording, or the path of a run directory.
    directory : path
        Created if it does not exist.
    formats : tuple of str
        Any of png, pdf, svg and gif; gif adds an animation of the first layer's degrees and edges.

    Returns
    -------
    list of Path
        The files written, in order; equal histories give identical files.

    Raises
    ------
    ValueError
        If a format is unknown or the run has not recorded an epoch.
    """
    unknown = [kind for kind in formats if kind not in KINDS]
    if unknown or not formats:
        raise ValueError(f"expected formats of {', '.join(KINDS)}, got {', '.join(unknown)!r}")
    history, directory = as_run(history), Path(directory)
    if not history.recorded:
        raise ValueError(f"run {history.name} has not recorded an epoch yet")
    directory.mkdir(parents=True, exist_ok=True)
    written = []

    def save(name: str, draw: Callable[..., Axes], *args: object, **kwargs: object) -> None:
        for kind in [kind for kind in formats if kind != "gif"]:
            with figure() as ax:
                draw(*args, ax=ax, **kwargs)
                path = directory / f"{name}.{kind}"
                save_axes(ax, path, dpi=200, metadata=_NO_DATES[kind])
                written.append(path)

    for name, plot in drawable(history).items():
        save(name, plot, history)
    first, last = history.topology(history.recorded[0]), history.topology(history.recorded[-1])
    for layer, graph in last.items():
        for side in ("fan_in", "fan_out"):
            save(
                f"degrees_{safe_name(layer, among=last)}_{side}",
                degree_distribution,
                graph,
                side=side,
                initial=first[layer],
                title=f"{layer} {side.replace('_', '-')}, epoch {history.recorded[-1]}",
            )
    if "gif" in formats:
        written.append(save_gif(history, directory / "degrees_and_links.gif"))
    return written


_NO_DATES: dict[str, dict[str, object]] = {
    "png": {"Software": "topokit"},
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
}
