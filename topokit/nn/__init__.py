"""Sparse layers and models for torch, and the engine that rewires them.

This package holds layers, models, initial weights, the engine that rewires a model as it trains,
and in `kernels` the sparse products that layers compute. Parameters, gradients and optimizer state
are stored per edge. Imports from `graph`, `generators`, `rules` and the tables below them.
"""

from topokit.nn.attention import SparseMultiheadAttention
from topokit.nn.conv import (
    SparseConv1d,
    SparseConv2d,
    SparseConv3d,
    SparseConvTranspose1d,
    SparseConvTranspose2d,
    SparseConvTranspose3d,
)
from topokit.nn.fused import Sequential
from topokit.nn.layers import INITS, SparseLinear, explain_kernel, sparse_layers
from topokit.nn.parameters import decay_groups
from topokit.nn.rbm import SparseRBM
from topokit.nn.recurrent import SparseRecurrent, SparseRecurrentCell
from topokit.nn.sparsify import SparsifyWarning
from topokit.nn.sparsity import SparsityReport, sparsity_report

__all__ = [
    "INITS",
    "Sequential",
    "SparseConv1d",
    "SparseConv2d",
    "SparseConv3d",
    "SparseConvTranspose1d",
    "SparseConvTranspose2d",
    "SparseConvTranspose3d",
    "SparseLinear",
    "SparseMultiheadAttention",
    "SparseRBM",
    "SparseRecurrent",
    "SparseRecurrentCell",
    "SparsifyWarning",
    "SparsityReport",
    "decay_groups",
    "explain_kernel",
    "sparse_layers",
    "sparsity_report",
]
