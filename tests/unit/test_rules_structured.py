import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.rules import RULES, LayerView, rewire


def constant_fan_in(rng, n_out=14, n_in=11, fan_in=4):
    cells = [rng.choice(n_in, fan_in, replace=False) + n_in * row for row in range(n_out)]
    return LayerGraph.from_edge_ids(np.concatenate(cells), (n_out, n_in))


def with_gradient(graph, rng):
    values = rng.standard_normal(graph.n_edges)
    inputs = rng.standard_normal((5, graph.n_in))
    return LayerView(graph, values, inputs, output_grad=rng.standard_normal((5, graph.n_out)))


def test_a_constant_fan_in_stays_constant(rng):
    graph = constant_fan_in(rng)
    start = graph.fan_out
    for _ in range(12):
        update, _ = rewire(
            with_gradient(graph, rng), RULES["srigl"](), n_drop=15, n_grow=15, rng=rng
        )
        graph = update.after
        assert (graph.fan_in == 4).all()
    assert not np.array_equal(graph.fan_out, start)


@pytest.mark.parametrize("block", [1, 30, 1 << 22])
def test_each_unit_grows_its_largest_gradients(rng, block, monkeypatch):
    monkeypatch.setattr("topokit.rules.structured._BLOCK", block)
    graph = LayerGraph.from_edge_ids(np.flatnonzero(rng.random(154) < 0.4), (14, 11))
    view = with_gradient(graph, rng)
    update, _ = rewire(view, RULES["srigl"](), n_drop=20, n_grow=20, rng=rng)
    weights = np.full((14, 11), np.nan)
    weights[graph.rows, graph.indices] = np.abs(view.values)
    threshold = np.sort(np.abs(view.values))[20]
    gradient = np.abs(view.output_grad.T @ view.inputs)
    expected = []
    for row in range(14):
        kept = np.flatnonzero(weights[row] >= threshold)
        lost = np.count_nonzero(weights[row] < threshold)
        score = gradient[row].copy()
        score[kept] = -1
        grown = np.argsort(-score)[:lost]
        expected += sorted(row * 11 + np.concatenate([kept, grown]))
    assert update.after.edge_ids.tolist() == expected


def test_edges_without_gradient_are_drawn_at_random_and_after_those_with_one():
    graph = LayerGraph.from_edge_ids([0, 1], (1, 30))
    inputs = np.zeros((1, 30))
    inputs[0, 7] = 1
    view = LayerView(graph, np.array([0.1, 0.2]), inputs, output_grad=np.ones((1, 1)))
    chosen = set()
    for seed in range(20):
        options = {"n_drop": 2, "n_grow": 2, "rng": np.random.default_rng(seed)}
        ids = rewire(view, RULES["srigl"](), **options)[0].after.edge_ids
        assert 7 in ids
        chosen.update(ids.tolist())
    assert len(chosen) > 12


def test_a_regrown_edge_starts_at_zero_or_keeps_its_value():
    graph = LayerGraph.from_edge_ids([0, 1], (1, 2))
    view = LayerView(graph, np.array([0.5, 2.0]), np.ones((1, 2)), output_grad=np.ones((1, 1)))
    for regrown, expected in (("zero", 0.0), ("keep", 0.5)):
        rng = np.random.default_rng(0)
        _, values = rewire(view, RULES["srigl"](regrown=regrown), n_drop=1, n_grow=1, rng=rng)
        assert values.tolist() == [expected, 2.0]
    with pytest.raises(ValueError, match="expected regrown to be 'zero' or 'keep', got 'no'"):
        RULES["srigl"](regrown="no")


def test_what_would_change_the_fan_in_is_refused(rng):
    view = with_gradient(constant_fan_in(rng), rng)
    with pytest.raises(ValueError, match="grows as many edges as it drops: expected n_grow=2"):
        rewire(view, RULES["srigl"](), n_drop=2, n_grow=3, rng=rng)


def test_a_gradient_that_is_not_a_number_is_refused(rng):
    view = with_gradient(constant_fan_in(rng), rng)
    view.inputs[0, 0] = np.nan
    with pytest.raises(ValueError, match="did training diverge"):
        rewire(view, RULES["srigl"](), n_drop=3, n_grow=3, rng=rng)


@pytest.mark.parametrize(("n", "m", "n_in"), [(2, 4, 16), (1, 3, 14), (4, 8, 24)])
def test_an_n_to_m_pattern_stays(n, m, n_in, rng):
    mask = np.zeros((10, n_in), bool)
    for row in mask:
        for start in range(0, n_in, m):
            block = np.arange(start, min(start + m, n_in))
            row[rng.choice(block, min(n, block.size), replace=False)] = True
    graph = LayerGraph.from_edge_ids(np.flatnonzero(mask), mask.shape)
    first = graph
    for _ in range(6):
        n_drop = graph.n_edges // 3
        view = with_gradient(graph, rng)
        graph = rewire(view, RULES["n_to_m"](m=m), n_drop=n_drop, n_grow=n_drop, rng=rng)[0].after
        now = np.zeros_like(mask)
        now.flat[graph.edge_ids] = True
        starts = np.arange(0, n_in, m)
        found = np.add.reduceat(now.astype(int), starts, axis=1)
        assert np.array_equal(found, np.add.reduceat(mask.astype(int), starts, axis=1))
    assert not np.isin(graph.edge_ids, first.edge_ids).all()


def test_a_block_grows_its_own_largest_gradients():
    # inputs 0 and 4 leave; of blocks 0-3 and 4-7 the largest gradients are at 2 and at 7
    graph = LayerGraph.from_edge_ids([0, 1, 4, 5], (1, 8))
    inputs = np.array([[1.0, 0, 5, 2, 9, 0, 30, 40]])
    view = LayerView(graph, np.array([0.1, 2, 0.2, 3]), inputs, output_grad=np.ones((1, 1)))
    rng = np.random.default_rng(0)
    update, _ = rewire(view, RULES["n_to_m"](m=4), n_drop=2, n_grow=2, rng=rng)
    assert update.after.edge_ids.tolist() == [1, 2, 5, 7]
    update, _ = rewire(view, RULES["srigl"](), n_drop=2, n_grow=2, rng=rng)
    assert update.after.edge_ids.tolist() == [1, 5, 6, 7]


def test_blocks_of_one_are_refused():
    with pytest.raises(ValueError, match="expected m of at least 2, got 1"):
        RULES["n_to_m"](m=1)
