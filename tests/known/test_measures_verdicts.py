"""Error rates of the verdict: false "power law" on other laws, detection of true ones.

With no false verdict in n draws the 95 % Clopper-Pearson interval is 0 to 1 - 0.025^(1/n).
`benchmarks/verdicts.py` prints the whole table.
"""

import numpy as np
import pytest
from scipy.stats import binomtest

from topokit.measures import fit_power_law
from topokit.measures.powerlaw import sample_zeta

SIZES = (300, 1000, 4000)


def degrees(law, n, rng):
    if law == "binomial sparse":
        return rng.binomial(n, 4.7 / n, n)
    if law == "binomial":
        return rng.binomial(n, min(35 / n, 0.5), n)
    if law == "regular":
        return np.full(n, 12) + (rng.random(n) < 0.3)
    size, mean = {"negative binomial 2": (2, 10), "negative binomial 1": (1, 20)}[law]
    return rng.negative_binomial(size, size / (size + mean), n)


ALL = 20  # of the samples, this many are bootstrapped in any case


def is_power_law(sample, n, seed, replicates=60, *, rare=True):
    """Whether this is the verdict.

    A bootstrap is left out where it cannot change another verdict, if that is `rare`.
    """
    if rare and seed >= ALL and "not bootstrapped" not in fit_power_law(sample, n_other=n).label:
        return False
    rng = np.random.default_rng(seed)
    return fit_power_law(sample, n_other=n, bootstrap=replicates, rng=rng).verdict == "power law"


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(
    "law",
    ["binomial sparse", "binomial", "regular", "negative binomial 2", "negative binomial 1"],
)
def test_other_laws_are_not_power_laws(law, n):
    false = sum(
        is_power_law(np.minimum(degrees(law, n, np.random.default_rng(seed)), n), n, seed)
        for seed in range(200)
    )
    assert false <= 2
    assert binomtest(false, 200).proportion_ci().high < 0.04


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "least"), [(2.2, 0.66), (2.5, 0.8), (2.8, 0.8)])
def test_true_power_laws_are_found(alpha, least):
    """At least as often as is stated: 66 % (see benchmarks/RESULTS-verdicts.md).

    Rivals with the same bound find fewer of those with exponent 2.2 than the 80 % before.
    """
    found = sum(
        is_power_law(
            sample_zeta(1000, alpha=alpha, upper=1000, rng=np.random.default_rng(seed)),
            1000,
            seed,
            rare=False,
        )
        for seed in range(200)
    )
    assert found >= least * 200
