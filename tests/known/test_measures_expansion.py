"""Expansion measures computed from their definitions, every block at a time."""

import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.measures.expansion import mixing_certificate, universal_cover_radius


def random_layer(shape, n_edges, seed):
    ids = np.random.default_rng(seed).permutation(shape[0] * shape[1])[:n_edges]
    return LayerGraph.from_edge_ids(ids, shape)


def certificate(graph):
    """The largest quotient of the mixing lemma over all blocks of hubs."""
    matrix, edges = graph.to_csr().toarray(), graph.n_edges
    rows, columns = matrix.sum(axis=1), matrix.sum(axis=0)
    scale = np.sqrt(np.outer(np.maximum(rows, 1), np.maximum(columns, 1)))
    second = np.linalg.svd(matrix / scale, compute_uv=False)[1]
    found = []
    for a in np.unique(rows[rows > 0])[1:]:
        for b in np.unique(columns[columns > 0])[1:]:
            inside = matrix[np.ix_(rows >= a, columns >= b)].sum()
            left, right = rows[rows >= a].sum(), columns[columns >= b].sum()
            bound = second * np.sqrt(left * right * (1 - left / edges) * (1 - right / edges))
            found.append(abs(inside - left * right / edges) / bound)
    return max(found)


@pytest.mark.parametrize("seed", range(6))
def test_the_mixing_certificate_is_that_of_its_definition(seed):
    graph = random_layer((12 + seed, 17 - seed), 60, seed)
    assert mixing_certificate(graph) == pytest.approx(certificate(graph), rel=1e-6)


def test_there_is_no_certificate_of_a_gap_of_one():
    complete = np.ones((4, 5))
    complete[:, 4] = complete[3] = 0
    complete[3, 4] = 0
    graph = LayerGraph.from_edge_ids(np.flatnonzero(complete), complete.shape)
    assert np.isnan(mixing_certificate(graph))


def test_the_cover_of_a_single_edge_is_that_edge():
    assert universal_cover_radius(LayerGraph.from_edge_ids([5], (3, 4))) == pytest.approx(1)
    assert np.isnan(universal_cover_radius(LayerGraph.from_edge_ids([], (3, 4))))
