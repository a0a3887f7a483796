"""Girths that theory gives: planes, quadrangles, complete layers and trees (oracle: networkx)."""

import networkx as nx
import numpy as np
import pytest

from topokit.generators import GENERATORS, describe
from topokit.graph import LayerGraph
from topokit.graph.convert import to_networkx


@pytest.mark.parametrize(
    ("family", "q", "units", "girth"),
    [
        ("projective_plane", 3, 13, 6),
        ("projective_plane", 4, 21, 6),
        ("generalized_quadrangle", 2, 15, 8),
        ("generalized_quadrangle", 3, 40, 8),
    ],
)
def test_girth_of_geometries(family, q, units, girth):
    graph = GENERATORS[family](units, units, density=(q + 1) / units, rng=np.random.default_rng(0))
    assert graph.n_edges == (q + 1) * units
    assert nx.girth(to_networkx(graph)) == girth


def test_girth_of_complete_layers_and_of_trees():
    complete = LayerGraph.from_edge_ids(range(12), (3, 4))
    star = LayerGraph.from_edge_ids(range(4), (1, 4))
    assert nx.girth(to_networkx(complete)) == 4
    assert nx.girth(to_networkx(star)) == float("inf")


@pytest.mark.parametrize("shifts", ["multiplicative", "array", "greedy"])
def test_cyclic_lifts_say_when_they_close_four_cycles(shifts):
    said = set()
    for h in (2, 3, 5, 7):
        for a, b in ((1, 1), (1, 9), (2, 2), (3, 2), (h, h), (h + 1, h), (h, h + 1), (2, 9)):
            rng = np.random.default_rng(h)
            graph = GENERATORS["cyclic_lift"](a * h, b * h, density=1 / h, shifts=shifts, rng=rng)
            repairs = describe(graph).repairs
            assert not [each for each in repairs if not each.startswith("4-cycles, as ")]
            assert bool(repairs) == (nx.girth(to_networkx(graph)) == 4)
            said.add(bool(repairs))
    assert said == {False, True}
