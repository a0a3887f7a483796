"""Hypothesis strategies for graphs, topologies and updates."""

import itertools

import numpy as np
from hypothesis import strategies as st

from topokit.graph import EdgeUpdate, LayerGraph


@st.composite
def layer_graphs(draw, max_side=12, min_side=0, n_in=None, n_out=None):
    n_in = draw(st.integers(min_side, max_side)) if n_in is None else n_in
    n_out = draw(st.integers(min_side, max_side)) if n_out is None else n_out
    cells = n_in * n_out
    ids = draw(st.sets(st.integers(0, cells - 1))) if cells else set()
    return LayerGraph.from_edge_ids(sorted(ids), (n_out, n_in))


@st.composite
def topologies(draw, max_layers=4, max_side=8):
    widths = draw(st.lists(st.integers(1, max_side), min_size=2, max_size=max_layers + 1))
    return {
        f"fc{i + 1}": draw(layer_graphs(n_in=a, n_out=b))
        for i, (a, b) in enumerate(itertools.pairwise(widths))
    }


@st.composite
def edge_updates(draw):
    before = draw(layer_graphs())
    dropped = np.flatnonzero([draw(st.booleans()) for _ in range(before.n_edges)])
    kept = np.delete(before.edge_ids, dropped)
    absent = np.setdiff1d(np.arange(before.n_in * before.n_out), kept)
    grown = absent[[draw(st.booleans()) for _ in range(absent.size)]] if absent.size else absent
    return EdgeUpdate.from_decisions(before, dropped, grown)
