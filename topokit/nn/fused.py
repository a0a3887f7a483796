"""Sparse layers computed together with the activation function after them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from topokit.nn import conv
from topokit.nn.kernels import edge_chain, edge_product
from topokit.nn.kernels.autograd import drawn_bits
from topokit.nn.kernels.ops import composed
from topokit.nn.kernels.products import sparse_product
from topokit.nn.layers import SparseLinear

__all__ = ["Sequential", "activated", "chained", "dropped_within", "fuse"]

# What a user may have put around a module, which then has to be called by itself.
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
EVERYWHERE = [
    hooks for name in HOOKS if (hooks := getattr(torch_module, f"_global{name}", None)) is not None
]


# Layers whose ``forward`` takes `relu`.
RECTIFYING = frozenset({SparseLinear, *(getattr(conv, name) for name in conv.__all__)})


def in_one_kernel(layer: nn.Module, activation: nn.Module) -> bool:
    """Return whether a layer's kernel may apply the ReLU after it, without anyone noticing.

    That is not so if one of them has hooks or a ``forward`` of its own, or is of a subclass: what
    they are called with and what they return is then somebody else's business.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> layer = SparseLinear(LayerGraph.from_edge_ids([0, 2], (2, 2)), rng=0)
    >>> in_one_kernel(layer, nn.ReLU()), in_one_kernel(layer, nn.GELU())
    (True, False)
    """
    return (
        type(activation) is nn.ReLU
        and type(layer) in RECTIFYING
        and _plain(layer.__dict__)
        and _plain(activation.__dict__)
        and not any(EVERYWHERE)
    )


def _plain(own: dict[str, Any]) -> bool:
    """Return whether a module, given by its attributes, is called as its class says."""
    return not (
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or "forward" in own
        or own.get("_compiled_call_impl")
    )


def activated(layer: Any, activation: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Apply a layer and its activation; ReLU within the product's kernel where it may be.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> layer = SparseLinear(LayerGraph.from_edge_ids([0, 2], (2, 2)), init="normal", rng=0)
    >>> x = torch.ones(1, 2)
    >>> bool((activated(layer, nn.ReLU(), x) == torch.relu(layer(x))).all())
    True
    """
    if in_one_kernel(layer, activation):
        return layer(x, relu=True)
    return activation(layer(x))


def dropped_within(
    layer: Any,
    activation: nn.Module,
    x: torch.Tensor,
    rate: float,
    generators: Sequence[torch.Generator],
) -> torch.Tensor | None:
    """Apply a layer, its ReLU and dropout in one kernel, or return None.

    Values are those of `topokit.nn.activations.dropped_out` after the others, bit for bit, and so
    are gradients on the CPU. None where no kernel does this, where bits are drawn on another
    device, and where a rule looks at the layer's activations, which are those before dropout.
    Convolutions, too, are left to others: their bits are in another order.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> layer = SparseLinear(LayerGraph.from_edge_ids([0, 2], (2, 2)), rng=0)
    >>> streams = [torch.Generator().manual_seed(0)]
    >>> dropped_within(layer, nn.ReLU(), torch.ones(4, 2), 0.5, streams).shape
    torch.Size([4, 2])
    >>> dropped_within(layer, nn.Tanh(), torch.ones(4, 2), 0.5, streams) is None
    True
    """
    kind = x.device.type
    if (
        not sparse_product(kind).drops
        or composed(x)
        or type(layer) is not SparseLinear
        or layer.calls is not None
        or x.ndim != 2
        or any(generator.device.type != kind for generator in generators)
        or not in_one_kernel(layer, activation)
    ):
        return None
    drawn = drawn_bits(layer.n_out * x.shape[0], rate, generators)
    return edge_product(
        x, layer.values, layer.bias, layer.edges, layer.kernel, relu=True, drawn=drawn
    )


def _chain_at(modules: Sequence[nn.Module], at: int) -> tuple[list[Any], int]:
    """Return the sparse layers from `at` on that can be one chain, and the position after them.

    A layer is given as the arguments of `topokit.nn.kernels.edge_chain`.
    """
    layers: list[Any] = []
    relu, count = True, len(modules)
    while relu and at < count:
        layer: Any = modules[at]
        if type(layer) is not SparseLinear or layer.calls is not None or not _plain(layer.__dict__):
            break
        relu = at + 1 < count and in_one_kernel(layer, modules[at + 1])
        layers.append((layer.values, layer.bias, layer.index, layer.kernel, relu))
        at += 1 + relu
    return layers, at


def chained(modules: Sequence[nn.Module], x: torch.Tensor) -> torch.Tensor | None:
    """Apply sparse layers and the ReLUs between them as one node, or return None.

    None where something else is among them, or has to see what goes through one of them.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> layer = SparseLinear(LayerGraph.from_edge_ids([0, 2], (2, 2)), init="normal", rng=0)
    >>> x = torch.ones(1, 2)
    >>> bool((chained([layer, nn.ReLU(), layer], x) == layer(torch.relu(layer(x)))).all())
    True
    >>> chained([layer, nn.Tanh(), layer], x) is None
    True
    """
    if any(EVERYWHERE) or x.device.type != "cpu" or composed(x):
        return None
    layers, after = _chain_at(modules, 0)
    return edge_chain(x, layers) if after == len(modules) else None


class Sequential(nn.Sequential):
    """``torch.nn.Sequential`` in which sparse layers and their ReLUs are computed together.

    Outputs, and gradients of inputs and edge values, are those of ``torch.nn.Sequential`` bit
    for bit; gradients of biases up to rounding, as their sums over the batch are taken in
    another order. A sparse layer computes the ReLU that follows it (a convolution where its kernel
    is ``csr``), and on the CPU linear layers that follow each other are one node of torch's graph
    (`topokit.nn.kernels.edge_chain`). Modules with hooks are computed one by one, so that they see
    what they would see otherwise, and so is the whole where torch follows the computation
    (compilers, tracing). ``nn.Dropout`` is computed by itself on every device, as it draws in its
    own way from torch's global generator. `topokit.sparsify` gives this class to each
    ``torch.nn.Sequential`` in which it puts a sparse layer before a ReLU.

    Parameters
    ----------
    *modules
        As for ``torch.nn.Sequential``.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> graph = LayerGraph.from_edge_ids([0, 2, 5], (2, 3))
    >>> Sequential(SparseLinear(graph, rng=0), nn.ReLU())(torch.ones(4, 3)).shape
    torch.Size([4, 2])
    """

    def forward(self, x: Any) -> Any:
        """Apply the modules in order."""
        if not isinstance(x, torch.Tensor) or composed(x):
            return super().forward(x)
        modules = list(self._modules.values())
        at, count = 0, len(modules)
        together = x.device.type == "cpu" and not any(EVERYWHERE)
        while at < count:
            module: Any = modules[at]
            layers, after = _chain_at(modules, at) if together else ([], at)
            y = edge_chain(x, layers) if len(layers) > 1 else None
            if y is not None:
                x, at = y, after
            elif at + 1 < count and in_one_kernel(module, modules[at + 1]):
                x = module(x, relu=True)
                at += 2
            else:
                x = module(x)
                at += 1
        return x


def fuse(model: nn.Module) -> None:
    """Let each ``torch.nn.Sequential`` with a sparse layer before a ReLU compute both in one.

    Linear layers and convolutions.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> layer = SparseLinear(LayerGraph.from_edge_ids([0, 2], (2, 2)), rng=0)
    >>> model = nn.Sequential(layer, nn.ReLU())
    >>> fuse(model)
    >>> type(model) is Sequential, type(model[1]) is nn.ReLU
    (True, True)
    """
    for module in model.modules():
        if type(module) is nn.Sequential and "forward" not in module.__dict__:
            kinds = [type(part) for part in module._modules.values()]
            if any(a in RECTIFYING and b is nn.ReLU for a, b in pairwise(kinds)):
                module.__class__ = Sequential
