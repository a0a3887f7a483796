"""What a layer graph is, a change of one, and how both are stored and exchanged.

Here belong `LayerGraph`, `EdgeUpdate`, functions on edge ids, conversion to and from other
libraries, file formats, and the topologies of all epochs in a folder. Imports nothing from the
other rooms, and never torch.
"""

from topokit.graph.layergraph import (
    EdgeUpdate,
    LayerGraph,
    Topology,
    chain_widths,
    same_edges,
    sample_absent,
    top_absent,
)

__all__ = [
    "EdgeUpdate",
    "LayerGraph",
    "Topology",
    "chain_widths",
    "same_edges",
    "sample_absent",
    "top_absent",
]
