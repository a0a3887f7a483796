"""Interval statistics: means over seeds, paired conditions, rank correlations, many comparisons.

Every interval of a mean or of a paired difference that topokit prints or draws comes from
`mean_interval`, every interval of a correlation from `rank_correlation`. Every result states its
n. Bootstrap and permutations draw from `rng`: the same `rng` gives the same result.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from topokit.tables import as_generator

__all__ = [
    "Correlation",
    "Interval",
    "Paired",
    "adjusted",
    "mean_interval",
    "paired",
    "rank_correlation",
]

EXACT = 12  # number of pairs up to which all sign changes are enumerated
RESAMPLES = 9999
ROUNDED = 1e-9  # relative to its largest possible value: two statistics that are closer are equal
FEWEST = 10  # points below which a bootstrap interval of a correlation covers too little


class Interval(NamedTuple):
    """Mean of `n` values, their sample standard deviation (n - 1), and an interval of the mean."""

    n: int
    mean: float
    sd: float
    low: float
    high: float


class Paired(NamedTuple):
    """Mean difference of `n` pairs, its interval, and three two-sided p-values."""

    n: int
    difference: float
    low: float
    high: float
    permutation_p: float
    t_p: float
    wilcoxon_p: float


class Correlation(NamedTuple):
    """Rank correlation of `n` points, its interval, and a two-sided permutation p-value."""

    n: int
    rho: float
    low: float
    high: float
    p: float


def mean_interval(values: ArrayLike, *, level: float = 0.95) -> Interval:
    r"""Return the mean of values from independent seeds, with Student's t interval.

    .. math:: \bar x \pm t_{n-1} \, s / \sqrt{n}

    Parameters
    ----------
    values : (n,) array_like
        Undefined values (nan) are left out.
    level : float
        Nominal coverage, in (0, 1).

    Returns
    -------
    Interval
        One value has a mean but no interval: `sd`, `low` and `high` are nan. With no value all
        but `n` are nan. With an infinite value the mean is infinite (nan with both signs) and there
        is no interval.

    Raises
    ------
    ValueError
        If `level` is not between 0 and 1 or `values` has more than one axis.

    Notes
    -----
    Cost: O(n).

    Coverage is exact for normal values at any n of 2 or more. For skewed values it is less than
    nominal: at a level of 0.95 and n of 3, 5 and 10 it is 0.88, 0.88 and 0.90 for exponential
    values, 0.84, 0.82 and 0.84 for lognormal ones (sigma = 1). For differences of two samples of
    one law, which are symmetric, it is 0.96 to 0.97 (exponential). A percentile bootstrap covers
    less at these n [1]_: its bounds cannot pass the smallest and the largest value, so that with
    three values of a symmetric law it covers 0.75 at most, whatever its nominal level.

    The interval is not cut to the range of the values. For an accuracy near 1 the upper bound may
    pass 1: the values are then too few or too skewed for an interval of this kind, and cutting it
    would hide that.

    References
    ----------
    .. [1] Hesterberg, "What teachers should know about the bootstrap: resampling in the
       undergraduate statistics curriculum", The American Statistician 69, 2015.

    Examples
    --------
    >>> result = mean_interval([0.80, 0.82, 0.81, 0.83, 0.84])
    >>> result.n, round(result.mean, 3), round(result.low, 3), round(result.high, 3)
    (5, 0.82, 0.8, 0.84)
    """
    x = _finite(values)
    _check_level(level)
    nan = float("nan")
    if x.size < 2:
        return Interval(x.size, float(x[0]) if x.size else nan, nan, nan, nan)
    if np.isinf(x).any():
        return Interval(x.size, sum(x.tolist()), nan, nan, nan)
    mean, sd = float(x.mean()), float(x.std(ddof=1))
    half = float(stdtrit(x.size - 1, (1 + level) / 2)) * sd / float(np.sqrt(x.size))
    return Interval(x.size, mean, sd, mean - half, mean + half)


def paired(
    a: ArrayLike,
    b: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    rng: np.random.Generator | int,
) -> Paired:
    """Compare two conditions that share seeds: the mean of ``a - b`` over pairs.

    The permutation p-value changes the signs of the differences: in all ways with up to 12 pairs,
    else in `resamples` random ones. With n pairs it cannot be below ``2 / 2**n``, 0.0625 for five
    seeds; that of the t-test can, as it assumes normal differences.

    Parameters
    ----------
    a, b : (n,) array_like
        Same seeds in the same order; pairs with an undefined value (nan) are left out. Pairs are
        those of positions; Series of pandas with some of their labels in common (an index of
        seeds) need equal ones in the same order.
    level : float
        Coverage of the interval, which is that of `mean_interval`: 0 lies outside it exactly if
        `t_p` is below ``1 - level``.
    resamples : int
        Number of random sign changes with more than 12 pairs.
    rng : numpy.random.Generator or int
        Draws them.

    Returns
    -------
    Paired
        Undefined numbers are nan (fewer than two pairs, or an infinite difference; p-values also
        where all differences are 0).

    Raises
    ------
    ValueError
        If the conditions differ in length, or in the order of their labels.

    Notes
    -----
    Cost: O(resamples n).

    References
    ----------
    .. [1] Fisher, "The Design of Experiments", 1935 (the sign changes).
    .. [2] Dietterich, "Approximate statistical tests for comparing supervised classification
       learning algorithms", Neural Computation 10, 1998.

    Examples
    --------
    >>> sparse, dense = [0.83, 0.82, 0.84, 0.83, 0.82], [0.80, 0.81, 0.81, 0.80, 0.81]
    >>> result = paired(sparse, dense, rng=np.random.default_rng(0))
    >>> result.n, round(result.difference, 3), result.permutation_p
    (5, 0.022, 0.0625)
    """
    from scipy.stats import wilcoxon

    rng = as_generator(rng)
    _check_labels(a, b)
    x, y = np.asarray(a, float), np.asarray(b, float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(
            f"expected two conditions of one length, got shapes {x.shape} and {y.shape}"
        )
    with np.errstate(invalid="ignore"):  # two equal infinite values have no difference
        d = x - y
    x, y, d = (each[~np.isnan(d)] for each in (x, y, d))
    interval = mean_interval(d, level=level)
    nan = float("nan")
    if d.size < 2 or not d.any() or np.isinf(d).any():
        return Paired(d.size, interval.mean, interval.low, interval.high, nan, nan, nan)
    observed = abs(d.sum()) - ROUNDED * np.abs(d).sum()  # sums that are equal but for rounding
    if d.size <= EXACT:
        signs = np.array(list(itertools.product((1, -1), repeat=d.size)))
        p = float(np.mean(np.abs(signs @ d) >= observed))
    else:
        signs = rng.choice((-1, 1), size=(resamples, d.size))
        p = _tail(int(np.sum(np.abs(signs @ d) >= observed)), resamples)
    error = interval.sd / np.sqrt(d.size)
    alike = error <= 1e-12 * abs(interval.mean)
    t_p = 0.0 if alike else float(2 * stdtr(d.size - 1, -abs(interval.mean) / error))
    tied = _tied(d, max(np.abs(x).max(), np.abs(y).max()))
    wilcoxon_p = float(wilcoxon(tied).pvalue) if tied.any() else nan
    low, high = interval.low, interval.high
    return Paired(d.size, interval.mean, low, high, p, t_p, wilcoxon_p)


def rank_correlation(
    x: ArrayLike,
    y: ArrayLike,
    *,
    controls: Sequence[ArrayLike] = (),
    strata: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 1999,
    rng: np.random.Generator | int,
) -> Correlation:
    r"""Return Spearman's correlation, with other variables held fixed or within groups.

    An example is the relation of accuracy to the spectral gap at fixed density. Ranks are taken
    within each stratum; the ranks of `controls` are regressed out of both (partial correlation
    [1]_); the residuals are centred in each stratum and correlated. The p-value is that of a test
    which permutes the residuals of `y` within strata [2]_, so that differences between strata
    have no effect.

    Parameters
    ----------
    x, y : (n,) array_like
        Points with an undefined value (nan) in any argument are left out. Labels of Series count
        as in `paired`.
    controls : sequence of (n,) array_like
        Held fixed by regression on ranks, which assumes a monotone and additive effect.
    strata : (n,) array_like, optional
        Group of each point (density, family): held fixed without an assumption.
    clusters : sequence, optional
        Which points are not independent of each other, such as those of one family of graphs at
        several densities: each cluster has one point in each stratum. The bootstrap draws, and
        the test permutes, clusters as wholes.
    level : float
        Nominal coverage of the interval: percentiles of a bootstrap of points within strata, or
        of clusters.
    resamples : int
        Number of permutations and of bootstrap samples.
    rng : numpy.random.Generator or int

    Returns
    -------
    Correlation
        `rho` in [-1, 1]; nan where x or y does not vary within strata or n is below 4. `low` and
        `high` are nan also with fewer than 10 points, or clusters.

    Raises
    ------
    ValueError
        If lengths differ, or the order of labels; if a cluster has not one point in each stratum.

    Notes
    -----
    Cost: O(resamples n log n).

    Values that differ by less than 1e-12 of themselves have equal ranks: means of the same numbers
    in another order differ by as much.

    For correlated normal variables (0, 0.5 and 0.9) the 95 % interval covers 0.93 to 0.99 with 10
    points and more, in one group or in strata of three points and more. With 5 or 6 points it
    would cover as little as 0.76 of strong correlations; so no interval is given below 10. Points
    that share a graph family are not independent: take means over a family first, and if it has a
    mean at each of several densities, say so by `clusters`. If ten families nearly keep their
    order at three densities, intervals of the 30 points cover 0.80 to 0.88, and without a relation
    p is below 0.05 in 0.23 of the samples; as clusters they cover 0.93 to 0.99, and it is in 0.04.

    References
    ----------
    .. [1] Kim, "ppcor: an R package for a fast calculation to semi-partial correlation
       coefficients", Communications for Statistical Applications and Methods 22, 2015.
    .. [2] Winkler et al., "Permutation inference for the general linear model", NeuroImage 92,
       2014 (permuting residuals within exchangeability blocks).

    Examples
    --------
    Within each of two densities accuracy falls with the gap; over all points it increases.

    >>> gap = [0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9]
    >>> accuracy = [0.84, 0.83, 0.82, 0.81, 0.94, 0.93, 0.92, 0.91]
    >>> density, rng = [0.1] * 4 + [0.2] * 4, np.random.default_rng(0)
    >>> round(rank_correlation(gap, accuracy, rng=rng).rho, 2)
    0.52
    >>> within = rank_correlation(gap, accuracy, strata=density, rng=rng)
    >>> within.n, round(within.rho, 6)
    (8, -1.0)
    """
    rng = as_generator(rng)
    _check_labels(x, y, *controls, strata, clusters)
    columns = [np.asarray(values, float) for values in (x, y, *controls)]
    n = columns[0].size
    groups, units = np.zeros(n, int), np.zeros(n, int)
    for labels, codes in ((strata, groups), (clusters, units)):
        if labels is not None:
            columns.append(_coded(labels, codes))
    shapes = [column.shape for column in columns]
    if any(shape != (n,) for shape in shapes):
        raise ValueError(f"expected columns of one length, got shapes {shapes}")
    _check_level(level)
    good = np.all([np.isfinite(column) for column in columns], axis=0)
    data = np.array([_levels(column[good]) for column in columns[: 2 + len(controls)]])
    members = _members(groups[good])
    if clusters is not None:
        members = _in_one_order(members, units[good])
    independent = n if clusters is None else np.unique(units[good]).size
    n, nan = int(good.sum()), float("nan")
    a, b = _residuals(data[:, None], members)[:, 0] if n >= 4 else np.full((2, n), nan)
    rho = float(a @ b)
    if np.isnan(rho):
        return Correlation(n, nan, nan, nan, nan)
    moved, drawn = np.empty((resamples, n)), np.empty((resamples, n), int)
    for k, own in enumerate(members):
        if k == 0 or clusters is None:  # clusters are moved and drawn alike in all strata
            order = rng.permuted(np.tile(np.arange(own.size), (resamples, 1)), axis=1)
            take = rng.choice(own.size, (resamples, own.size))
        moved[:, own], drawn[:, own] = b[own[order]], own[take]
    p = _tail(int(np.sum(np.abs(moved @ a) >= abs(rho) - ROUNDED)), resamples)
    low = high = nan
    if min(n, independent) >= FEWEST:
        again = _residuals(data[:, drawn], members)
        seen = (again[0] * again[1]).sum(axis=1)
        seen = seen[~np.isnan(seen)]
        if seen.size > resamples // 2:
            low, high = np.percentile(seen, [50 * (1 - level), 50 * (1 + level)])
    rho, low, high = (float(value) for value in np.clip([rho, low, high], -1, 1))
    return Correlation(n, rho, low, high, p)


def adjusted(p_values: ArrayLike, *, method: str = "holm") -> NDArray[np.float64]:
    """Adjust p-values for many comparisons.

    Parameters
    ----------
    p_values : (m,) array_like
        Undefined values (nan) stay nan and do not count as comparisons.
    method : {"holm", "bh"}
        "holm" controls the probability of any false rejection [1]_, "bh" (Benjamini and Hochberg)
        the expected share of false ones among the rejections [2]_ if the tests are independent or
        positively dependent.

    Returns
    -------
    (m,) ndarray
        In [0, 1], in the order given.

    Raises
    ------
    ValueError
        If the method is unknown or a value is outside [0, 1].

    References
    ----------
    .. [1] Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal
       of Statistics 6, 1979.
    .. [2] Benjamini, Hochberg, "Controlling the false discovery rate: a practical and powerful
       approach to multiple testing", Journal of the Royal Statistical Society B 57, 1995.

    Examples
    --------
    >>> adjusted([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    >>> adjusted([0.01, 0.04, 0.03], method="bh").round(3).tolist()
    [0.03, 0.04, 0.04]
    """
    if method not in ("holm", "bh"):
        raise ValueError(f"expected a method of holm, bh, got {method!r}")
    p = np.array(p_values, np.float64)
    known = ~np.isnan(p)
    if ((p[known] < 0) | (p[known] > 1)).any():
        raise ValueError("expected p-values in [0, 1]")
    if method == "bh":
        from scipy.stats import false_discovery_control

        p[known] = false_discovery_control(p[known])
        return p
    values = p[known]
    order = np.argsort(values)
    steps = np.maximum.accumulate(values[order] * np.arange(values.size, 0, -1))
    values[order] = np.minimum(steps, 1)
    p[known] = values
    return p


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    """Return a vector without its undefined values (nan)."""
    x = np.asarray(values, np.float64)
    if x.ndim != 1:
        raise ValueError(f"expected a vector of values, got shape {x.shape}")
    return x[~np.isnan(x)]


def _check_labels(*columns: Any) -> None:
    """Raise a ValueError if Series have labels in common, but not all of them in the same order."""
    import pandas as pd

    labels = [column.index for column in columns if isinstance(column, pd.Series)]
    for other in labels[1:]:
        if not labels[0].equals(other) and labels[0].isin(other).any():
            shown = " and ".join(
                f"{', '.join(map(str, each[:5]))}{', ...' if len(each) > 5 else ''}"
                for each in (labels[0], other)
            )
            raise ValueError(
                f"expected Series with the same labels in the same order, got {shown}; take those "
                "of both in one order (b[a.index]), or arrays if positions are meant"
            )


def _tied(d: NDArray[np.float64], largest: float) -> NDArray[np.float64]:
    """Return differences rounded so that those are equal which are equal but for rounding.

    0.83 - 0.82 and 0.82 - 0.81 differ by 1e-16, which would decide on their ranks. `largest` is the
    largest of the numbers they are differences of.
    """
    return np.round(d / (1e-12 * largest))


def _check_level(level: float) -> None:
    """Raise unless a level is between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level}")


def _tail(beyond: int, resamples: int) -> float:
    """Return a permutation p-value; the observed order counts as one of the permutations."""
    return float((beyond + 1) / (resamples + 1))


def _members(groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the positions of the points of each group."""
    return [np.flatnonzero(groups == group) for group in np.unique(groups)]


def _coded(labels: ArrayLike, codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Write a number for each label into `codes`; return nan where a label is undefined, else 0."""
    import pandas as pd

    values = np.asarray(labels)
    undefined = pd.isna(np.asarray(labels, object))  # in an array of words nan is a word
    if values.shape == codes.shape:
        codes[~undefined] = np.unique(values[~undefined], return_inverse=True)[1]
    return np.where(undefined, np.nan, 0.0)


def _levels(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers in the order of the values, equal where values are but for rounding."""
    order = np.argsort(x)
    ordered, levels = x[order], np.zeros(x.size)
    larger = np.maximum(np.abs(ordered[1:]), np.abs(ordered[:-1]))
    levels[order[1:]] = np.cumsum(np.diff(ordered) > 1e-12 * larger)
    return levels


def _in_one_order(
    members: list[NDArray[np.int64]], units: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Return the positions of the points of each group in the order of their clusters."""
    found = [own[np.argsort(units[own], kind="stable")] for own in members]
    every = np.unique(units)
    if not all(np.array_equal(units[own], every) for own in found):
        raise ValueError("expected one point of each cluster in each stratum, got more or fewer")
    return found


def _residuals(data: NDArray[np.float64], members: list[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Return ranks of x and y within groups, less their regression on the controls, of length 1.

    `data` is (columns, samples, n) with x, y and the controls as columns; the result is (2,
    samples, n), nan where x or y does not vary.
    """
    from scipy.stats import rankdata

    ranks = np.empty_like(data)
    for own in members:
        ordered = rankdata(data[..., own], axis=-1)
        ranks[..., own] = (ordered - ordered.mean(axis=-1, keepdims=True)) / own.size
    both, controls = ranks[:2], ranks[2:].transpose(1, 2, 0)
    if controls.shape[-1]:
        fitted = controls @ (np.linalg.pinv(controls) @ both.transpose(1, 2, 0))
        both = both - fitted.transpose(2, 0, 1)
    lengths = np.linalg.norm(both, axis=-1, keepdims=True)
    lengths[lengths <= 1e-9 * np.sqrt(data.shape[-1])] = np.nan
    return both / lengths
