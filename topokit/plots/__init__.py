"""Figures: functions that take a graph or a history and an axes, and return the axes.

This package holds the figures of a layer, of a run and across runs, animations, their common style
and the report page. A figure is a function and a line in `LAYER_PLOTS`, `HISTORY_PLOTS` or
`ACROSS_PLOTS`. Imports from `graph`, `measures` and the records of `experiments`; never torch.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes

from topokit.experiments.record import as_run, score_column
from topokit.experiments.views import recorded_epochs, shuffled_pixels
from topokit.graph.files import check_writable, safe_name
from topokit.plots.across import accuracy_against, arms_side_by_side, mean_over_seeds
from topokit.plots.animation import (
    ANIMATIONS,
    frames,
    javascript_player,
    need_ffmpeg,
    save_animation,
    save_gif,
)
from topokit.plots.degrees import degree_evolution, degree_heatmap, degree_multiples
from topokit.plots.growth import edge_survival, growth_flow
from topokit.plots.history import (
    accuracy_against_measure,
    accuracy_over_epochs,
    layer_of,
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
from topokit.plots.parts import draw_in
from topokit.plots.style import SIZES, figure, house_style, inches
from topokit.plots.style import save as save_axes
from topokit.plots.summary import PAGE, runs_over_epochs, summary, summary_across
from topokit.tables import Table, choose

if TYPE_CHECKING:
    from topokit.experiments.record import History, RunLike
    from topokit.graph import Topology

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
    "growth_flow",
    "house_style",
    "input_map",
    "javascript_player",
    "mean_over_seeds",
    "measure_over_epochs",
    "network",
    "runs_over_epochs",
    "save_animation",
    "save_figures",
    "save_gif",
    "spectrum",
    "spectrum_over_epochs",
    "summary",
    "summary_across",
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
LAYER_PLOTS = Table("plot", LAYER_PLOTS)

HISTORY_PLOTS: dict[str, Callable[..., Axes]] = {
    "summary": summary,
    "degree_evolution": degree_evolution,
    "measure_over_epochs": measure_over_epochs,
    "accuracy_over_epochs": accuracy_over_epochs,
    "accuracy_against_measure": accuracy_against_measure,
    "turnover": turnover,
    "verdict_timeline": verdict_timeline,
    "degree_heatmap": degree_heatmap,
    "degree_multiples": degree_multiples,
    "edge_survival": edge_survival,
    "growth_flow": growth_flow,
    "spectrum_over_epochs": spectrum_over_epochs,
    "network": network,
}
HISTORY_PLOTS = Table("plot", HISTORY_PLOTS)

CAPTIONS = {
    "summary": "The run on one time axis: degrees of the first layer, variance over mean of the "
    "fan-in (1 − density in a random graph) with its verdict, spectral gap, largest component, "
    "turnover of edges and accuracy. Crosses are values of exactly 0: a gap of 0 is that of a "
    "layer in pieces, a turnover of 0 that of an epoch without changes.",
    "degree_evolution": "Degree distribution of the first layer at several epochs, from faint "
    "(first) to strong (last). A curve to the right of the dotted steps has more units of high "
    "degree than a random graph with as many edges.",
    "measure_over_epochs": "Variance over mean of the fan-in; 1 − density in a random graph.",
    "accuracy_over_epochs": "Accuracy on the test set, measured before each rewiring.",
    "accuracy_against_measure": "Path of the run through accuracy and topology, a panel for each "
    "layer, from faint (first epoch, circle) to strong (last, square). Neighbouring epochs share "
    "most of their edges: this is the trajectory of one run, not a sample.",
    "degree_heatmap": "Each column is an epoch; the colour is the share of units with that degree. "
    "A random graph is a band that does not move; hubs appear above it.",
    "degree_multiples": "Degree distributions of all layers, from faint (first epoch) to strong "
    "(last), each on a horizontal scale of its own.",
    "edge_survival": "Share of edges that reach a given age (Kaplan-Meier estimate; edges present "
    "at the last epoch are censored). A flat curve means that old edges are rarely dropped.",
    "growth_flow": "Edges grown in the first layer, and those of them still there some epochs "
    "later, as far as that is known, from input units (left) to output units (right) of high, "
    "middle and low degree. The colour compares with edges grown at random: orange flows are more "
    "frequent than by chance, grey ones too small to tell.",
    "spectrum_over_epochs": "Largest singular values of the first layer. The first follows the "
    "degrees and hubs; its distance to the second is the spectral gap.",
    "network": "The last epoch. The height of a class of units is its share of the edges at its "
    "column; bands are edges between classes. A random network is grey; hubs are units with more "
    "edges than any in a random network of this size.",
    "turnover": "Share of edges that were absent at the previously recorded epoch.",
    "verdict_timeline": "Verdict of the scale-free test on the fan-in, without bootstrap: blue is "
    "wider than random, green narrower.",
}
"""Captions of history plots in the report; a plot without one gets its first docstring line."""

ACROSS_PLOTS: dict[str, Callable[..., Axes]] = {
    "accuracy_against": accuracy_against,
    "mean_over_seeds": mean_over_seeds,
    "summary_across": summary_across,
    "arms_side_by_side": arms_side_by_side,
}
"""Figures of a tidy frame with many runs."""
ACROSS_PLOTS = Table("plot", ACROSS_PLOTS)

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


KINDS = ("png", "pdf", "svg")
DEGREES = "degree_distribution"  # drawn of both sides of every layer


def save_figures(
    history: RunLike,
    directory: str | os.PathLike[str],
    *,
    formats: tuple[str, ...] = ("png",),
    only: Iterable[str] | None = None,
    layer: str | None = None,
    size: str | tuple[float, float] = "column",
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Path]:
    """Save figures of a run to a folder: by default its history plots and the degrees of layers.

    Each is the figure that the function of that name draws. Those of which the run has no data are
    left out (see `drawable`).

    Parameters
    ----------
    history : History
        Or a Recording, or the path of a run directory.
    directory : path
        Created if it does not exist.
    formats : tuple of str
        Any of png, pdf, svg, and of gif, html and mp4, which are one animation of a layer's degrees
        and edges; mp4 needs the program
        ffmpeg, from your system or from ``pip install imageio-ffmpeg``.
    only : iterable of str, optional
        Names in `HISTORY_PLOTS`, and in `LAYER_PLOTS` for the graphs of the last epoch; by default
        all of the first and ``"degree_distribution"``.
    layer : str, optional
        Layer to draw: of `LAYER_PLOTS` by default all, of the others the first.
    size : str or tuple of float
        ``"column"``, ``"page"``, or width and height in inches. The summary is as wide as a page.
    progress : callable, optional
        Called with the name of a figure, its number from 0 and their number before it is drawn.

    Returns
    -------
    list of Path
        The files written, in order; equal histories give identical files (but for mp4).

    Raises
    ------
    ValueError
        If a format, name, layer or size is unknown, the layer has no effect on any figure or names
        of figures have none on an animation, the run lacks the data of one asked for, or it has not
        recorded an epoch.
    """
    unknown = [kind for kind in formats if kind not in (*KINDS, *ANIMATIONS)]
    if unknown or not formats:
        raise ValueError(
            f"expected formats of {', '.join((*KINDS, *ANIMATIONS))}, got {', '.join(unknown)!r}"
        )
    if "mp4" in formats:
        need_ffmpeg()
    history, directory = as_run(history), Path(directory)
    recorded_epochs(history)
    stills = [kind for kind in formats if kind in KINDS]
    if only is not None and not stills:
        raise ValueError(
            f"names of figures have no effect on {', '.join(formats)}, which are one animation"
        )
    jobs = _chosen(history, only, layer, size)
    jobs = jobs if stills else []
    films = [kind for kind in formats if kind in ANIMATIONS]
    total = len(jobs) + len(films)
    check_writable(directory, made=True)
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for i, (name, draw, inches_) in enumerate(jobs):
        if progress is not None:
            progress(name, i, total)
        with figure(size=inches_) as ax:
            draw_in(draw, ax)
            for kind in stills:
                path = directory / f"{name}.{kind}"
                save_axes(ax, path, dpi=200)
                written.append(path)
    for i, kind in enumerate(films, len(jobs)):
        path = directory / f"degrees_and_edges.{kind}"
        if progress is not None:
            progress(path.name, i, total)
        written.append(save_animation(history, path, layer=layer))
    return written


Job = tuple[str, Callable[..., Axes], tuple[float, float]]


def _chosen(
    history: History,
    only: Iterable[str] | None,
    layer: str | None,
    size: str | tuple[float, float],
) -> list[Job]:
    """Return name, function of an axes and size of each figure to save."""
    inches(size)
    layer = layer_of(history, layer) if layer is not None else None
    can = drawable(history)
    names = [*can, DEGREES] if only is None else list(dict.fromkeys(only))
    table = {**HISTORY_PLOTS, **LAYER_PLOTS}
    across = [name for name in names if name in ACROSS_PLOTS and name not in table]
    if across:
        raise ValueError(
            f"figure {across[0]!r} compares runs, and these are figures of one run; in Python it "
            f"is topokit.plots.{across[0]}, and 'topokit report' compares the runs it is given"
        )
    takes = [name for name in names if _takes(choose("figure", name, table), "layer")]
    layered = [name for name in names if name in LAYER_PLOTS]
    missing = [name for name in names if name in HISTORY_PLOTS and name not in can]
    if missing:
        raise ValueError(f"run {history.name} has no scores, which {missing[0]} draws")
    if layer is not None and not takes and not layered:
        raise ValueError(f"layer {layer!r} has no effect on {', '.join(names)}, of whole runs")
    jobs: list[Job] = []
    for name in names:
        if name in HISTORY_PLOTS:
            chosen = {"layer": layer} if layer is not None and name in takes else {}
            wide = PAGE if name == "summary" and size in SIZES else inches(size)
            jobs.append((name, partial(table[name], history, **chosen), wide))
    first, last = history.topology(history.recorded[0]), history.topology(history.recorded[-1])
    for name in layered:
        for which in last if layer is None else (layer,):
            reads_images = name == "input_map" and which == next(iter(last))
            options = {"order": shuffled_pixels(history)} if reads_images else {}
            epoch = history.recorded[-1]
            jobs += _of_layer(name, which, first, last, epoch, inches(size), options)
    return jobs


def _of_layer(
    name: str,
    layer: str,
    first: Topology,
    last: Topology,
    epoch: int,
    size: tuple[float, float],
    options: dict[str, Any],
) -> list[Job]:
    """Return the figures of one layer at the last epoch; its degrees are drawn for both sides."""
    safe = safe_name(layer, among=last)
    if name != DEGREES:
        return [(f"{name}_{safe}", partial(LAYER_PLOTS[name], last[layer], **options), size)]
    jobs: list[Job] = []
    for side in ("fan_in", "fan_out"):
        title = f"{layer} {side.replace('_', '-')}, epoch {epoch}"
        draw = partial(
            degree_distribution, last[layer], side=side, initial=first[layer], title=title
        )
        jobs.append((f"degrees_{safe}_{side}", draw, size))
    return jobs


def _takes(function: Callable[..., object], parameter: str) -> bool:
    """Return whether a function has a parameter."""
    return parameter in inspect.signature(function).parameters
