import numpy as np
import pytest
from scipy import stats

from topokit.graph import LayerGraph
from topokit.measures import TIERS, degree_report, fit_power_law, scale_free_tier
from topokit.measures.degree_report import (
    binomial_distance,
    maximum_p,
    set_style_correlation,
    tail_index,
)
from topokit.measures.powerlaw import sample_zeta


def fits(law, count, bootstrap=60):
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        found.append(fit_power_law(law(rng), n_other=2000, bootstrap=bootstrap, rng=rng))
    return found


def test_tiers_of_known_laws():
    random = fits(lambda rng: rng.binomial(2000, 0.01, 1000), 6)
    zeta = fits(lambda rng: sample_zeta(1000, alpha=2.5, upper=2000, rng=rng), 6)
    broad = fits(lambda rng: rng.negative_binomial(2, 0.1, 1000), 6)
    assert scale_free_tier(random) == TIERS[0]
    assert TIERS.index(scale_free_tier(zeta)) >= TIERS.index("strong")
    assert TIERS.index(scale_free_tier(broad)) <= TIERS.index("weak")
    assert scale_free_tier(random + zeta) == TIERS[0]


def test_random_layers_reach_no_tier_although_the_bootstrap_accepts_them():
    random = fits(lambda rng: rng.binomial(2000, 0.01, 1000), 20)
    assert sum(fit.p_value >= 0.1 for fit in random) > 10
    assert scale_free_tier(random) == "Erdős–Rényi not rejected"


def test_wrong_sets_are_named():
    with pytest.raises(ValueError, match="expected at least one fit, got none"):
        scale_free_tier([])
    with pytest.raises(ValueError, match="expected fits with a bootstrap p-value"):
        scale_free_tier([fit_power_law([1, 2, 3, 3])])


def test_a_report_has_three_parts():
    rng = np.random.default_rng(0)
    degrees = sample_zeta(500, alpha=2.4, upper=400, rng=rng)
    ids = [i * 400 + j for i, k in enumerate(degrees) for j in rng.permutation(400)[:k]]
    graph = LayerGraph.from_edge_ids(ids, (500, 400))
    report = degree_report(graph, rng=rng)
    assert report.binomial.p_value < 0.01
    assert report.maximum_p < 1e-6
    assert report.tail.kernel > 0
    assert min(report.aic, key=report.aic.get) != "binomial"
    assert report.tier in TIERS[4:]
    for words in ("power law", "tail index", "of four laws", f"tier: {report.tier}"):
        assert words in report.sentence
    assert degree_report(graph, "fan_out", rng=rng).fit.n == 400


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (4, 5), (1, 1)])
def test_empty_layers_have_a_report(shape):
    graph = LayerGraph.from_edge_ids([], shape)
    report = degree_report(graph, bootstrap=5, rng=np.random.default_rng(0))
    assert report.tier == "not scale-free"
    with pytest.raises(ValueError, match="expected at least one bootstrap replicate, got 0"):
        degree_report(graph, bootstrap=0, rng=np.random.default_rng(0))


def test_numbers_that_make_no_sense_are_refused():
    for draws in (0, -3, 2.5):
        with pytest.raises(ValueError, match="expected at least 1 random layer to compare with"):
            binomial_distance([1, 2], n_other=5, draws=draws, rng=0)
    for wrong in ([1, 9], [-1, 2]):
        with pytest.raises(ValueError, match=r"expected degrees in 0..n_other=5, got"):
            binomial_distance(wrong, n_other=5, rng=0)
        with pytest.raises(ValueError, match=r"expected degrees in 0..n_other=5, got"):
            maximum_p(wrong, n_other=5)
    with pytest.raises(ValueError, match=r"expected a share of units in \(0, 1\], got 0"):
        tail_index(np.arange(100), share=0)


def test_the_papers_statistic_is_linear():
    """By hand: counts 6, 0, 2, 1 of the degrees 1 to 4 against 1 / d^2."""
    degrees = [1] * 6 + [3] * 2 + [4] + [0] * 5
    found = set_style_correlation(degrees, exponent=2.0)
    law, counts = np.array([1, 1 / 4, 1 / 9, 1 / 16]), np.array([6.0, 0, 2, 1])
    expected = np.corrcoef(law, counts)[0, 1]
    assert found.correlation == pytest.approx(expected)
    t = expected * np.sqrt(2 / (1 - expected**2))
    assert found.p_value == pytest.approx(stats.t.sf(t, 2))
    rising = set_style_correlation([1] + [2] * 3 + [3] * 9)
    assert rising.correlation < 0
    assert rising.p_value > 0.5
    with pytest.raises(ValueError, match="expected an exponent above 0, got 0"):
        set_style_correlation(degrees, exponent=0)
