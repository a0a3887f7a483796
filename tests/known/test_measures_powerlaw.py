"""Answers of the power-law fit that can be had in another way."""

import numpy as np
import pytest

from topokit.measures import fit_power_law
from topokit.measures.powerlaw import bootstrap_p, fit_tail, sample_zeta, tally


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


@pytest.mark.parametrize(("upper", "verdict"), [(12, "heavy-tailed"), (14, "power law")])
def test_a_power_law_spans_decades(upper, verdict):
    rng = np.random.default_rng(0)
    samples = sample_zeta(4000, alpha=2.5, xmin=2, upper=upper, rng=rng)
    fit = fit_power_law(samples, xmin=2, n_other=upper, bootstrap=50, rng=rng)
    assert fit.decades == pytest.approx(np.log10(upper / 2))
    assert fit.verdict == verdict
    narrow = ("the tail spans only 0.8 decades",)
    assert fit.failed == (narrow if verdict == "heavy-tailed" else ())
