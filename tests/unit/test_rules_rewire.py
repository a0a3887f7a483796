import functools
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import layer_graphs
from topokit.graph import LayerGraph
from topokit.rules.drop import random, smallest_magnitude
from topokit.rules.grow import uniform
from topokit.rules.rewire import LayerView, UpdateRule, drop_count, rewire, rewire_network

GRAPH = LayerGraph.from_edge_ids([0, 2, 5, 7, 9], (3, 4))
VALUES = np.array([0.5, -2.0, 0.1, 3.0, -0.3])


def rule(dropped=(0,), grown=(1,), **more):
    return UpdateRule(
        lambda view, n, rng: np.array(dropped, dtype=np.int64),
        lambda view, occupied, n, rng: np.array(grown, dtype=np.int64),
        **more,
    )


def apply(a_rule, n_drop=1, n_grow=1, **more):
    options = {"rng": np.random.default_rng(0), **more}
    return rewire(LayerView(GRAPH, VALUES), a_rule, n_drop=n_drop, n_grow=n_grow, **options)


def test_moves_values_and_starts_grown_edges_with_init():
    update, values = apply(
        rule([1, 4], [4, 3], init=lambda view, ids, rng: ids / 10), n_drop=2, n_grow=2
    )
    assert update.after.edge_ids.tolist() == [0, 3, 4, 5, 7]
    assert values.tolist() == [0.5, 0.3, 0.4, 0.1, 3.0]
    assert update.source.tolist() == [0, -1, -1, 2, 3]


def test_an_edge_dropped_and_regrown_counts_as_new():
    update, values = apply(rule([1], [2]))
    assert update.n_dropped == update.n_grown == 1
    assert values.tolist() == [0.5, 0.0, 0.1, 3.0, -0.3]


def test_pruning_only():
    update, values = apply(rule([0, 4]), n_drop=2, n_grow=0)
    assert update.n_grown == 0
    assert values.tolist() == [-2.0, 0.1, 3.0]


@pytest.mark.parametrize(
    ("bad", "counts", "message"),
    [
        (rule([5]), (1, 1), r"expected positions to drop in 0\.\.4, got 5\.\.5"),
        (rule([-1]), (1, 1), r"expected positions to drop in 0\.\.4, got -1\.\.-1"),
        (rule([1, 1]), (2, 1), "expected 2 distinct positions to drop, got one twice"),
        (rule([1]), (2, 1), "expected 2 positions to drop as a flat integer array, got shape"),
        (rule([0], [2]), (1, 1), "expected absent edges to grow"),
        (rule([0], [1, 1]), (1, 2), "expected 2 distinct edges to grow, got one twice"),
        (rule([0], [1]), (1, 2), "expected 2 edges to grow as a flat integer array"),
        (rule([0], [12]), (1, 1), r"expected edge ids in 0\.\.11"),
        (rule(), (6, 1), r"expected n_drop in 0\.\.5 \(the layer's edges\), got 6"),
        (rule(), (1, 9), r"expected n_grow in 0\.\.8 .*dropped ones.*, got 9"),
        (rule(init=lambda view, ids, rng: np.zeros(3)), (1, 1), "expected 1 starting values"),
    ],
)
def test_a_rule_that_breaks_its_word_is_refused(bad, counts, message):
    with pytest.raises(ValueError, match=message):
        apply(bad, *counts)


def _wrong(function):
    """A function that passes for another one and returns nothing to grow."""
    return functools.wraps(function)(lambda *_: np.zeros(0, np.int64))


def too_few(view, *_):
    return np.zeros(0, np.int64)


@pytest.mark.parametrize("part", ["drop", "grow", "init"])
def test_the_part_of_a_rule_that_is_wrong_is_named_with_its_place(part):
    bad = UpdateRule(**{"drop": smallest_magnitude, "grow": uniform, part: too_few})
    line = too_few.__code__.co_firstlineno
    words = rf"{part} 'too_few' \(test_rules_rewire.py, line {line}\): expected 1 "
    with pytest.raises(ValueError, match=words):
        apply(bad)


def test_a_part_of_topokits_own_has_no_place():
    with pytest.raises(ValueError, match=r"^grow 'uniform': expected 1 edges to grow"):
        apply(UpdateRule(smallest_magnitude, _wrong(uniform)))


def test_positions_must_be_integers():
    with pytest.raises(ValueError, match=r"flat integer array, got shape .* of float64"):
        apply(UpdateRule(lambda view, n, rng: np.ones(n), uniform))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtype_and_bits_of_kept_values_stay(dtype, rng):
    values = rng.standard_normal(5).astype(dtype)
    update, after = rewire(
        LayerView(GRAPH, values), UpdateRule(random, uniform), n_drop=2, n_grow=2, rng=rng
    )
    kept = ~update.grown
    assert after.dtype == dtype
    assert after[kept].tobytes() == values[update.source[kept]].tobytes()


@given(layer_graphs(), st.floats(0, 1), st.integers(0, 99))
def test_drop_count_is_always_feasible(graph, fraction, seed):
    count = drop_count(graph, fraction)
    assert 0 <= count <= fraction * graph.n_edges + 1e-6
    view = LayerView(graph, np.ones(graph.n_edges))
    update, _ = rewire(
        view,
        UpdateRule(random, uniform),
        n_drop=count,
        n_grow=count,
        rng=np.random.default_rng(seed),
    )
    assert update.after.n_edges == graph.n_edges
    if 0 < fraction < 1 and graph.n_edges:
        assert count < graph.n_edges


def test_drop_count_takes_everything_only_at_fraction_one():
    assert drop_count(GRAPH, 1.0) == 5
    assert drop_count(GRAPH, 0.9999999999) == 4
    with pytest.raises(ValueError, match=r"expected a drop_fraction in \[0, 1\], got 1.5"):
        drop_count(GRAPH, 1.5)


def test_floating_point_does_not_lose_an_edge():
    graph = LayerGraph.from_edge_ids(range(100), (20, 20))
    assert drop_count(graph, 0.29) == 29  # 0.29 * 100 is 28.999999999999996


def test_view_checks_shapes():
    with pytest.raises(ValueError, match=r"one value for each of the 5 edges, got shape \(4"):
        LayerView(GRAPH, np.zeros(4))
    with pytest.raises(ValueError, match=r"expected inputs of shape \(samples, 4\), got \(2, 3\)"):
        LayerView(GRAPH, VALUES, inputs=np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"expected output_grad of shape \(samples, 3\)"):
        LayerView(GRAPH, VALUES, output_grad=np.zeros(3))


def test_view_says_what_is_missing():
    with pytest.raises(ValueError, match="this rule needs captured activations: expected inputs"):
        LayerView(GRAPH, VALUES).dense_grad(slice(0, 1))
    with pytest.raises(ValueError, match=r"needs extra\['sign'\] in the view, got \[\]"):
        LayerView(GRAPH, VALUES).required("sign")
    view = LayerView(GRAPH, VALUES, inputs=np.zeros((2, 4)), output_grad=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="of the same samples, got 2 and 3 rows"):
        view.edge_grad()


def test_gradients_agree(rng, monkeypatch):
    monkeypatch.setattr(sys.modules["topokit.rules.rewire"], "_BLOCK", 12)
    inputs, grad = rng.standard_normal((6, 4)), rng.standard_normal((6, 3))
    view = LayerView(GRAPH, VALUES, inputs=inputs, output_grad=grad)
    dense = grad.T @ inputs
    assert np.allclose(view.dense_grad(slice(1, 3)), dense[1:3])
    assert np.allclose(view.edge_grad(), dense.ravel()[GRAPH.edge_ids])


def test_network_refuses_unknown_fixed_layers_and_emptied_ones(rng):
    views = {"a": LayerView(GRAPH, VALUES)}
    options = {"drop_fraction": 0.2, "progress": 0.0, "rng": rng}
    with pytest.raises(ValueError, match=r"expected fixed layers among \['a'\], got \['b'\]"):
        rewire_network(views, rule(), fixed=["b"], **options)
    empties = rule(range(5), plan=lambda views, **_: {"a": (5, 0)})
    with pytest.raises(ValueError, match="at least one edge to stay in layer 'a'"):
        rewire_network(views, empties, **options)
