import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.rules import RULES, LayerView, rewire, rewire_network
from topokit.rules.budget import sigmoid_density
from topokit.rules.topological import l3_scores, relative_magnitude


def brute_force(graph, method):
    """Scores from the definition: sets of paths, of community members, of edges leaving."""
    inputs_of = [
        set(graph.indices[a:b].tolist())
        for a, b in zip(graph.indptr[:-1], graph.indptr[1:], strict=True)
    ]
    outputs_of = [{v for v, us in enumerate(inputs_of) if u in us} for u in range(graph.n_in)]
    scores = np.zeros(graph.shape)
    for v in range(graph.n_out):
        for u in set(range(graph.n_in)) - inputs_of[v]:
            paths = [(z1, z2) for z1 in outputs_of[u] for z2 in inputs_of[v] if z2 in inputs_of[z1]]
            first, second = {z1 for z1, _ in paths}, {z2 for _, z2 in paths}
            if method.endswith("n"):
                units = [(inputs_of[z], second, u) for z in first]
                for edges, community, seed in units + [(outputs_of[z], first, v) for z in second]:
                    inside = len(edges & community) if method == "CH2-L3n" else 0
                    scores[v, u] += (1 + inside) / (1 + len(edges - community - {seed}))
                continue
            for z1, z2 in paths:
                i1, i2 = len(inputs_of[z1] & second), len(outputs_of[z2] & first)
                e1, e2 = len(inputs_of[z1] - second - {u}), len(outputs_of[z2] - first - {v})
                inside = np.sqrt((1 + i1) * (1 + i2)) if method == "CH2-L3p" else 1
                scores[v, u] += inside / np.sqrt((1 + e1) * (1 + e2))
    return scores


@pytest.mark.parametrize("method", ["CH3-L3p", "CH2-L3p", "CH3-L3n", "CH2-L3n"])
@pytest.mark.parametrize("density", [0.1, 0.3, 0.7])
@pytest.mark.parametrize("block_cells", [1, 40, 1 << 22])
def test_scores_match_the_definition(method, density, block_cells, rng):
    graph = LayerGraph.from_edge_ids(np.flatnonzero(rng.random(99) < density), (11, 9))
    scores = l3_scores(graph, method=method, block_cells=block_cells)
    absent = graph.to_csr().toarray() == 0
    expected = brute_force(graph, method)
    assert np.allclose(scores(slice(0, 11))[absent], expected[absent])
    assert np.allclose(scores(slice(3, 7))[absent[3:7]], expected[3:7][absent[3:7]])


def matrix_form(mask, method):
    """Scores as the authors' matrix code defines them, from dense products."""
    result = 0
    for m, turned in ((mask, False), (mask.T, True)):
        common = m @ m.T
        near = common != 0
        outside = np.maximum((m.sum(axis=1) - common) * near, 1)
        factor = near * (1 + common if method == "CH2-L3n" else 1) / outside
        part = factor @ m
        result = result + (part.T if turned else part)
    return result


@pytest.mark.parametrize("method", ["CH3-L3n", "CH2-L3n"])
def test_scores_over_units_match_the_matrix_form(method, rng):
    mask = (rng.random((13, 10)) < 0.3).astype(int)
    scores = l3_scores(LayerGraph.from_edge_ids(np.flatnonzero(mask), (13, 10)), method=method)
    expected = matrix_form(mask, method)
    assert np.allclose(scores(slice(0, 13))[mask == 0], expected[mask == 0])


def test_scores_over_units_by_hand():
    # u=0 - z1=0 - z2=1 - v=1; z1 also has input 2, so e1 = 1 and i1 = 1; e2 = 0 and i2 = 1
    graph = LayerGraph.from_edge_ids([0, 1, 2, 4], (2, 3))
    assert l3_scores(graph, method="CH2-L3n")(slice(0, 2))[1, 0] == 2 / 2 + 2 / 1
    assert l3_scores(graph, method="CH3-L3n")(slice(0, 2))[1, 0] == 1 / 2 + 1 / 1


def frequencies(rule, values, progress, n_drop):
    """How often each edge is kept in 4000 rewirings of a layer of one row."""
    view = LayerView(
        LayerGraph.from_edge_ids(range(len(values)), (2, len(values))),
        np.array(values), extra={"progress": progress},
    )  # fmt: skip
    rng, kept = np.random.default_rng(0), np.zeros(len(values))
    for _ in range(4000):
        mask = np.ones(len(values))
        mask[rule.drop(view, n_drop, rng)] = 0
        kept += mask
    return kept / 4000


@pytest.mark.parametrize(("progress", "power"), [(0.0, 1.0), (0.5, 2.0), (1.0, 3.0)])
def test_edges_stay_in_proportion_to_a_rising_power_of_their_weight(progress, power):
    found = frequencies(RULES["chts"](), [1.0, -2.0, 3.0], progress, n_drop=2)
    expected = np.array([1, 2, 3]) ** power
    assert found == pytest.approx(expected / expected.sum(), abs=0.03)


def test_the_power_can_be_chosen():
    rule = RULES["chts"](first_exponent=0, last_exponent=9)
    assert frequencies(rule, [1.0, 2, 3], 0.0, 2) == pytest.approx([1 / 3] * 3, abs=0.03)
    assert frequencies(rule, [1.0, 2, 3], 1.0, 2)[2] > 0.95
    with pytest.raises(ValueError, match="expected exponents of at least 0, got -1 and 3"):
        RULES["chts"](first_exponent=-1)
    with pytest.raises(ValueError, match="unknown removal 'big'"):
        RULES["chts"](removal="big")


def test_a_falling_density_prunes_by_relative_importance_and_then_replaces_softly():
    # 12 of 16 cells; the density at the end is 1/2, so 4 edges are pruned and half of 8 replaced
    graph = LayerGraph.from_edge_ids(range(12), (4, 4))
    values = np.array([0.01, 0.02, 0.03, 0.04, 1, 2, 3, 4, 8, 5, 6, 7])
    view = LayerView(graph, values)
    rule = RULES["chtss"](final_density=0.5)
    # 0.04 is small, but 0.4 of its row; 1 is a tenth of its row and a ninth of its column
    pruned = {0, 1, 2, 4}
    assert set(np.argsort(relative_magnitude(view))[:4].tolist()) == pruned
    rng, replaced = np.random.default_rng(0), set()
    update = rewire_network({"fc": view}, rule, drop_fraction=0.0, progress=1.0, rng=rng)["fc"][0]
    assert set(range(12)) - set(update.source.tolist()) == pruned
    for seed in range(20):
        changes = rewire_network(
            {"fc": view}, rule, drop_fraction=0.5, progress=1.0, rng=np.random.default_rng(seed)
        )
        update = changes["fc"][0]
        assert (update.n_dropped, update.n_grown) == (8, 4)
        left = set(range(12)) - set(update.source[~update.grown].tolist())
        assert pruned < left
        replaced.add(frozenset(left - pruned))
    assert len(replaced) > 5


def test_a_density_is_that_of_each_layer_and_ends_where_it_should(rng):
    views = {
        name: LayerView(LayerGraph.from_edge_ids(range(n), (10, 10)), rng.standard_normal(n))
        for name, n in (("a", 90), ("b", 30), ("c", 5))
    }
    rule = RULES["chtss"](final_density=0.2, decay_end=0.5)
    for progress, expected in ((0.0, (50, 30, 5)), (0.25, (35, 30, 5)), (0.5, (20, 20, 5)),
                               (1.0, (20, 20, 5))):  # fmt: skip
        plan = rule.plan(views, drop_fraction=0.3, progress=progress)
        left = [view.graph.n_edges - plan[n][0] + plan[n][1] for n, view in views.items()]
        assert tuple(left) == expected


def test_the_sigmoid_is_that_of_the_authors_code():
    # their code: a sigmoid of steepness 6 / half the iterations around the half, scaled to 0..1
    total = 20
    for step in range(total + 1):
        half, steep = total / 2, 6 / (total / 2)
        low, high, x = (1 / (1 + np.exp(-steep * (t - half))) for t in (0, total, step))
        shaped = (x - 0.5) / (high - low) + 0.5
        found = 1 - sigmoid_density(step / total, initial=0.5, final=0.1)
        assert found == pytest.approx((0.9 - 0.5) * shaped + 0.5)


@pytest.mark.parametrize(
    "wrong", [{"final": 0.6}, {"final": 0}, {"end": 0}, {"end": 1.5}, {"steepness": 0}]
)
def test_impossible_sigmoids_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        sigmoid_density(0.5, **{"initial": 0.5, "final": 0.1, **wrong})


def test_chain_removal_leaves_the_edges_of_layers_that_keep_their_graph(rng):
    # 3-2-2; the weakest of fc2 would leave hidden unit 1 without output, but fc2 keeps its graph
    first = LayerView(LayerGraph.from_edge_ids([0, 1, 4, 5], (2, 3)), np.array([1.0, 4, 3, 2]))
    second = LayerView(LayerGraph.from_edge_ids([0, 1], (2, 2)), np.array([5.0, 0.1]))
    rule, views = RULES["cht"](chain_removal=True), {"fc1": first, "fc2": second}
    options = {"drop_fraction": 0.5, "progress": 0.0, "rng": rng}
    changes = rewire_network(views, rule, fixed=["fc2"], **options)
    # the two weakest of fc1 go; the others, one of hidden unit 1 among them, are still on paths
    assert list(changes) == ["fc1"]
    assert changes["fc1"][0].n_dropped == 2
    assert sorted(changes["fc1"][1][~changes["fc1"][0].grown].tolist()) == [3, 4]


def test_soft_growth_reaches_lower_scores(rng):
    graph = LayerGraph.from_edge_ids(np.flatnonzero(rng.random(400) < 0.2), (20, 20))
    view = LayerView(graph, rng.standard_normal(graph.n_edges))

    def grown(rule, seed):
        options = {"n_drop": 5, "n_grow": 5}
        update, _ = rewire(view, rule, rng=np.random.default_rng(seed), **options)
        return frozenset(update.after.edge_ids[update.grown].tolist())

    assert len({grown(RULES["cht"](), seed) for seed in range(5)}) == 1
    assert len({grown(RULES["cht"](soft=True), seed) for seed in range(5)}) == 5


def test_relative_magnitude_of_zero_weights_is_zero():
    view = LayerView(LayerGraph.from_edge_ids([0, 1], (2, 2)), np.zeros(2))
    assert relative_magnitude(view).tolist() == [0, 0]


def test_relative_removal_protects_the_last_edge_of_a_unit(rng):
    # magnitude takes the only edge of output 1; relative to its row and column it is all there is
    graph = LayerGraph.from_edge_ids([0, 1, 5], (2, 3))
    view = LayerView(graph, np.array([2.0, 1.0, 0.1]))
    kept = {}
    for removal in ("magnitude", "relative"):
        update, values = rewire(view, RULES["cht"](removal=removal), n_drop=1, n_grow=1, rng=rng)
        kept[removal] = sorted(values[~update.grown].tolist())
    assert kept == {"magnitude": [1.0, 2.0], "relative": [0.1, 2.0]}


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown method 'L3'; expected one of CH3-L3p, CH2-L3p"):
        RULES["cht"](method="L3")
    with pytest.raises(ValueError, match="unknown removal 'big'; removals: magnitude, relative"):
        RULES["cht"](removal="big")
