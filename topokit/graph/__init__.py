"""What a layer graph is, a change of one, and how both are stored and exchanged.

Here belong `LayerGraph`, `EdgeUpdate`, functions on edge ids, conversion to and from other
libraries, file formats, the topologies of all epochs in a folder, and what compiled code of all
rooms shares (`topokit.graph.kernels`). Imports nothing from the other rooms, and never torch;
numba only once compiled code is called.
"""

from topokit.graph.cache import remember
from topokit.graph.layergraph import (
    EdgeUpdate,
    LayerGraph,
    Topology,
    chain_widths,
    check_chain,
    check_per_edge,
    distinct,
    positions_in,
    random_subset,
    same_edges,
    sample_absent,
    sorted_ids,
    top_absent,
    union,
)

__all__ = [
    "EdgeUpdate",
    "LayerGraph",
    "Topology",
    "chain_widths",
    "check_chain",
    "check_per_edge",
    "distinct",
    "positions_in",
    "random_subset",
    "remember",
    "same_edges",
    "sample_absent",
    "sorted_ids",
    "top_absent",
    "union",
]
