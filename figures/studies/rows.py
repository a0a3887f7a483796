"""Rows of single runs: what a study keeps of each run, so that it can be completed later.

A study at full size is run in slices, on machines whose run folders do not last. So the tables here
have rows for single runs, keyed by condition, data set and seed; they are committed, and running
the script again with the folders of further runs adds theirs. A run that has more epochs than the
one in the table replaces it; no other row changes.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from topokit.experiments.config import RunConfig
from topokit.experiments.statistics import adjusted, paired
from topokit.measures import power_law_of, set_style_correlation

HERE = Path(__file__).parent
RIVALS = (
    "poisson",
    "exponential",
    "lognormal",
    "negative_binomial",
    "two_components",
    "stretched_exponential",
    "cutoff",
)
EXPONENT = 2.5  # of the published statistic: the paper says between 2 and 3


def degree_row(graph, side, bootstrap=1000):
    """Return what is said of the degrees of one side of a layer.

    ``p`` is that of the bootstrap (seed 0), as text: never 0, but below one over the number of
    replicates. ``linear_p`` is the one-tailed p of the linear correlation of the histogram of
    degrees with ``d ** -2.5``. ``versus_*`` are log-likelihood ratios, above 0 if the power law is
    better, each followed by the p-value of Vuong's test. ``ks`` is the largest difference between
    the distribution of the degrees in the tail and the fitted one: how far a rejected law is off.
    """
    degrees = graph.fan_in if side == "fan_in" else graph.fan_out
    fit = power_law_of(graph, side, bootstrap=bootstrap, rng=np.random.default_rng(0))
    row = {
        "n": fit.n, "mean": fit.mean, "minimum": fit.minimum, "maximum": fit.maximum,
        "dispersion": fit.dispersion, "dispersion_p": fit.dispersion_p, "verdict": fit.verdict,
        "alpha": fit.alpha, "xmin": fit.xmin, "n_tail": fit.n_tail, "decades": fit.decades,
        "p": fit.p_text.removeprefix("p ").removeprefix("= "), "replicates": fit.replicates,
        "ks": fit.ks_distance,
        "linear_p": set_style_correlation(degrees, exponent=EXPONENT).p_value,
    }  # fmt: skip
    for name in RIVALS:
        ratio = fit.comparisons[name]
        row |= {f"versus_{name}": ratio.log_ratio, f"versus_{name}_p": ratio.p_value}
    return row


def epochs_until(accuracy, level, chance):
    """Return after how many epochs an accuracy first reaches a level, interpolated; nan if never.

    Parameters
    ----------
    accuracy : sequence of float
        After the first, the second, ... epoch.
    level, chance : float
        `chance` is the accuracy before the first epoch.
    """
    known = np.r_[chance, np.asarray(accuracy, float)]
    there = np.flatnonzero(known >= level)
    if not there.size:
        return float("nan")
    after = int(there[0])
    if after == 0:
        return 0.0
    below, above = known[after - 1 : after + 1]
    return after - 1 + float((level - below) / (above - below))


def finished(study, sweeps):
    """Yield each planned run of a study that has finished in one of the sweeps, and its folder."""
    for run in study.runs():
        for sweep in sweeps:
            path = sweep / "runs" / run.name
            if (path / "DONE").is_file():
                check_planned(run, path)
                yield run, path
                break


def check_planned(run, path):
    """Refuse a run of the small variant of a study, which has the name of a planned one.

    Raises
    ------
    SystemExit
        If it has other samples or another number of epochs than the plan.
    """
    planned, found = run.config, RunConfig.from_toml(path / "config.toml")
    if (found.epochs, found.data) != (planned.epochs, planned.data):
        raise SystemExit(
            f"expected a run of {planned.epochs} epochs and {planned.data} as planned, got one of "
            f"{found.epochs} and {found.data}: {path}; runs of a sweep with --quick are no rows of "
            "a study"
        )


def whole_seeds(table, conditions, by):
    """Return the rows of the seeds for which all conditions have finished, within each group.

    Parameters
    ----------
    table : pandas.DataFrame
        With the columns ``arm`` and ``seed``.
    conditions : iterable of str, or callable
        All planned ones; or a function of the value of the first column of `by` that returns those
        planned there.
    by : list of str
        Columns that name a group, such as the data set.

    Raises
    ------
    SystemExit
        If there are no rows, or no seed is whole.
    """
    if not len(table):
        raise SystemExit("expected finished runs in the folders, or rows of earlier ones, got none")
    kept = []
    for key, part in table.groupby([*by, "seed"], sort=False):
        planned = conditions(key[0]) if callable(conditions) else conditions
        if set(planned) <= set(part["arm"]):
            kept.append(part)
    if not kept:
        raise SystemExit("no seed is whole yet: of none have all conditions finished")
    return pd.concat(kept, ignore_index=True)


def merged(path, new, keys, length="done"):
    """Return the rows of a table with those of further runs, and write them back.

    Parameters
    ----------
    path : Path
        A CSV file, or none yet.
    new : pandas.DataFrame
        May be empty.
    keys : list of str
        Columns that name a run.
    length : str
        Column with the number of epochs that a run has; the longer of two equal runs is kept, of
        equally long ones the new one.
    """
    old = pd.read_csv(path) if path.is_file() else new.iloc[:0]
    if not len(new):
        return old
    if len(old):
        lengths = [t.groupby(keys)[length].max() for t in (old, new)]
        behind = [key for key, n in lengths[1].items() if n < lengths[0].get(key, 0)]
        new = new[~_named(new, keys).isin(behind)]
        old = old[~_named(old, keys).isin(set(_named(new, keys)))]
    both = pd.concat([old, new], ignore_index=True) if len(old) else new
    order = [key for key in (*keys, "epoch") if key in both]
    both = both.sort_values(order, kind="stable", ignore_index=True)
    both.to_csv(path, index=False, float_format="%.5g")
    return pd.read_csv(path)


def difference_row(row, a, b):
    """Return a row of a table of pairs: the difference of two conditions over their shared seeds.

    Parameters
    ----------
    row : dict
        What is compared.
    a, b : pandas.Series
        An outcome by seed.

    Returns
    -------
    dict or None
        `row`, ``seeds`` and, from two seeds on, what `topokit.experiments.statistics.paired` says;
        of one seed the difference alone. None without a shared seed.
    """
    shared = a.index.intersection(b.index).sort_values()
    row = row | {"seeds": " ".join(map(str, shared))}
    if len(shared) >= 2:
        return row | paired(a[shared], b[shared], rng=np.random.default_rng(0))._asdict()
    if len(shared) == 1:
        return row | {"n": 1, "difference": float((a[shared] - b[shared]).iloc[0])}
    return None


def pairs_of(rows):
    """Return the rows of `difference_row` as a table, Holm-adjusted within each data set.

    Over those tests that can be made. Rows whose hypothesis is "described" are not tested.
    """
    table = pd.DataFrame([row for row in rows if row is not None])
    if "t_p" in table:
        for _, part in table[table["hypothesis"] != "described"].groupby("data", sort=False):
            table.loc[part.index, "t_p_holm"] = adjusted(part["t_p"])
    return table


def _named(table, keys):
    """Return the key of each row as a tuple."""
    return pd.Series(list(table[keys].itertuples(index=False, name=None)), index=table.index)


def write(name, table):
    """Write a table to a file and print it."""
    table.to_csv(HERE / f"{name}.csv", index=False, float_format="%.5g")
    print(f"\n{name} ({len(table)} rows)\n{table.round(4).to_string(index=False)}", flush=True)
