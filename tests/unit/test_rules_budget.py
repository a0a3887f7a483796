import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topokit.graph import LayerGraph, sample_absent
from topokit.rules import RULES
from topokit.rules.budget import (
    cubic_density,
    dead_edges,
    global_lowest,
    path_weights,
    redistribute,
)
from topokit.rules.rewire import LayerView


def chain(widths, density, rng):
    views = {}
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        empty = LayerGraph.from_edge_ids([], (b, a))
        graph = LayerGraph.from_edge_ids(sample_absent(empty, int(a * b * density), rng), (b, a))
        views[f"fc{i + 1}"] = LayerView(graph, rng.standard_normal(graph.n_edges))
    return views


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 30)), min_size=1, max_size=6), st.data())
def test_redistribute_spends_all_within_capacity(layers, data):
    scores, capacity = zip(*layers, strict=True)
    total = data.draw(st.integers(0, sum(capacity)))
    given_ = redistribute(total, scores, capacity)
    assert sum(given_) == total
    assert all(0 <= n <= room for n, room in zip(given_, capacity, strict=True))


def test_redistribute_is_largest_remainder_where_nothing_is_full():
    assert redistribute(7, [5, 3, 1], [99, 99, 99]) == [4, 2, 1]
    assert redistribute(3, [0, 0, 0], [9, 9, 9]) == [1, 1, 1]
    assert redistribute(3, [0, 1, 0], [9, 1, 9]) == [1, 1, 1]
    assert redistribute(5, [0, 1], [9, 9], least=[1, 0]) == [1, 4]
    assert redistribute(0, [], []) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, [1, 1], [2, 2]), r"cannot divide 5 edges over layers with room for \[2, 2\]"),
        ((1, [-1, 1], [2, 2]), r"finite scores of at least 0, got \[-1.0, 1.0\]"),
        ((1, [np.nan, 1], [2, 2]), "expected finite scores"),
    ],
)
def test_redistribute_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        redistribute(*arguments)
    with pytest.raises(ValueError, match=r"and at least \[2, 0\] each"):
        redistribute(1, [1, 1], [5, 5], least=[2, 0])


@given(st.lists(st.integers(0, 5), max_size=8), st.lists(st.integers(0, 5), max_size=8), st.data())
def test_global_lowest_is_one_sort_of_the_network(a, b, data):
    total = data.draw(st.integers(0, len(a) + len(b)))
    scores = {"a": np.array(a, float), "b": np.array(b, float)}
    counts = global_lowest(scores, total, caps={"a": len(a), "b": len(b)})
    order = np.argsort(np.array(a + b), kind="stable")[:total]
    assert counts == {"a": int((order < len(a)).sum()), "b": int((order >= len(a)).sum())}


def test_global_lowest_refuses_more_than_the_caps():
    with pytest.raises(ValueError, match="cannot drop 3 edges when layers can lose"):
        global_lowest({"a": np.ones(5)}, 3, caps={"a": 2})


def test_path_weights_match_enumeration(rng):
    views = chain([4, 5, 3, 2], 0.6, rng)
    dense = [v.graph.to_csr(np.abs(v.values)).toarray() for v in views.values()]
    totals = [np.zeros_like(d) for d in dense]
    for i, j, k, m in itertools.product(range(4), range(5), range(3), range(2)):
        weight = dense[0][j, i] * dense[1][k, j] * dense[2][m, k]
        totals[0][j, i] += weight
        totals[1][k, j] += weight
        totals[2][m, k] += weight
    for (name, shares), total in zip(path_weights(views).items(), totals, strict=True):
        graph = views[name].graph
        assert np.allclose(shares, total[graph.rows, graph.indices] / total.sum())
        assert shares.sum() == pytest.approx(1)


def test_path_weights_of_a_deep_network_neither_overflow_nor_vanish(rng):
    views = chain([6] * 400, 0.9, rng)
    huge = {n: LayerView(v.graph, v.values * 1e30) for n, v in views.items()}
    for shares in path_weights(huge).values():
        assert shares.sum() == pytest.approx(1)


def test_path_weights_need_a_chain():
    views = {
        name: LayerView(LayerGraph.from_edge_ids([0], shape), np.ones(1))
        for name, shape in (("a", (3, 2)), ("b", (1, 4)))
    }
    with pytest.raises(
        ValueError, match=r"path_weight: expected layers .* got a: 2 -> 3, b: 4 -> 1"
    ):
        path_weights(views)
    assert path_weights({}) == {}


def test_dead_edges_are_those_on_no_path(rng):
    views = chain([5, 6, 6, 4], 0.2, rng)
    kept = {name: rng.random(v.graph.n_edges) < 0.7 for name, v in views.items()}
    dense = [v.graph.to_csr(kept[n].astype(float)).toarray() for n, v in views.items()]
    dead = dead_edges(views, kept)
    for layer, (name, view) in enumerate(views.items()):
        into = np.ones(5)
        for matrix in dense[:layer]:
            into = matrix @ into
        out = np.ones(4)
        for matrix in reversed(dense[layer + 1 :]):
            out = matrix.T @ out
        alive = (into[view.graph.indices] > 0) & (out[view.graph.rows] > 0)
        assert dead[name].tolist() == np.flatnonzero(kept[name] & ~alive).tolist()


def test_cubic_density_refuses_to_rise():
    with pytest.raises(ValueError, match=r"expected 0 < final <= initial <= 1, got 0.5 and 0.1"):
        cubic_density(0.0, initial=0.1, final=0.5)


def test_gradual_pruning_follows_the_schedule_and_keeps_an_edge_everywhere(rng):
    views = {
        "tiny": LayerView(LayerGraph.from_edge_ids(range(4), (2, 2)), np.full(4, 1e-9)),
        "big": LayerView(LayerGraph.from_edge_ids(range(400), (20, 20)), rng.standard_normal(400)),
    }
    rule = RULES["gmp"](final_density=0.1)
    for progress, density in ((0.0, 1.0), (0.5, 0.2125), (1.0, 0.1)):
        plan = rule.plan(views, drop_fraction=0.0, progress=progress)
        left = 404 - sum(n_drop for n_drop, _ in plan.values())
        assert left == round(density * 404)
        assert plan["tiny"][0] <= 3
        assert all(n_grow == 0 for _, n_grow in plan.values())


@pytest.mark.parametrize("name", ["snfs", "path_weight", "sensitivity"])
def test_unknown_budgets_are_refused(name):
    with pytest.raises(ValueError, match="expected budgets to be 'network' or 'layer', got 'all'"):
        RULES[name](budgets="all")


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("name", ["snfs", "path_weight", "sensitivity", "granet"])
def test_plans_of_networks_are_feasible(name, fraction, rng):
    rule = RULES[name]()
    for density in (0.05, 0.5, 0.97):
        views = chain([9, 7, 8, 3], density, rng)
        views = {
            n: LayerView(
                v.graph,
                v.values,
                rng.random((2, v.graph.n_in)) ** 9,
                output_grad=rng.random((2, v.graph.n_out)) ** 9,
                extra={"sensitivity": rng.random(v.graph.n_edges), "path_weight": np.abs(v.values)},
            )
            for n, v in views.items()
        }
        plan = rule.plan(views, drop_fraction=fraction, progress=0.9)
        for n, (n_drop, n_grow) in plan.items():
            graph = views[n].graph
            free = graph.n_in * graph.n_out - graph.n_edges
            assert 0 <= n_drop <= graph.n_edges
            assert 0 <= n_grow <= free + n_drop
            assert graph.n_edges == 0 or graph.n_edges - n_drop + n_grow >= 1
