import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.measures import LAYER_MEASURES
from topokit.nulls import null_score


def test_random_layers_are_typical(rng):
    graph = LayerGraph.from_edge_ids(rng.permutation(60 * 50)[:300], (60, 50))
    score = null_score(graph, LAYER_MEASURES["butterflies"], twins=30, rng=rng)
    assert abs(score.z) < 3
    assert score.p_value > 0.05


def test_degrees_fix_what_they_fix(rng):
    graph = LayerGraph.from_edge_ids(rng.permutation(60 * 50)[:300], (60, 50))
    score = null_score(graph, lambda g: LAYER_MEASURES["fan_in"](g).gini, twins=5, rng=rng)
    assert np.isnan(score.z)
    assert score.value == pytest.approx(score.null_mean)


def test_undefined_stays_undefined(rng):
    graph = LayerGraph.from_edge_ids(range(4), (2, 2))
    assert np.isnan(null_score(graph, LAYER_MEASURES["assortativity"], twins=2, rng=rng).z)


def test_too_few_twins(rng):
    with pytest.raises(ValueError, match="expected at least 2 twins, got 1"):
        null_score(LayerGraph.from_edge_ids([0], (1, 1)), lambda g: 0.0, twins=1, rng=rng)
