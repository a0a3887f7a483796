import pickle

import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.rules import RULES
from topokit.rules.init import INITS, he_normal, he_uniform, init_named, keep_regrown
from topokit.rules.rewire import LayerView

GRAPH = LayerGraph.from_edge_ids([1, 4, 6], (2, 4))
VIEW = LayerView(GRAPH, np.array([1.0, -2.0, 3.0], dtype=np.float32))


@pytest.mark.parametrize("name", INITS)
def test_one_finite_value_an_edge_and_a_seed_decides(name):
    ids = np.arange(5000)
    draws = [INITS[name](VIEW, ids, np.random.default_rng(1)) for _ in range(2)]
    assert draws[0].shape == (5000,)
    assert np.isfinite(draws[0]).all()
    assert np.array_equal(*draws)
    empty = LayerView(LayerGraph.from_edge_ids([], (0, 0)), np.zeros(0))
    assert INITS[name](empty, ids[:0], np.random.default_rng(0)).shape == (0,)


def test_scales(rng):
    ids = np.arange(20_000)
    assert np.abs(he_uniform(VIEW, ids, rng)).max() <= np.sqrt(6 / 4)
    assert he_uniform(VIEW, ids, rng).std() == pytest.approx(np.sqrt(2 / 4), rel=0.03)
    assert he_normal(VIEW, ids, rng).std() == pytest.approx(np.sqrt(2 / 4), rel=0.03)
    spread = float(VIEW.values.std()) / 2
    assert INITS["half_std"](VIEW, ids, rng).std() == pytest.approx(spread, rel=0.03)


def test_keep_regrown_restores_values_of_edges_that_were_there(rng):
    values = keep_regrown(INITS["zeros"])(VIEW, np.array([0, 4, 5, 6, 7]), rng)
    assert values.tolist() == [0, -2, 0, 3, 0]


def laplace(view, ids, rng):
    return rng.laplace(size=ids.size)  # which a stream does not have


@pytest.mark.parametrize("named", [False, True])
def test_initial_values_of_ones_own_draw_from_the_generator(monkeypatch, named):
    monkeypatch.setitem(INITS, "laplace", laplace)
    draw = RULES["set"](init="laplace" if named else laplace).init
    expected = np.random.default_rng(2).laplace(size=4)
    assert draw(VIEW, np.arange(4), np.random.default_rng(2)).tolist() == expected.tolist()


@pytest.mark.parametrize("name", INITS)
def test_rules_with_an_init_can_be_pickled_and_have_its_name(name):
    draw = init_named(name)
    assert draw.__name__ == INITS[name].__name__
    rule = RULES["set"](init=name)
    again = pickle.loads(pickle.dumps(rule))
    assert again == rule
    drawn = [each.init(VIEW, np.arange(4), np.random.default_rng(2)) for each in (rule, again)]
    assert drawn[0].tolist() == drawn[1].tolist()
