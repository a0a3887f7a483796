"""Scores against null samples whose values are known."""

import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.measures.nulls import expected_degree_sample, null_score


def score_among(value, others):
    """The score of a graph with this value, whose null samples have the others."""
    ids = np.random.default_rng(0).permutation(400)[:120]
    graph = LayerGraph.from_edge_ids(ids, (20, 20))
    left = list(others)
    known = graph.edge_ids.tolist()

    def measure(other):
        return value if other.edge_ids.tolist() == known else left.pop()

    return null_score(graph, measure, twins=len(others), rng=np.random.default_rng(1))


@pytest.mark.parametrize(
    ("value", "p_value"),
    [
        (10.0, 2 / 5),  # above all four: 2 (0 + 1) / (4 + 1)
        (0.5, 2 / 5),
        (6.0, 1.0),  # two are as large or larger, three as small or smaller
    ],
)
def test_scores_by_hand(value, p_value):
    score = score_among(value, [4.0, 5.0, 6.0, 7.0])
    assert score.null_mean == 5.5
    assert score.null_sd == pytest.approx((5 / 3) ** 0.5)  # of a sample: over n - 1
    assert score.z == pytest.approx((value - 5.5) / (5 / 3) ** 0.5)
    assert score.p_value == pytest.approx(p_value)


def test_the_p_value_counts_the_graph_itself():
    score = score_among(9.0, [float(v) for v in range(10)] * 2)
    assert score.p_value == pytest.approx(2 * (2 + 1) / (20 + 1))
    assert score_among(11.0, [float(v) for v in range(19)]).p_value == pytest.approx(18 / 20)


def test_samples_that_agree_give_no_score():
    score = score_among(3.0, [2.0, 2.0, 2.0])
    assert np.isnan(score.z)
    assert score.p_value == pytest.approx(0.5)


@pytest.mark.parametrize(("value", "others"), [(3.0, [2.0, np.nan, 4.0]), (np.nan, [2.0, 3.0])])
def test_a_score_with_an_undefined_part_is_undefined(value, others):
    score = score_among(value, others)
    assert np.isnan([score.null_mean, score.null_sd, score.z, score.p_value]).all()
    assert score.value == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize("edges", [[], range(12)])
def test_layers_without_freedom_are_their_own_null_samples(edges):
    graph = LayerGraph.from_edge_ids(edges, (3, 4))
    drawn = expected_degree_sample(graph, rng=np.random.default_rng(0))
    assert drawn.edge_ids.tolist() == graph.edge_ids.tolist()


def test_by_default_a_score_takes_twenty_samples():
    graph = LayerGraph.from_edge_ids(np.random.default_rng(0).permutation(400)[:120], (20, 20))
    seen = []
    null_score(graph, lambda sample: float(seen.append(sample) or 0), rng=np.random.default_rng(1))
    assert len(seen) == 20 + 1
