"""Sparse layers and models for torch: parameters, gradients and optimizer state per edge."""

from topokit.nn.conv import SparseConv2d
from topokit.nn.layers import INITS, SparseLayer, SparseLinear, explain_kernel, sparse_layers
from topokit.nn.rbm import SparseRBM

__all__ = [
    "INITS",
    "SparseConv2d",
    "SparseLayer",
    "SparseLinear",
    "SparseRBM",
    "explain_kernel",
    "sparse_layers",
]
