"""The parameters of sparse layers: whose they are, and which of a model's decay."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from topokit.nn.kinds import has_no_layers
from topokit.nn.layers import EdgeLayer, sparse_layers

__all__ = ["check_values", "decay_groups"]


def check_values(layers: Mapping[str, EdgeLayer], fixed: Collection[str] = ()) -> None:
    """Raise a ValueError if a layer's values are no parameter, or others have them, too.

    Others are other layers and other processes. Layers that keep their graph (`fixed`) may share
    values.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> from topokit.nn import SparseLinear
    >>> graph = LayerGraph.from_edge_ids([0, 2], (2, 2))
    >>> layer, other = SparseLinear(graph, rng=0), SparseLinear(graph, rng=0)
    >>> check_values({"a": layer, "b": other})
    >>> other.values = layer.values
    >>> check_values({"a": layer, "b": other})
    Traceback (most recent call last):
    ValueError: expected each layer to have values of its own, got those of 'a' in 'b', too, ...
    """
    owners: dict[int, str] = {}
    for name, layer in layers.items():
        if "values" not in layer._parameters:
            raise ValueError(
                f"expected a parameter as the values of layer {name!r}, got values computed "
                "from others, as torch.nn.utils.prune and weight_norm do; prune.remove(layer, "
                "'values') or remove_weight_norm(layer, 'values') makes them a parameter again"
            )
        if name not in fixed and layer.values.device.type == "cpu" and layer.values.is_shared():
            raise ValueError(
                f"expected values of layer {name!r} in memory of this process alone, got shared "
                "memory (share_memory(), or a model given to a process that was spawned), by which "
                "other processes would get values of edges that they do not know; attach to "
                "copy.deepcopy(model), and train one model by several processes as "
                "DistributedDataParallel does"
            )
        first = owners.setdefault(id(layer.values), name)
        if first != name and not {first, name} <= {*fixed}:
            raise ValueError(
                f"expected each layer to have values of its own, got those of {first!r} in "
                f"{name!r}, too, whose edges would no longer be theirs; use one layer in both "
                "places, or detach() and share them when the rewiring is over"
            )


def decay_groups(model: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups of a model's parameters for an optimizer: weights, which decay, and others.

    The values of sparse layers are weights although they are vectors. A choice by ``p.ndim >= 2``
    or by the word "weight" in the name leaves them out, and no sparse layer would decay.

    Parameters
    ----------
    model : torch.nn.Module
    weight_decay : float
        Of weights: edge values of sparse layers, and parameters of two and more dimensions. Biases
        (by their names), and parameters of normalisations and activations, do not decay.

    Returns
    -------
    list of dict
        For ``torch.optim.AdamW(groups)`` and others. Frozen parameters are left out.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> from topokit.nn import SparseLinear
    >>> graph = LayerGraph.from_edge_ids(range(0, 60, 3), (6, 10))
    >>> model = nn.Sequential(SparseLinear(graph, rng=0), nn.LayerNorm(6), nn.Linear(6, 2))
    >>> [[tuple(p.shape) for p in group["params"]]
    ...  for group in decay_groups(model, weight_decay=0.01)]
    [[(20,), (2, 6)], [(6,), (6,), (6,), (2,)]]
    """
    values = {id(layer.values) for layer in sparse_layers(model).values()}
    kept = set()  # biases of two and more dimensions, as attention has, and those of LayerNorm
    for module in model.modules():
        scales = has_no_layers(module) and not isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for name, parameter in module._parameters.items():
            if scales or name.startswith("bias"):
                kept.add(id(parameter))
    weights: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim >= 2 and id(parameter) not in kept
            decays = matrix or id(parameter) in values
            (weights if decays else others).append(parameter)
    return [
        {"params": weights, "weight_decay": float(weight_decay)},
        {"params": others, "weight_decay": 0.0},
    ]
