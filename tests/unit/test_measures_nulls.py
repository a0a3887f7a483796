import numpy as np
import pytest
from hypothesis import given

from tests.strategies import layer_graphs
from topokit.graph import LayerGraph
from topokit.measures import LAYER_MEASURES
from topokit.measures.nulls import (
    NULL_MEASURES,
    _edge_probabilities,
    expected_degree_sample,
    null_score,
    null_scores,
)


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
    with pytest.raises(ValueError, match="at least 2 null samples, got twins=1"):
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


def chances(graph):
    k, rows, n = np.unique(graph.fan_in, return_inverse=True, return_counts=True)
    d, columns, m = np.unique(graph.fan_out, return_inverse=True, return_counts=True)
    return _edge_probabilities(k, n, d, m)[np.ix_(rows, columns)]


@given(layer_graphs(min_side=1, max_side=9))
def test_expected_degrees_are_the_degrees(graph):
    chance = chances(graph)
    assert ((chance >= 0) & (chance <= 1)).all()
    np.testing.assert_allclose(chance.sum(axis=1), graph.fan_in, atol=1e-6)
    np.testing.assert_allclose(chance.sum(axis=0), graph.fan_out, atol=1e-6)


def test_twins_of_expected_degrees_have_them_on_average(rng):
    weights = rng.pareto(1.5, 60) + 0.3
    mask = rng.random((50, 60)) < np.minimum(0.1 * weights / weights.mean(), 1)
    graph = LayerGraph.from_edge_ids(np.flatnonzero(mask), mask.shape)
    found = [expected_degree_sample(graph, rng=rng) for _ in range(150)]
    chance = chances(graph)
    for side, axis in (("fan_in", 1), ("fan_out", 0)):
        mean = np.mean([getattr(twin, side) for twin in found], axis=0)
        sd = np.sqrt((chance * (1 - chance)).sum(axis=axis) / 150)
        assert (np.abs(mean - getattr(graph, side)) <= 5 * sd + 1e-9).all()
    cells = np.mean([twin.to_csr().toarray() for twin in found], axis=0)
    assert np.abs(cells - chance).max() < 0.2


def test_both_nulls_see_planted_blocks(rng):
    side = np.arange(40) // 10
    mask = rng.random((40, 40)) < np.where(side[:, None] == side[None, :], 0.45, 0.05)
    planted = LayerGraph.from_edge_ids(np.flatnonzero(mask), mask.shape)
    only = {"clustering": LAYER_MEASURES["robins_alexander"]}
    for null in ("exact", "expected"):
        assert null_scores(planted, only, null=null, rng=rng)["clustering"].z > 2
    with pytest.raises(ValueError, match="unknown null model 'bicm'"):
        null_scores(planted, only, null="bicm", rng=rng)


def test_erdos_renyi_samples_keep_the_edges_and_groups_alone(rng):
    hubs = LayerGraph.from_edge_ids(range(40), (10, 20))
    number = {"edges": lambda g: g.n_edges, "largest": lambda g: g.fan_in.max()}
    kept = null_scores(hubs, number, null="erdos_renyi", rng=rng)
    assert (kept["edges"].null_mean, kept["edges"].null_sd) == (40, 0)
    assert kept["largest"].z > 5
    assert np.isnan(null_scores(hubs, number, rng=rng)["largest"].z)
    # the degrees of random graphs are typical of them, and so are all measures
    random = LayerGraph.from_edge_ids(rng.permutation(60 * 50)[:300], (60, 50))
    number = {"dispersion": lambda g: LAYER_MEASURES["fan_in"](g).dispersion}
    assert abs(null_scores(random, number, null="erdos_renyi", rng=rng)["dispersion"].z) < 4
    grouped = LayerGraph.from_ids_in_groups(range(12), (8, 6), 2)
    outside = {"outside": lambda g: int(((g.rows // 4) != (g.indices // 3)).sum())}
    assert null_scores(grouped, outside, null="erdos_renyi", rng=rng)["outside"].null_mean == 0


def test_measures_of_null_samples_by_name(rng):
    graph = LayerGraph.from_edge_ids(rng.permutation(200)[:60], (10, 20))
    assert list(null_scores(graph, ["butterflies"], twins=2, rng=rng)) == ["butterflies"]
    with pytest.raises(ValueError, match="unknown measure 'butterfly'; did you mean 'butterflies'"):
        null_scores(graph, ["butterfly"], twins=2, rng=rng)
    with pytest.raises(ValueError, match="expected a list of names, got 'butterflies'"):
        null_scores(graph, "butterflies", twins=2, rng=rng)


def test_the_score_of_known_null_samples():
    """Null values 1, 2, 3: mean 2, standard deviation 1 with n - 1, and p with the +1."""
    graph = LayerGraph.from_edge_ids([0, 1, 3, 4, 8], (3, 3))

    def score(value, nulls):
        left = iter(nulls)
        return null_score(
            graph,
            lambda g: value if g is graph else next(left),
            twins=len(nulls),
            rng=np.random.default_rng(0),
        )

    assert score(4.0, [1.0, 2.0, 3.0]) == (4.0, 2.0, 1.0, 2.0, 0.5)
    assert score(-1.0, [1.0, 2.0, 3.0]) == (-1.0, 2.0, 1.0, -3.0, 0.5)
    assert score(3.0, [1.0, 2.0, 3.0])[3:] == (1.0, 1.0)  # a tie counts as beyond
    assert score(99.0, list(range(39))).p_value == pytest.approx(2 / 40)
    assert score(2.0, [1.0, 2.0, 3.0]).p_value == 1.0
    constant = score(5.0, [2.0, 2.0, 2.0])
    assert np.isnan(constant.z)
    assert constant.p_value == 0.5


def test_scores_are_printed_shortly(rng):
    graph = LayerGraph.from_edge_ids([0, 1, 3, 4, 8], (3, 3))
    scores = null_scores(graph, twins=4, rng=rng)
    assert len(repr(scores)) < 300
    assert f", butterflies={scores['butterflies'].z:.3g}, " in repr(scores)
    assert all(len(repr(score)) < 100 for score in scores.values())
    assert "<th>null_mean</th>" in scores._repr_html_()
    assert scores == dict(scores)


@pytest.mark.parametrize("n", [3, 4, 5])
@pytest.mark.parametrize("extra", [0, 1])
def test_values_equal_but_for_rounding_are_not_beyond_each_other(n, extra):
    """All layers with these degrees are one graph with its units in another order."""
    cells = np.vstack([1 - np.eye(n), np.ones((extra, n))])
    graph = LayerGraph.from_edge_ids(np.flatnonzero(cells), cells.shape)
    for name, score in null_scores(graph, twins=30, rng=0).items():
        assert np.isnan(score.z), name
        assert score.p_value == 1 or np.isnan(score.value), name


def test_scores_do_not_depend_on_the_unit_of_a_measure():
    graph = LayerGraph.from_edge_ids(np.random.default_rng(0).permutation(400)[:80], (20, 20))
    count = LAYER_MEASURES["butterflies"]
    usual = null_score(graph, count, twins=10, rng=0)
    small = null_score(graph, lambda g: 1e-10 * count(g), twins=10, rng=0)
    assert np.isfinite(usual.z)
    assert usual.p_value < 1
    assert small.z == pytest.approx(usual.z)
    assert small.p_value == usual.p_value
