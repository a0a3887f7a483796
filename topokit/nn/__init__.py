"""How a graph computes and learns: sparse layers and models for torch.

Here belong layers, models, initial weights, the engine that rewires a model as it trains, and in
`kernels` the products behind the layers. Parameters, gradients and optimizer state are kept per
edge. Imports from `graph`, `generators`, `rules` and the tables below them.
"""

from topokit.nn.conv import SparseConv2d
from topokit.nn.layers import INITS, SparseLinear, explain_kernel, sparse_layers
from topokit.nn.rbm import SparseRBM

__all__ = [
    "INITS",
    "SparseConv2d",
    "SparseLinear",
    "SparseRBM",
    "explain_kernel",
    "sparse_layers",
]
