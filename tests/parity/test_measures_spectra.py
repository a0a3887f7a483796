"""Measures agree with dense linear algebra and networkx to 1e-8 on graphs of every generator."""

import functools

import networkx as nx
import numpy as np
import pytest

from topokit.generators import GENERATORS
from topokit.graph import LayerGraph
from topokit.graph.convert import to_networkx
from topokit.measures import LAYER_MEASURES

pytestmark = pytest.mark.slow

NAMES = ("spectral_gap", "normalized_spectral_gap", "algebraic_connectivity")
SHAPES = [(12, 20), (64, 64), (90, 70), (200, 144)]
DENSITIES = (0.02, 0.08, 0.3, 0.9)


def dense_answers(graph):
    b = graph.to_csr().toarray()
    a = np.block([[np.zeros((b.shape[1],) * 2), b.T], [b, np.zeros((b.shape[0],) * 2)]])
    mu = np.linalg.eigvalsh(np.diag(a.sum(0)) - a)[1] if len(a) > 1 else np.nan
    if not graph.n_edges:
        return np.nan, np.nan, mu
    s = np.append(np.linalg.svd(b, compute_uv=False), 0)
    b = b[graph.fan_in > 0][:, graph.fan_out > 0]
    b = b / np.sqrt(np.outer(b.sum(1), b.sum(0)))
    t = np.append(np.linalg.svd(b, compute_uv=False), 0)
    return s[0] - s[1], 1 - t[1], mu


def agrees(graph):
    got = [LAYER_MEASURES[name](graph) for name in NAMES]
    np.testing.assert_allclose(got, dense_answers(graph), atol=1e-8, rtol=1e-10)


def made(name, n_in, n_out, density, seed):
    """A graph of a family, or None where the family has none of that size and density."""
    rng = np.random.default_rng([seed, n_in, n_out])
    try:
        return GENERATORS[name](n_in, n_out, density=density, rng=rng)
    except ValueError:
        return None


@functools.cache
def family(name):
    cases = [(*shape, density, seed) for seed, shape in enumerate(SHAPES) for density in DENSITIES]
    return [graph for case in cases if (graph := made(name, *case)) is not None]


@pytest.mark.parametrize("name", GENERATORS)
def test_spectra_agree_with_dense_linear_algebra(name):
    graphs = family(name)
    assert graphs
    for graph in graphs:
        agrees(graph)


@pytest.mark.parametrize("name", GENERATORS)
def test_measures_agree_with_networkx(name):
    for graph in family(name):
        if not 0 < graph.n_edges <= 1500:
            continue
        oracle = to_networkx(graph)
        sizes = [len(part) for part in nx.connected_components(oracle)]
        assert LAYER_MEASURES["components"](graph) == len(sizes)
        assert LAYER_MEASURES["giant_share"](graph) == max(sizes) / sum(sizes)
        if graph.n_edges > 250:
            continue
        laplacian = np.sort(nx.laplacian_spectrum(oracle))
        assert LAYER_MEASURES["algebraic_connectivity"](graph) == pytest.approx(
            laplacian[1] if len(sizes) == 1 else 0, abs=1e-8
        )
        oracle.remove_nodes_from([unit for unit, degree in list(oracle.degree) if not degree])
        normalized = np.sort(nx.normalized_laplacian_spectrum(oracle))
        assert LAYER_MEASURES["normalized_spectral_gap"](graph) == pytest.approx(
            normalized[1], abs=1e-8
        )
        clustering = nx.bipartite.robins_alexander_clustering(oracle)
        assert LAYER_MEASURES["robins_alexander"](graph) == pytest.approx(clustering, abs=1e-8)


def test_enough_graphs_are_compared():
    assert sum(len(family(name)) for name in GENERATORS) >= 500


@pytest.mark.parametrize("seed", range(100))
def test_spectra_of_degenerate_layers_agree_with_dense_linear_algebra(seed):
    rng = np.random.default_rng(seed)
    n_out, n_in = (int(n) for n in rng.choice([1, 2, 3, 40, 66, 150], 2))
    density = rng.choice([0.0, 0.01, 0.05, 0.2, 0.99, 1.0])
    weights = rng.pareto(rng.choice([1.2, 50.0]), n_in) + 0.1
    mask = rng.random((n_out, n_in)) < np.minimum(density * weights / weights.mean(), 1)
    agrees(LayerGraph.from_edge_ids(np.flatnonzero(mask), (n_out, n_in)))
