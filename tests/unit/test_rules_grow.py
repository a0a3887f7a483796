import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import layer_graphs
from topokit.graph import LayerGraph
from topokit.rules.grow import (
    best_positive,
    cosine_scores,
    gradient,
    never_active,
    new_by_cosine,
    sample_by_score,
    uniform,
)
from topokit.rules.rewire import LayerView


def absent(graph):
    return np.setdiff1d(np.arange(graph.n_in * graph.n_out), graph.edge_ids)


@given(layer_graphs(), st.data(), st.sampled_from([best_positive, sample_by_score]))
def test_scored_growth_takes_absent_cells_only(graph, data, choose):
    n = data.draw(st.integers(0, absent(graph).size))
    scores = np.maximum(np.random.default_rng(n).standard_normal(graph.shape), 0)
    ids = choose(graph, n, lambda rows: scores[rows], np.random.default_rng(0))
    assert np.unique(ids).size == n
    assert np.isin(ids, absent(graph)).all()
    positive = scores.ravel()[absent(graph)] > 0
    taken = scores.ravel()[ids] > 0
    assert taken.sum() == min(n, positive.sum())  # zeros only when nothing else is left


def test_best_positive_is_the_dense_answer(rng):
    graph = LayerGraph.from_edge_ids(np.flatnonzero(rng.random(600) < 0.3), (20, 30))
    scores = rng.random((20, 30))
    ids = best_positive(graph, 50, lambda rows: scores[rows], rng)
    free = absent(graph)
    best = free[np.argsort(-scores.ravel()[free])[:50]]
    assert ids.tolist() == sorted(best.tolist())


def test_cells_without_a_score_do_not_make_a_hub_of_the_first_unit(rng):
    graph = LayerGraph.from_edge_ids([], (20, 20))
    hits = np.zeros(400)
    for _ in range(500):
        hits[best_positive(graph, 40, lambda rows: np.zeros((20, 20))[rows], rng)] += 1
    assert np.abs(hits - 50).max() < 5 * np.sqrt(500 * 0.1 * 0.9)


def test_sampling_follows_the_scores(rng):
    graph, scores = LayerGraph.from_edge_ids([], (1, 4)), np.array([[1.0, 2.0, 0.0, 5.0]])
    hits = np.zeros(4)
    for _ in range(4000):
        hits[sample_by_score(graph, 1, lambda rows: scores[rows], rng)] += 1
    assert hits[2] == 0
    assert np.abs(hits - scores[0] * 500).max() < 5 * np.sqrt(4000 * 0.25)


def test_nan_gradients_are_refused(rng):
    graph = LayerGraph.from_edge_ids([0], (2, 2))
    view = LayerView(graph, np.ones(1), inputs=np.full((1, 2), np.nan), output_grad=np.ones((1, 2)))
    with pytest.raises(ValueError, match="expected scores without nan"):
        gradient(view, graph, 1, rng)


def test_cosine_scores_match_numpy(rng):
    inputs, outputs = rng.standard_normal((50, 6)), rng.standard_normal((50, 4))
    inputs[:, 2] = 0
    view = LayerView(LayerGraph.from_edge_ids([], (4, 6)), np.zeros(0), inputs, outputs)
    scores = cosine_scores(view)(slice(1, 3))
    for row, j in enumerate((1, 2)):
        for i in range(6):
            a, b = inputs[:, i], outputs[:, j]
            norm = np.linalg.norm(a) * np.linalg.norm(b)
            expected = abs(a @ b) / norm if norm else 0
            assert scores[row, i] == pytest.approx(expected)
    assert (cosine_scores(view)(slice(0, 4)) <= 1 + 1e-12).all()


def test_never_active_prefers_and_then_gives_in(rng):
    graph = LayerGraph.from_edge_ids([0, 1], (2, 4))
    view = LayerView(
        graph, np.ones(2), extra={"explored": LayerGraph.from_edge_ids([0, 1, 2, 3, 4], (2, 4))}
    )
    assert set(never_active(view, graph, 2, rng)) <= {5, 6, 7}
    everything = never_active(view, graph, 6, rng)
    assert everything.tolist() == [2, 3, 4, 5, 6, 7]
    with pytest.raises(ValueError, match=r"needs extra\['explored'\]"):
        never_active(LayerView(graph, np.ones(2)), graph, 1, rng)


def test_new_by_cosine_needs_activations(rng):
    graph = LayerGraph.from_edge_ids([0], (2, 2))
    with pytest.raises(ValueError, match="needs captured activations: expected inputs and outputs"):
        new_by_cosine(LayerView(graph, np.ones(1)), graph, 1, rng)


def test_uniform_hits_every_absent_cell_alike(rng):
    graph = LayerGraph.from_edge_ids([0, 3, 5], (2, 4))
    view, hits = LayerView(graph, np.ones(3)), np.zeros(8)
    for _ in range(3000):
        hits[uniform(view, graph, 2, rng)] += 1
    assert not hits[[0, 3, 5]].any()
    assert np.abs(hits[absent(graph)] - 1200).max() < 5 * np.sqrt(3000 * 0.4 * 0.6)
