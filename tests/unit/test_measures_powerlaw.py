"""Fits of tails against plain code that does the same, step by step."""

import itertools

import numpy as np
import pytest

from topokit.measures import kernels
from topokit.measures.powerlaw import bootstrap_p, fit_tail, sample_zeta, tally


def plain_bootstrap_p(sample, fit, replicates, rng):
    """The semi-parametric bootstrap of Clauset, Shalizi and Newman (2009, section 4.1)."""
    head, worse = sample[sample < fit.xmin], 0
    for _ in range(replicates):
        n_tail = rng.binomial(sample.size, fit.n_tail / sample.size)
        tail = sample_zeta(n_tail, alpha=fit.alpha, xmin=int(fit.xmin), rng=rng)
        body = rng.choice(head, sample.size - n_tail) if head.size else tail[:0]
        worse += fit_tail(tally(np.concatenate([body, tail]))).ks_distance >= fit.ks_distance
    return worse / replicates


@pytest.mark.parametrize(
    ("n_body", "n_tail", "seed"), [(900, 100, 1), (100, 400, 2), (600, 300, 3)]
)
def test_bootstrap_p_is_that_of_plain_code(n_body, n_tail, seed):
    """A body without a tail's shape: how often a value is drawn from which part matters."""
    rng = np.random.default_rng(seed)
    body = rng.integers(1, 10, n_body)
    sample = np.concatenate([body, sample_zeta(n_tail, alpha=2.5, xmin=10, rng=rng)])
    fit = fit_tail(tally(sample))
    n = 400
    found = bootstrap_p(tally(sample), fit, replicates=n, rng=rng)
    plain = plain_bootstrap_p(sample, fit, n, rng)
    share = (found + plain) / 2
    assert 0.1 < share < 0.9  # the sample can tell
    assert abs(found - plain) <= 4 * np.sqrt(2 * share * (1 - share) / n)


def test_the_share_of_the_tail_is_the_chance_of_a_tail_value():
    """In a fixed tail of one replicate, the number of values drawn from it is binomial."""
    sample = np.concatenate([np.ones(950, int), np.full(40, 20), np.full(10, 30)])
    fit = fit_tail(tally(sample), xmin=20)
    assert fit.n_tail == 50
    found = [
        bootstrap_p(tally(sample), fit, replicates=50, rng=np.random.default_rng(i), xmin=20)
        for i in range(4)
    ]
    # 50 values of this law have a smaller distance than the sample's two values; 950 even more so
    assert max(found) < 0.05


def test_of_tails_that_fit_equally_well_the_longest_is_taken(monkeypatch):
    """No small sample ties exactly (searched); so all distances are made equal."""
    monkeypatch.setattr(kernels, "_distance", lambda *_: 0.25)
    values, counts = np.array([1.0, 2.0, 3.0, 5.0]), np.array([4.0, 3.0, 2.0, 1.0])
    _, start, size, distance = kernels.scan.py_func(values, counts, 0.0, np.inf)
    assert (start, size, distance) == (1.0, 10.0, 0.25)


def test_the_scan_takes_the_least_distance_of_all_starts():
    rng = np.random.default_rng(0)
    for _ in range(40):
        sample = rng.integers(1, rng.integers(3, 30), rng.integers(3, 60))
        table = tally(sample)
        if table.values.size < 2:
            continue
        fits = [fit_tail(table, xmin=int(x)) for x in table.values[:-1]]
        best = fits[int(np.argmin([fit.ks_distance for fit in fits]))]
        found = fit_tail(table)
        assert (found.xmin, found.n_tail) == (best.xmin, best.n_tail)
        assert found.alpha == pytest.approx(best.alpha, rel=1e-6)


def test_the_distance_is_the_largest_at_both_ends_of_each_step():
    values, counts = np.array([2.0, 3.0, 7.0]), np.array([5.0, 2.0, 3.0])
    table = tally(np.repeat(values, counts.astype(int)).astype(int))
    fit = fit_tail(table, xmin=2)
    support = np.arange(2, 200_000, dtype=float)
    law = support**-fit.alpha / (support**-fit.alpha).sum()
    empirical = np.array([counts[values == k].sum() for k in support[:10]]).cumsum() / counts.sum()
    expected = np.abs(law.cumsum()[:10] - empirical).max()
    assert fit.ks_distance == pytest.approx(expected, abs=1e-4)
    assert list(itertools.pairwise(table.values)) == [(2, 3), (3, 7)]


@pytest.mark.parametrize("alpha", [1.0 + 1e-12, 1.0001, 1.001])
def test_draws_from_nearly_flat_laws_do_not_overflow(alpha):
    drawn = sample_zeta(1000, alpha=alpha, rng=np.random.default_rng(0))
    assert drawn.min() >= 1
    assert drawn.max() == 2**62
    bounded = sample_zeta(1000, alpha=alpha, upper=1e8, rng=np.random.default_rng(0))
    even = sample_zeta(1000, alpha=1.0, upper=1e8, rng=np.random.default_rng(0))
    assert np.quantile(bounded, [0.2, 0.8]) == pytest.approx(np.quantile(even, [0.2, 0.8]), rel=0.1)


@pytest.mark.parametrize("alpha", [np.nan, np.inf, 1.0, 0.5])
def test_laws_that_cannot_be_normalised_are_refused(alpha):
    with pytest.raises(ValueError, match="and alpha > 1 where upper is infinite"):
        sample_zeta(3, alpha=alpha, rng=0)
