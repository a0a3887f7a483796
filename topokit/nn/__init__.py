"""Sparse layers and models for torch: parameters, gradients and optimizer state per edge."""

from topokit.nn.conv import SparseConv2d
from topokit.nn.layers import INITS, SparseLayer, SparseLinear, explain_kernel, sparse_layers

__all__ = [
    "INITS",
    "SparseConv2d",
    "SparseLayer",
    "SparseLinear",
    "explain_kernel",
    "sparse_layers",
]
