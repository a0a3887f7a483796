"""Figures across runs: accuracy against topology, means over seeds, conditions side by side.

All take a tidy frame with a row for each run (or run and epoch), as written by `topokit sweep`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from topokit.experiments.statistics import mean_interval, rank_correlation
from topokit.plots.style import COLOURS, LINES, MARKERS, NULL, axes, whole_numbers

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["accuracy_against", "arms_side_by_side", "mean_over_seeds"]

# Offsets of a name from its point, in typographic points, the preferred one first.
PLACES = ((3, 3), (3, -8), (-3, 3), (-3, -8), (3, 10), (3, -15), (3, 17), (-3, 10))
LISTED = 7  # conditions with a colour and marker each; if there are more, points are named


def accuracy_against(
    frame: pd.DataFrame,
    measure: str = "normalized_spectral_gap",
    *,
    outcome: str = "test_accuracy",
    arm: str = "arm",
    ax: Axes | None = None,
) -> Axes:
    """Plot an outcome of many runs against a measure of their topology, with rank correlation.

    Read the interval of Spearman's rho in the title before the line, and ask whether the
    conditions differ in something else too (density, components).

    Parameters
    ----------
    frame : pandas.DataFrame
        One row for each run, with columns `measure`, `outcome` and `arm`. Rows with an undefined
        value are left out.
    measure, outcome, arm : str
        Names of columns; `arm` is that of the conditions.
    ax : Axes, optional

    Returns
    -------
    Axes
        The interval is the 95 % interval of `topokit.experiments.statistics.rank_correlation`
        (seed 0). There is none with fewer than ten runs, and no correlation with fewer than four
        or if one of the two columns is constant.

    Raises
    ------
    ValueError
        If a column is missing.

    Examples
    --------
    >>> import pandas as pd
    >>> from matplotlib.figure import Figure
    >>> runs = pd.DataFrame({"arm": list("aabb"), "gap": [0.1, 0.2, 0.3, 0.4],
    ...                      "test_accuracy": [0.7, 0.8, 0.8, 0.9]})
    >>> ax = accuracy_against(runs, "gap", ax=Figure().add_subplot())
    >>> ax.get_xlabel(), len(ax.collections)
    ('gap', 2)
    """
    ax = axes(ax)
    _need(frame, (measure, outcome, arm))
    runs = frame.dropna(subset=[measure, outcome])
    arms = list(dict.fromkeys(runs[arm]))
    named: dict[str, tuple[float, float]] = {}
    for i, name in enumerate(arms):
        part = runs[runs[arm] == name]
        few = len(arms) <= LISTED
        ax.scatter(
            part[measure],
            part[outcome],
            s=12,
            color=COLOURS[i % 7] if few else COLOURS[0],
            marker=MARKERS[i % 7] if few else "o",
            alpha=0.8,
            label=str(name),
        )
        if not few:
            named[str(name)] = (part[measure].mean(), part[outcome].mean())
    x, y = (runs[column].to_numpy(float) for column in (measure, outcome))
    if x.size >= 2 and np.ptp(x) > 0:
        slope, offset = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        ax.plot(ends, slope * ends + offset, color=NULL, ls="--", lw=1)
    _name_points(ax, named)
    if 0 < len(arms) <= LISTED:
        ax.legend(loc="best")
    title = f"Accuracy against topology, {_correlation(x, y)}"
    ax.set(xlabel=measure.replace("_", " "), ylabel=outcome.replace("_", " "), title=title)
    return ax


def mean_over_seeds(
    frame: pd.DataFrame,
    column: str = "test_accuracy",
    *,
    arm: str = "arm",
    ax: Axes | None = None,
) -> Axes:
    """Plot the mean over seeds at each epoch, a line and a band for each condition.

    The band is the 95 % interval of `topokit.experiments.statistics.mean_interval`, which is wide
    with few seeds. One seed has no band.

    Parameters
    ----------
    frame : pandas.DataFrame
        One row for each run and epoch, with columns ``epoch``, `column` and `arm`.
    column, arm : str
        Names of columns; `arm` is that of the conditions.
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a column is missing.

    Examples
    --------
    >>> import pandas as pd
    >>> from matplotlib.figure import Figure
    >>> rows = pd.DataFrame({"arm": "set", "seed": [0, 0, 1, 1], "epoch": [0, 1, 0, 1],
    ...                      "test_accuracy": [0.5, 0.7, 0.6, 0.9]})
    >>> ax = mean_over_seeds(rows, ax=Figure().add_subplot())
    >>> [round(float(y), 2) for y in ax.lines[0].get_ydata()]
    [0.55, 0.8]
    """
    ax = axes(ax)
    _need(frame, ("epoch", column, arm))
    seen = frame.dropna(subset=[column])
    for i, name in enumerate(dict.fromkeys(seen[arm])):
        epochs = seen[seen[arm] == name].groupby("epoch")[column]
        found = {epoch: mean_interval(values.to_numpy(float)) for epoch, values in epochs}
        colour = COLOURS[i % 7]
        label = f"{name} (n = {max(one.n for one in found.values())})"
        means = [one.mean for one in found.values()]
        ax.plot(list(found), means, color=colour, ls=LINES[i % 7], label=label)
        some = {epoch: one for epoch, one in found.items() if one.n > 1}
        low, high = [one.low for one in some.values()], [one.high for one in some.values()]
        ax.fill_between(list(some), low, high, color=colour, alpha=0.2, lw=0)
    if len(seen):
        ax.legend()
    ax.set(xlabel="epoch", ylabel=column.replace("_", " "), title="Mean over seeds, 95 % interval")
    whole_numbers(ax)
    return ax


def arms_side_by_side(
    frame: pd.DataFrame,
    column: str = "test_accuracy",
    *,
    arm: str = "arm",
    ax: Axes | None = None,
) -> Axes:
    """Plot a column of several conditions: each run as a dot, mean and 95 % interval below it.

    The interval is that of `topokit.experiments.statistics.mean_interval`; one run has none.

    Parameters
    ----------
    frame : pandas.DataFrame
        One row for each run, with columns `column` and `arm`.
    column, arm : str
        Names of columns; `arm` is that of the conditions.
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a column is missing.

    Examples
    --------
    >>> import pandas as pd
    >>> from matplotlib.figure import Figure
    >>> runs = pd.DataFrame({"arm": ["set", "set", "static"], "test_accuracy": [0.9, 0.8, 0.7]})
    >>> ax = arms_side_by_side(runs, ax=Figure().add_subplot())
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['set', 'static']
    """
    ax = axes(ax)
    _need(frame, (column, arm))
    seen = frame.dropna(subset=[column])
    arms = list(dict.fromkeys(seen[arm]))
    for i, name in enumerate(arms):
        values = seen.loc[seen[arm] == name, column].to_numpy(float)
        ax.plot(values, np.full(values.size, i), "o", ms=3, alpha=0.5, color=COLOURS[0])
        found = mean_interval(values)
        half = found.high - found.mean if found.n > 1 else 0.0
        ax.errorbar(
            found.mean, i + 0.25, xerr=half, fmt="D", ms=3.5, color=COLOURS[1], capsize=2, lw=1
        )
    ax.set_yticks(range(len(arms)), [str(name) for name in arms])
    ylabel = "condition" if arm == "arm" else arm.replace("_", " ")
    ax.set(ylim=(max(len(arms), 1) - 0.5, -0.5), ylabel=ylabel, xlabel=column.replace("_", " "))
    ax.set_title("Runs (dots), mean and 95 % interval (diamonds)")
    return ax


def _need(frame: pd.DataFrame, columns: tuple[str, ...]) -> None:
    """Raise a ValueError if a frame lacks one of the columns."""
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ValueError(
            f"expected columns {', '.join(columns)}, got {', '.join(map(str, frame.columns))} "
            f"without {', '.join(missing)}"
        )


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    """Return Spearman's rho, its interval and the number of runs as text."""
    found = rank_correlation(x, y, rng=np.random.default_rng(0))
    words = f"n = {found.n}"
    if np.isnan(found.rho):
        return words
    interval = "" if np.isnan(found.low) else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"ρ = {found.rho:.2f}{interval}, {words}"


def _name_points(ax: Axes, named: dict[str, tuple[float, float]]) -> None:
    """Write each name beside its point, at the first offset where it covers no other name."""
    # Idea: go through the points in order and try the offsets of `PLACES`, the preferred one first;
    # keep the first at which the box of the text lies within the axes and overlaps no earlier box,
    # or the preferred one if there is none.
    # Cost: O(names squared) comparisons of boxes. There are a few dozen names at most, and a greedy
    # placement is deterministic, which a force-directed one is only with a seed.
    if named:
        ax.margins(y=0.15)  # room for names above the topmost points
    ax.get_xlim()  # computes the limits, which determine the positions of points
    taken: list[Bbox] = []
    for name, place in named.items():
        text = ax.annotate(name, place, fontsize=6, xytext=PLACES[0], textcoords="offset points")
        for dx, dy in (*PLACES, PLACES[0]):
            text.set_position((dx, dy))
            text.set_horizontalalignment("left" if dx > 0 else "right")
            box = text.get_window_extent()
            inside = box.x0 >= ax.bbox.x0 and box.y0 >= ax.bbox.y0  # not on the tick labels
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
