"""A convolution with weights on the edges of a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import conv2d, unfold

from topokit.graph import LayerGraph
from topokit.nn.kernels import edge_product
from topokit.nn.layers import EdgeLayer, initial_values, layer_forward
from topokit.tables import as_generator

__all__ = ["SparseConv2d"]

Pair = tuple[int, int]

# How a convolution is computed sparsely.
#
# Idea: copy the input so that every output position has a column with all input values under the
# kernel, its patch (`torch.nn.functional.unfold`). The convolution is then one sparse product,
# with the patches of all samples as its batch, and has the sparse layer's gradients.
#
# Cost: the copy is height x width of the kernel times the input, made forward and kept for the
# backward pass, whatever the number of edges; then O(n_edges * samples * positions).
#
# Why this way: an index of edges for every output position would be as large as the patches, and
# with patches the product reads contiguous rows. The copy's cost does not depend on the number of
# output channels, so the sparse way gains the more, the more output channels there are.
#
# Measured on the CPU with 3x3 kernels, 64 to 256 channels and densities from 0.005 to 0.1, forward
# and backward, in units of the time of a dense convolution for one output channel: the copy takes
# GATHER_CHANNELS, and an edge EDGE_CELLS times as long as one cell of the dense weight.
GATHER_CHANNELS = 100
EDGE_CELLS = 3


class SparseConv2d(EdgeLayer):
    """A two-dimensional convolution with weights on the edges of a graph.

    The graph is that of ``weight.flatten(1)``: output channels against input channels times
    kernel cells; `topokit.graph.convert.channel_graph` folds it to channels.

    Parameters
    ----------
    graph : LayerGraph
        Shape ``(out_channels, in_channels * kernel height * kernel width)``.
    kernel_size : int or pair of int
    stride, padding, dilation : int or pair of int
        As in ``torch.nn.Conv2d``; padding is with zeros.
    kernel : {"auto", "csr", "dense"}
        ``dense`` scatters the edges into the ``(out, in, height, width)`` weight and calls torch's
        convolution: O(n_out * n_in) memory for the step. ``csr`` copies the patch of each output
        position (kernel cells times the input's memory, kept for the backward pass) and multiplies
        them sparsely, O(n_edges) memory otherwise: faster for many output channels. ``auto``
        chooses by a measured rule; `explain_kernel` gives the reason.
    bias : bool
    init : str
        Initial weights, a name of `topokit.nn.INITS`.
    rng : numpy.random.Generator

    Attributes
    ----------
    values : torch.nn.Parameter
        (n_edges,). A value of zero is still an edge.
    bias : torch.nn.Parameter or None
        (out_channels,).
    capture : bool
        As in `SparseLinear`; each output position is a sample.

    Raises
    ------
    ValueError
        If the graph's input units are not a multiple of the kernel's cells.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 4, 20, 35], (2, 18))
    >>> conv = SparseConv2d(graph, 3, padding=1, rng=np.random.default_rng(0))
    >>> conv.in_channels, conv(torch.ones(1, 2, 5, 5)).shape
    (2, torch.Size([1, 2, 5, 5]))
    """

    def __init__(
        self,
        graph: LayerGraph,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        *,
        dilation: int | Pair = 1,
        kernel: str = "auto",
        bias: bool = True,
        init: str = "he",
        rng: np.random.Generator | int,
    ) -> None:
        rng = as_generator(rng)
        super().__init__()
        self.kernel_size = _pair(kernel_size)
        self.stride, self.padding = _pair(stride), _pair(padding)
        self.dilation = _pair(dilation)
        cells = self.kernel_size[0] * self.kernel_size[1]
        if cells < 1 or graph.n_in % cells:
            raise ValueError(
                f"expected a graph whose {graph.n_in} input units are channels times "
                f"{self.kernel_size[0]} x {self.kernel_size[1]} kernel cells"
            )
        self._set_graph(graph, initial_values(init, graph, rng), bias=bias, kernel=kernel)

    @property
    def in_channels(self) -> int:
        """Number of input channels."""
        return self.n_in // (self.kernel_size[0] * self.kernel_size[1])

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        return self.n_out

    @property
    def weight(self) -> torch.Tensor:
        """The dense (out_channels, in_channels, height, width) weight, computed at each access."""
        return self.to_dense().view(self.n_out, self.in_channels, *self.kernel_size)

    def choose_kernel(self) -> tuple[str, str]:
        """Return the kernel in use and the reason in words."""
        if self.kernel != "auto":
            return self.kernel, "asked for"
        if self.values.device.type != "cpu":
            return "dense", "torch's convolution is faster on devices other than the CPU"
        sparse = GATHER_CHANNELS + EDGE_CELLS * self.density * self.n_out
        word = (
            f"{self.n_out} output channels at density {self.density:.2g}; computed sparsely they "
            f"cost as much as {sparse:.0f} dense ones"
        )
        return ("csr" if sparse < self.n_out else "dense"), word

    @layer_forward
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, in_channels, height, width), or one sample without the batch dimension."""
        if self.choose_kernel()[0] == "dense" or x.ndim == 3:
            y = conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)
        else:
            patches = self._patches(x)
            flat = patches.transpose(0, 1).flatten(1)  # (n_in, batch * positions), one copy
            y = edge_product(flat.t(), self.values, self.bias, self.edges, "csr")
            y = y.t().view(self.n_out, x.shape[0], *self._output_size(x)).transpose(0, 1)
        if self.capture:
            self._record(x, y)
        return y

    def _patches(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input values under the kernel, (batch, n_in, positions)."""
        return unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)

    def _output_size(self, x: torch.Tensor) -> Pair:
        height, width = (
            (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, pad, dilation, kernel, stride in zip(
                x.shape[-2:], self.padding, self.dilation, self.kernel_size, self.stride,
                strict=True,
            )
        )  # fmt: skip
        return height, width

    def _samples(self, name: str, captured: torch.Tensor) -> torch.Tensor:
        captured = captured if captured.ndim == 4 else captured[None]
        if name == "inputs":
            return self._patches(captured).transpose(1, 2)
        return captured.permute(0, 2, 3, 1)

    @classmethod
    def from_dense(
        cls, conv: nn.Conv2d, graph: LayerGraph | None = None, *, kernel: str = "auto"
    ) -> SparseConv2d:
        """Return a sparse layer with the weights and bias of a dense convolution at some edges.

        Parameters
        ----------
        conv : torch.nn.Conv2d
            With one group, and zero padding given by numbers.
        graph : LayerGraph, optional
            By default the positions where the weight is not zero.

        Raises
        ------
        ValueError
            If it has several groups or another padding, or the shapes differ.
        """
        if conv.groups != 1 or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise ValueError(f"expected one group and zero padding given by numbers, got {conv}")
        weight = conv.weight.detach().flatten(1)
        if graph is None:
            ids = torch.nonzero(weight.reshape(-1)).reshape(-1).cpu().numpy()
            graph = LayerGraph.from_edge_ids(ids, tuple(weight.shape))  # type: ignore[arg-type]
        if graph.shape != tuple(weight.shape):
            raise ValueError(f"expected a graph of shape {tuple(weight.shape)}, got {graph.shape}")
        layer = cls(
            graph,
            _pair(conv.kernel_size),
            _pair(conv.stride),
            _pair(conv.padding),
            dilation=_pair(conv.dilation),
            kernel=kernel,
            bias=conv.bias is not None,
            init="zeros",
            rng=np.random.default_rng(0),
        ).to(weight)
        layer.take(weight, conv.bias)
        return layer.train(conv.training)

    def extra_repr(self) -> str:
        """Sizes, edges and kernel."""
        return (
            f"{self.in_channels} -> {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, {self.nnz} edges "
            f"(density {self.density:.3g}), bias={self.bias is not None}, kernel={self.kernel}"
        )


def _pair(value: Any) -> Pair:
    return (value, value) if isinstance(value, int) else tuple(value)
