import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.rules.memory import decayed, explore, stalled
from topokit.rules.rewire import LayerView


def test_decayed_batches_are_the_dense_momentum(rng):
    batches = [
        (rng.standard_normal((5, 4)), rng.standard_normal((5, 3)).astype(np.float32))
        for _ in range(6)
    ]
    momentum = np.zeros((3, 4))
    for inputs, grad in batches:
        momentum = 0.9 * momentum + grad.T @ inputs
    inputs, output_grad = decayed(batches, decay=0.9)
    graph = LayerGraph.from_edge_ids([1, 6, 11], (3, 4))
    view = LayerView(graph, np.zeros(3), inputs, output_grad=output_grad)
    assert np.allclose(view.dense_grad(slice(0, 3)), momentum, atol=1e-5)
    assert np.allclose(view.edge_grad(), momentum.ravel()[[1, 6, 11]], atol=1e-5)
    assert output_grad.dtype == np.float32


def test_decayed_needs_a_batch():
    with pytest.raises(ValueError, match="expected at least one captured batch"):
        decayed([], decay=0.9)


def test_explored_fraction_starts_at_the_density_and_never_falls(rng):
    seen, fractions, union = None, [], set()
    for _ in range(30):
        ids = np.flatnonzero(rng.random(60) < 0.1)
        seen = explore(seen, LayerGraph.from_edge_ids(ids, (6, 10)))
        union |= set(ids.tolist())
        fractions.append(seen.density)
        assert seen.n_edges == len(union)
    assert fractions == sorted(fractions)
    assert fractions[-1] <= 1
    with pytest.raises(ValueError, match="expected graphs of one shape"):
        explore(seen, LayerGraph.from_edge_ids([], (2, 2)))


def test_stalled_switches_once_and_for_all():
    record = [0.1, 0.2, 0.2, 0.19, 0.2, 0.9, 0.95]
    answers = [stalled(record[:n], patience=3) for n in range(len(record) + 1)]
    assert answers == [False] * 5 + [True] * 3
    with pytest.raises(ValueError, match="patience of at least 1"):
        stalled([], patience=0)
