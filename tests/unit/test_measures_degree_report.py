import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.measures import TIERS, degree_report, fit_power_law, scale_free_tier
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
