"""Figures of a run: degrees, measures, accuracy, lifetimes of edges and spectra over its epochs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.sparse.linalg import svds

from topokit.experiments.record import History, RunLike, as_run, score_column
from topokit.graph import positions_in
from topokit.measures import VERDICTS, singular_values
from topokit.plots.layer import UNITS, degrees_of, draw_ccdf, null_ccdf
from topokit.plots.style import COLOURS, LINES, MARKERS, NULL, axes, whole_numbers
from topokit.tables import hint, listed

if TYPE_CHECKING:
    import pandas as pd

    from topokit.graph import LayerGraph

__all__ = [
    "accuracy_against_measure",
    "accuracy_over_epochs",
    "degree_evolution",
    "degree_heatmap",
    "degree_multiples",
    "edge_survival",
    "evenly_spaced",
    "layer_of",
    "measure_over_epochs",
    "scores_of",
    "spectrum_over_epochs",
    "turnover",
    "verdict_timeline",
]

SHOWN = 4  # verdicts with a colour of their own
SMALL = 128  # up to this many units on the smaller side, spectra are computed densely


# --- what the figures read from a history -------------------------------------------------------


def evenly_spaced(history: History, n: int, what: str = "epoch") -> list[int]:
    """Return up to `n` recorded epochs, evenly spaced, with the first and the last among them.

    With ``n=1`` it is the last epoch alone. `what` names the items in the error message.
    """
    if n < 1:
        raise ValueError(f"expected at least 1 {what}, got {n}")
    known = history.recorded
    if n == 1:
        return known[-1:]
    return sorted({known[int(i)] for i in np.linspace(0, len(known) - 1, n)}) if known else []


def layer_of(history: History, layer: str | None) -> str | None:
    """Return `layer` after checking that the run has it, by default the first layer.

    A history without recorded epochs has no layers to check against; `layer` is returned as it is.
    """
    if not history.recorded:
        return layer
    layers = history.topology(history.recorded[-1])
    layer = layer or next(iter(layers))
    if layer not in layers:
        raise ValueError(f"expected a layer of {', '.join(layers)}, got {layer!r}")
    return layer


def scores_of(history: History) -> tuple[NDArray[np.float64], str]:
    """Return the numbers by which a run's epochs are judged, and what they are.

    They are the test accuracies or, where there are none, what `score_column` finds.

    Raises
    ------
    ValueError
        If there are epochs, but neither accuracies nor losses.
    """
    epochs = history.epochs
    if not len(epochs):
        return np.empty(0), "test accuracy"
    column = score_column(epochs)
    if column is None:
        raise ValueError(
            f"expected accuracies or losses of run {history.name}, got the columns "
            f"{', '.join(map(str, epochs.columns))}; add some with note(epoch, test_accuracy=...)"
        )
    unlabelled = column == "test_loss" and "test_accuracy" in epochs
    label = "test error" if unlabelled else column.replace("_", " ")
    return epochs[column].to_numpy(float), label


def _values(history: History, measure: str) -> dict[str, pd.DataFrame]:
    """Return the defined values of a measure: for each layer a frame with epoch and value."""
    frame = history.measures
    mine = frame[(frame["measure"] == measure) & frame["value"].notna()]
    return {str(layer): part for layer, part in mine.groupby("layer", sort=False)}


def _chosen(history: History, measure: str | None, usual: str) -> str:
    """Return the measure to draw: the usual one or, if the run did not record it, another.

    A ValueError is raised for a measure that was asked for and is not among those recorded.
    """
    names = dict.fromkeys(map(str, history.measures["measure"]))
    if measure is None:
        return next(iter(names), usual) if usual not in names else usual
    if names and measure not in names:
        raise ValueError(
            f"expected a measure that run {history.name} recorded, got {measure!r}; "
            f"{hint(measure, names)}recorded: {listed(names)}"
        )
    return measure


def _label(measure: str) -> str:
    """Return the name of a measure as a label: "fan-in variance / mean" for "fan_in.dispersion"."""
    words = measure.replace("fan_", "fan-").replace("_", " ")
    return words.replace(".dispersion", " variance / mean").replace(".", ", ")


# --- degrees -------------------------------------------------------------------------------------


def degree_evolution(
    history: RunLike,
    *,
    layer: str | None = None,
    side: str = "fan_in",
    n_epochs: int = 4,
    ax: Axes | None = None,
) -> Axes:
    """Plot the degree distribution of one layer at several epochs, with the random-graph null.

    Under a rule that keeps the graph random all curves follow the dotted null; under SET the
    later, darker curves extend to the right of it.

    Parameters
    ----------
    history : History
    layer : str, optional
        By default the first.
    side : str
        ``"fan_in"`` or ``"fan_out"``.
    n_epochs : int
        Number of epochs to draw, evenly spaced.
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the run has no such layer or `n_epochs` is below 1.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = degree_evolution(history, ax=Figure().add_subplot())
    >>> ax.get_title()
    'Degrees over epochs (fc1 fan-in)'
    """
    history, ax = as_run(history), axes(ax)
    layer, word = layer_of(history, layer), side.replace("_", "-")
    epochs = evenly_spaced(history, n_epochs)
    if epochs and layer is not None:
        graphs = [history.topology(epoch)[layer] for epoch in epochs]
        _draw_distributions(ax, epochs, graphs, side, lightest=0.25, null_label="random graph")
        n_units = degrees_of(graphs[-1], side)[0].size
        ax.set(xscale="log", yscale="log", ylim=(0.5 / max(n_units, 1), 1.5))
        ax.legend(loc="lower left")
    ax.set(xlabel=f"{word} k", ylabel=f"share of {UNITS[side]} with {word} ≥ k")
    ax.set_title(f"Degrees over epochs ({layer} {word})" if layer else "Degrees over epochs")
    return ax


def _draw_distributions(
    ax: Axes,
    epochs: Sequence[int],
    graphs: Sequence[LayerGraph],
    side: str,
    *,
    lightest: float,
    null_label: str | None = None,
) -> None:
    """Draw the null of the first graph dotted and P(K >= k) of every graph, light to dark."""
    if graphs[0].n_edges:
        ax.plot(*null_ccdf(graphs[0], side), color=NULL, ls=":", label=null_label)
    last = len(epochs) - 1
    for i, (epoch, graph) in enumerate(zip(epochs, graphs, strict=True)):
        draw_ccdf(
            ax,
            degrees_of(graph, side)[0],
            color=COLOURS[0],
            alpha=lightest + (1 - lightest) * i / max(last, 1),
            ls=LINES[(last - i) % 4],
            label=f"epoch {epoch}",
        )


def degree_heatmap(
    history: RunLike,
    *,
    layer: str | None = None,
    side: str = "fan_in",
    n_epochs: int = 60,
    ax: Axes | None = None,
) -> Axes:
    """Plot the degree distribution of one layer over epochs as a heat map, with the mean degree.

    Each column is an epoch; the colour is the share of units whose degree is in the bin. A random
    graph is a band that does not move; hubs are single cells above the band. Bins grow by factors
    of about 1.2.

    Parameters
    ----------
    history : History
    layer : str, optional
        By default the first.
    side : str
        ``"fan_in"`` or ``"fan_out"``.
    n_epochs : int
        Largest number of epochs to draw, evenly spaced.
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the run has no such layer or `n_epochs` is below 1.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = degree_heatmap(history, ax=Figure().add_subplot())
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('epoch', 'fan-in k')
    """
    history, ax = as_run(history), axes(ax)
    layer, word = layer_of(history, layer), side.replace("_", "-")
    epochs = evenly_spaced(history, n_epochs)
    if epochs and layer is not None:
        degrees = [degrees_of(history.topology(epoch)[layer], side)[0] for epoch in epochs]
        limits = _degree_bins(max([int(d.max(initial=0)) for d in degrees] + [1]))
        shares = np.array(
            [np.histogram(np.maximum(d, 0.5), bins=limits)[0] / max(d.size, 1) for d in degrees]
        ).T
        middle = [(a + b) / 2 for a, b in itertools.pairwise(epochs)]
        sides = np.array([2 * epochs[0] - (middle or [epochs[0] + 0.5])[0], *middle])
        sides = np.append(sides, 2 * epochs[-1] - sides[-1])
        seen = np.ma.masked_equal(shares, 0)
        lowest = float(seen.min()) if seen.count() else 1.0
        norm = LogNorm(min(lowest, 0.5), 1)
        mesh = ax.pcolormesh(sides, limits, seen, cmap="cividis_r", norm=norm, rasterized=True)
        ax.figure.colorbar(mesh, ax=ax, label=f"share of {UNITS[side]}")
        means = [d.mean() if d.size else np.nan for d in degrees]
        ax.plot(epochs, means, color=COLOURS[1], lw=1, label="mean")
        rows = np.flatnonzero(shares.any(axis=1))
        ylim = (limits[rows[0]], limits[rows[-1] + 1]) if rows.size else None
        ax.set(yscale="log", ylim=ylim)
        ax.legend(loc="upper left", frameon=True, framealpha=0.7)
    title = f"Degrees over epochs ({layer} {word})" if layer else "Degrees over epochs"
    ax.set(xlabel="epoch", ylabel=f"{word} k", title=title)
    whole_numbers(ax)
    return ax


def _degree_bins(largest: int) -> NDArray[np.float64]:
    """Return limits of bins: one for isolated units, one for each small degree, then wider ones."""
    steps = np.unique(np.round(np.geomspace(1, largest + 1, 4 + int(13 * np.log10(largest + 1)))))
    end = [largest + 0.6] if steps[-1] <= largest else []
    return np.concatenate([[0.4], steps - 0.4, end])


def degree_multiples(
    history: RunLike, *, side: str = "fan_in", n_epochs: int = 3, ax: Axes | None = None
) -> Axes:
    """Plot the degree distributions of every layer, one small panel for each, on common scales.

    Each panel shows a few epochs from light (first) to dark (last), and the null dotted.

    Parameters
    ----------
    history : History
    side : str
        ``"fan_in"`` or ``"fan_out"``.
    n_epochs : int
        Number of epochs to draw, evenly spaced.
    ax : Axes, optional
        The panels are placed inside it; its title and axis labels hold for all of them.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If `n_epochs` is below 1.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = degree_multiples(history, ax=Figure().add_subplot())
    >>> len(ax.child_axes)
    2
    """
    history, ax = as_run(history), axes(ax)
    word = side.replace("_", "-")
    epochs = evenly_spaced(history, n_epochs)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    if epochs:
        topologies = [history.topology(epoch) for epoch in epochs]
        names = list(topologies[-1])
        graphs: list[list[LayerGraph]] = [[t[name] for t in topologies] for name in names]
        largest = max(int(degrees_of(g, side)[0].max(initial=1)) for row in graphs for g in row)
        smallest = min(0.5 / max(degrees_of(row[0], side)[0].size, 1) for row in graphs)
        for i, (name, row) in enumerate(zip(names, graphs, strict=True)):
            gap = 0.06 / len(names)
            panel = ax.inset_axes((i / len(names) + gap, 0.1, 1 / len(names) - 2 * gap, 0.84))
            _draw_distributions(panel, epochs, row, side, lightest=0.3)
            panel.set(xscale="log", yscale="log", xlim=(0.8, 1.3 * largest), ylim=(smallest, 1.5))
            panel.set_xticks([10.0**k for k in range(int(np.log10(0.7 * largest)) + 1)])
            panel.set_title(name, fontsize="small", pad=2)
            if i:
                panel.set_yticklabels([])
            if i == len(names) - 1 and row[0].n_edges:
                panel.legend(loc="lower left", fontsize=5, handlelength=1.4)
            panel.tick_params(labelsize=6)
    ax.set_xlabel(f"{word} k", labelpad=2)
    ax.set_ylabel(f"share of units with {word} ≥ k", labelpad=22 if epochs else None)
    ax.set_title(f"Degrees of every layer ({word})")
    return ax


# --- measures and accuracy -----------------------------------------------------------------------


def measure_over_epochs(
    history: RunLike, measure: str | None = None, *, ax: Axes | None = None
) -> Axes:
    """Plot one measure over epochs, a line for each layer; undefined values are left out.

    Parameters
    ----------
    history : History
    measure : str, optional
        A name in ``history.measures``; by default ``"fan_in.dispersion"`` or, if it was not
        recorded, the first that was.
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the run recorded measures, but not this one.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = measure_over_epochs(history, ax=Figure().add_subplot())
    >>> ax.get_ylabel()
    'fan-in variance / mean'
    """
    history = as_run(history)
    return _over_epochs(history, _chosen(history, measure, "fan_in.dispersion"), axes(ax))


def _over_epochs(history: History, measure: str, ax: Axes) -> Axes:
    """Plot a measure over epochs, a line for each layer that has values of it."""
    layers = _values(history, measure)
    for i, (layer, part) in enumerate(layers.items()):
        ax.plot(part["epoch"], part["value"], color=COLOURS[i % 7], ls=LINES[i % 7], label=layer)
    if measure.endswith(".dispersion"):
        ax.axhline(1, color=NULL, ls=":", lw=1, label="random graph")
    if layers:
        ax.legend()
    ax.set(xlabel="epoch", ylabel=_label(measure), title="Topology over epochs")
    whole_numbers(ax)
    return ax


def turnover(history: RunLike, *, ax: Axes | None = None) -> Axes:
    """Plot the share of edges absent at the previously recorded epoch, a line for each layer.

    Parameters
    ----------
    history : History
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = turnover(history, ax=Figure().add_subplot())
    >>> ax.get_title()
    'Turnover of edges'
    """
    ax = _over_epochs(as_run(history), "turnover", axes(ax))  # the first epoch has none
    highest = ax.dataLim.y1 if ax.has_data() else 0.0
    top = 1.3 * highest if highest > 0 else 1.0
    ax.set(ylabel="turnover (share of edges)", ylim=(0, top), title="Turnover of edges")
    return ax


def verdict_timeline(history: RunLike, *, ax: Axes | None = None) -> Axes:
    """Plot the verdict of the scale-free test on each layer's fan-in at every epoch.

    Darker is further from random, green is narrower than random or without edges. The verdicts of
    a record have no bootstrap, so they are never "power law".

    Parameters
    ----------
    history : History
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = verdict_timeline(history, ax=Figure().add_subplot())
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['fc1', 'fc2']
    """
    history, ax = as_run(history), axes(ax)
    layers = _values(history, "power_law.verdict")
    if layers:
        epochs = sorted({int(e) for part in layers.values() for e in part["epoch"]})
        grid = np.full((len(layers), len(epochs)), np.nan)
        for row, part in enumerate(layers.values()):
            grid[row, np.searchsorted(epochs, part["epoch"])] = part["value"]
        # narrow, regular, complete and empty layers share a colour: their places follow 3
        grid = np.where(grid >= SHOWN, float(SHOWN), grid)
        colours = ListedColormap(["#f0f0f0", "#9ecae1", "#3182bd", "#08306b", "#a1d99b"])
        extent = (epochs[0] - 0.5, epochs[-1] + 0.5, len(layers) - 0.5, -0.5)
        norm = BoundaryNorm(np.arange(-0.5, SHOWN + 1), SHOWN + 1)
        image = ax.imshow(
            grid, cmap=colours, norm=norm, aspect="auto", extent=extent, interpolation="nearest"
        )
        ax.set_yticks(range(len(layers)), list(layers))
        bar = ax.figure.colorbar(image, ax=ax, ticks=range(SHOWN + 1))
        words = [*VERDICTS[:SHOWN], "less than random"]
        words[2] += "\n(not bootstrapped)"
        bar.ax.set_yticklabels(words)
    ax.set(xlabel="epoch", ylabel="layer", title="Verdict on the fan-in")
    whole_numbers(ax)
    return ax


def accuracy_over_epochs(history: RunLike, *, ax: Axes | None = None) -> Axes:
    """Plot the test accuracy after each epoch, or the test error of a model without labels.

    Of a record without either, other accuracies or losses are drawn, named on the axis.

    Parameters
    ----------
    history : History
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the record has neither accuracies nor losses.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = accuracy_over_epochs(history, ax=Figure().add_subplot())
    >>> ax.lines[0].get_xdata().tolist()
    [0, 1, 2]
    """
    history, ax = as_run(history), axes(ax)
    scores, label = scores_of(history)
    if len(scores):
        ax.plot(history.epochs["epoch"], scores, color=COLOURS[0])
    ax.set(xlabel="epoch", ylabel=label, title=f"{label.capitalize()} over epochs")
    whole_numbers(ax)
    return ax


def accuracy_against_measure(
    history: RunLike, measure: str | None = None, *, ax: Axes | None = None
) -> Axes:
    """Plot the test accuracy (or error) against a measure, a point for each epoch and layer.

    The colour is the epoch. Neighbouring epochs share most of their edges, so the points are the
    trajectory of one run and not independent observations: a trend here is no correlation.

    Parameters
    ----------
    history : History
    measure : str, optional
        A name in ``history.measures``; by default ``"normalized_spectral_gap"`` or, if it was not
        recorded, the first that was.
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the run recorded measures, but not this one; or neither accuracies nor losses.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = accuracy_against_measure(history, ax=Figure().add_subplot())
    >>> ax.get_ylabel()
    'test accuracy'
    """
    history, ax = as_run(history), axes(ax)
    measure = _chosen(history, measure, "normalized_spectral_gap")
    layers = _values(history, measure)
    scores, score = scores_of(history)
    accuracy = dict(zip(history.epochs["epoch"], scores, strict=True))
    points = None
    for i, (layer, part) in enumerate(layers.items()):
        part = part[part["epoch"].isin(accuracy)]
        reached = [accuracy[e] for e in part["epoch"]]
        points = ax.scatter(
            part["value"],
            reached,
            c=part["epoch"],
            cmap="cividis_r",  # the latest epochs are the darkest
            vmin=0,
            vmax=max(accuracy, default=1),
            marker=MARKERS[i % 7],
            s=9,
            label=layer,
        )
        ax.plot(part["value"], reached, color=NULL, lw=0.4, alpha=0.5, zorder=0)
    if points is not None:
        ax.figure.colorbar(points, ax=ax, label="epoch", ticks=MaxNLocator("auto", integer=True))
        legend = ax.legend(loc="lower left")
        for handle in legend.legend_handles:
            if isinstance(handle, PathCollection):
                handle.set_array(None)
                handle.set_facecolor(NULL)
    ax.set(xlabel=_label(measure), ylabel=score, title=f"{score.capitalize()} against topology")
    return ax


# --- lifetimes of edges --------------------------------------------------------------------------


def edge_survival(history: RunLike, *, ax: Axes | None = None) -> Axes:
    """Plot the share of edges that reach a given age, by Kaplan and Meier's estimate [1]_.

    Edges that are present at the last epoch are censored: only a lower bound of their lifetime is
    known. A straight line on the logarithmic axis means that the risk of being dropped does not
    depend on age; a curve that flattens means that old edges are rarely dropped.

    Parameters
    ----------
    history : History
    ax : Axes, optional

    Returns
    -------
    Axes

    References
    ----------
    .. [1] Kaplan, Meier, "Nonparametric estimation from incomplete observations", Journal of the
       American Statistical Association 53, 1958.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = edge_survival(history, ax=Figure().add_subplot())
    >>> [float(y) for y in ax.lines[0].get_ydata()][:1]
    [1.0]
    """
    history, ax = as_run(history), axes(ax)
    lowest = 1.0
    for i, (name, (age, share)) in enumerate(_kaplan_meier(history).items()):
        style = {"color": COLOURS[i % 7], "ls": LINES[i % 7]}
        ax.step(age, share, where="post", label=name, **style)  # type: ignore[arg-type]
        lowest = min(lowest, float(share[share > 0].min(initial=1.0)))
    if history.recorded:
        ax.legend()
        ax.set(yscale="log", ylim=(min(0.5, lowest) / 1.3, 1.3))
    ax.set(xlabel="age (epochs)", ylabel="share of edges that survive", title="Survival of edges")
    whole_numbers(ax)
    return ax


Curve = tuple[NDArray[np.int64], NDArray[np.float64]]


def _kaplan_meier(history: History) -> dict[str, Curve]:
    """Return ages and survival function of each layer's edges."""
    # Idea: follow the epochs once and keep, for each layer, the edges present now with the epoch
    # at which each appeared. An edge absent at the next epoch has died at its age, which is one
    # count in `died`; an edge present at the end is censored at its age. An edge that returns
    # later starts a new life. Counts by age are all that Kaplan and Meier's estimate needs.
    # Cost: each epoch's graphs are read once, with one sorted search for each layer:
    # O(epochs * edges * log edges) time and O(edges) memory.
    # Why: `history.ages` at every epoch would replay the history from its first epoch each time,
    # and a matrix of edges by epochs would not fit into memory for wide layers.
    epochs = history.recorded
    if not epochs:
        return {}
    alive = {name: graph.edge_ids for name, graph in history.topology(epochs[0]).items()}
    born = {name: np.full(ids.size, epochs[0]) for name, ids in alive.items()}
    horizon = epochs[-1] - epochs[0] + 2
    died = {name: np.zeros(horizon, np.int64) for name in alive}
    for epoch in epochs[1:]:
        topology = history.topology(epoch)
        for name, before in alive.items():
            now = topology[name].edge_ids
            at = positions_in(before, now)
            stays = at >= 0
            gone = np.ones(before.size, bool)
            gone[at[stays]] = False
            died[name] += np.bincount(epoch - born[name][gone], minlength=horizon)
            since = np.full(now.size, epoch)
            since[stays] = born[name][at[stays]]
            alive[name], born[name] = now, since
    return {name: _survival(died[name], epochs[-1] - born[name]) for name in alive}


def _survival(died: NDArray[np.int64], ages: NDArray[np.int64]) -> Curve:
    """Return Kaplan and Meier's estimate from the deaths at each age and the censored ages."""
    ended = died + np.bincount(ages, minlength=died.size)
    at_risk = ended[::-1].cumsum()[::-1]
    share = np.cumprod(1 - died / np.maximum(at_risk, 1))
    last = int(np.flatnonzero(at_risk)[-1]) if at_risk.any() else 0
    return np.arange(last + 1), np.concatenate([[1.0], share[1 : last + 1]])


# --- spectra -------------------------------------------------------------------------------------


def spectrum_over_epochs(
    history: RunLike,
    *,
    layer: str | None = None,
    n_epochs: int = 12,
    n_values: int = 8,
    ax: Axes | None = None,
) -> Axes:
    """Plot the largest singular values of one layer over epochs, a line for each rank.

    The first value follows the mean degrees and the hubs; its distance to the second is the
    spectral gap. As hubs grow, leading values separate one by one from the others.

    Parameters
    ----------
    history : History
    layer : str, optional
        By default the first.
    n_epochs : int
        Number of epochs to draw, evenly spaced.
    n_values : int
        Number of singular values at each epoch.
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the run has no such layer or `n_epochs` is below 1.

    Notes
    -----
    O(edges) for each Lanczos step, to four digits; dense for layers with at most 128 units on
    the smaller side.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = spectrum_over_epochs(history, ax=Figure().add_subplot())
    >>> ax.get_ylabel()
    'singular value'
    """
    history, ax = as_run(history), axes(ax)
    layer = layer_of(history, layer)
    epochs = evenly_spaced(history, n_epochs)
    if epochs and layer is not None:
        graphs = [history.topology(epoch)[layer] for epoch in epochs]
        values = np.array([_leading(graph, n_values) for graph in graphs])
        for rank in range(values.shape[1]):
            colour = (COLOURS[0], COLOURS[1])[rank] if rank < 2 else NULL
            label = {0: "first", 1: "second", 2: "following"}.get(rank)
            ax.plot(epochs, values[:, rank], color=colour, label=label, lw=1.4 - 0.1 * rank)
        if values.size:
            ax.legend()
    title = f"Leading singular values ({layer})" if layer else "Leading singular values"
    ax.set(xlabel="epoch", ylabel="singular value", title=title)
    whole_numbers(ax)
    return ax


def _leading(graph: LayerGraph, n: int) -> NDArray[np.float64]:
    """Return the `n` largest singular values, decreasing."""
    # By ARPACK, since the Lanczos solver of `topokit.graph.spectra` finds at most two of them; four
    # digits are enough for a figure.
    size = min(graph.shape)
    if size <= SMALL or not graph.n_edges:
        return np.sort(singular_values(graph))[::-1][:n] if size <= SMALL else np.zeros(n)
    start = np.random.default_rng(0).standard_normal(size)
    found = svds(
        graph.to_csr().astype(float), k=n, tol=1e-4, v0=start, return_singular_vectors=False
    )
    return np.sort(np.asarray(found, float))[::-1]
