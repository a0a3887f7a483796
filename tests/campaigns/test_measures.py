"""The campaign of measures against oracles with a small count, and that it notices faults."""

import numpy as np
import pytest

from tests.campaigns import measures
from topokit.measures import LAYER_MEASURES


def faults(lines):
    return [line for line in lines if line.startswith("- ")]


@pytest.mark.slow
def test_measures_agree_with_oracles_on_every_kind_of_graph():
    lines = measures.campaign(len(measures.KINDS), 1)
    assert faults(lines) == []
    assert "Beyond the tolerance: 0." in lines
    assert len(measures.KINDS) >= 14


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("giant_share", lambda graph: 0.5),
        ("butterflies", lambda graph: LAYER_MEASURES["butterflies"](graph) + 1),
        ("efficiency", lambda graph: np.nan),
        ("nestedness", lambda graph: float(graph.edge_ids[:3].sum())),  # depends on the numbering
    ],
)
def test_a_fault_is_noticed(monkeypatch, name, fault):
    monkeypatch.setattr(measures, "LAYER_MEASURES", {**LAYER_MEASURES, name: fault})
    rng = np.random.default_rng(0)
    book = measures.Book()
    graph = measures.tree(6, 5, rng)
    measures.one_graph(book, "tree", graph, rng, 1)
    assert {text.split(" ")[0] for text in book.faults} == {name}
