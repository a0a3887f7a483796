"""Is a degree sequence random, broad, heavy-tailed or a power law? One guarded verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topokit.measures.alternatives import LikelihoodRatio, compare
from topokit.measures.degree import dispersion_test
from topokit.measures.powerlaw import Tally, bootstrap_p, fit_tail, tally

__all__ = ["VERDICTS", "PowerLawFit", "beats", "fit_degrees", "fit_power_law"]

VERDICTS = ("random", "broad", "heavy-tailed", "power law")
"""From narrow to wide; the measure ``power_law.verdict`` is an index into these."""

NAN = float("nan")
RANDOM_LEVEL = 0.01  # one-sided level of the dispersion test
HEAVY_LEVEL = 0.05  # the power law must beat the exponential at this level to be heavy-tailed
HEAVY_TAIL = 20  # values in the tail below which no tail is called heavy
P_LEVEL = 0.1  # bootstrap p below which a power law is rejected
CERTAIN = 10.0  # a log-likelihood ratio that needs no test
RATIO_LEVEL = 0.1  # level of the likelihood-ratio guards
TAIL_SIZE, TAIL_SHARE, DECADES = 50, 0.02, 0.8
EXPONENTS = (1.5, 3.5)


@dataclass(frozen=True, slots=True)
class PowerLawFit:
    """A guarded power-law fit of a sample; made by `fit_power_law`.

    Parameters
    ----------
    alpha, alpha_error : float
        Exponent and its standard error; ``nan`` without a tail of two distinct values.
    xmin : float
        Beginning of the tail.
    n, n_tail : int
        Sample size (zeros included) and values at or above `xmin`.
    ks_distance : float
        Between tail and fit.
    p_value : float
        Bootstrap goodness of fit; ``nan`` without bootstrap.
    comparisons : dict of LikelihoodRatio
        Against ``poisson``, ``exponential`` and ``lognormal``.
    verdict : str
        One of `VERDICTS`.
    failed : tuple of str
        In words, what keeps the sample from the next higher verdict.
    mean, dispersion, dispersion_p : float
        Mean, variance-to-mean ratio, and p-value of "not wider than random".
    maximum : int
    upper : float
        Largest possible value.
    """

    alpha: float
    xmin: float
    n: int
    n_tail: int
    ks_distance: float
    p_value: float
    comparisons: dict[str, LikelihoodRatio]
    verdict: str
    failed: tuple[str, ...]
    alpha_error: float
    mean: float
    dispersion: float
    dispersion_p: float
    maximum: int
    upper: float

    @property
    def decades(self) -> float:
        """Orders of magnitude that the tail spans, log10(maximum / xmin)."""
        return float(np.log10(self.maximum / self.xmin)) if self.n_tail else NAN

    @property
    def tail_share(self) -> float:
        """Share of the sample that is in the tail."""
        return self.n_tail / self.n if self.n else NAN


def _integers(samples: ArrayLike) -> NDArray[np.int64]:
    """Check a sample; raise saying what is wrong with it."""
    array = np.asarray(samples)
    if array.ndim != 1:
        raise ValueError(f"expected a flat sample of integers, got shape {array.shape}")
    if array.size == 0:
        raise ValueError("expected at least one value to fit, got an empty sample")
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise ValueError(f"expected a sample of non-negative integers, got dtype {array.dtype}")
    if not np.isfinite(array).all() or np.any(array != np.floor(array)):
        wrong = array[~(np.isfinite(array) & (array == np.floor(array)))][0]
        raise ValueError(f"expected a sample of non-negative integers, got {wrong}")
    if array.min() < 0:
        raise ValueError(f"expected a sample of non-negative integers, got {array.min()}")
    if array.max() >= 2**62:
        raise ValueError(f"expected integers below 2**62, got {array.max()}")
    return array.astype(np.int64)


def fit_power_law(
    samples: ArrayLike,
    *,
    xmin: int | None = None,
    bootstrap: int = 0,
    rng: np.random.Generator | None = None,
    n_other: int | None = None,
) -> PowerLawFit:
    """Fit a discrete power law to integers and judge it against a random graph and other laws.

    The fit is maximum likelihood on ``xmin..n_other`` with the exact normalisation; ``xmin``
    minimises the Kolmogorov-Smirnov distance. The verdict is the highest that holds:

    - ``"random"``: the variance is not larger than a random graph's (one-sided dispersion test,
      level 1 %).
    - ``"broad"``: it is larger, but the tail is not heavier than exponential.
    - ``"heavy-tailed"``: the power law describes a tail of at least 20 values better than an
      exponential one (Vuong's test at level 5 %, or a log-likelihood ratio above 10).
    - ``"power law"``: also bootstrap p >= 0.1, at least 50 values and 2 % of the sample in the
      tail, at least 0.8 decades, 1.5 < alpha < 3.5, better than Poisson (level 10 %) and
      exponential, not worse than lognormal (level 5 %). Never without `bootstrap`.

    Parameters
    ----------
    samples : (n,) array_like of int
        Non-negative; zeros count in n and in the dispersion, never in the tail.
    xmin : int, optional
        Fix the beginning of the tail instead of searching for it.
    bootstrap : int
        Replicates for the p-value; 100 give it to within 0.05.
    rng : numpy.random.Generator, optional
        Needed with `bootstrap`.
    n_other : int, optional
        If the sample is the degrees of one side of a layer: units on the other side. It bounds
        the degrees and makes the random null exact (edges placed without repetition); without
        it the null is Poisson.

    Returns
    -------
    PowerLawFit
        With ``nan`` exponent if no tail has two distinct values. Cost O(m^2) for m distinct
        values, about a millisecond for a layer, times ``1 + bootstrap``.

    Raises
    ------
    ValueError
        If the sample is empty or not of non-negative integers, exceeds `n_other`, or
        `bootstrap` comes without `rng`.

    References
    ----------
    .. [1] Clauset, Shalizi, Newman, "Power-law distributions in empirical data", SIAM Review
       51, 2009.
    .. [2] Broido, Clauset, "Scale-free networks are rare", Nature Communications 10:1017, 2019.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> fit = fit_power_law(rng.zipf(2.5, 1000), bootstrap=100, rng=rng)
    >>> fit.verdict, abs(fit.alpha - 2.5) < 0.2
    ('power law', True)
    >>> fit_power_law(rng.poisson(10, 1000)).verdict
    'random'
    """
    values = _integers(samples)
    if xmin is not None and (xmin != int(xmin) or xmin < 1):
        raise ValueError(f"expected xmin to be a positive integer, got {xmin}")
    if bootstrap < 0 or bootstrap != int(bootstrap):
        raise ValueError(f"expected bootstrap to be a number of replicates, got {bootstrap}")
    if bootstrap and rng is None:
        raise ValueError(
            "expected rng=numpy.random.default_rng(seed) together with bootstrap > 0, got rng=None"
        )
    if n_other is not None and values.max() > n_other:
        raise ValueError(
            f"expected degrees of at most n_other={n_other}, got {values.max()}: n_other is the "
            "number of units on the other side"
        )
    return fit_degrees(values, xmin=xmin, bootstrap=int(bootstrap), rng=rng, n_other=n_other)


def fit_degrees(
    values: NDArray[np.int64],
    *,
    xmin: int | None = None,
    bootstrap: int = 0,
    rng: np.random.Generator | None = None,
    n_other: int | None = None,
) -> PowerLawFit:
    """Fit a checked sample, which may be empty."""
    table = tally(values)
    upper = float("inf") if n_other is None else float(n_other)
    tail = fit_tail(table, xmin=xmin, upper=upper)
    dispersion, dispersion_p = dispersion_test(values, n_other=n_other)
    p_value = NAN
    if bootstrap and rng is not None:
        p_value = bootstrap_p(table, tail, replicates=bootstrap, rng=rng, xmin=xmin, upper=upper)
    found: dict[str, Any] = {
        "alpha": tail.alpha,
        "xmin": tail.xmin,
        "n": int(values.size),
        "n_tail": tail.n_tail,
        "ks_distance": tail.ks_distance,
        "p_value": p_value,
        "comparisons": compare(table, tail, upper=upper),
        "alpha_error": _standard_error(table, tail.alpha, tail.xmin, upper),
        "mean": float(values.mean()) if values.size else NAN,
        "dispersion": dispersion,
        "dispersion_p": dispersion_p,
        "maximum": int(values.max()) if values.size else 0,
        "upper": upper,
    }
    draft = PowerLawFit(**found, verdict="random", failed=())
    verdict, failed = _judge(draft)
    return PowerLawFit(**found, verdict=verdict, failed=failed)


def _standard_error(table: Tally, alpha: float, xmin: float, upper: float) -> float:
    """Asymptotic standard error of the exponent, from the curvature of log zeta."""
    from topokit.measures.powerlaw import log_zeta

    if not np.isfinite(alpha):
        return NAN
    n_tail = int(table.counts[table.values >= xmin].sum())
    h = 1e-3 * max(1.0, alpha / 10)
    f = log_zeta(alpha + h * np.array([-1.0, 0.0, 1.0]), np.full(3, xmin), upper)
    bend = float(f[0] - 2 * f[1] + f[2]) / h**2
    return float(1 / np.sqrt(n_tail * bend)) if bend > 0 else NAN


def beats(ratio: LikelihoodRatio, level: float) -> bool:
    """Tell whether the power law is better: by Vuong's test, or e^10 times as likely.

    One far hub rules an exponential tail out but also inflates the variance of Vuong's test.
    """
    return ratio.statistic > 0 and (ratio.p_value < level or ratio.log_ratio > CERTAIN)


def _judge(fit: PowerLawFit) -> tuple[str, tuple[str, ...]]:
    """Highest verdict that holds, and what keeps it from the next."""
    if not fit.dispersion_p < RANDOM_LEVEL:
        return "random", ("not wider than a random graph",)
    ratios = fit.comparisons
    exponential = ratios["exponential"]
    if not beats(exponential, HEAVY_LEVEL) or fit.n_tail < HEAVY_TAIL:
        return "broad", ("the tail is not heavier than exponential",)
    failed = []
    if np.isnan(fit.p_value):
        failed.append("no bootstrap was asked for")
    elif fit.p_value < P_LEVEL:
        failed.append(f"rejected by the bootstrap (p = {fit.p_value:.2g})")
    if fit.n_tail < TAIL_SIZE:
        failed.append(f"the tail has only {fit.n_tail} values")
    if fit.tail_share < TAIL_SHARE:
        failed.append(f"the tail is only {fit.tail_share:.1%} of the values")
    if fit.decades < DECADES:
        failed.append(f"the tail spans only {fit.decades:.1f} decades")
    if not EXPONENTS[0] < fit.alpha < EXPONENTS[1]:
        failed.append(f"the exponent is outside {EXPONENTS[0]} to {EXPONENTS[1]}")
    poisson, lognormal = ratios["poisson"], ratios["lognormal"]
    if not beats(poisson, RATIO_LEVEL):
        failed.append("not better than Poisson")
    if lognormal.statistic < 0 and lognormal.p_value < HEAVY_LEVEL:
        failed.append("lognormal is better")
    return ("heavy-tailed", tuple(failed)) if failed else ("power law", ())
