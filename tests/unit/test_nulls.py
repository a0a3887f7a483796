import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.measures import LAYER_MEASURES
from topokit.nulls import NULL_MEASURES, null_score, null_scores


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


def test_planted_structure_stands_out_and_random_does_not(rng):
    side = np.arange(40) // 10
    mask = rng.random((40, 40)) < np.where(side[:, None] == side[None, :], 0.45, 0.05)
    planted = LayerGraph.from_edge_ids(np.flatnonzero(mask), mask.shape)
    scores = null_scores(planted, twins=12, rng=rng)
    assert list(scores) == list(NULL_MEASURES)
    assert scores["butterflies"].z > 3
    assert scores["modularity"].z > 3
    assert scores["normalized_spectral_gap"].z < -3
    random = LayerGraph.from_edge_ids(rng.permutation(1600)[:300], (40, 40))
    found = [s.z for s in null_scores(random, twins=12, rng=rng).values()]
    assert np.nanmax(np.abs(found)) < 5
    assert np.nanmedian(np.abs(found)) < 2
