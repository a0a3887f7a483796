"""Algebraic connectivity of layers with equal degrees, from the Laplacian itself."""

import numpy as np
import pytest

from topokit.generators import GENERATORS
from topokit.measures import LAYER_MEASURES


def laplacian_gap(graph):
    matrix = graph.to_csr().toarray()
    n_out, n_in = matrix.shape
    adjacency = np.block([[np.zeros((n_in, n_in)), matrix.T], [matrix, np.zeros((n_out, n_out))]])
    return np.linalg.eigvalsh(np.diag(adjacency.sum(axis=0)) - adjacency)[1]


@pytest.mark.parametrize(
    ("n_out", "n_in", "degree"), [(8, 12, 3), (12, 8, 2), (10, 30, 6), (9, 9, 2), (200, 300, 9)]
)
def test_biregular_layers(n_out, n_in, degree):
    rng = np.random.default_rng(1)
    graph = GENERATORS["biregular"](n_in, n_out, density=degree / n_in, rng=rng)
    assert np.ptp(graph.fan_in) == np.ptp(graph.fan_out) == 0
    expected = laplacian_gap(graph)
    assert expected > 1e-6
    for name in ("algebraic_connectivity", "algebraic_connectivity_giant"):
        assert LAYER_MEASURES[name](graph) == pytest.approx(expected, rel=1e-6)
