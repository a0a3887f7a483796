import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.measures import structure_convergence
from topokit.measures.change import kept_core


def layer(ids, shape=(3, 3)):
    return {"fc1": LayerGraph.from_edge_ids(ids, shape)}


def test_the_first_epoch_that_stays_high_counts():
    sets = [[0, 1], [0, 1], [2, 3], [2, 3], [2, 3]]
    found = structure_convergence(layer(ids) for ids in sets)
    assert found.overlap["fc1"].tolist() == [1, 0, 1, 1]
    assert found.settled == {"fc1": 2.0}


def test_what_never_settles_is_nan():
    found = structure_convergence([layer([0]), layer([1])])
    assert np.isnan(found.settled["fc1"])
    assert structure_convergence([layer([0])]).overlap == {}


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"expected a threshold in \(0, 1\], got 0"):
        structure_convergence([], threshold=0)
    with pytest.raises(ValueError, match="expected the same layers throughout"):
        structure_convergence([layer([0]), layer([0], (2, 2))])
    with pytest.raises(ValueError, match="expected 1 weights"):
        kept_core(layer([0])["fc1"], np.zeros(2), 0.5)
    with pytest.raises(ValueError, match=r"expected a share in \[0, 1\)"):
        kept_core(layer([0])["fc1"], np.zeros(1), 1.0)


def test_the_core_settles_where_the_fringe_does_not():
    rng = np.random.default_rng(0)
    core = np.arange(40)
    whole, kept = [], []
    for _ in range(4):
        fringe = 40 + rng.permutation(60)[:20]
        graph = LayerGraph.from_edge_ids(np.concatenate([core, fringe]), (10, 10))
        whole.append({"fc1": graph})
        weights = np.where(graph.edge_ids < 40, 1.0, 0.01)
        kept.append({"fc1": kept_core(graph, weights, 1 / 3)})
    assert np.isnan(structure_convergence(whole).settled["fc1"])
    assert structure_convergence(kept).settled["fc1"] == 0


def test_the_core_has_exactly_the_share_that_is_kept():
    """0.29 of 100 edges are 29, although their product in floating point is below."""
    for n in (1, 7, 10, 100, 1000):
        graph = LayerGraph.from_edge_ids(range(n), (1, n))
        weights = np.arange(n, dtype=float)
        for percent in range(100):
            kept = kept_core(graph, weights, percent / 100)
            assert kept.n_edges == n - percent * n // 100
            assert kept.edge_ids.tolist() == list(range(percent * n // 100, n))
    with pytest.raises(ValueError, match="expected weights that can be ordered, got nan"):
        kept_core(layer([0])["fc1"], np.array([np.nan]), 0.5)
