"""An ordinary torch model with the weights of a sparse one."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune

from topokit.graph import same_edges
from topokit.nn.fused import Sequential
from topokit.nn.kinds import check_module, exchange_modules
from topokit.nn.layers import EdgeLayer, sparse_layers
from topokit.nn.rbm import SparseRBM

__all__ = ["densify"]

# What torch keeps of a module besides its parameters: what was registered to be called.
HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def densify(model: nn.Module, *, masks: bool = False) -> nn.Module:
    """Return a copy of a model with torch's own layers in place of the sparse ones.

    For tools that know only torch's layers: ``torch.onnx.export``, ``torch.jit.script``,
    quantization, other frameworks' converters.

    Parameters
    ----------
    model : torch.nn.Module
        It is not changed.
    masks : bool
        Keep the edges as a mask of ``torch.nn.utils.prune``: the weight is then ``weight_orig``
        times ``weight_mask``, so that training does not give weights to absent edges, and
        `topology_of` reads edges of value zero too.

    Returns
    -------
    torch.nn.Module
        With the same names, other modules, buffers, hooks and training mode, and the same outputs
        up to rounding. Each sparse layer is a ``torch.nn.Linear`` or convolution of O(n_out * n_in)
        memory, with zeros where no edge is; layers that share their values share the weight. Make
        a new optimizer for it.

    Raises
    ------
    TypeError
        If the model has a part that needs its graph, `SparseRBM`, or a sparse layer of a type that
        torch has no counterpart of, or one whose values or bias are pruned, or layers of different
        graphs that share their values.

    See Also
    --------
    sparsify : The other way.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> from topokit.nn import SparseLinear
    >>> graph = LayerGraph.from_edge_ids([0, 2, 5], (2, 3))
    >>> model = nn.Sequential(SparseLinear(graph, init="he", rng=0), nn.ReLU())
    >>> dense = densify(model)
    >>> dense
    Sequential(
      (0): Linear(in_features=3, out_features=2, bias=True)
      (1): ReLU()
    )
    >>> bool(torch.allclose(dense(torch.ones(4, 3)), model(torch.ones(4, 3))))
    True
    """
    check_module(model)
    if any(isinstance(module, SparseRBM) for module in model.modules()):
        raise TypeError("expected a model of layers, got a SparseRBM, which needs its graph")
    for name, layer in sparse_layers(model).items():
        for own in ("values", "bias"):
            if own not in layer._parameters and getattr(layer, own) is not None:
                raise TypeError(
                    f"expected a parameter as the {own} of layer {name!r}, got {own} computed from "
                    f"others, as torch.nn.utils.prune does; call prune.remove(layer, {own!r}) "
                    "first (parametrize.remove_parametrizations, where that was used)"
                )
    model = copy.deepcopy(model)
    tied: dict[nn.Parameter, tuple[EdgeLayer, nn.Parameter]] = {}
    dense: dict[nn.Module, nn.Module] = {
        module: _dense(module, masks, tied)
        for module in model.modules()
        if isinstance(module, EdgeLayer)
    }
    for module in list(model.modules()):
        if type(module) is Sequential:
            module.__class__ = nn.Sequential  # type: ignore[assignment]  # its base
    return exchange_modules(model, dense)


def _dense(
    layer: EdgeLayer, masks: bool, tied: dict[nn.Parameter, tuple[EdgeLayer, nn.Parameter]]
) -> nn.Module:
    """Return torch's layer of the same name and options, with a layer's weights.

    `tied` has the weights made so far, by the values that they are made of.
    """
    kind = _counterpart(layer)
    wanted = set(inspect.signature(kind).parameters) - {"bias", "device", "dtype"}
    options = {name: getattr(layer, name) for name in wanted if hasattr(layer, name)}
    made: Any = nn.utils.skip_init(kind, **options, bias=layer.bias is not None)  # draws no numbers
    values = layer._parameters["values"]
    assert values is not None
    weight: torch.Tensor = layer.weight.detach()
    own = nn.Parameter(weight.clone(), requires_grad=values.requires_grad)
    first, made.weight = tied.setdefault(values, (layer, own))
    alike = first is layer or made.weight.shape == own.shape
    if not (alike and (first is layer or same_edges(first.graph, layer.graph))):
        raise TypeError(
            "expected layers that share their values to have the same graph, got "
            f"{first} and {layer}, whose dense weights cannot be one"
        )
    made.bias = layer.bias
    for name in HOOKS:
        setattr(made, name, getattr(layer, name))
    if masks:
        prune.custom_from_mask(made, "weight", _mask(layer))
    return made.train(layer.training)


def _counterpart(layer: EdgeLayer) -> Any:
    """Return the class of torch that a layer, or a class it inherits from, is named after."""
    for kind in type(layer).__mro__:
        name = kind.__name__.removeprefix("Sparse")
        if name != kind.__name__ and hasattr(nn, name):
            return getattr(nn, name)
    raise TypeError(
        f"expected sparse layers that torch has a counterpart of, got {type(layer).__name__}"
    )


@torch.no_grad()
def _mask(layer: EdgeLayer) -> torch.Tensor:
    """Return ones at the edges and zeros elsewhere, in the shape of the weight."""
    values = layer.values.data
    try:
        layer.values.data = torch.ones_like(values)
        return layer.weight.detach().clone()
    finally:
        layer.values.data = values
