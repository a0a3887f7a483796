"""Averages of a model's weights, which follow the graphs of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from topokit.graph import EdgeUpdate, LayerGraph, same_edges
from topokit.nn.layers import EdgeLayer, sparse_layers
from topokit.nn.optimizer_state import carried, tensor_of

__all__ = ["check_average", "follow", "layers_of_copy"]


def layers_of_copy(copy: nn.Module, layers: Mapping[str, EdgeLayer]) -> dict[str, EdgeLayer]:
    """Return the sparse layers of a copy of a model by the names that they have in the model.

    Raises
    ------
    ValueError
        If the copy has other sparse layers or other graphs, or is the model itself.
    """
    found = list(sparse_layers(copy).values())
    good = len(found) == len(layers)
    for theirs, ours in zip(found, layers.values(), strict=False):
        good = good and theirs is not ours and same_edges(theirs.graph, ours.graph)
    if not good:
        raise ValueError(
            "expected a copy of the model with its present graphs, made since the last rewiring"
        )
    return dict(zip(layers, found, strict=True))


def check_average(name: str, average: EdgeLayer, graph: LayerGraph) -> None:
    """Raise a ValueError unless an average has the graph of its layer."""
    if not same_edges(average.graph, graph):
        raise ValueError(
            f"expected averages with the graph of layer {name!r}, got another one; load the states "
            "of model and averages of the same step"
        )


def follow(average: EdgeLayer, update: EdgeUpdate, values: NDArray[Any] | torch.Tensor) -> None:
    """Replace the graph of averaged weights; those of grown edges start at the edges' values."""
    moved = carried(update, average.values.detach(), tensor_of(values))
    average.replace_graph(update, moved)
