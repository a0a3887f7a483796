"""Sparse layers and models for torch, and the engine that rewires them.

This package holds layers, models, initial weights, the engine that rewires a model as it trains,
and in `kernels` the sparse products that layers compute. Parameters, gradients and optimizer state
are stored per edge. Imports from `graph`, `generators`, `rules` and the tables below them.
"""

from topokit.nn.conv import SparseConv2d
from topokit.nn.layers import INITS, SparseLinear, decay_groups, explain_kernel, sparse_layers
from topokit.nn.rbm import SparseRBM

__all__ = [
    "INITS",
    "SparseConv2d",
    "SparseLinear",
    "SparseRBM",
    "decay_groups",
    "explain_kernel",
    "sparse_layers",
]
