"""A linear layer whose parameters are the edges of a graph, and what all sparse layers share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from topokit.graph import LayerGraph
from topokit.nn.edges import EdgeLayer, SparseLayer
from topokit.nn.kernels import edge_product

__all__ = [
    "INITS",
    "EdgeLayer",
    "SparseLayer",
    "SparseLinear",
    "explain_kernel",
    "initial_values",
    "sparse_layers",
]


def _he(graph: LayerGraph, rng: np.random.Generator) -> NDArray[Any]:
    """Normal, standard deviation sqrt(2 / mean fan-in of the graph)."""
    fan_in = max(1.0, graph.n_edges / max(1, graph.n_out))
    return rng.standard_normal(graph.n_edges) * math.sqrt(2 / fan_in)


def _he_dense_uniform(graph: LayerGraph, rng: np.random.Generator) -> NDArray[Any]:
    """Uniform on +-sqrt(6 / n_in): the bound of the dense layer."""
    bound = math.sqrt(6 / max(1, graph.n_in))
    return rng.uniform(-bound, bound, graph.n_edges)


def _glorot(graph: LayerGraph, rng: np.random.Generator) -> NDArray[Any]:
    """Uniform, variance 2 / (mean fan-in + mean fan-out) of the graph: half of He's or less."""
    n_edges = max(1, graph.n_edges)
    fans = n_edges / max(1, graph.n_out) + n_edges / max(1, graph.n_in)
    return rng.uniform(-1, 1, graph.n_edges) * math.sqrt(6 / max(2.0, fans))


def _normal(graph: LayerGraph, rng: np.random.Generator) -> NDArray[Any]:
    """Normal, standard deviation 0.1, as in SET's sparse code."""
    return rng.standard_normal(graph.n_edges) / 10


def _zeros(graph: LayerGraph, rng: np.random.Generator) -> NDArray[Any]:
    """Zeros."""
    return np.zeros(graph.n_edges)


INITS: dict[str, Callable[[LayerGraph, np.random.Generator], NDArray[Any]]] = {
    "he": _he,
    "he_dense_uniform": _he_dense_uniform,
    "glorot": _glorot,
    "normal": _normal,
    "zeros": _zeros,
}
"""Initial edge values by name."""


def initial_values(init: str, graph: LayerGraph, rng: np.random.Generator) -> torch.Tensor:
    """Draw (n_edges,) initial values in torch's default dtype.

    Raises
    ------
    ValueError
        If `init` is not in `INITS`.
    """
    if init not in INITS:
        raise ValueError(f"expected an init of {', '.join(INITS)}, got {init!r}")
    return torch.from_numpy(INITS[init](graph, rng)).to(torch.get_default_dtype())


class SparseLinear(EdgeLayer):
    """A linear layer with weights on the edges of a graph, and nowhere else.

    Parameters
    ----------
    graph : LayerGraph
        Shape ``(n_out, n_in)``. Of density 1 the layer is an ordinary dense one.
    kernel : {"auto", "csr", "dense"}
        How the product is computed: see `topokit.nn.kernels`. Results agree to rounding.
    bias : bool
        Add a bias, at first zero, to each output unit.
    init : str
        Initial values, a name of `INITS`.
    rng : numpy.random.Generator

    Attributes
    ----------
    values : torch.nn.Parameter
        (n_edges,), in the order of ``graph.indices``. A value of zero is still an edge.
    bias : torch.nn.Parameter or None
        (n_out,).
    capture : bool
        Keep the last batch's activations and gradient for a rule.

    Notes
    -----
    Weights, gradients and optimizer state are vectors of one number an edge; with the index in
    float32 and momentum that is 28 bytes an edge. ``state_dict`` holds the graph, and loading one
    of a layer of the same shape replaces it, whatever its number of edges.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 2, 5], (2, 3))
    >>> layer = SparseLinear(graph, init="normal", rng=np.random.default_rng(0))
    >>> layer.values.shape, layer(torch.ones(4, 3)).shape
    (torch.Size([3]), torch.Size([4, 2]))
    """

    def __init__(
        self,
        graph: LayerGraph,
        *,
        kernel: str = "auto",
        bias: bool = True,
        init: str = "he",
        rng: np.random.Generator,
    ) -> None:
        super().__init__()
        self._hold(graph, initial_values(init, graph, rng), bias=bias, kernel=kernel)

    @classmethod
    def from_dense(
        cls, linear: nn.Linear, graph: LayerGraph | None = None, *, kernel: str = "auto"
    ) -> SparseLinear:
        """Take weights and bias from a dense layer, at the edges of a graph.

        Parameters
        ----------
        linear : torch.nn.Linear
        graph : LayerGraph, optional
            By default the positions where the weight is not zero.

        Raises
        ------
        ValueError
            If the shapes differ.

        Examples
        --------
        >>> layer = SparseLinear.from_dense(nn.Linear(3, 2))
        >>> layer.nnz, layer.density
        (6, 1.0)
        """
        weight = linear.weight.detach()
        if graph is None:
            ids = torch.nonzero(weight.reshape(-1)).reshape(-1).cpu().numpy()
            graph = LayerGraph.from_edge_ids(ids, tuple(weight.shape))  # type: ignore[arg-type]
        if graph.shape != tuple(weight.shape):
            raise ValueError(f"expected a graph of shape {tuple(weight.shape)}, got {graph.shape}")
        has_bias = linear.bias is not None
        layer = cls(
            graph, kernel=kernel, bias=has_bias, init="zeros", rng=np.random.default_rng(0)
        ).to(weight)
        layer.take(weight, linear.bias)
        return layer.train(linear.training)

    @property
    def in_features(self) -> int:
        """Number of input units, as in ``torch.nn.Linear``."""
        return self.n_in

    @property
    def out_features(self) -> int:
        """Number of output units, as in ``torch.nn.Linear``."""
        return self.n_out

    @property
    def weight(self) -> torch.Tensor:
        """The dense (n_out, n_in) weight, made anew, for code that insists on one.

        Gradients flow through it to the values; writing to it changes nothing.
        """
        return self.to_dense()

    def forward(self, x: torch.Tensor, *, relu: bool = False) -> torch.Tensor:
        """Map (..., n_in) to (..., n_out), rectified on the way if `relu`.

        Automatic mixed precision leaves the product in the precision of the values.
        """
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return SparseLinear.forward(self, x.to(self.values.dtype), relu=relu)
        fused = relu and not self.capture  # rules look at what comes before the activation
        y = edge_product(x, self.values, self.bias, self.index, self.kernel, relu=fused)
        self._watch(x, y)
        return torch.relu(y) if relu and not fused else y

    def extra_repr(self) -> str:
        """Sizes, edges and kernel."""
        return (
            f"{self.n_in} -> {self.n_out}, {self.nnz} edges (density {self.density:.3g}), "
            f"bias={self.bias is not None}, kernel={self.kernel}"
        )


def explain_kernel(layer: EdgeLayer) -> str:
    """Say in a sentence which kernel a layer uses and why.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids(range(6), (2, 3))
    >>> explain_kernel(SparseLinear(graph, rng=np.random.default_rng(0)))
    'dense: the graph is complete'
    """
    choice, reason = layer.choose_kernel()
    return f"{choice}: {reason}"


def sparse_layers(model: nn.Module) -> dict[str, Any]:
    """Return a model's sparse layers by name, in the order of ``named_modules()``.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids(range(6), (2, 3))
    >>> model = nn.Sequential(SparseLinear(graph, rng=np.random.default_rng(0)), nn.ReLU())
    >>> list(sparse_layers(model))
    ['0']
    """
    return {name: m for name, m in model.named_modules() if isinstance(m, EdgeLayer)}
