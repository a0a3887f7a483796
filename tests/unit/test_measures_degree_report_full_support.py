import numpy as np
import pytest
from scipy.stats import binom, kstest, lognorm, nbinom

from topokit.measures import binomial_distance, full_support_aic
from topokit.measures.degree_report import LAWS, maximum_p
from topokit.measures.powerlaw import sample_zeta


def best(degrees, n_other=1000):
    aic = full_support_aic(degrees, n_other=n_other)
    return min(aic, key=aic.get)


@pytest.mark.parametrize("seed", range(3))
def test_each_law_is_recognised(seed):
    rng = np.random.default_rng(seed)
    assert best(rng.binomial(1000, 0.02, 800)) == "binomial"
    assert best(rng.negative_binomial(2, 0.1, 800)) == "negative_binomial"
    assert best(np.rint(rng.lognormal(2.5, 0.8, 800)).astype(int)) == "lognormal"
    assert best(sample_zeta(800, alpha=2.5, xmin=4, upper=1004, rng=rng) - 4) == "zipf_mandelbrot"


def test_likelihoods_are_those_of_scipy():
    rng = np.random.default_rng(0)
    k = rng.negative_binomial(3, 0.2, 400)
    aic = full_support_aic(k, n_other=500)
    share = k.mean() / 500
    assert aic["binomial"] == pytest.approx(2 - 2 * binom.logpmf(k, 500, share).sum())
    sizes = np.linspace(1, 8, 1401)
    exact = max(nbinom.logpmf(k, r, r / (r + k.mean())).sum() for r in sizes)
    assert aic["negative_binomial"] == pytest.approx(4 - 2 * exact, abs=1e-3)
    grid = [(mu, s) for mu in np.linspace(2, 2.8, 41) for s in np.linspace(0.4, 1.0, 31)]
    exact = max(
        np.log(
            lognorm.cdf(k + 0.5, s, scale=np.exp(mu)) - lognorm.cdf(k - 0.5, s, scale=np.exp(mu))
        ).sum()
        for mu, s in grid
    )
    assert aic["lognormal"] <= 4 - 2 * exact + 1e-6
    assert aic["lognormal"] == pytest.approx(4 - 2 * exact, abs=0.5)


@pytest.mark.parametrize("degrees", [[], [3], [2, 2, 2], [0, 0]])
def test_what_cannot_be_fitted_is_nan(degrees):
    assert set(full_support_aic(degrees, n_other=9)) == set(LAWS)
    assert np.isnan(list(full_support_aic(degrees, n_other=9).values())).all()


def test_p_values_are_uniform_for_random_layers():
    p = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        ids = rng.permutation(100 * 80)[:800]
        p.append(binomial_distance(np.bincount(ids // 80, minlength=100), n_other=80, rng=rng)[1])
    assert kstest(p, "uniform").pvalue > 0.01


def test_wide_degrees_are_rejected_and_empty_ones_undefined():
    rng = np.random.default_rng(0)
    assert binomial_distance(rng.zipf(2.5, 300) % 90, n_other=100, rng=rng).p_value < 0.01
    for degrees in ([], [0, 0], [5, 5]):
        assert np.isnan(binomial_distance(degrees, n_other=5, rng=rng)).all()
    assert np.isnan(maximum_p([0], n_other=5))
    assert maximum_p([1, 2, 3, 2, 1], n_other=50) > 0.1


def test_huge_layers_are_drawn_edge_by_edge():
    rng = np.random.default_rng(0)
    degrees = rng.multinomial(3000, np.full(40_000, 1 / 40_000))
    found = binomial_distance(degrees, n_other=40_000, draws=19, rng=rng)
    assert 0 < found.p_value <= 1


def test_all_laws_are_bounded():
    # equal frequencies up to the bound: the limit of a negative binomial law without hubs
    flat = np.repeat(np.arange(11), 60)
    aic = full_support_aic(flat, n_other=10)
    assert aic["negative_binomial"] == pytest.approx(4 + 2 * flat.size * np.log(11), abs=0.01)
    assert aic["negative_binomial"] <= aic["zipf_mandelbrot"] + 0.01
    # cut off at the bound: the law that was drawn is the best
    rng = np.random.default_rng(0)
    drawn = np.rint(rng.lognormal(2, 1, 4000)).astype(int)
    aic = full_support_aic(drawn[drawn <= 12], n_other=12)
    assert min(aic, key=aic.__getitem__) == "lognormal"
