"""The Lanczos recurrence beside dense linear algebra."""

import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.graph.lanczos import recurrence, summed
from topokit.graph.spectra import gram_operator, trimmed


def random_layer(shape, n_edges, seed):
    ids = np.random.default_rng(seed).permutation(shape[0] * shape[1])[:n_edges]
    return LayerGraph.from_edge_ids(ids, shape)


@pytest.mark.parametrize("seed", range(3))
def test_the_recurrence_settles_on_the_largest_eigenvalue(seed):
    graph = random_layer((120, 150), 1500, seed)
    matrix = graph.to_csr().toarray()
    exact, vectors = np.linalg.eigh(matrix.T @ matrix)
    start = np.random.default_rng(9).standard_normal(150)
    start /= np.linalg.norm(start)
    bound = float(graph.fan_in.max() * graph.fan_out.max())
    operator = gram_operator(graph)
    value, left, settled, steps, small = recurrence(operator, start, bound, 150, 1e-9, 1e-13)
    assert settled
    assert 8 <= steps <= 60
    assert left <= 1e-9 * bound
    assert value == pytest.approx(exact[-1], rel=1e-12)
    assert small.shape == (steps,)
    assert np.linalg.norm(small) == pytest.approx(1)
    vector = summed(operator, start, small)
    assert np.linalg.norm(vector) == pytest.approx(1)
    assert abs(vector @ vectors[:, -1]) == pytest.approx(1, abs=1e-6)


def test_too_few_steps_do_not_settle():
    graph = random_layer((120, 150), 1500, 0)
    start = np.full(150, 150**-0.5)
    bound = float(graph.fan_in.max() * graph.fan_out.max())
    value, left, settled, steps, _ = recurrence(gram_operator(graph), start, bound, 3, 1e-9, 1e-13)
    assert not settled
    assert steps == 3
    assert left > 1e-9 * bound
    assert value < np.linalg.norm(graph.to_csr().toarray(), 2) ** 2


@pytest.mark.parametrize("shape", [(3, 5), (3, 6), (4, 5), (4, 6)])
def test_units_without_edges_are_trimmed_on_either_side(shape):
    rows, columns = np.divmod(np.arange(15), 5)
    graph = LayerGraph.from_edge_ids(rows * shape[1] + columns, shape)
    assert trimmed(graph).shape == (3, 5)
    assert trimmed(graph).nnz == 15


def test_a_long_side_in_full_use_does_not_hide_units_without_edges_on_the_other():
    graph = LayerGraph.from_edge_ids(np.arange(8) * 6 + np.arange(8) % 5, (8, 6))
    assert trimmed(graph).shape == (5, 8)
