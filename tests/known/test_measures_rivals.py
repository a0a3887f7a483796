"""Laws on a bounded support: their likelihoods add up to 1, and are the largest there are."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import gammaln, logsumexp, ndtr

from topokit.measures.powerlaw import fit_tail, sample_zeta, tally
from topokit.measures.rivals import HEAVY, LIGHT, NESTED, RIVALS, _Tail, compare, support


def bounded(log_weight, upper, size, seed, xmin=1):
    """A sample of the law on xmin..upper proportional to exp(log_weight(k))."""
    k = np.arange(xmin, upper + 1.0)
    logs = log_weight(k)
    p = np.exp(logs - logs.max())
    return np.random.default_rng(seed).choice(np.arange(xmin, upper + 1), size, p=p / p.sum())


SAMPLES = {
    "power law": (sample_zeta(800, alpha=2.2, upper=60, rng=np.random.default_rng(0)), 60),
    "geometric, clipped": (np.minimum(np.random.default_rng(1).geometric(0.1, 800), 30), 30),
    "uniform": (np.random.default_rng(2).integers(1, 31, 800), 30),
    "negative binomial": (bounded(lambda k: gammaln(k + 3) - gammaln(k) - k / 5, 50, 800, 3), 50),
    "two values": (np.array([4, 4, 5]), 9),
    "reaches a far bound": (np.append(np.random.default_rng(4).integers(1, 9, 300), 2000), 2000),
}


def tail_of(sample, upper, xmin=1):
    table = tally(sample)
    fit = fit_tail(table, xmin=xmin, upper=float(upper))
    counts = table.counts.astype(float)
    values = table.values.astype(float)
    return table, fit, _Tail(values, counts / counts.sum(), float(xmin), float(upper), fit.alpha)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("law", [*LIGHT, *HEAVY, *NESTED])
def test_probabilities_add_up_to_one(name, law):
    """The law fitted to a sample, evaluated on the whole support.

    The support is added to the sample with vanishing frequencies, which leave the fit as it is.
    """
    sample, upper = SAMPLES[name]
    k = np.arange(1.0, upper + 1)
    _, fit, tail = tail_of(sample, upper)
    share = np.full(k.size, 1e-14)
    share[tail.values.astype(int) - 1] = tail.share
    log_p = (LIGHT | HEAVY | NESTED)[law](tail._replace(values=k, share=share / share.sum()))
    if law in NESTED:
        log_p = log_p - fit.alpha * np.log(k) - logsumexp(-fit.alpha * np.log(k))
    assert float(np.exp(log_p).sum()) == pytest.approx(1, abs=1e-6)


PLAIN = {  # unnormalised log-probabilities with parameters p, and initial points
    "poisson": (lambda p, k: k * p[0] - gammaln(k + 1), [[1.0], [3.0]]),
    "exponential": (lambda p, k: k * p[0], [[-0.1], [0.0]]),
    "negative_binomial": (
        lambda p, k: gammaln(k + np.exp(p[0])) - gammaln(k + 1) + k * p[1],
        [[0.0, -0.1], [-4.0, -0.05], [2.0, -0.5]],
    ),
    "stretched_exponential": (
        lambda p, k: np.log(
            np.exp(-np.exp(p[0]) * (k ** np.exp(p[1]) - 1))
            - np.exp(-np.exp(p[0]) * ((k + 1) ** np.exp(p[1]) - 1))
            + 1e-300
        ),
        [[-2.0, 0.0], [0.0, -0.7], [0.5, -1.5]],
    ),
    "lognormal": (
        lambda p, k: np.log(
            ndtr((np.log(k + 0.5) - p[0]) / np.exp(p[1]))
            - ndtr((np.log(k - 0.5) - p[0]) / np.exp(p[1]))
            + 1e-300
        ),
        [[1.0, 0.0], [2.5, -0.5], [0.0, 0.5]],
    ),
    "cutoff": (lambda p, k: -abs(p[0]) * np.log(k) - abs(p[1]) * k, [[1.5, 0.01], [0.5, 0.1]]),
    "curved": (
        lambda p, k: -abs(p[0]) * np.log(k) - abs(p[1]) * np.log(k) ** 2,
        [[1.5, 0.01], [0.5, 0.3]],
    ),
}


@pytest.mark.parametrize(
    "name", ["power law", "geometric, clipped", "uniform", "negative binomial"]
)
@pytest.mark.parametrize("law", PLAIN)
def test_no_parameters_are_likelier(name, law):
    sample, upper = SAMPLES[name]
    table, fit, tail = tail_of(sample, upper)
    k = np.arange(1.0, upper + 1)
    weight, starts = PLAIN[law]
    n = table.counts.sum()

    def cost(p):
        with np.errstate(over="ignore", invalid="ignore"):
            value = -float(tail.share @ weight(p, tail.values)) + logsumexp(weight(p, k))
        return value if np.isfinite(value) else 1e9

    options = {"xatol": 1e-8, "fatol": 1e-12, "maxiter": 2000}
    least = min(minimize(cost, s, method="Nelder-Mead", options=options).fun for s in starts)
    power = -fit.alpha * np.log(k) - logsumexp(-fit.alpha * np.log(k))
    ratio = compare(table, fit, upper=float(upper))[law]
    ours = (float(table.counts @ power[table.values - 1]) - ratio.log_ratio) / n
    assert n * (ours + least) > -0.02  # a likelihood as large as that of the search by brute force


@pytest.mark.parametrize(
    ("law", "log_weight", "upper"),
    [
        ("exponential", lambda k: -0.05 * k, 40),
        ("negative_binomial", lambda k: gammaln(k + 2) - gammaln(k + 1) - 0.1 * k, 80),
        ("cutoff", lambda k: -1.2 * np.log(k) - 0.05 * k, 100),
        ("curved", lambda k: -0.5 * np.log(k) - 0.3 * np.log(k) ** 2, 100),
        ("lognormal", lambda k: -np.log(k) - (np.log(k) - 1.5) ** 2, 50),
    ],
)
def test_the_law_of_a_large_sample_is_recovered(law, log_weight, upper):
    sample = bounded(log_weight, upper, 20_000, 0)
    k = np.arange(1.0, upper + 1)
    truth = log_weight(k) - logsumexp(log_weight(k))
    _, fit, tail = tail_of(sample, upper)
    log_p = (LIGHT | HEAVY | NESTED)[law](tail)
    if law in NESTED:
        logs = np.log(tail.values)
        log_p = log_p - fit.alpha * logs - logsumexp(-fit.alpha * np.log(k))
    divergence = float(tail.share @ (log_p - truth[tail.values.astype(int) - 1]))
    assert 0 <= divergence + 5e-4 < 1.5e-3  # about (number of parameters) / 40,000


def test_two_kinds_of_units_are_found():
    rng = np.random.default_rng(0)
    sample = np.concatenate([rng.binomial(500, 0.02, 900), rng.binomial(500, 0.2, 100)])
    table, fit, _ = tail_of(sample[sample > 0], 500)
    ratios = compare(table, fit, upper=500.0)
    best = min(RIVALS, key=lambda name: ratios[name].log_ratio)
    assert best == "two_components"
    assert ratios["two_components"].statistic < -10


@pytest.mark.parametrize(("xmin", "upper"), [(1, 9.0), (1, 300.0), (3, 5000.0), (100, 123456.0)])
def test_sums_over_the_support(xmin, upper):
    k = np.arange(xmin, upper + 1)
    points = support(xmin, upper, 0.0)
    for f in (
        lambda x: x**-1.5,
        lambda x: np.exp(-x / 50),
        lambda x: np.exp(-((x - 0.7 * upper) ** 2) / upper),  # as narrow as degrees of a layer
    ):
        assert np.exp(points.log_weight) @ f(points.x) == pytest.approx(f(k).sum(), rel=1e-8)


@pytest.mark.parametrize("alpha", [2.0, 2.5])
def test_tests_of_nested_laws_keep_their_level(alpha):
    """Under a true power law, the one-sided tests reject in 5 % of the samples."""
    below = {"cutoff": 0, "curved": 0}
    for seed in range(300):
        sample = sample_zeta(500, alpha=alpha, upper=500, rng=np.random.default_rng(seed))
        table = tally(sample)
        ratios = compare(table, fit_tail(table, xmin=1, upper=500.0), upper=500.0)
        for name in below:
            below[name] += ratios[name].p_value < 0.05
    assert all(3 <= count <= 30 for count in below.values()), below
