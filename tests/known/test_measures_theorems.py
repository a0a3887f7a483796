"""Theorems that hold for every layer, tried on drawn ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import layer_graphs
from topokit.generators import GENERATORS
from topokit.graph import LayerGraph
from topokit.graph.spectra import leading_singular_values
from topokit.measures import LAYER_MEASURES
from topokit.measures.spectral import normalized_singular_value

measure = LAYER_MEASURES


def biregular(n_in, n_out, d, seed):
    """A layer with equal degrees on each side."""
    rng = np.random.default_rng(seed)
    return GENERATORS["biregular"](n_in, n_out, density=d / n_out, rng=rng)


@pytest.mark.parametrize(("n_in", "n_out", "d"), [(40, 20, 4), (90, 120, 8), (150, 150, 5)])
@pytest.mark.parametrize("seed", range(3))
def test_one_singular_value_gives_all_of_a_biregular_layer(n_in, n_out, d, seed):
    graph = biregular(n_in, n_out, d, seed)
    left, right = float(graph.fan_out[0]), float(graph.fan_in[0])
    assert np.ptp(graph.fan_out) == np.ptp(graph.fan_in) == 0
    first, second = leading_singular_values(graph)
    assert first == pytest.approx(np.sqrt(left * right))
    assert normalized_singular_value(graph) == pytest.approx(second / first)
    b = graph.to_csr().toarray()
    a = np.block([[np.zeros((n_in, n_in)), b.T], [b, np.zeros((n_out, n_out))]])
    mu = np.linalg.eigvalsh(np.diag(a.sum(0)) - a)[1]
    if measure["components"](graph) == 1:
        exact = (left + right - np.sqrt((left - right) ** 2 + 4 * second**2)) / 2
        assert mu == pytest.approx(exact, abs=1e-9)
        assert measure["algebraic_connectivity"](graph) == pytest.approx(mu, abs=1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_two_laplacians_bound_each_other(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(2, 90, 2)) < rng.choice([0.3, 0.6, 0.9])
    mask[0], mask[:, 0] = True, True
    graph = LayerGraph.from_edge_ids(np.flatnonzero(mask), mask.shape)
    degree = np.concatenate([graph.fan_in, graph.fan_out])
    gap, mu = (measure[n](graph) for n in ("normalized_spectral_gap", "algebraic_connectivity"))
    assert gap * degree.min() - 1e-9 <= mu <= gap * degree.max() + 1e-9
    assert mu <= degree.size / (degree.size - 1) * degree.min() + 1e-9


@given(layer_graphs(min_side=1))
def test_gaps_lie_in_their_ranges(graph):
    if not graph.n_edges:
        return
    first, second = leading_singular_values(graph)
    assert 0 <= second <= first + 1e-9
    assert first**2 <= graph.n_edges + 1e-9
    assert first**2 <= graph.fan_in.max() * graph.fan_out.max() + 1e-9
    assert first**2 >= max(graph.fan_in.max(), graph.fan_out.max()) - 1e-9
    assert (normalized_singular_value(graph) == 1) == (
        measure["normalized_spectral_gap"](graph) == 0
    )


@given(layer_graphs(min_side=1), st.integers(0, 999))
def test_edges_added_never_lower_algebraic_connectivity(graph, seed):
    absent = np.setdiff1d(np.arange(graph.n_in * graph.n_out), graph.edge_ids)
    if not absent.size:
        return
    more = np.random.default_rng(seed).permutation(absent)[: 1 + absent.size // 3]
    larger = LayerGraph.from_edge_ids(np.concatenate([graph.edge_ids, more]), graph.shape)
    name = "algebraic_connectivity"
    assert measure[name](larger) >= measure[name](graph) - 1e-9


@given(layer_graphs(min_side=1))
def test_turning_a_layer_round_swaps_its_sides(graph):
    turned = LayerGraph.from_edge_ids(graph.indices.astype(int) * graph.n_out + graph.rows,
                                      (graph.n_in, graph.n_out))  # fmt: skip
    for name in ("spectral_gap", "normalized_spectral_gap", "algebraic_connectivity", "components",
                 "giant_share", "butterflies", "robins_alexander", "assortativity", "nestedness",
                 "efficiency", "robustness"):  # fmt: skip
        assert measure[name](turned) == pytest.approx(measure[name](graph), abs=1e-8, nan_ok=True)
    for one, two in (("fan_in", "fan_out"), ("evenness_fan_in", "evenness_fan_out")):
        assert measure[one](turned) == pytest.approx(measure[two](graph), nan_ok=True)


def test_random_layers_have_the_singular_value_of_random_matrices():
    """sqrt(p (1 - p)) (sqrt(n_in) + sqrt(n_out)), to a few per cent at these sizes."""
    rng = np.random.default_rng(0)
    for n_in, n_out, p, close in ((784, 1000, 0.05, 0.03), (3072, 4000, 0.01, 0.03)):
        ids = np.unique(rng.integers(0, n_in * n_out, int(p * n_in * n_out)))
        graph = LayerGraph.from_edge_ids(ids, (n_out, n_in))
        p = graph.density
        exact = np.sqrt(p * (1 - p)) * (np.sqrt(n_in) + np.sqrt(n_out))
        assert leading_singular_values(graph)[1] == pytest.approx(exact, rel=close)


@pytest.mark.slow
def test_random_biregular_layers_come_near_the_ramanujan_bound():
    graph = biregular(400, 400, 8, 0)
    assert measure["ramanujan_margin"](graph) == pytest.approx(0, abs=0.15)
    assert measure["universal_cover_margin"](graph) == pytest.approx(
        measure["ramanujan_margin"](graph), abs=1e-4
    )
