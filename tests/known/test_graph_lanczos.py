"""The Lanczos recurrence beside dense linear algebra."""

import numpy as np
import pytest
import scipy.sparse as sp

from topokit.graph import LayerGraph
from topokit.graph.kernels import by_length
from topokit.graph.lanczos import recurrence, summed
from topokit.graph.spectra import (
    adjacency_operator,
    gram_operator,
    joined,
    start_vector,
    trimmed,
)


def random_layer(shape, n_edges, seed):
    ids = np.random.default_rng(seed).permutation(shape[0] * shape[1])[:n_edges]
    return LayerGraph.from_edge_ids(ids, shape)


def weighted(graph, seed):
    return np.random.default_rng(seed).standard_normal(graph.n_edges)


def of(operator):
    """The dense matrix of an operator."""
    n = operator.scale.size
    data = operator.data if operator.data.size else np.ones(operator.indices.size)
    csr = (data, operator.indices.astype(int), operator.indptr)
    rows = sp.csr_array(csr, shape=(operator.rows.size, n)).toarray()
    if operator.gram:
        core = rows.T @ np.diag(operator.weight) @ rows
    else:
        core = np.zeros((n, n))
        core[operator.rows] = rows
        core += core.T
    if operator.diagonal.size:
        core += np.diag(operator.diagonal)
    found = operator.scale[:, None] * core * operator.scale
    if operator.deflated.size:
        out = np.eye(n) - np.outer(operator.deflated, operator.deflated)
        found = out @ found @ out
    return found


def operators():
    rng = np.random.default_rng(1)
    graph = random_layer((120, 150), 1500, 0)
    units = joined([graph, random_layer((80, 120), 900, 1)])
    one, all_units = np.full(150, 150**-0.5), rng.random(units.degree.size)
    return {
        "gram": gram_operator(graph),
        "gram, scaled": gram_operator(graph, weight=rng.random(120), scale=rng.random(150)),
        "gram, deflated": gram_operator(graph, scale=rng.random(150), deflated=one),
        "gram, weighted": gram_operator(graph, data=weighted(graph, 2), deflated=one),
        "adjacency": adjacency_operator(units),
        "adjacency, all": adjacency_operator(
            units, scale=all_units, diagonal=all_units + 3,
            deflated=all_units / np.linalg.norm(all_units),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", operators())
def test_the_recurrence_settles_on_the_largest_eigenvalue(name):
    operator = operators()[name]
    exact, vectors = np.linalg.eigh(of(operator))
    start = start_vector(operator, None)
    found = recurrence(operator, start, 300, 1e-9, 1e-13, 0.0, np.empty((300, start.size)))
    steps = found.alpha.size
    assert found.converged
    assert 8 <= steps <= 100
    assert found.residual <= 3e-9 * exact[-1]  # rows of the tridiagonal matrix bound its norm
    assert found.value == pytest.approx(exact[-1], rel=1e-12)
    assert found.beta.shape == found.vector.shape == (steps,)
    assert np.linalg.norm(found.vector) == pytest.approx(1)
    tridiagonal = np.diag(found.alpha) + np.diag(found.beta[:-1], 1) + np.diag(found.beta[:-1], -1)
    assert np.linalg.eigvalsh(tridiagonal)[-1] == pytest.approx(exact[-1], rel=1e-12)
    both = np.stack([found.vector, np.ones(steps)])
    kept = summed(operator, start, both, found.basis)
    again = summed(operator, start, both, found.basis[: steps // 2])  # too few: computed again
    np.testing.assert_allclose(kept, again, atol=1e-12)
    assert np.linalg.norm(kept[0]) == pytest.approx(1)
    assert abs(kept[0] @ vectors[:, -1]) == pytest.approx(1, abs=1e-6)


def test_too_few_steps_do_not_settle():
    graph = random_layer((120, 150), 1500, 0)
    start, basis = np.full(150, 150**-0.5), np.empty((2, 150))
    found = recurrence(gram_operator(graph), start, 3, 1e-9, 1e-13, 0.0, basis)
    assert np.array_equal(basis[0], start)
    assert not found.converged
    assert found.alpha.size == 3
    assert found.basis.shape == (2, 150)
    assert found.residual > 1e-9 * found.value
    assert found.value < np.linalg.norm(graph.to_csr().toarray(), 2) ** 2


def test_beside_one_fewer_steps_are_enough():
    operator = operators()["gram, deflated"]
    exact = np.linalg.eigvalsh(of(operator))[-1]
    operator = operator._replace(scale=operator.scale / np.sqrt(exact * 0.999))
    operator = operator._replace(deflated=np.empty(0))
    exact = np.linalg.eigvalsh(of(operator))[-1]
    start = start_vector(operator, None)
    none = np.empty((0, 150))
    near = recurrence(operator, start, 300, 1e-9, 1e-13, 0.1, none)
    full = recurrence(operator, start, 300, 1e-9, 1e-13, 0.0, none)
    assert near.converged
    assert near.alpha.size < full.alpha.size
    assert near.value == pytest.approx(exact, abs=0.1 * (exact - 1) ** 2)


def test_rows_in_order_of_their_length():
    graph = LayerGraph.from_edge_ids([0, 1, 3, 5, 6, 7, 8, 12], (5, 3))
    assert graph.fan_in.tolist() == [2, 2, 3, 0, 1]
    order, indptr, indices, starts = by_length(graph.indptr, graph.indices.view(np.uint32))
    assert order.tolist() == [3, 4, 0, 1, 2]
    for i, row in enumerate(order):
        own = graph.indices[graph.indptr[row] : graph.indptr[row + 1]]
        assert indices[indptr[i] : indptr[i + 1]].tolist() == own.tolist()
    assert starts.tolist() == graph.indptr[order].tolist()
    empty = by_length(np.zeros(1, np.int64), np.empty(0, np.uint32))
    assert [len(part) for part in empty] == [0, 1, 0, 0]


@pytest.mark.parametrize("shape", [(3, 5), (3, 6), (4, 5), (4, 6)])
def test_units_without_edges_are_trimmed_on_either_side(shape):
    rows, columns = np.divmod(np.arange(15), 5)
    graph = LayerGraph.from_edge_ids(rows * shape[1] + columns, shape)
    assert trimmed(graph).shape == (3, 5)
    assert trimmed(graph).nnz == 15


def test_a_long_side_in_full_use_does_not_hide_units_without_edges_on_the_other():
    graph = LayerGraph.from_edge_ids(np.arange(8) * 6 + np.arange(8) % 5, (8, 6))
    assert trimmed(graph).shape == (5, 8)
