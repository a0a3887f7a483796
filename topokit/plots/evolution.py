"""Figures of a run: what happens over its epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from topokit.measures import VERDICTS
from topokit.plots.layer import UNITS, degrees_of, draw_ccdf, null_ccdf
from topokit.plots.style import COLOURS, LINES, MARKERS, NULL, axes

if TYPE_CHECKING:
    import pandas as pd

    from topokit.history import History

__all__ = [
    "accuracy_against_measure",
    "accuracy_over_epochs",
    "degree_evolution",
    "measure_over_epochs",
    "scores_of",
    "turnover",
    "verdict_timeline",
]


def degree_evolution(
    history: History,
    *,
    layer: str | None = None,
    side: str = "fan_in",
    n_epochs: int = 4,
    ax: Axes | None = None,
) -> Axes:
    """Degree distribution of one layer at several epochs, first to last, with the null.

    Under a rule that keeps the graph random all curves lie on the dotted null; under SET the
    later (darker) ones run out to the right of it.

    Parameters
    ----------
    history : History
    layer : str, optional
        By default the first.
    side : str
        ``"fan_in"`` or ``"fan_out"``.
    n_epochs : int
        How many epochs to draw, evenly spaced.
    ax : Axes, optional

    Raises
    ------
    ValueError
        If the run has no such layer.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = degree_evolution(history, ax=Figure().add_subplot())
    >>> ax.get_title()
    'Degrees over epochs (fc1 fan-in)'
    """
    ax = axes(ax)
    epochs = history.recorded
    word = side.replace("_", "-")
    if epochs:
        chosen = sorted({epochs[int(i)] for i in np.linspace(0, len(epochs) - 1, n_epochs)})
        layers = history.topology(chosen[-1])
        layer = layer or next(iter(layers))
        if layer not in layers:
            raise ValueError(f"expected a layer of {', '.join(layers)}, got {layer!r}")
        for i, epoch in enumerate(chosen):
            graph = history.topology(epoch)[layer]
            if not i and graph.n_edges:
                ax.plot(*null_ccdf(graph, side), color=NULL, ls=":", label="random graph")
            shade = 0.25 + 0.75 * i / max(len(chosen) - 1, 1)
            draw_ccdf(
                ax,
                degrees_of(graph, side)[0],
                color=COLOURS[0],
                alpha=shade,
                ls=LINES[(len(chosen) - 1 - i) % 4],
                label=f"epoch {epoch}",
            )
        n_units = degrees_of(graph, side)[0].size
        ax.set(xscale="log", yscale="log", ylim=(0.5 / max(n_units, 1), 1.5))
        ax.legend(loc="lower left")
    ax.set(xlabel=f"{word} k", ylabel=f"share of {UNITS[side]} with {word} ≥ k")
    ax.set_title(f"Degrees over epochs ({layer} {word})" if layer else "Degrees over epochs")
    return ax


def _values(history: History, measure: str) -> dict[str, pd.DataFrame]:
    """Frames of epoch and value by layer, without undefined values."""
    frame = history.measures
    mine = frame[(frame["measure"] == measure) & frame["value"].notna()]
    return {str(layer): part for layer, part in mine.groupby("layer", sort=False)}


def measure_over_epochs(
    history: History, measure: str = "fan_in.dispersion", *, ax: Axes | None = None
) -> Axes:
    """One measure over epochs, a line for each layer; gaps are epochs where it is undefined.

    Parameters
    ----------
    history : History
    measure : str
        A name in ``history.measures``.
    ax : Axes, optional

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = measure_over_epochs(history, ax=Figure().add_subplot())
    >>> ax.get_ylabel()
    'fan in variance / mean'
    """
    ax = axes(ax)
    layers = _values(history, measure)
    for i, (layer, part) in enumerate(layers.items()):
        ax.plot(part["epoch"], part["value"], color=COLOURS[i % 7], ls=LINES[i % 7], label=layer)
    if measure.endswith(".dispersion"):
        ax.axhline(1, color=NULL, ls=":", lw=1, label="random graph")
    if layers:
        ax.legend()
    label = measure.replace("_", " ").replace(".dispersion", " variance / mean")
    ax.set(xlabel="epoch", ylabel=label.replace(".", ", "), title="Topology over epochs")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    return ax


def scores_of(history: History) -> tuple[NDArray[np.float64], str]:
    """Return test accuracies, and what they are called; errors of a model without labels."""
    accuracy = history.epochs["test_accuracy"].to_numpy()
    if len(accuracy) and np.isnan(accuracy).all():
        return history.epochs["test_loss"].to_numpy(), "test error"
    return accuracy, "test accuracy"


def accuracy_over_epochs(history: History, *, ax: Axes | None = None) -> Axes:
    """Test accuracy after each epoch; the test error of a model that learns without labels.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = accuracy_over_epochs(history, ax=Figure().add_subplot())
    >>> ax.lines[0].get_xdata().tolist()
    [0, 1, 2]
    """
    ax = axes(ax)
    scores, label = scores_of(history)
    if len(scores):
        ax.plot(history.epochs["epoch"], scores, color=COLOURS[0])
    ax.set(xlabel="epoch", ylabel=label, title=f"{label[5:].capitalize()} over epochs")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    return ax


def accuracy_against_measure(
    history: History, measure: str = "normalized_spectral_gap", *, ax: Axes | None = None
) -> Axes:
    """Test accuracy (or error) against a measure, one point an epoch and layer, epochs as colour.

    A path, not a sample: neighbouring epochs share most of their edges, so a trend here is no
    correlation between independent observations.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = accuracy_against_measure(history, ax=Figure().add_subplot())
    >>> ax.get_ylabel()
    'test accuracy'
    """
    ax = axes(ax)
    layers = _values(history, measure)
    scores, score = scores_of(history)
    accuracy = dict(zip(history.epochs["epoch"], scores, strict=True))
    points = None
    for i, (layer, part) in enumerate(layers.items()):
        points = ax.scatter(
            part["value"],
            [accuracy[e] for e in part["epoch"]],
            c=part["epoch"],
            cmap="cividis_r",  # the latest epochs are the darkest
            vmin=0,
            vmax=max(accuracy, default=1),
            marker=MARKERS[i % 7],
            s=9,
            label=layer,
        )
        path = [accuracy[e] for e in part["epoch"]]
        ax.plot(part["value"], path, color=NULL, lw=0.4, alpha=0.5, zorder=0)
    if points is not None:
        ax.figure.colorbar(points, ax=ax, label="epoch", ticks=MaxNLocator("auto", integer=True))
        legend = ax.legend(loc="lower left")
        for handle in legend.legend_handles:
            if isinstance(handle, PathCollection):
                handle.set_array(None)
                handle.set_facecolor(NULL)
    label = measure.replace("_", " ").replace(".", ", ")
    ax.set(xlabel=label, ylabel=score, title=f"{score[5:].capitalize()} against topology")
    return ax


def turnover(history: History, *, ax: Axes | None = None) -> Axes:
    """Share of edges absent from the epoch recorded before, a line for each layer.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = turnover(history, ax=Figure().add_subplot())
    >>> ax.get_title()
    'Turnover of edges'
    """
    ax = measure_over_epochs(history, "turnover", ax=ax)
    highest = ax.dataLim.y1 if ax.has_data() else 0.0
    top = 1.3 * highest if highest > 0 else 1.0
    ax.set(ylabel="turnover (share of edges)", ylim=(0, top), title="Turnover of edges")
    return ax


def verdict_timeline(history: History, *, ax: Axes | None = None) -> Axes:
    """What the scale-free test said of each layer's fan-in, epoch by epoch.

    Darker is further from random. Without a bootstrap the test never says "power law".

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = verdict_timeline(history, ax=Figure().add_subplot())
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['fc1', 'fc2']
    """
    ax = axes(ax)
    layers = _values(history, "power_law.verdict")
    if layers:
        epochs = sorted({int(e) for part in layers.values() for e in part["epoch"]})
        grid = np.full((len(layers), len(epochs)), np.nan)
        for row, part in enumerate(layers.values()):
            grid[row, np.searchsorted(epochs, part["epoch"])] = part["value"]
        colours = ListedColormap(["#f0f0f0", "#9ecae1", "#3182bd", "#08306b"])
        extent = (epochs[0] - 0.5, epochs[-1] + 0.5, len(layers) - 0.5, -0.5)
        norm = BoundaryNorm(np.arange(-0.5, 4), 4)
        image = ax.imshow(
            grid, cmap=colours, norm=norm, aspect="auto", extent=extent, interpolation="nearest"
        )
        ax.set_yticks(range(len(layers)), list(layers))
        bar = ax.figure.colorbar(image, ax=ax, ticks=range(4))
        bar.ax.set_yticklabels(VERDICTS)
    ax.set(xlabel="epoch", ylabel="layer", title="Verdict on the fan-in")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    return ax
