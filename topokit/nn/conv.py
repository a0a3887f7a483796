"""Convolutions with weights on the edges of a graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from topokit.graph import LayerGraph
from topokit.nn.captures import Call
from topokit.nn.kernels import check_input, check_types, edge_product
from topokit.nn.kernels.ops import Edges, autocast_on, dense_weight
from topokit.nn.kinds import graph_of, matrix_of, weights_of
from topokit.nn.layers import EdgeLayer, initial_values
from topokit.tables import as_generator

__all__ = [
    "SparseConv1d",
    "SparseConv2d",
    "SparseConv3d",
    "SparseConvTranspose1d",
    "SparseConvTranspose2d",
    "SparseConvTranspose3d",
]

Sizes = int | Sequence[int]
CONV = (F.conv1d, F.conv2d, F.conv3d)
CONV_TRANSPOSE = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)

# How a convolution is computed sparsely.
#
# Idea: copy the input so that every output position has a column with all input values under the
# kernel, its patch (`torch.nn.functional.unfold`). The convolution is then one sparse product,
# with the patches of all samples as its batch, and has the sparse layer's gradients. The graph of
# a grouped convolution has edges within the groups only, so groups need no code of their own. A
# transposed convolution is one of stride 1 over an input with `stride - 1` zeros between its
# values and a border as wide as the kernel, the kernel's cells taken in reverse.
#
# Cost: the copy is the number of the kernel's cells times the input (times the strides, if
# transposed), made forward and kept for the backward pass, whatever the number of edges; then
# O(n_edges * samples * positions).
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


def _checked(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Decorate a forward method that has other ways than `edge_product`: check its input.

    The input's dtype and device are those of the values. Under automatic mixed precision an input
    of another floating-point type is converted to that of the values, and the result has it,
    whatever the kernel.

    Raises
    ------
    TypeError
        If the dtypes or devices differ.
    """

    @wraps(forward)
    def wrapped(self: EdgeLayer, x: torch.Tensor, **options: Any) -> torch.Tensor:
        check_input(x)
        if autocast_on(x):
            with torch.autocast(x.device.type, enabled=False):
                x = x.to(self.values.dtype) if x.is_floating_point() else x
                return wrapped(self, x, **options)
        check_types(x, self.values, self.bias)
        return forward(self, x, **options)

    return wrapped


class _Convolution(EdgeLayer):
    """What convolutions of all dimensions share."""

    dims: ClassVar[int]
    stride: tuple[int, ...]

    def __init__(
        self,
        graph: LayerGraph,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        *,
        dilation: Sizes = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        kernel: str = "auto",
        bias: bool = True,
        init: str = "he",
        rng: np.random.Generator | int,
    ) -> None:
        rng = as_generator(rng)
        super().__init__()
        self.kernel_size = self._sizes("kernel_size", kernel_size)
        self.stride = self._sizes("stride", stride)
        self.dilation = self._sizes("dilation", dilation)
        self.padding = padding if isinstance(padding, str) else self._sizes("padding", padding)
        self.padding_mode = padding_mode
        self.groups = groups
        cells = math.prod(self.kernel_size)
        if cells < 1 or graph.n_in % cells:
            words = " x ".join(str(size) for size in self.kernel_size)
            raise ValueError(
                f"expected a graph whose {graph.n_in} input units are channels times "
                f"{words} kernel cells"
            )
        if graph.groups != groups:
            graph = LayerGraph(graph.shape, graph.indptr, graph.indices, groups)
        self._check_padding()
        self._set_graph(graph, initial_values(init, graph, rng), bias=bias, kernel=kernel)

    def _check_padding(self) -> None:
        modes = ("zeros", "reflect", "replicate", "circular")
        if self.padding_mode not in modes:
            raise ValueError(
                f"expected a padding_mode of {', '.join(modes)}, got {self.padding_mode!r}"
            )
        if isinstance(self.padding, str) and self.padding not in ("same", "valid"):
            raise ValueError(
                f"expected padding as numbers, 'same' or 'valid', got {self.padding!r}"
            )
        if self.padding == "same" and any(step != 1 for step in self.stride):
            raise ValueError(f"expected a stride of 1 with padding='same', got {self.stride}")

    @classmethod
    def _sizes(cls, name: str, value: Sizes) -> tuple[int, ...]:
        sizes = (value,) * cls.dims if isinstance(value, int) else tuple(value)
        if len(sizes) != cls.dims:
            raise ValueError(f"expected {name} as one or {cls.dims} integers, got {value!r}")
        return sizes

    @property
    def in_channels(self) -> int:
        """Number of input channels."""
        return self.n_in // math.prod(self.kernel_size)

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        return self.n_out

    def _weight(self) -> torch.Tensor:
        return self._possible().view(self.n_out, -1, *self.kernel_size)

    def _possible(self) -> torch.Tensor:
        """Return the (n_out, n_in / groups) matrix of the possible edges, zeros at absent ones."""
        if self.groups == 1:
            return self.to_dense()
        edges = self.edges
        if isinstance(edges, Edges):
            return dense_weight(self.values, edges, self.groups)
        graph = edges.graph
        cells = self.values.new_zeros(graph.n_possible)
        ids = torch.from_numpy(graph.ids_in_groups).to(cells.device)
        return cells.scatter(0, ids, self.values).view(graph.n_out, -1)

    def choose_kernel(self) -> tuple[str, str]:
        """Return the kernel in use and the reason in words."""
        if self.kernel != "auto":
            return self.kernel, "asked for"
        if self.values.device.type != "cpu":
            return "dense", "torch's convolution is faster on devices other than the CPU"
        gathered, weighed, word = self._relative_costs()
        sparse = gathered + EDGE_CELLS * weighed
        word = (
            f"{self.n_out} output channels at density {self.density:.2g}{word}; computed sparsely "
            f"they cost as much as {sparse:.0f} dense ones"
        )
        return ("csr" if sparse < self.n_out else "dense"), word

    def _relative_costs(self) -> tuple[float, float, str]:
        """Return the costs of copying and of edges, in dense output channels, and a word.

        A dense channel of a grouped convolution costs 1 / groups of an ordinary one.
        """
        word = "" if self.groups == 1 else f" in {self.groups} groups"
        return GATHER_CHANNELS * self.groups, self.density * self.n_out, word

    @_checked
    def forward(self, x: torch.Tensor, *, relu: bool = False) -> torch.Tensor:
        """Map ``(batch, in_channels, *size)``, followed by ReLU if `relu`.

        Or one sample, without the batch dimension.
        """
        fused = False
        if self.choose_kernel()[0] == "dense":
            y = self._dense(x)
        else:
            fused = relu and not self.capture  # as in `SparseLinear`
            batch = x if x.ndim == self.dims + 2 else x[None]
            patches, size = self._patches(batch)
            flat = patches.transpose(0, 1).flatten(1)  # (n_in, batch * positions), one copy
            y = edge_product(flat.t(), self.values, self.bias, self.edges, "csr", relu=fused)
            y = y.t().view(self.n_out, batch.shape[0], *size).transpose(0, 1)
            y = y if x.ndim == self.dims + 2 else y[0]
        if self.capture:
            y = self._record(x, y)
        return torch.relu(y) if relu and not fused else y

    def _dense(self, x: torch.Tensor) -> torch.Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._borders(), mode=self.padding_mode), 0
        function: Any = CONV[self.dims - 1]
        weight = self._weight()
        return function(x, weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def _borders(self) -> list[int]:
        """Return the padding before and after, the last dimension first, as `pad` wants it."""
        borders = []
        for i in reversed(range(self.dims)):
            if isinstance(self.padding, str):
                total = self.dilation[i] * (self.kernel_size[i] - 1)
                total = total if self.padding == "same" else 0
                borders += [total // 2, total - total // 2]
            else:
                borders += [self.padding[i]] * 2
        return borders

    def _patches(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Return the input values under the kernel, (batch, n_in, positions), and output sizes."""
        borders = self._borders()
        if any(borders):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, borders, mode=mode)
        return _unfolded(x, self.kernel_size, self.dilation, self.stride)

    def _samples(self, name: str, call: Call) -> torch.Tensor:
        captured = super()._samples(name, call)
        captured = captured if captured.ndim == self.dims + 2 else captured[None]
        if name == "inputs":
            return self._patches(captured)[0].transpose(1, 2)
        return captured.movedim(1, -1)

    @classmethod
    def _options(cls, conv: Any) -> dict[str, Any]:
        """Return the arguments that a dense convolution was made with."""
        names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        return {name: getattr(conv, name) for name in names}

    @classmethod
    def from_dense(
        cls, conv: Any, graph: LayerGraph | None = None, *, kernel: str = "auto"
    ) -> Self:
        """Return a sparse layer with the weights and bias of a dense convolution at some edges.

        Parameters
        ----------
        conv : torch.nn.Module
            The convolution of torch with the same dimensions.
        graph : LayerGraph, optional
            By default the positions where the weight is not zero.
        kernel : str
            As of the class.

        Raises
        ------
        TypeError
            If it is another module.
        ValueError
            If the shapes differ, or an edge lies outside the groups.
        """
        dense = getattr(nn, cls.__name__.removeprefix("Sparse"))
        if not isinstance(conv, dense):
            raise TypeError(f"expected a torch.nn.{dense.__name__}, got {type(conv).__name__}")
        [stored] = weights_of(conv) or []
        weight = matrix_of(stored, conv.weight.detach())
        graph = graph_of(stored, conv.weight) if graph is None else graph
        shape = (weight.shape[0], weight.shape[1] * conv.groups)
        if graph.shape != shape:
            raise ValueError(f"expected a graph of shape {shape}, got {graph.shape}")
        layer = cls(
            graph, **cls._options(conv), kernel=kernel, bias=conv.bias is not None,
            init="zeros", rng=np.random.default_rng(0),
        ).to(weight)  # fmt: skip
        layer.take(weight, conv.bias)
        return layer.as_trained(conv)

    def extra_repr(self) -> str:
        """Sizes, edges and kernel."""
        words = [
            f"{self.in_channels} -> {self.out_channels}", f"kernel_size={self.kernel_size}",
            f"stride={self.stride}", f"padding={self.padding!r}",
        ]  # fmt: skip
        words += [f"groups={self.groups}"] * (self.groups > 1)
        words += [f"padding_mode={self.padding_mode!r}"] * (self.padding_mode != "zeros")
        return ", ".join(words) + (
            f", {self.nnz} edges (density {self.density:.3g}), "
            f"bias={self.bias is not None}, kernel={self.kernel}"
        )


def _unfolded(
    x: torch.Tensor, kernel: Sequence[int], dilation: Sequence[int], stride: Sequence[int]
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Return patches (batch, channels * cells, positions) of a padded input, and the positions.

    `torch.nn.functional.unfold` takes images. A signal is an image of height 1; the depths of a
    volume are unfolded first and become samples, their cells channels.
    """
    size = tuple(
        (length - reach * (cells - 1) - 1) // step + 1
        for length, cells, reach, step in zip(x.shape[2:], kernel, dilation, stride, strict=True)
    )
    if min(size) < 1:
        raise ValueError(
            f"expected an input at least as large as the kernel, got {tuple(x.shape[2:])} with "
            f"padding for a kernel of {tuple(kernel)} and dilation {tuple(dilation)}"
        )
    if len(size) == 1:
        one = (1, *kernel), (1, *dilation), 0, (1, *stride)
        return F.unfold(x[:, :, None], *one), size
    if len(size) == 2:
        return F.unfold(x, tuple(kernel), tuple(dilation), 0, tuple(stride)), size
    deep = x.unfold(2, dilation[0] * (kernel[0] - 1) + 1, stride[0])[..., :: dilation[0]]
    deep = deep.permute(0, 2, 1, 5, 3, 4).flatten(2, 3).flatten(0, 1)
    flat, _ = _unfolded(deep, kernel[1:], dilation[1:], stride[1:])
    return flat.view(x.shape[0], size[0], *flat.shape[1:]).transpose(1, 2).flatten(2), size


class SparseConv2d(_Convolution):
    """A two-dimensional convolution with weights on the edges of a graph.

    The graph is that of all pairs of channels: output channels against input channels times kernel
    cells, as ``weight.flatten(1)`` without groups; `topokit.graph.convert.channel_graph` folds it
    to channels. `SparseConv1d` and `SparseConv3d` are the same in one and three dimensions.

    Parameters
    ----------
    graph : LayerGraph
        Shape ``(out_channels, in_channels * kernel height * kernel width)``.
    kernel_size : int or sequence of int
        One for all dimensions, or one for each.
    stride, dilation : int or sequence of int
        As in ``torch.nn.Conv2d``.
    padding : int or sequence of int, or {"same", "valid"}
    groups : int
        Edges must lie within the groups, and rules grow only such edges.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
    kernel : {"auto", "csr", "dense"}
        ``dense`` scatters the edges into the weight in torch's shape and calls torch's
        convolution: O(n_out * n_in / groups) memory for the step. ``csr`` copies the patch of each
        output position (kernel cells times the input's memory, kept for the backward pass) and
        multiplies them sparsely, O(n_edges) memory otherwise: faster for many output channels.
        ``auto`` chooses by a measured rule; `explain_kernel` gives the reason.
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
    weight : torch.Tensor
        The dense ``(out_channels, in_channels / groups, height, width)`` weight.
    capture : bool
        As in `SparseLinear`; each output position is a sample.

    Raises
    ------
    ValueError
        If the graph's input units are not a multiple of the kernel's cells, an edge joins two
        groups, or an option is unknown.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 4, 20, 35], (2, 18))
    >>> conv = SparseConv2d(graph, 3, padding=1, rng=np.random.default_rng(0))
    >>> conv.in_channels, conv(torch.ones(1, 2, 5, 5)).shape
    (2, torch.Size([1, 2, 5, 5]))
    """

    dims = 2


class SparseConv1d(_Convolution):
    """A one-dimensional convolution on the edges of a graph; see `SparseConv2d`.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 4, 11], (2, 6))
    >>> conv = SparseConv1d(graph, 3, padding="same", rng=0)
    >>> conv(torch.ones(1, 2, 7)).shape
    torch.Size([1, 2, 7])
    """

    dims = 1


class SparseConv3d(_Convolution):
    """A three-dimensional convolution on the edges of a graph; see `SparseConv2d`.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 4, 11], (2, 8))
    >>> conv = SparseConv3d(graph, 2, rng=0)
    >>> conv(torch.ones(1, 1, 3, 3, 3)).shape
    torch.Size([1, 2, 2, 2, 2])
    """

    dims = 3


class _Transposed(_Convolution):
    """What transposed convolutions of all dimensions share."""

    def __init__(
        self,
        graph: LayerGraph,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        *,
        output_padding: Sizes = 0,
        **options: Any,
    ) -> None:
        super().__init__(graph, kernel_size, stride, padding, **options)
        self.output_padding = self._used = self._sizes("output_padding", output_padding)
        for extra, step, reach in zip(self.output_padding, self.stride, self.dilation, strict=True):
            if not 0 <= extra < max(step, reach):
                raise ValueError(
                    "expected an output_padding smaller than the stride or the dilation, got "
                    f"{self.output_padding}"
                )

    def _check_padding(self) -> None:
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            raise ValueError(
                "expected padding given by numbers and padding_mode 'zeros' of a transposed "
                f"convolution, got {self.padding!r} and {self.padding_mode!r}"
            )

    def _weight(self) -> torch.Tensor:
        n_out, groups = self.n_out // self.groups, self.groups
        blocks = self._possible().view(groups, n_out, -1, *self.kernel_size)
        return blocks.transpose(1, 2).reshape(self.in_channels, n_out, *self.kernel_size)

    def forward(
        self,
        x: torch.Tensor,
        output_size: Sequence[int] | None = None,
        *,
        relu: bool = False,
    ) -> torch.Tensor:
        """Map ``(batch, in_channels, *size)``, followed by ReLU if `relu`.

        `output_size`, the size of the output, is chosen instead of `output_padding`, as in torch.
        """
        self._used = self.output_padding
        if output_size is not None:
            self._used = self._padding_for(x, tuple(output_size)[-self.dims :])
        return super().forward(x, relu=relu)

    def _padding_for(self, x: torch.Tensor, wanted: tuple[int, ...]) -> tuple[int, ...]:
        """Return the output padding that makes the output as large as wanted."""
        least = self._least(x)
        extra = tuple(n - low for n, low in zip(wanted, least, strict=True))
        if any(not 0 <= n < step for n, step in zip(extra, self.stride, strict=True)):
            most = [low + step - 1 for low, step in zip(least, self.stride, strict=True)]
            raise ValueError(f"expected an output_size from {least} to {most}, got {wanted}")
        return extra

    def _least(self, x: torch.Tensor) -> list[int]:
        """Return the size of the output without output padding."""
        padding: Any = self.padding
        return [
            (n - 1) * step - 2 * pad + reach * (cells - 1) + 1
            for n, step, pad, reach, cells in zip(
                x.shape[-self.dims :], self.stride, padding, self.dilation,
                self.kernel_size, strict=True,
            )
        ]  # fmt: skip

    def _samples(self, name: str, call: Call) -> torch.Tensor:
        sizes = zip(call.shape[-self.dims :], self._least(call.inputs), strict=True)
        self._used = tuple(n - low for n, low in sizes)
        return super()._samples(name, call)

    def _dense(self, x: torch.Tensor) -> torch.Tensor:
        function: Any = CONV_TRANSPOSE[self.dims - 1]
        return function(
            x, self._weight(), self.bias, self.stride, self.padding, self._used,
            self.groups, self.dilation,
        )  # fmt: skip

    def _patches(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Return the input values that each output position reads, in the weight's order of cells.

        The kernel is laid, reversed, over the input spread by zeros.
        """
        strides: Any = self.stride
        wide = [(n - 1) * step + 1 for n, step in zip(x.shape[2:], strides, strict=True)]
        spread = x.new_zeros(*x.shape[:2], *wide)
        places: Any = (..., *(slice(None, None, step) for step in strides))
        spread[places] = x
        borders: list[int] = []
        for i in reversed(range(self.dims)):
            border = self.dilation[i] * (self.kernel_size[i] - 1) - int(self.padding[i])
            borders += [border, border + self._used[i]]
        patches, size = _unfolded(
            F.pad(spread, borders), self.kernel_size, self.dilation, (1,) * self.dims
        )
        cells = math.prod(self.kernel_size)
        by_cell = patches.view(x.shape[0], self.in_channels, cells, patches.shape[-1])
        return by_cell.flip(2).flatten(1, 2), size

    def _relative_costs(self) -> tuple[float, float, str]:
        """As above; a dense transposed convolution does not multiply the zeros between values."""
        gathered, weighed, word = super()._relative_costs()
        zeros = math.prod(self.stride)
        return gathered * zeros, weighed * zeros, f"{word}, transposed"

    @classmethod
    def _options(cls, conv: Any) -> dict[str, Any]:
        return {**super()._options(conv), "output_padding": conv.output_padding}


class SparseConvTranspose2d(_Transposed):
    """A two-dimensional transposed convolution with weights on the edges of a graph.

    `SparseConvTranspose1d` and `SparseConvTranspose3d` are the same in one and three dimensions.

    Parameters
    ----------
    graph : LayerGraph
        Shape ``(out_channels, in_channels * kernel height * kernel width)``, the cells in the order
        of torch's weight, ``(in_channels, out_channels / groups, height, width)``.
    kernel_size, stride, padding, output_padding : int or sequence of int
        As in ``torch.nn.ConvTranspose2d``.
    **options
        As for `SparseConv2d`. Computed sparsely, the zeros that the stride puts between the input's
        values are multiplied, too.

    Raises
    ------
    ValueError
        As for `SparseConv2d`.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 4, 20, 35], (2, 18))
    >>> conv = SparseConvTranspose2d(graph, 3, stride=2, rng=0)
    >>> conv.weight.shape, conv(torch.ones(1, 2, 5, 5)).shape
    (torch.Size([2, 2, 3, 3]), torch.Size([1, 2, 11, 11]))
    """

    dims = 2


class SparseConvTranspose1d(_Transposed):
    """A one-dimensional transposed convolution; see `SparseConvTranspose2d`.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 4], (2, 6))
    >>> SparseConvTranspose1d(graph, 3, stride=2, rng=0)(torch.ones(1, 2, 4)).shape
    torch.Size([1, 2, 9])
    """

    dims = 1


class SparseConvTranspose3d(_Transposed):
    """A three-dimensional transposed convolution; see `SparseConvTranspose2d`.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 4], (2, 8))
    >>> SparseConvTranspose3d(graph, 2, rng=0)(torch.ones(1, 1, 2, 2, 2)).shape
    torch.Size([1, 2, 3, 3, 3])
    """

    dims = 3
