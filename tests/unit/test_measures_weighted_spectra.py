import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import layer_graphs
from topokit.graph import LayerGraph
from topokit.measures import LAYER_MEASURES
from topokit.measures.weighted import fit_continuous, spectrum_exponent, weighted_gaps


def random_layer(n_out, n_in, density, rng, weights=None):
    chance = np.full(n_in, density) if weights is None else weights / weights.mean() * density
    mask = rng.random((n_out, n_in)) < np.minimum(chance, 1)
    return LayerGraph.from_edge_ids(np.flatnonzero(mask), mask.shape)


@given(layer_graphs(), st.integers(0, 999))
def test_unit_weights_give_the_gaps_of_the_graph(graph, seed):
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], graph.n_edges)
    found = weighted_gaps(graph, signs)
    for value, name in ((found.gap, "spectral_gap"), (found.normalized, "normalized_spectral_gap")):
        assert value == pytest.approx(LAYER_MEASURES[name](graph), abs=1e-7, nan_ok=True)


@pytest.mark.parametrize("shape", [(50, 60), (200, 180)])
def test_gaps_of_weights_agree_with_dense_linear_algebra(shape):
    rng = np.random.default_rng(0)
    graph = random_layer(*shape, 0.1, rng)
    weights = rng.standard_normal(graph.n_edges)
    w = np.abs(graph.to_csr(weights).toarray())
    values = np.linalg.svd(w, compute_uv=False)
    found = weighted_gaps(graph, weights)
    assert found.gap == pytest.approx(values[0] - values[1], abs=1e-8)
    assert found.relative == pytest.approx(1 - values[1] / values[0], abs=1e-8)
    normal = w / np.sqrt(np.outer(w.sum(1), w.sum(0)))
    assert found.normalized == pytest.approx(
        1 - np.linalg.svd(normal, compute_uv=False)[1], abs=1e-8
    )
    twice = weighted_gaps(graph, 2 * weights)
    assert twice.gap == pytest.approx(2 * found.gap)
    assert twice[1:] == pytest.approx(found[1:])


def test_a_weight_of_zero_is_no_link():
    graph = LayerGraph.from_edge_ids(range(4), (2, 2))
    assert weighted_gaps(graph, [1, 0, 0, 2]).normalized == 0
    assert np.isnan(weighted_gaps(graph, np.zeros(4))).all()
    assert np.isnan(spectrum_exponent(graph, np.zeros(4), rng=np.random.default_rng(0))).all()
    with pytest.raises(ValueError, match="expected one value for each of the 4 edges"):
        weighted_gaps(graph, np.ones(3))
    with pytest.raises(ValueError, match="expected finite weights, got nan"):
        weighted_gaps(graph, [1, 2, np.nan, 4])


def test_continuous_exponents():
    assert fit_continuous([1, np.e, np.e**2], xmin=1).alpha == pytest.approx(2)
    sample = np.random.default_rng(0).pareto(1.5, 5000) + 1
    fit = fit_continuous(sample)
    assert fit.alpha == pytest.approx(2.5, abs=0.15)
    assert fit.ks_distance < 0.02
    assert np.isnan(fit_continuous([3, 3, 0]).alpha)


def test_noise_on_hubs_looks_trained():
    rng = np.random.default_rng(0)
    hubs = random_layer(400, 400, 0.02, rng, weights=rng.pareto(1.3, 400) + 0.05)
    even = random_layer(400, 400, 0.02, rng)
    found = [spectrum_exponent(g, rng.standard_normal(g.n_edges), rng=rng) for g in (hubs, even)]
    assert found[0].alpha < 3.5 < 4.2 < found[1].alpha
    assert found[0].mask_alpha < 3.5
    assert found[0].shuffled_alpha == pytest.approx(found[0].alpha, abs=0.7)


def test_stable_rank():
    graph = LayerGraph.from_edge_ids([0, 5, 10, 15], (4, 4))
    found = spectrum_exponent(graph, [2.0, 1, 1, 1], rng=np.random.default_rng(0))
    assert found.stable_rank == pytest.approx(7 / 4)
