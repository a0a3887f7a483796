import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import topologies
from topokit.graph import LayerGraph
from topokit.measures.weighted import path_kernel_trace, path_norm, synflow_saliency, synflow_score


@given(topologies(), st.integers(0, 999))
def test_scores_are_matrix_products_and_conserved(topology, seed):
    rng = np.random.default_rng(seed)
    values = {name: rng.standard_normal(g.n_edges) for name, g in topology.items()}
    flow = square = np.ones(next(iter(topology.values())).n_in)
    for name, graph in topology.items():
        w = graph.to_csr(values[name]).toarray()
        flow, square = np.abs(w) @ flow, w**2 @ square
    assert synflow_score(topology, values) == pytest.approx(flow.sum())
    assert path_norm(topology, values) == pytest.approx(np.sqrt(square.sum()))
    for saliency in synflow_saliency(topology, values).values():
        assert saliency.sum() == pytest.approx(flow.sum())


def test_lengths_are_checked():
    layer = {"fc1": LayerGraph.from_edge_ids([0, 1], (1, 2))}
    with pytest.raises(ValueError, match="one value for each of the 2 edges of fc1, got shape"):
        path_norm(layer, {"fc1": np.ones(3)})


@given(topologies(), st.integers(0, 999))
def test_path_kernel_trace_is_the_derivative(topology, seed):
    rng = np.random.default_rng(seed)
    values = {name: rng.standard_normal(g.n_edges) for name, g in topology.items()}
    total = 0.0
    base = path_norm(topology, values) ** 2
    for name, array in values.items():
        for i in range(array.size):
            moved = {**values, name: array.copy()}
            moved[name][i] = np.sqrt(array[i] ** 2 + 1)
            total += path_norm(topology, moved) ** 2 - base  # linear in each squared weight
    assert path_kernel_trace(topology, values) == pytest.approx(total, rel=1e-6, abs=1e-6)
