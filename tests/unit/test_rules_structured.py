import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.rules import RULES, LayerView, rewire, rewire_network


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


# Ablation of units.


def ablated_by_hand(view, gamma, n_drop, last):
    """The steps of the paper with full matrices: the mask after a rewiring."""
    shape, n_edges = view.graph.shape, view.graph.n_edges
    mask = np.zeros(shape, bool)
    mask.flat[view.graph.edge_ids] = True
    weight = np.where(mask, 0.0, -1.0)
    weight.flat[view.graph.edge_ids] = np.abs(view.values)
    gradient = np.abs(view.output_grad.T @ view.inputs)
    salient = np.zeros(shape, bool)
    salient.flat[np.argsort(-weight, axis=None)[: n_edges - n_drop]] = True
    salient.flat[np.argsort(-gradient, axis=None)[:n_drop]] = True
    fewest = max(1, int(gamma * (n_edges // shape[0])))
    active = np.full(shape[0], True) if last else salient.sum(axis=1) >= fewest
    fan_in = n_edges // active.sum()
    weight[~active] = -1
    kept = mask & (weight >= np.sort(weight, axis=None)[-(n_edges - n_drop)]) & active[:, None]
    after = np.zeros(shape, bool)
    for row in np.flatnonzero(active):
        best = np.argsort(-np.where(kept[row], np.inf, gradient[row]))
        assert kept[row].sum() <= fan_in
        after[row, best[:fan_in]] = True
    return after


@pytest.mark.parametrize("gamma", [0.3, 0.6, 0.95])
def test_units_of_few_salient_edges_are_ablated(gamma, rng):
    views = {}
    for name, (n_out, n_in) in {"a": (20, 30), "b": (15, 20)}.items():
        view = with_gradient(constant_fan_in(rng, n_out, n_in, 6), rng)
        view.values[: view.graph.n_edges // 3] *= 0.05  # of the first third of the units
        view.output_grad[:, : n_out // 3] *= 0.05
        views[name] = view
    changes = rewire_network(
        views, RULES["srigl"](gamma_sal=gamma), drop_fraction=0.4, progress=0.5, rng=rng
    )
    for name, view in views.items():
        expected = ablated_by_hand(view, gamma, int(0.4 * view.graph.n_edges), name == "b")
        after = changes[name][0].after
        assert np.array_equal(np.flatnonzero(expected), after.edge_ids)
        assert len(set(after.fan_in[after.fan_in > 0])) == 1
    assert (changes["a"][0].after.fan_in == 0).sum() == 6
    assert (changes["b"][0].after.fan_in == 6).all()


def test_an_ablated_unit_returns_and_no_edge_is_lost_over_the_rewirings():
    rng = np.random.default_rng(2)
    rule = RULES["srigl"](gamma_sal=0.9)
    graph = constant_fan_in(rng, 10, 12, 4)
    numbers, kept = [], rule.memory["budget"].start(with_gradient(graph, rng))
    for step in range(15):
        view = with_gradient(graph, rng)
        if step % 2:
            view.output_grad[:, :3] *= 0.01
        view.extra["budget"] = kept
        last = with_gradient(constant_fan_in(rng, 3, 10, 2), rng)
        change = rewire_network(
            {"a": view, "b": last}, rule, drop_fraction=0.5, progress=0.5, rng=rng
        )["a"]
        kept = rule.memory["budget"].carry(change[0], kept, change[1])
        graph = change[0].after
        active = (graph.fan_in > 0).sum()
        assert graph.n_edges == min(12, 40 // active) * active
        numbers.append(active)
    moves = np.diff(numbers)
    assert (moves < 0).any()
    assert (moves > 0).any()


def test_as_many_units_stay_as_the_edges_need(rng):
    graph = LayerGraph.from_edge_ids(np.flatnonzero(rng.random(60) < 0.8), (10, 6))
    view = with_gradient(graph, rng)
    view.values[graph.rows > 0] *= 1e-3
    view.output_grad[:, 1:] *= 1e-3
    rule = RULES["srigl"](gamma_sal=1.0)
    views = {"a": view, "b": with_gradient(constant_fan_in(rng), rng)}
    after = rewire_network(views, rule, drop_fraction=0.6, progress=0, rng=rng)["a"][0].after
    assert set(after.fan_in) <= {0, 5, 6}
    assert after.n_edges > graph.n_edges - 10


def test_a_layer_of_fewer_edges_than_units_cannot_be_ablated(rng):
    graph = LayerGraph.from_edge_ids([0, 5, 11, 15], (8, 4))
    with pytest.raises(ValueError, match="one edge for each, got 4 edges for 8 output units"):
        rewire_network(
            {"a": with_gradient(graph, rng)}, RULES["srigl"](gamma_sal=0.3),
            drop_fraction=0.5, progress=0, rng=rng,
        )  # fmt: skip
    for wrong in (0, 1.5, "0.3"):
        with pytest.raises(ValueError, match="gamma_sal: expected a number above 0"):
            RULES["srigl"](gamma_sal=wrong)


# Blocks.


def of_blocks(rng, shape, size, share=0.4, groups=1):
    """A graph of whole blocks, in a matrix of possible edges."""
    n_out, width = shape[0], shape[1] // groups
    high, wide = -(-n_out // size), -(-width // size)
    chosen = rng.random((high, wide)) < share
    cells = np.kron(chosen, np.ones((size, size), bool))[:n_out, :width]
    return LayerGraph.from_ids_in_groups(np.flatnonzero(cells), shape, groups), chosen


def block_sizes(graph, size):
    """Number of edges in each block."""
    width = graph.n_in // graph.groups
    cells = np.zeros((-(-graph.n_out // size) * size, -(-width // size) * size))
    row, column = np.divmod(graph.ids_in_groups, width)
    cells[row, column] = 1
    return cells.reshape(len(cells) // size, size, -1, size).sum(axis=(1, 3)).astype(int)


@pytest.mark.parametrize(("shape", "size", "groups"), [
    ((16, 24), 4, 1), ((12, 12), 2, 1), ((16, 16), 8, 1), ((8, 32), 4, 2), ((6, 12), 2, 6),
])  # fmt: skip
def test_whole_blocks_stay_whole(shape, size, groups, rng):
    graph, chosen = of_blocks(rng, shape, size, 0.5, groups)
    moved = chosen.all()
    for _ in range(8):
        view = LayerView(graph, rng.standard_normal(graph.n_edges))
        changes = rewire_network(
            {"a": view}, RULES["block_sparse"](size=size), drop_fraction=0.6, progress=0, rng=rng
        )
        if "a" not in changes:  # two blocks of three are more than the fraction
            continue
        update = changes["a"][0]
        sizes = block_sizes(update.after, size)
        assert set(sizes.ravel()) <= {0, size * size}
        assert np.count_nonzero(sizes) == np.count_nonzero(chosen)
        assert update.n_dropped == update.n_grown <= 0.6 * graph.n_edges
        assert update.n_dropped % size**2 == 0
        moved |= not np.array_equal(graph.edge_ids, update.after.edge_ids)
        graph = update.after
    assert moved


def test_the_blocks_of_smallest_mean_magnitude_leave(rng):
    graph, _ = of_blocks(rng, (12, 16), 4, 0.7)
    view = LayerView(graph, rng.standard_normal(graph.n_edges))
    rule = RULES["block_sparse"](size=4)
    extras = rule.prepare({"a": view}, 0.3)["a"]
    weight = np.zeros((12, 16))
    weight.flat[graph.edge_ids] = np.abs(view.values)
    means = weight.reshape(3, 4, 4, 4).sum(axis=(1, 3)) / 16
    present = means[means > 0]
    count = int(0.3 * graph.n_edges) // 16
    gone = np.argwhere((means > 0) & (means <= np.sort(present)[count - 1]))
    leaving = graph.edge_ids[extras["leaving"]]
    found = np.unique(np.stack([leaving // 16 // 4, leaving % 16 // 4], axis=1), axis=0)
    assert np.array_equal(found, gone)
    assert leaving.size == 16 * count


def test_new_blocks_are_drawn_uniformly():
    graph = LayerGraph.from_edge_ids([0, 1, 8, 9, 2, 3, 10, 11], (4, 8))  # 2 of 2 x 4 blocks
    view = LayerView(graph, np.array([0.1, 0.1, 2, 2, 0.1, 0.1, 2, 2]))
    rule, counts = RULES["block_sparse"](size=2), np.zeros((2, 4))
    rng = np.random.default_rng(0)
    for _ in range(700):
        change = rewire_network({"a": view}, rule, drop_fraction=0.5, progress=0, rng=rng)["a"]
        counts += block_sizes(change[0].after, 2) > 0
    assert counts[0, 1] == 700
    rest = np.delete(counts.ravel(), 1)
    assert ((rest - 100) ** 2 / 100).sum() < 22.5  # chi square with 6 degrees of freedom, 0.001


@pytest.mark.parametrize("shape", [(14, 19), (16, 16)])
def test_any_start_becomes_one_of_blocks(shape, rng):
    graph = LayerGraph.from_edge_ids(np.flatnonzero(rng.random(np.prod(shape)) < 0.3), shape)
    n_edges = graph.n_edges
    for _ in range(40):
        view = LayerView(graph, rng.standard_normal(graph.n_edges))
        changes = rewire_network(
            {"a": view}, RULES["block_sparse"](size=3), drop_fraction=0.3, progress=0, rng=rng
        )
        graph = changes["a"][0].after if changes else graph
        assert graph.n_edges == n_edges
    full = block_sizes(LayerGraph.from_edge_ids(range(np.prod(shape)), shape), 3)
    sizes = block_sizes(graph, 3)
    assert np.count_nonzero((sizes > 0) & (sizes < full)) <= 2


def test_what_is_no_block_is_refused(rng):
    for wrong in (1, 2.5, "4"):
        with pytest.raises(ValueError, match="expected a block size of at least 2"):
            RULES["block_sparse"](size=wrong)
    graph, _ = of_blocks(rng, (8, 8), 4, 2)
    part = LayerGraph.from_edge_ids(graph.edge_ids[:30], (8, 8))
    view = LayerView(part, np.full(30, np.nan))
    with pytest.raises(ValueError, match="did training diverge"):
        rewire_network({"a": view}, RULES["block_sparse"](), drop_fraction=0.3, progress=0, rng=rng)
