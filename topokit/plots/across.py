"""Figures across runs: topology against accuracy, mean and interval over seeds, arms compared.

All take a tidy frame with a row for each run (or run and epoch), as `topokit sweep` writes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from scipy import stats

from topokit.plots.style import COLOURS, LINES, MARKERS, NULL, axes

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["accuracy_against", "arms_side_by_side", "mean_over_seeds"]

RESAMPLES = 2000
# Where a name may stand, in points from its point, the best first.
PLACES = ((3, 3), (3, -8), (-3, 3), (-3, -8), (3, 10), (3, -15), (3, 17), (-3, 10))
LISTED = 7  # arms told apart by colour and marker; more are named beside their points


def accuracy_against(
    frame: pd.DataFrame,
    measure: str = "normalized_spectral_gap",
    *,
    outcome: str = "test_accuracy",
    arm: str = "arm",
    ax: Axes | None = None,
) -> Axes:
    """Outcome of many runs against a measure of their topology, with line and rank correlation.

    A reader should look at the interval of Spearman's rho in the title before at the line, and
    ask whether the arms differ in something else too (density, components).

    Parameters
    ----------
    frame : pandas.DataFrame
        One row a run, with columns `measure`, `outcome` and `arm`. Rows with an undefined number
        are left out.
    measure, outcome, arm : str
        Names of columns.
    ax : Axes, optional

    Returns
    -------
    Axes
        The interval is a percentile bootstrap over runs (95 %, fixed seed); none with fewer than
        four runs or equal values.

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
    """Mean over seeds at each epoch, a line and a band for each arm.

    The band is Student's 95 % interval of the mean: with few seeds it is wide, as it should be.
    One seed has no band.

    Parameters
    ----------
    frame : pandas.DataFrame
        One row a run and epoch, with columns ``epoch``, `column` and `arm`.
    column, arm : str
    ax : Axes, optional

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
        found = seen[seen[arm] == name].groupby("epoch")[column].agg(["mean", "std", "count"])
        colour = COLOURS[i % 7]
        label = f"{name} (n = {int(found['count'].max())})"
        ax.plot(found.index, found["mean"], color=colour, ls=LINES[i % 7], label=label)
        some = found[found["count"] > 1]
        half = stats.t.ppf(0.975, some["count"] - 1) * some["std"] / np.sqrt(some["count"])
        low, high = some["mean"] - half, some["mean"] + half
        ax.fill_between(some.index, low, high, color=colour, alpha=0.2, lw=0)
    if len(seen):
        ax.legend()
    ax.set(xlabel="epoch", ylabel=column.replace("_", " "), title="Mean over seeds, 95 % interval")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    return ax


def arms_side_by_side(
    frame: pd.DataFrame,
    column: str = "test_accuracy",
    *,
    arm: str = "arm",
    ax: Axes | None = None,
) -> Axes:
    """One number of several arms side by side: every run as a dot, mean and 95 % interval beside.

    Parameters
    ----------
    frame : pandas.DataFrame
        One row a run, with columns `column` and `arm`.
    column, arm : str
    ax : Axes, optional

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
        half = 0.0
        if values.size > 1:
            half = stats.t.ppf(0.975, values.size - 1) * stats.sem(values)
        ax.errorbar(
            values.mean(), i + 0.25, xerr=half, fmt="D", ms=3.5, color=COLOURS[1], capsize=2, lw=1
        )
    ax.set_yticks(range(len(arms)), [str(name) for name in arms])
    ax.set(ylim=(max(len(arms), 1) - 0.5, -0.5), ylabel=arm, xlabel=column.replace("_", " "))
    ax.set_title("Runs (dots), mean and 95 % interval (diamonds)")
    return ax


def _need(frame: pd.DataFrame, columns: tuple[str, ...]) -> None:
    """Check that a frame has the columns."""
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ValueError(
            f"expected columns {', '.join(columns)}, got {', '.join(map(str, frame.columns))} "
            f"without {', '.join(missing)}"
        )


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    """Spearman's rho with its interval, in words."""
    if x.size < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return f"n = {x.size}"
    rho = stats.spearmanr(x, y).statistic
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(RESAMPLES):
        at = rng.integers(0, x.size, x.size)
        if np.ptp(x[at]) > 0 and np.ptp(y[at]) > 0:
            draws.append(_rank_correlation(x[at], y[at]))
    low, high = np.percentile(draws, [2.5, 97.5])
    return rf"$\rho$ = {rho:.2f} [{low:.2f}, {high:.2f}], n = {x.size}"


def _rank_correlation(x: NDArray[Any], y: NDArray[Any]) -> float:
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def _name_points(ax: Axes, named: dict[str, tuple[float, float]]) -> None:
    """Write names beside points, each at the first place where it covers no other name."""
    if named:
        ax.margins(y=0.15)  # room for names above the topmost points
    ax.get_xlim()  # settles the limits, which say where points come to lie
    taken: list[Bbox] = []
    for name, place in named.items():
        text = ax.annotate(name, place, fontsize=6, xytext=PLACES[0], textcoords="offset points")
        for dx, dy in (*PLACES, PLACES[0]):
            text.set_position((dx, dy))
            text.set_horizontalalignment("left" if dx > 0 else "right")
            box = text.get_window_extent()
            inside = box.x0 >= ax.bbox.x0 and box.y0 >= ax.bbox.y0  # off the numbers of the axes
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
