"""Networks built from a topology: the one constructor of fresh, resumed and analysed models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from topokit.graph import Topology, chain_widths
from topokit.nn.activations import ACTIVATIONS, dropped_out
from topokit.nn.layers import SparseLinear

__all__ = ["MODELS", "SparseMLP", "set_mlp"]


class SparseMLP(nn.Module):
    """Sparse layers ``fc1``, ``fc2``, ... with activations ``act1``, ... between them.

    Made by `set_mlp`. Dropout draws from `generator` alone; copies and pickles of the model carry
    its state.
    """

    def __init__(
        self,
        layers: dict[str, SparseLinear],
        activations: list[nn.Module],
        *,
        dropout: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.names = tuple(layers)
        self.dropout, self.generator = dropout, generator
        for name, layer in layers.items():
            self.add_module(name, layer)
        for position, activation in enumerate(activations, start=1):
            self.add_module(f"act{position}", activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, ...) samples, flattened, to (batch, n_out) scores."""
        x = x.flatten(1)
        for position, name in enumerate(self.names, start=1):
            layer: Any = self.get_submodule(name)
            x = layer(x)
            if position == len(self.names):
                break
            x = self.get_submodule(f"act{position}")(x)
            layer.keep("outputs", x)
            if self.training:
                x = dropped_out(x, self.dropout, self.generator)
        return x

    def __getstate__(self) -> dict[str, Any]:
        device = str(self.generator.device)
        return {**self.__dict__, "generator": (device, self.generator.get_state())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        device, bits = state["generator"]
        generator = torch.Generator(device)
        generator.set_state(bits)
        super().__setstate__({**state, "generator": generator})


def set_mlp(
    topology: Topology,
    *,
    activation: str = "relu",
    dropout: float = 0.0,
    kernel: str = "auto",
    init: str = "he",
    rng: np.random.Generator,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Build the multilayer perceptron of the SET papers from a topology.

    Parameters
    ----------
    topology : dict of LayerGraph
        Layers that chain. A layer of density 1 runs as an ordinary dense one.
    activation : {"relu", "srelu", "all_relu"}
        After each layer but the last.
    dropout : float
        Share of hidden activations dropped in training, in [0, 1); inverted dropout.
    kernel, init : str
        See `SparseLinear`.
    rng : numpy.random.Generator
        Draws initial values, layer by layer.
    generator : torch.Generator, optional
        Draws dropout masks; by default one seeded from `rng`.

    Returns
    -------
    torch.nn.Module
        Layers ``fc1``, ``fc2``, ...; the output are scores, without softmax.

    Raises
    ------
    ValueError
        If the layers do not chain, or a choice is unknown.

    References
    ----------
    Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
    connectivity inspired by network science", Nature Communications 9:2383, 2018.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> rng = np.random.default_rng(0)
    >>> topology = {"fc1": LayerGraph.from_edge_ids([0, 5], (2, 4)),
    ...             "fc2": LayerGraph.from_edge_ids([0, 1], (1, 2))}
    >>> model = set_mlp(topology, activation="srelu", rng=rng)
    >>> model(torch.ones(3, 2, 2)).shape
    torch.Size([3, 1])
    """
    widths = chain_widths(topology)
    if widths is None:
        words = ", ".join(f"{name}: {g.n_in} -> {g.n_out}" for name, g in topology.items())
        raise ValueError(f"expected layers that chain, got {words or 'none'}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"expected an activation of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f"expected a dropout in [0, 1), got {dropout}")
    layers = {
        f"fc{position}": SparseLinear(graph, kernel=kernel, init=init, rng=rng)
        for position, graph in enumerate(topology.values(), start=1)
    }
    activations = [
        ACTIVATIONS[activation](position, units, rng)
        for position, units in enumerate(widths[1:-1], start=1)
    ]
    if generator is None:
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    return SparseMLP(layers, activations, dropout=float(dropout), generator=generator)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "set_mlp": set_mlp,
}
"""Makers ``(topology, *, rng, generator, **options) -> module`` by name."""
