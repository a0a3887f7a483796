"""SET worked by hand on ten-edge layers."""

import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.rules import RULES, LayerView, rewire, rewire_network
from topokit.rules.drop import official_removal

HAND = [-5, -4, -3, -2, -0.9, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        (HAND, [-5, -4, 3, 4, 5]),
        ([-1 if v == -0.9 else v for v in HAND], [-5, -4, 4, 5]),
    ],
)
def test_the_authors_removal(values, kept):
    values = np.array(values, dtype=float)
    assert np.delete(values, official_removal(values, 0.3)).tolist() == kept


def hand_view(values):
    # 3 output units of fan-in 4, 3, 3 over 5 inputs
    ids = [0, 1, 2, 3, 5, 7, 9, 11, 13, 14]
    return LayerView(LayerGraph.from_edge_ids(ids, (3, 5)), np.array(values, dtype=float))


def test_set_keeps_per_sign_and_set_magnitude_does_not(rng):
    # 6 negatives 0.1 .. 0.6, 4 positives 1 .. 4: SET drops 3 of 5 as 3 + 2
    view = hand_view([-0.1, 1, -0.2, 2, -0.3, 3, -0.4, 4, -0.5, -0.6])
    update, values = rewire(view, RULES["set"](), n_drop=5, n_grow=5, rng=rng)
    assert sorted(values[~update.grown].tolist()) == [-0.6, -0.5, -0.4, 3, 4]
    update, values = rewire(view, RULES["set_magnitude"](), n_drop=5, n_grow=5, rng=rng)
    assert sorted(values[~update.grown].tolist()) == [-0.6, 1, 2, 3, 4]


@pytest.mark.slow
def test_set_grows_uniformly_over_absent_and_just_dropped_cells(rng):
    view = hand_view(HAND)
    hits = np.zeros(15)
    for _ in range(4000):
        update, _ = rewire(view, RULES["set"](), n_drop=2, n_grow=2, rng=rng)
        hits[update.after.edge_ids[update.grown]] += 1
    # position 4 (-0.9, id 5) and position 5 (1, id 7) leave; 7 cells are free for 2 edges
    free = [4, 5, 6, 7, 8, 10, 12]
    assert np.flatnonzero(hits).tolist() == free
    assert np.abs(hits[free] - 8000 / 7).max() < 5 * np.sqrt(4000 * 2 / 7 * 5 / 7)


@pytest.mark.parametrize(("init", "std"), [("normal", 0.1), ("normal_rbm", 0.05), ("zeros", 0)])
def test_starting_values_of_the_official_codes(init, std, rng):
    graph = LayerGraph.from_edge_ids(range(3000), (100, 100))
    view = LayerView(graph, np.ones(3000))
    update, values = rewire(view, RULES["set"](init=init), n_drop=2500, n_grow=2500, rng=rng)
    grown = values[update.grown]
    assert abs(grown.std() - std) < 0.005
    assert abs(grown.mean()) < 0.01


def test_unknown_init_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown init 'gauss'; inits: glorot, glorot_d"):
        RULES["set"](init="gauss")


def test_the_authors_removal_takes_the_edges_at_both_thresholds_too():
    values = np.array([-5, -4, -3, -2, -0.9, 1, 2, 3, 4, 5])
    view = LayerView(LayerGraph.from_edge_ids(range(10), (4, 4)), values)
    rule, options = RULES["set"](removal="official"), {"progress": 0.0}
    for fraction, kept in ((0.3, [-5, -4, 3, 4, 5]), (0.0, None)):
        rng = np.random.default_rng(0)
        changes = rewire_network({"a": view}, rule, drop_fraction=fraction, rng=rng, **options)
        if kept is None:
            assert changes == {}
            continue
        update, after = changes["a"]
        assert after[~update.grown].tolist() == kept
        assert update.n_grown == update.n_dropped == 5
    large = np.random.default_rng(1).standard_normal(1000)
    view = LayerView(LayerGraph.from_edge_ids(range(1000), (40, 40)), large)
    rng = np.random.default_rng(0)
    changes = rewire_network({"a": view}, rule, drop_fraction=0.3, rng=rng, **options)
    assert 301 <= changes["a"][0].n_dropped <= 303


@pytest.mark.parametrize("n_edges", [0, 1, 2, 16])
def test_the_authors_removal_leaves_an_edge(n_edges, rng):
    graph = LayerGraph.from_edge_ids(range(n_edges), (4, 4))
    view = LayerView(graph, rng.standard_normal(n_edges))
    changes = rewire_network(
        {"a": view}, RULES["set"](removal="official"), drop_fraction=1.0, progress=0.0, rng=rng
    )
    dropped = changes["a"][0].n_dropped if changes else 0
    assert dropped == (0 if n_edges in (0, 1, 16) else n_edges - 1)
    with pytest.raises(ValueError, match="expected removal to be 'exact' or 'official', got 'all'"):
        RULES["set"](removal="all")
