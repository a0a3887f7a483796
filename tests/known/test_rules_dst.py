"""Each published rule worked by hand on a layer of eight to twelve edges."""

import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.rules import RULES, LayerView, rewire, rewire_network
from topokit.rules.drop import softly
from topokit.rules.memory import birth_signs, explore
from topokit.rules.topological import l3_scores

# 3 outputs x 4 inputs, 8 edges; absent cells are ids 3, 4, 9, 10
#   . = absent     0.9  -0.8   0.1    .
#                   .    0.7  -0.2   0.6
#                 0.5    .      .   -0.4
IDS = [0, 1, 2, 5, 6, 7, 8, 11]
VALUES = np.array([0.9, -0.8, 0.1, 0.7, -0.2, 0.6, 0.5, -0.4])
GRAPH = LayerGraph.from_edge_ids(IDS, (3, 4))


def after(view, rule, n, seed=0, **more):
    update, values = rewire(view, rule, n_drop=n, n_grow=n, rng=np.random.default_rng(seed), **more)
    return dict(zip(update.after.edge_ids.tolist(), values.tolist(), strict=True)), update


def cosine_view(stalled=False):
    # units of one sample each: similarities are products of unit vectors in the plane
    angles_in, angles_out = np.radians([0, 30, 60, 90]), np.radians([0, 90, 45])
    inputs = np.stack([np.cos(angles_in), np.sin(angles_in)])
    outputs = np.stack([np.cos(angles_out), np.sin(angles_out)]) * [[2.0, 3.0, 0.5]]
    return LayerView(GRAPH, VALUES, inputs, outputs, extra={"stalled": stalled})


# cosines: row 0: 1, .866, .5, 0; row 1: 0, .5, .866, 1; row 2: .707, .966, .966, .707


def test_ctre_seq_by_hand():
    # smallest magnitudes: 0.1 (id 2, cosine .5) and -0.2 (id 6, cosine .866). Of the free cells
    # 2, 3, 4, 6, 9, 10 the best are 9 and 10 (.966); with three to place, 6 returns with its value
    weights, _ = after(cosine_view(), RULES["ctre_seq"](init="zeros"), 2)
    assert set(weights) == {0, 1, 5, 7, 8, 9, 10, 11}
    weights, update = after(cosine_view(), RULES["ctre_seq"](init="zeros"), 3)
    assert set(weights) == {0, 1, 5, 6, 7, 8, 9, 10}
    assert weights[6] == -0.2
    assert update.n_grown == 3


def test_ctre_seq_grows_at_random_once_stalled(rng):
    rule, grown = RULES["ctre_seq"](), set()
    for seed in range(40):
        weights, _ = after(cosine_view(stalled=True), rule, 2, seed)
        grown |= set(weights)
    assert grown == set(range(12))


def test_ctre_sim_by_hand():
    # three leave (ids 2, 6, 11); the three best are 9, 10 and 6, and 6 was just dropped: one of
    # the never chosen, never dropped cells 3 and 4 replaces it
    seen = set()
    for seed in range(20):
        weights, _ = after(cosine_view(), RULES["ctre_sim"](init="zeros"), 3, seed)
        extra = set(weights) - {0, 1, 5, 7, 8, 9, 10}
        assert extra < {3, 4}
        assert len(extra) == 1
        seen |= extra
    assert seen == {3, 4}


def test_ctre_sim_returns_dropped_edges_only_when_nothing_else_is_left():
    weights, _ = after(cosine_view(), RULES["ctre_sim"](init="zeros"), 5)
    assert {3, 4, 9, 10} < set(weights)
    assert len(weights) == 8


def gradient_view(**extra):
    # dense gradient: output_grad.T @ inputs = outer(g, x) with one sample
    x, g = np.array([[1.0, -2.0, 0.5, 4.0]]), np.array([[0.1, 10.0, -1.0]])
    return LayerView(GRAPH, VALUES, inputs=x, output_grad=g, extra=extra)


# |gradient|: row 0: .1 .2 .05 .4; row 1: 10 20 5 40; row 2: 1 2 .5 4


def test_rigl_by_hand():
    # ids 2 (0.1) and 6 (-0.2) leave; free: 2 (.05), 3 (.4), 4 (10), 6 (5), 9 (2), 10 (.5)
    weights, _ = after(gradient_view(), RULES["rigl"](), 2)
    assert weights == {0: 0.9, 1: -0.8, 4: 0.0, 5: 0.7, 6: 0.0, 7: 0.6, 8: 0.5, 11: -0.4}
    weights, _ = after(gradient_view(), RULES["rigl"](regrown="keep"), 2)
    assert weights[6] == -0.2


def test_mest_by_hand():
    # |w| + 0.1 |g|: .91 .82 .105 2.7 .7 4.6 .6 .8 -> ids 2 and 8 leave, not 6
    _, update = after(gradient_view(), RULES["mest"](gradient_weight=0.1), 2)
    kept = GRAPH.edge_ids[update.source[~update.grown]].tolist()
    assert kept == [0, 1, 5, 6, 7, 11]


def test_snfs_by_hand():
    # two layers of 10 edges in 4 x 5 cells, 3 leave each; mean |momentum| 1 and 3 on the edges
    graph = LayerGraph.from_edge_ids(range(0, 20, 2), (4, 5))
    values = np.arange(1.0, 11)
    views = {
        name: LayerView(graph, values, np.full((1, 5), size), output_grad=np.ones((1, 4)))
        for name, size in (("low", 1.0), ("high", 3.0))
    }
    options = {"drop_fraction": 0.3, "progress": 0.0, "rng": np.random.default_rng(0)}
    changes = rewire_network(views, RULES["snfs"](), **options)
    assert {n: (u.n_dropped, u.n_grown) for n, (u, _) in changes.items()} == {
        "low": (3, 2),  # 6 * 1/4 = 1.5: the halves tie, the earlier layer gets the edge
        "high": (3, 4),
    }
    changes = rewire_network(views, RULES["snfs"](budgets="layer"), **options)
    assert all(u.n_grown == 3 for u, _ in changes.values())


def test_deep_r_by_hand():
    # ids 1 and 7 have crossed zero since birth, and 11 sits on it
    signs = np.array([1.0, 1, 1, 1, -1, -1, 1, -1])
    values = VALUES.copy()
    values[-1] = 0.0
    views = {"fc1": LayerView(GRAPH, values, extra={"sign": signs})}
    changes = rewire_network(
        views,
        RULES["deep_r"](),
        drop_fraction=0.0,
        progress=0.0,
        rng=np.random.default_rng(1),
    )
    update, new = changes["fc1"]
    assert GRAPH.edge_ids[update.source[~update.grown]].tolist() == [0, 2, 5, 6, 8]
    assert update.n_grown == 3
    assert np.abs(new[update.grown]).tolist() == [1e-12] * 3
    carried = birth_signs(update, signs, new)
    assert carried[~update.grown].tolist() == [1, 1, 1, -1, 1]
    assert np.array_equal(carried[update.grown], np.sign(new[update.grown]))


def test_deep_r_gives_a_potential_edge_the_same_sign_each_time():
    init = RULES["deep_r"](seed=3).init
    view, rng = LayerView(GRAPH, VALUES), np.random.default_rng(0)
    ids = np.arange(100_000)
    signs = np.sign(init(view, ids, rng))
    assert np.array_equal(signs[::7], np.sign(init(view, ids[::7], rng)))
    assert abs(signs.mean()) < 5 / np.sqrt(ids.size)
    other = np.sign(RULES["deep_r"](seed=4).init(view, ids, rng))
    assert abs((signs * other).mean()) < 5 / np.sqrt(ids.size)


def test_itop_by_hand():
    # ever active: the present eight and id 9; never: 3, 4, 10. Two leave (ids 2, 6), two of the
    # three enter; with four leaving (2, 6, 11, 8) all three enter, and one that was active before
    explored = explore(GRAPH, LayerGraph.from_edge_ids([9], (3, 4)))
    view = LayerView(GRAPH, VALUES, extra={"explored": explored})
    rule = RULES["itop"](growth="unfired")
    weights, _ = after(view, rule, 2)
    assert len(set(weights) & {3, 4, 10}) == 2
    weights, update = after(view, rule, 4)
    assert {3, 4, 10} < set(weights)
    assert explore(explored, update.after).density == 1.0


def test_static_by_hand():
    options = {"drop_fraction": 0.5, "progress": 0.5, "rng": np.random.default_rng(0)}
    assert rewire_network({"fc1": LayerView(GRAPH, VALUES)}, RULES["static"](), **options) == {}
    with pytest.raises(ValueError, match="the static rule keeps every edge"):
        after(LayerView(GRAPH, VALUES), RULES["static"](), 1)


@pytest.mark.slow
def test_random_by_hand():
    # each of eight edges leaves with 2/8, each of four absent and two just dropped cells enters
    # with 2/6: an absent cell is there afterwards with 1/3, a present one with 3/4 + 1/4 * 1/3
    there = np.zeros(12)
    for seed in range(3000):
        weights, _ = after(LayerView(GRAPH, VALUES), RULES["random"](), 2, seed)
        there[list(weights)] += 1 / 3000
    expected = np.where(np.isin(np.arange(12), IDS), 5 / 6, 1 / 3)
    assert np.abs(there - expected).max() < 4.5 * np.sqrt(1 / 3 * 2 / 3 / 3000)


def test_cht_removes_softly_and_ever_harder():
    # the edges that stay are drawn in proportion to importance ** (1 + 2 * progress)
    view = LayerView(LayerGraph.from_edge_ids(range(4), (3, 4)), np.array([1.0, -2, 4, -8]))
    for progress, exponent in ((0.0, 1), (0.5, 2), (1.0, 3)):
        for seed in range(5):
            rng = np.random.default_rng(seed)
            options = {"drop_fraction": 0.5, "progress": progress, "rng": rng}
            changes = rewire_network({"fc1": view}, RULES["cht"](soft_removal=True), **options)
            update, _ = changes["fc1"]
            gone = softly([1, 2, 4, 8], 2, np.random.default_rng(seed), exponent=exponent)
            assert np.setdiff1d(range(4), update.source).tolist() == gone.tolist()
    with pytest.raises(ValueError, match="expected soft_removal or chain_removal, got both"):
        RULES["cht"](soft_removal=True, chain_removal=True)


def test_path_weight_by_hand():
    # 2-2-1: the path through unit 0 weighs 1 * 2 + 2 * 2 = 6, through unit 1 3 * 0.1 = 0.3;
    # the weights alone would drop the 1 of unit 0, the paths drop the 3 of unit 1
    first = LayerView(LayerGraph.from_edge_ids([0, 1, 2], (2, 2)), np.array([1.0, -2.0, 3.0]))
    second = LayerView(LayerGraph.from_edge_ids([0, 1], (1, 2)), np.array([2.0, 0.1]))
    changes = rewire_network(
        {"fc1": first, "fc2": second},
        RULES["path_weight"](budgets="layer"),
        drop_fraction=0.34,
        progress=0.0,
        rng=np.random.default_rng(0),
    )
    update, values = changes["fc1"]
    assert (update.n_dropped, update.n_grown) == (1, 1)
    assert update.source[:2].tolist() == [0, 1]
    assert values.tolist() == [1.0, -2.0, 0.0]


def test_sensitivity_moves_the_budget_between_layers():
    # 10 + 10 edges, 2 + 2 to drop; the four least sensitive of the network are all in "a"
    graph = LayerGraph.from_edge_ids(range(0, 20, 2), (4, 5))
    values = np.ones(10)
    views = {
        "a": LayerView(graph, values, extra={"sensitivity": np.arange(10.0)}),
        "b": LayerView(graph, values, extra={"sensitivity": np.arange(10.0) + 5}),
    }
    options = {"drop_fraction": 0.2, "progress": 0.0, "rng": np.random.default_rng(0)}
    changes = rewire_network(views, RULES["sensitivity"](), **options)
    assert {n: (u.n_dropped, u.n_grown) for n, (u, _) in changes.items()} == {
        "a": (4, 2),
        "b": (0, 2),
    }
    assert changes["a"][0].source[~changes["a"][0].grown].tolist() == [4, 5, 6, 7, 8, 9]


def test_gmp_prunes_the_globally_smallest():
    # 8 of 12 cells and 4 of 4: 12 edges of 16 cells down to half, 8: the four smallest leave
    small = LayerView(LayerGraph.from_edge_ids(range(4), (2, 2)), np.array([0.05, 1, -0.15, 2]))
    changes = rewire_network(
        {"fc1": LayerView(GRAPH, VALUES), "fc2": small},
        RULES["gmp"](final_density=0.5),
        drop_fraction=0.3,
        progress=1.0,
        rng=np.random.default_rng(0),
    )
    assert {n: (u.n_dropped, u.n_grown) for n, (u, _) in changes.items()} == {
        "fc1": (2, 0),
        "fc2": (2, 0),
    }
    assert changes["fc1"][1].tolist() == [0.9, -0.8, 0.7, 0.6, 0.5, -0.4]
    assert changes["fc2"][1].tolist() == [1, 2]


def test_granet_prunes_and_then_regenerates():
    # target 6 of 12: two smallest leave for good; half of the six left is replaced by gradient
    changes = rewire_network(
        {"fc1": gradient_view()},
        RULES["granet"](final_density=0.5),
        drop_fraction=0.5,
        progress=1.0,
        rng=np.random.default_rng(0),
    )
    update, values = changes["fc1"]
    assert (update.n_dropped, update.n_grown) == (5, 3)
    # kept 0.9 (0), -0.8 (1), 0.7 (5); the largest gradients elsewhere: 7 (40), 4 (10), 6 (5)
    assert update.after.edge_ids.tolist() == [0, 1, 4, 5, 6, 7]
    assert values.tolist() == [0.9, -0.8, 0, 0.7, 0, 0]


def test_cht_by_hand():
    # one path through all eight units of a 4 x 4 layer: edges (v, u) 00 01 11 12 22 23 33
    graph = LayerGraph.from_edge_ids([0, 1, 5, 6, 10, 11, 15], (4, 4))
    view = LayerView(graph, np.array([1, 1, 1, 1, 1, 1, 1.0]))
    # 3-paths end at (1,0), (0,2), (2,1), (1,3), (3,2): along a path, all inner units have degree
    # 2 and no outside edge, so each scores 1; they are all the positive ones
    update, _ = rewire(view, RULES["cht"](), n_drop=0, n_grow=5, rng=np.random.default_rng(0))
    assert update.after.edge_ids[update.grown].tolist() == [2, 4, 7, 9, 14]


@pytest.mark.parametrize(("method", "best"), [("CH3-L3p", 1 / np.sqrt(2)), ("CH2-L3p", np.sqrt(2))])
def test_cht_counts_links_that_leave_the_community(method, best):
    # u=0 - z1=0 - z2=1 - v=1, and z1 has a third edge, to input 2 of fan-out 1: e1 = 1, i1 = 1,
    # e2 = 0, i2 = 1
    graph = LayerGraph.from_edge_ids([0, 1, 2, 4], (2, 3))
    scores = l3_scores(graph, method=method)(slice(0, 2))
    assert scores[1, 0] == pytest.approx(best)


def test_chain_removal_takes_what_leads_nowhere():
    # 3-2-2: dropping the weakest of fc2 leaves hidden unit 1 without output: its inputs go too
    first = LayerView(LayerGraph.from_edge_ids([0, 1, 4, 5], (2, 3)), np.array([1.0, 2, 3, 4]))
    second = LayerView(LayerGraph.from_edge_ids([0, 1], (2, 2)), np.array([5.0, 0.1]))
    changes = rewire_network(
        {"fc1": first, "fc2": second},
        RULES["cht"](chain_removal=True),
        drop_fraction=0.5,
        progress=0.0,
        rng=np.random.default_rng(0),
    )
    # fc1 drops its two weakest, both of unit 0, and every path is cut: all but one edge may leave
    assert changes["fc1"][0].n_dropped == 3
    assert changes["fc1"][0].n_grown == 3
    assert changes["fc2"][0].after.n_edges == 2


@pytest.mark.parametrize(
    ("importance", "dropped"),
    [("weight/gradient", [2, 0]), ("gradient/weight", [1, 3]), (None, [2, 0])],
)
def test_ratio_of_weight_and_gradient_by_hand(importance, dropped):
    # gradients 1 2 10 1 at weights 1, -8, 2, 5: ratios w/g 1, 4, 0.2, 5
    graph = LayerGraph.from_edge_ids(range(4), (2, 4))
    inputs, output_grad = np.array([[1.0, -2, 10, 1]]), np.array([[1.0, 0]])
    view = LayerView(graph, np.array([1.0, -8, 2, 5]), inputs, output_grad=output_grad)
    rule = RULES["gradient_ratio"](**({} if importance is None else {"importance": importance}))
    assert set(rule.drop(view, 2, np.random.default_rng(0)).tolist()) == set(dropped)


def test_a_ratio_with_a_gradient_or_weight_of_zero():
    # as in the published code, where 1e-8 is added to the divisor
    graph, inputs = LayerGraph.from_edge_ids(range(3), (1, 3)), np.array([[0.0, 1, 0]])
    view = LayerView(graph, np.array([1.0, 0, 0]), inputs, output_grad=np.ones((1, 1)))
    rng = np.random.default_rng(0)
    for importance, dropped in (("weight/gradient", [1, 2]), ("gradient/weight", [0, 2])):
        rule = RULES["gradient_ratio"](importance=importance)
        assert rule.drop(view, 2, rng).tolist() == dropped
    with pytest.raises(ValueError, match="expected importance to be 'weight/gradient' or"):
        RULES["gradient_ratio"](importance="weight")
