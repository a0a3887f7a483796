import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.rules import RULES, LayerView, rewire
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
            for z1, z2 in paths:
                i1, i2 = len(inputs_of[z1] & second), len(outputs_of[z2] & first)
                e1, e2 = len(inputs_of[z1] - second - {u}), len(outputs_of[z2] - first - {v})
                inside = np.sqrt((1 + i1) * (1 + i2)) if method == "CH2-L3p" else 1
                scores[v, u] += inside / np.sqrt((1 + e1) * (1 + e2))
    return scores


@pytest.mark.parametrize("method", ["CH3-L3p", "CH2-L3p"])
@pytest.mark.parametrize("density", [0.1, 0.3, 0.7])
@pytest.mark.parametrize("block_cells", [1, 40, 1 << 22])
def test_scores_match_the_definition(method, density, block_cells, rng):
    graph = LayerGraph.from_edge_ids(np.flatnonzero(rng.random(99) < density), (11, 9))
    scores = l3_scores(graph, method=method, block_cells=block_cells)
    absent = graph.to_csr().toarray() == 0
    expected = brute_force(graph, method)
    assert np.allclose(scores(slice(0, 11))[absent], expected[absent])
    assert np.allclose(scores(slice(3, 7))[absent[3:7]], expected[3:7][absent[3:7]])


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
    with pytest.raises(ValueError, match="unknown removal 'big'; expected one of magnitude"):
        RULES["cht"](removal="big")
