"""Layer graphs and their changes: data types, functions on edge ids, conversion and storage.

This package holds `LayerGraph`, `EdgeUpdate`, functions on edge ids, conversion to and from other
libraries, file formats, the topologies of all epochs in a folder, and what the compiled code of
all packages shares (`topokit.graph.kernels`). Imports nothing from the other packages, and never
torch; numba is loaded when compiled code is first called.
"""

from topokit.graph.cache import remember
from topokit.graph.layergraph import (
    EdgeUpdate,
    LayerGraph,
    Topology,
    check_one_shape,
    check_per_edge,
    distinct,
    pick_absent,
    positions_in,
    random_subset,
    same_edges,
    sample_absent,
    sorted_ids,
    top_absent,
    union,
)
from topokit.graph.networks import chain_widths, check_chain, describe

__all__ = [
    "EdgeUpdate",
    "LayerGraph",
    "Topology",
    "chain_widths",
    "check_chain",
    "check_one_shape",
    "check_per_edge",
    "describe",
    "distinct",
    "pick_absent",
    "positions_in",
    "random_subset",
    "remember",
    "same_edges",
    "sample_absent",
    "sorted_ids",
    "top_absent",
    "union",
]
