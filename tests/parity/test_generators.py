"""Our random families against networkx's, and spectra against closed forms."""

import networkx as nx
import numpy as np
import pytest
from networkx.algorithms import bipartite

from topokit.generators import GENERATORS, describe, graph_with_degrees
from topokit.graph.convert import from_networkx


def butterflies(graph):
    gram = (graph.to_csr() @ graph.to_csr().T).toarray()
    shared = gram[np.triu_indices(graph.n_out, 1)]
    return float((shared * (shared - 1) / 2).sum())


def near(ours, theirs):
    """Tell whether two samples have one mean, to four standard errors."""
    error = np.sqrt(np.var(ours) / len(ours) + np.var(theirs) / len(theirs))
    return abs(np.mean(ours) - np.mean(theirs)) <= 4 * error


def test_bernoulli_graphs_are_those_of_networkx():
    draw = GENERATORS["erdos_renyi_bernoulli"]
    ours = [draw(40, 30, density=0.1, rng=np.random.default_rng(s)) for s in range(120)]
    theirs = [from_networkx(bipartite.random_graph(40, 30, 0.1, seed=s)) for s in range(120)]
    for fact in (lambda g: g.n_edges, lambda g: np.var(g.fan_in), butterflies):
        assert near([fact(g) for g in ours], [fact(g) for g in theirs])


def test_exact_graphs_are_those_of_networkx():
    draw = GENERATORS["erdos_renyi"]
    ours = [draw(40, 30, density=0.1, rng=np.random.default_rng(s)) for s in range(120)]
    theirs = [from_networkx(bipartite.gnmk_random_graph(40, 30, 120, seed=s)) for s in range(120)]
    for fact in (lambda g: np.var(g.fan_in), lambda g: np.var(g.fan_out), butterflies):
        assert near([fact(g) for g in ours], [fact(g) for g in theirs])


def test_degree_sequences_are_realisable_when_networkx_can_realise_them():
    rng = np.random.default_rng(0)
    for _ in range(20):
        graph = from_networkx(bipartite.random_graph(12, 9, 0.4, seed=int(rng.integers(1000))))
        given = nx.bipartite.havel_hakimi_graph(
            graph.fan_out.tolist(), graph.fan_in.tolist(), create_using=nx.Graph
        )
        theirs = from_networkx(given)
        ours = graph_with_degrees(theirs.fan_in, theirs.fan_out, rng=rng)
        assert np.array_equal(ours.fan_in, theirs.fan_in)
        assert np.array_equal(ours.fan_out, theirs.fan_out)


def test_hypercube_is_that_of_networkx():
    graph = GENERATORS["hypercube"](16, 16, density=5 / 16, rng=np.random.default_rng(0))
    theirs = np.linalg.eigvalsh(nx.to_numpy_array(nx.hypercube_graph(5)))
    ours = np.linalg.svd(graph.to_csr().toarray(), compute_uv=False)
    assert np.sort(np.concatenate([ours, -ours])) == pytest.approx(np.sort(theirs), abs=1e-9)


def test_chordal_cycle_is_that_of_networkx():
    theirs = np.asarray(
        nx.to_numpy_array(nx.chordal_cycle_graph(23), nodelist=range(23)) > 0, float
    )
    draw = GENERATORS["double_cover"]
    share = np.count_nonzero(theirs) / 23**2
    graph = draw(23, 23, density=share, base="chordal_cycle", rng=np.random.default_rng(0))
    assert np.array_equal(graph.to_csr().toarray(), theirs)


@pytest.mark.parametrize("q", [13, 17])
def test_paley_cover_is_that_of_networkx(q):
    theirs = nx.to_numpy_array(nx.paley_graph(q), nodelist=range(q))
    draw = GENERATORS["double_cover"]
    share = (q - 1) / 2 / q
    graph = draw(q, q, density=share, base="paley", rng=np.random.default_rng(0))
    assert np.array_equal(graph.to_csr().toarray(), theirs)


def test_margulis_neighbours_are_those_of_networkx():
    theirs = nx.to_scipy_sparse_array(nx.margulis_gabber_galil_graph(7)) > 0
    graph = GENERATORS["margulis"](49, 49, density=theirs.nnz / 49**2, rng=np.random.default_rng(0))
    values = np.sort(np.abs(np.linalg.eigvalsh(theirs.toarray().astype(float))))
    assert describe(graph).n_edges == theirs.nnz
    ours = np.sort(np.linalg.svd(graph.to_csr().toarray(), compute_uv=False))
    assert ours == pytest.approx(values, abs=1e-8)


@pytest.mark.parametrize("offsets", ["random", "powers", "fibonacci"])
def test_circulants_have_the_spectrum_of_a_fourier_transform(offsets):
    n = 41
    graph = GENERATORS["circulant"](
        n, n, density=5 / n, offsets=offsets, rng=np.random.default_rng(0)
    )
    expected = np.sort(np.abs(np.fft.fft(graph.to_csr().toarray()[0])))
    ours = np.sort(np.linalg.svd(graph.to_csr().toarray(), compute_uv=False))
    assert ours == pytest.approx(expected, abs=1e-8)
