"""Numbers whose digits could be lost: large layers, very large and very small weights, ranges."""

import numpy as np
import pytest
from scipy.stats import hypergeom

from topokit.graph import LayerGraph, spectra
from topokit.graph.spectra import largest_singular_value, singular_values
from topokit.measures import (
    binomial_distance,
    ccdf,
    evenness_fan_in,
    full_support_aic,
    mixing_certificate,
    set_style_correlation,
    spectrum_exponent,
    weighted_gaps,
)
from topokit.measures.degree import expected_isolated
from topokit.measures.degree_report import maximum_p

FACTORS = (1e-300, 1e-170, 1e-90, 1e90, 1e160, 1e300)


def weighted_layer(shape, n_edges):
    rng = np.random.default_rng(0)
    ids = rng.permutation(shape[0] * shape[1])[:n_edges]
    return LayerGraph.from_edge_ids(ids, shape), rng.standard_normal(n_edges)


@pytest.mark.parametrize("shape", [(30, 40), (90, 100)], ids=["dense", "lanczos"])
@pytest.mark.parametrize("factor", FACTORS)
def test_weighted_gaps_of_very_large_and_small_weights(shape, factor):
    graph, weights = weighted_layer(shape, 600)
    found, usual = weighted_gaps(graph, factor * weights), weighted_gaps(graph, weights)
    assert found.gap == pytest.approx(factor * usual.gap, rel=1e-9)
    assert found.relative == pytest.approx(usual.relative, rel=1e-9)
    assert found.normalized == pytest.approx(usual.normalized, rel=1e-9)
    norm = np.linalg.norm(graph.to_csr(weights).toarray(), 2)
    assert largest_singular_value(graph, factor * weights) == pytest.approx(factor * norm, rel=1e-9)


def test_the_normalized_gap_of_weights_of_very_different_sizes():
    # a path: its normalized gap does not depend on the middle one of three weights that vanishes
    graph = LayerGraph.from_edge_ids([0, 1, 3], (2, 2))
    found = weighted_gaps(graph, [1.0, 1e-160, 1e-320])
    assert 0 <= found.normalized <= 1
    assert found.gap == pytest.approx(1.0)


@pytest.mark.parametrize("factor", FACTORS)
def test_the_spectrum_of_very_large_and_small_weights(factor):
    graph, weights = weighted_layer((30, 40), 600)
    found = spectrum_exponent(graph, factor * weights, rng=0)
    usual = spectrum_exponent(graph, weights, rng=0)
    for name in ("alpha", "shuffled_alpha", "stable_rank", "ks_distance"):
        assert getattr(found, name) == pytest.approx(getattr(usual, name), rel=1e-9), name
    largest = 2 * np.log10(factor) + usual.weighted_alpha / usual.alpha
    assert found.weighted_alpha == pytest.approx(usual.alpha * largest, rel=1e-9)


@pytest.mark.parametrize("shape", [(20, 400), (400, 20), (30, 61)])
def test_singular_values_of_long_layers_are_found_in_blocks(shape, monkeypatch):
    graph, weights = weighted_layer(shape, 500)
    expected = np.linalg.svd(graph.to_csr(weights).toarray(), compute_uv=False)
    monkeypatch.setattr(spectra, "CELLS", 1000)
    sizes = []
    whole = spectra._square
    monkeypatch.setattr(spectra, "_square", lambda m: sizes.append(whole(m)) or sizes[-1])
    found = singular_values(graph, weights)
    assert np.abs(found - expected).max() < 1e-12
    assert sizes[0].size <= 1000


def test_expected_isolated_units_of_large_layers():
    for n, m, edges in ((30, 20, 100), (30, 20, 590), (7, 900, 12)):
        assert expected_isolated(n, m, edges) == pytest.approx(
            hypergeom(n * m, m, edges).pmf(0), rel=1e-9
        )
    # the logarithm is -10 (1 + 1/(2e6)) to the order of 1 / n
    found = expected_isolated(10**6, 10**6, 10**7)
    assert np.log(found) == pytest.approx(-10 * (1 + 1 / (2 * 10**6)) - 5e-5, abs=1e-9)
    with pytest.raises(ValueError, match=r"expected 0 to 6 edges, got 7"):
        expected_isolated(2, 3, 7)


def test_degrees_are_not_cut_to_integers():
    for function in (
        ccdf,
        set_style_correlation,
        lambda k: full_support_aic(k, n_other=9),
        lambda k: maximum_p(k, n_other=9),
        lambda k: binomial_distance(k, n_other=9, rng=0),
    ):
        with pytest.raises(ValueError, match=r"non-negative integers, got 1\.9"):
            function([1.0, 1.9, 3.0])
    with pytest.raises(ValueError, match=r"expected degrees in 0\.\.n_other=9, got 30"):
        full_support_aic([1, 2, 30], n_other=9)


def test_ranges_are_kept_to_the_last_digit():
    rng = np.random.default_rng(1)
    for _ in range(60):
        n_out, n_in = rng.integers(1, 7, 2)
        ids = rng.permutation(n_out * n_in)[: rng.integers(1, n_out * n_in + 1)]
        graph = LayerGraph.from_edge_ids(ids, (n_out, n_in))
        assert not evenness_fan_in(graph).edge_entropy > 1
        assert not mixing_certificate(graph) > 1
