"""The continuous power-law fit beside scipy's test of the same law."""

import numpy as np
import pytest
from scipy.stats import kstest, pareto

from topokit.measures.weighted import fit_continuous


@pytest.mark.parametrize(("alpha", "xmin"), [(1.5, 1.0), (2.5, 0.3), (4.0, 7.0)])
def test_a_fit_with_a_given_beginning(alpha, xmin):
    samples = pareto.rvs(alpha - 1, scale=xmin, size=300, random_state=1)
    samples = np.concatenate([samples, [xmin / 2, xmin / 3]])
    fit = fit_continuous(samples, xmin=xmin)
    tail = samples[samples >= xmin]
    assert fit.n_tail == 300
    assert fit.alpha == pytest.approx(1 + 300 / np.log(tail / xmin).sum())
    law = pareto(fit.alpha - 1, scale=xmin)
    assert fit.ks_distance == pytest.approx(kstest(tail, law.cdf).statistic)


def test_the_beginning_of_least_distance_is_found():
    samples = np.concatenate([pareto.rvs(1.5, size=100, random_state=2), [0.2] * 40, [0.9] * 30])
    fits = [fit_continuous(samples, xmin=x) for x in np.unique(samples)[:-1]]
    best = min(fits, key=lambda fit: fit.ks_distance)
    found = fit_continuous(samples)
    assert found.xmin == pytest.approx(best.xmin)
    assert found.ks_distance == pytest.approx(best.ks_distance)


def test_a_continuous_tail_begins_above_zero():
    for xmin in (0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="expected xmin above 0, where a power law can begin"):
            fit_continuous([1.0, 2.0], xmin=xmin)
    with pytest.raises(ValueError, match="expected finite values, got inf"):
        fit_continuous([1.0, np.inf])
