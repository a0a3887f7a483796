"""Answers of the power-law fit that can be had in another way."""

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.stats import norm, poisson

from topokit.measures import fit_power_law
from topokit.measures.powerlaw import (
    bootstrap_p,
    fit_tail,
    log_zeta,
    sample_zeta,
    tally,
)
from topokit.measures.rivals import compare


def plain_bootstrap(samples, fit, replicates, rng):
    """The semi-parametric bootstrap of Clauset et al., value by value."""
    head = samples[samples < fit.xmin]
    worse = 0
    for _ in range(replicates):
        in_tail = rng.random(samples.size) < fit.n_tail / samples.size
        drawn = rng.choice(head, samples.size)
        drawn[in_tail] = sample_zeta(
            int(in_tail.sum()), alpha=fit.alpha, xmin=int(fit.xmin), rng=rng
        )
        worse += fit_tail(tally(drawn)).ks_distance >= fit.ks_distance
    return worse / replicates


def test_the_bootstrap_draws_head_and_tail_in_the_samples_shares():
    rng = np.random.default_rng(1)
    head, tail = rng.integers(1, 10, 600), sample_zeta(200, alpha=2.5, xmin=10, rng=rng)
    samples = np.concatenate([head, tail])
    table = tally(samples)
    fit = fit_tail(table)
    assert fit.n_tail < 0.4 * samples.size
    expected = plain_bootstrap(samples, fit, 300, rng)
    found = bootstrap_p(table, fit, replicates=1000, rng=rng)
    assert 0.1 < expected < 0.9
    assert found == pytest.approx(expected, abs=0.12)


def test_of_equal_distances_the_smaller_beginning_is_taken():
    # Exactly a power law on all of 1..3, so every x_min fits as well but for the last bit.
    fits = [fit_power_law(np.repeat([1, 2, 3], [36 * m, 9 * m, 4 * m]), n_other=3)
            for m in range(1, 41)]  # fmt: skip
    assert all(fit.ks_distance < 1e-14 for fit in fits)
    assert sum(fit.xmin == 1 for fit in fits) >= 35


@pytest.mark.parametrize("seed", range(5))
def test_the_last_two_possible_values_are_not_a_tail(seed):
    """A law on 49..50 fits any two frequencies, so it had the least distance in every sample."""
    sample = sample_zeta(40_000, alpha=1.8, upper=50, rng=np.random.default_rng(seed))
    assert {49, 50} <= set(sample)
    fit = fit_power_law(sample, n_other=50)
    assert fit.xmin <= 10
    assert fit.alpha == pytest.approx(1.8, abs=0.15)
    dense = fit_power_law(sample_zeta(500, alpha=2, xmin=30, upper=50, rng=0), n_other=50)
    assert dense.xmin == 30


@pytest.mark.parametrize(("upper", "verdict"), [(12, "heavy-tailed"), (14, "power law")])
def test_a_power_law_spans_decades(upper, verdict):
    rng = np.random.default_rng(0)
    samples = sample_zeta(4000, alpha=2.5, xmin=2, upper=upper, rng=rng)
    fit = fit_power_law(samples, xmin=2, n_other=upper, bootstrap=50, rng=rng)
    assert fit.decades == pytest.approx(np.log10(upper / 2))
    assert fit.verdict == verdict
    narrow = ("the tail spans only 0.8 decades",)
    assert fit.failed == (narrow if verdict == "heavy-tailed" else ())


@pytest.mark.parametrize(("alpha", "upper"), [(1.2, np.inf), (0.8, 1e7), (1.0, 1e7), (1.3, 1e7)])
def test_draws_beyond_the_tabulated_values_follow_the_law(alpha, upper):
    drawn = sample_zeta(20_000, alpha=alpha, upper=upper, rng=np.random.default_rng(0))
    assert drawn.min() >= 1
    assert drawn.max() <= min(upper, 2**62)
    norm_log = log_zeta(alpha, 1, upper)
    for level in (1_000, 120_000, 1_000_000, 5_000_000):
        share = float(np.exp(log_zeta(alpha, level, upper) - norm_log))
        error = np.sqrt(share * (1 - share) / drawn.size)
        assert np.mean(drawn >= level) == pytest.approx(share, abs=4.5 * error)


def test_draws_stop_at_the_largest_integers():
    drawn = sample_zeta(2000, alpha=1.03, rng=np.random.default_rng(0))
    assert drawn.min() >= 1
    assert drawn.max() == 2**62


def log_lognormal(values, xmin, mu, sigma):
    """Log-probabilities of a lognormal law binned around the integers from xmin on."""
    low, high, start = (
        norm.logsf((np.log(edge) - mu) / sigma) for edge in (values - 0.5, values + 0.5, xmin - 0.5)
    )
    return low + np.log1p(-np.exp(high - low)) - start


def best(cost, *start):
    options = {"xatol": 1e-8, "fatol": 1e-9, "maxiter": 4000, "maxfev": 4000}
    return minimize(cost, start, method="Nelder-Mead", options=options).x


def log_likelihoods(values, counts, xmin):
    """Log-probabilities of the values under the best law of each kind."""
    mean, logs = counts @ values / counts.sum(), np.log(values)

    def log_poisson(rate):
        return poisson.logpmf(values, rate) - poisson.logsf(xmin - 1, rate)

    rate = np.exp(best(lambda x: -counts @ log_poisson(np.exp(x[0])), np.log(mean))[0])
    chance = 1 / (mean - xmin + 1)  # of ending, in a geometric law from xmin on
    centre = counts @ logs / counts.sum()
    spread = np.sqrt(counts @ (logs - centre) ** 2 / counts.sum())
    law = best(
        lambda x: -counts @ log_lognormal(values, xmin, x[0], np.exp(x[1])), centre, np.log(spread)
    )
    return {
        "poisson": log_poisson(rate),
        "exponential": (values - xmin) * np.log1p(-chance) + np.log(chance),
        "lognormal": log_lognormal(values, xmin, law[0], np.exp(law[1])),
    }


SAMPLES = {
    "lognormal": np.rint(np.random.default_rng(0).lognormal(3, 0.5, 3000)).astype(int),
    "poisson": np.random.default_rng(1).poisson(6, 2000) + 1,
    "geometric": np.random.default_rng(2).geometric(0.1, 2000),
    "one far hub": np.append(np.random.default_rng(3).integers(80, 121, 20_000), 50_000),
}


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("xmin", [1, 5])
def test_likelihood_ratios_are_those_of_the_best_laws(name, xmin):
    table = tally(SAMPLES[name])
    fit = fit_tail(table, xmin=xmin)
    found = compare(table, fit)
    keep = table.values >= xmin
    values, counts = table.values[keep].astype(float), table.counts[keep].astype(float)
    power = -fit.alpha * np.log(values) - log_zeta(fit.alpha, xmin)
    for law, log_p in log_likelihoods(values, counts, xmin).items():
        if not np.isfinite(log_p).all():
            continue
        differences = power - log_p
        total, n = counts @ differences, counts.sum()
        sd = np.sqrt(counts @ (differences - total / n) ** 2 / n)
        assert found[law].log_ratio == pytest.approx(total, rel=1e-4, abs=0.02)
        assert found[law].statistic == pytest.approx(total / np.sqrt(n) / sd, rel=1e-3)
        assert found[law].p_value == pytest.approx(
            2 * norm.sf(abs(found[law].statistic)), rel=1e-6, abs=1e-300
        )


@pytest.mark.parametrize(
    ("xmin", "highest", "upper"),
    [(5, 14, 14), (1, 51, 51), (1, 190, 201), (2, 150, 2002), (2, 12, np.inf), (2, 150, np.inf)],
)
def test_exponents_are_those_of_largest_likelihood(xmin, highest, upper):
    rng = np.random.default_rng(highest)
    for _ in range(30):
        samples = rng.integers(xmin, highest, rng.integers(5, 40), endpoint=True)
        mean_log = np.log(samples).mean()

        def cost(alpha, mean_log=mean_log):
            return alpha * mean_log + float(log_zeta(alpha, xmin, upper))

        least = 1.01 if np.isinf(upper) else 1e-3
        expected = minimize_scalar(cost, bounds=(least, 60), options={"xatol": 1e-10}).x
        found = fit_tail(tally(samples), xmin=xmin, upper=upper).alpha
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)
