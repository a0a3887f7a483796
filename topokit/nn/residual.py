"""Residual networks for small images, whose convolutions have weights on the edges of graphs."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from topokit.graph import LayerGraph, Topology
from topokit.nn.activations import WithDropout
from topokit.nn.conv import SparseConv2d
from topokit.nn.layers import SparseLinear
from topokit.tables import as_generator

__all__ = ["Layers", "as_images", "resnet", "resnet_layers", "wide_resnet", "wide_resnet_layers"]

Shapes = dict[str, tuple[int, ...]]
Image = Sequence[int]
Dropped = Callable[[torch.Tensor], torch.Tensor]


class Layers:
    """Makes the layers of a model: sparse ones where the topology has a graph, else dense ones.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        The shapes of all sparse layers, ``(n_out, n_in)`` or ``(n_out, n_in, height, width)``.
    topology : dict of LayerGraph
        Exactly these layers.
    kernel, init : str
        See `SparseLinear`; dense layers have He's normal initial weights.
    rng : numpy.random.Generator

    Raises
    ------
    ValueError
        If a layer is missing, unknown or of another shape.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 5], (2, 3))
    >>> layers = Layers({"fc": (2, 3)}, {"fc": graph}, kernel="auto", init="he", rng=0)
    >>> layers.linear("fc", 3, 2), layers.linear("head", 2, 2, bias=False)
    (SparseLinear(3 -> 2, 2 edges (density 0.333), bias=True, kernel=auto), Linear(in_features=2, \
out_features=2, bias=False))
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        topology: Topology,
        *,
        kernel: str,
        init: str,
        rng: np.random.Generator | int,
    ) -> None:
        expected = {name: (shape[0], math.prod(shape[1:])) for name, shape in shapes.items()}
        found = {name: graph.shape for name, graph in topology.items()}
        if found != expected:
            names = [*expected, *found]
            wrong = next((n for n in names if found.get(n) != expected.get(n)), "")
            words = [
                f"of shape {where[wrong]}" if wrong in where else "absent"
                for where in (expected, found)
            ]
            raise ValueError(
                f"expected the model's {len(expected)} sparse layers, got a topology of "
                f"{len(found)} layers that do not fit: layer {wrong!r} should be {words[0]} and is "
                f"{words[1]}"
            )
        self.topology, self.rng = topology, as_generator(rng)
        self.options: dict[str, Any] = {"kernel": kernel, "init": init, "rng": self.rng}

    def linear(self, name: str, n_in: int, n_out: int, *, bias: bool = True) -> nn.Module:
        """Return a linear layer; its bias starts at 0."""
        if name in self.topology:
            return SparseLinear(self.topology[name], bias=bias, **self.options)
        layer = nn.utils.skip_init(nn.Linear, n_in, n_out, bias=bias)
        return self._filled(layer, n_in)

    def convolution(
        self, name: str, n_in: int, n_out: int, size: int, stride: int = 1
    ) -> nn.Module:
        """Return a convolution without bias, padded so that stride 1 keeps the image's size."""
        if name in self.topology:
            graph: LayerGraph = self.topology[name]
            return SparseConv2d(graph, size, stride, size // 2, bias=False, **self.options)
        layer = nn.utils.skip_init(
            nn.Conv2d, n_in, n_out, size, stride, padding=size // 2, bias=False
        )
        return self._filled(layer, n_in * size * size)

    def _filled(self, layer: Any, fan_in: int) -> nn.Module:
        values = self.rng.standard_normal(tuple(layer.weight.shape)) * math.sqrt(2 / fan_in)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(values))
            if layer.bias is not None:
                layer.bias.zero_()
        return layer


def as_images(x: torch.Tensor, image: Image) -> torch.Tensor:
    """Reshape samples (batch, ...) to images (batch, channels, height, width).

    Raises
    ------
    ValueError
        If a sample has another number of values than an image.

    Examples
    --------
    >>> as_images(torch.ones(2, 12), (3, 2, 2)).shape
    torch.Size([2, 3, 2, 2])
    """
    if x.ndim < 2 or math.prod(x.shape[1:]) != math.prod(image):
        raise ValueError(
            f"expected samples of {' * '.join(map(str, image))} values, (batch, ...), got a batch "
            f"of shape {tuple(x.shape)}"
        )
    return x.reshape(x.shape[0], *image)


class _Basic(nn.Module):
    """Two 3x3 convolutions, each followed by batch norm; a shortcut without parameters."""

    def __init__(self, layers: Layers, name: str, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.stride, self.grown = stride, n_out - n_in
        self.conv1 = layers.convolution(f"{name}.conv1", n_in, n_out, 3, stride)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.conv2 = layers.convolution(f"{name}.conv2", n_out, n_out, 3)
        self.norm2 = nn.BatchNorm2d(n_out)

    def forward(self, x: torch.Tensor, dropped: Dropped) -> torch.Tensor:
        y = dropped(torch.relu(self.norm1(self.conv1(x))))
        y = self.norm2(self.conv2(y))
        short = x[:, :, :: self.stride, :: self.stride]
        if self.grown:  # half of the new channels, all zero, before the old ones, half after them
            before = self.grown // 2
            short = F.pad(short, (0, 0, 0, 0, before, self.grown - before))
        return torch.relu(y + short)


class _PreActivated(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions; a 1x1 one where shapes change."""

    def __init__(self, layers: Layers, name: str, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(n_in)
        self.conv1 = layers.convolution(f"{name}.conv1", n_in, n_out, 3, stride)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.conv2 = layers.convolution(f"{name}.conv2", n_out, n_out, 3)
        self.shortcut: nn.Module | None = None
        if stride != 1 or n_in != n_out:
            self.shortcut = layers.convolution(f"{name}.shortcut", n_in, n_out, 1, stride)

    def forward(self, x: torch.Tensor, dropped: Dropped) -> torch.Tensor:
        active = torch.relu(self.norm1(x))
        y = dropped(torch.relu(self.norm2(self.conv1(active))))
        return self.conv2(y) + (x if self.shortcut is None else self.shortcut(active))


class SparseResNet(WithDropout):
    """A convolution, three stages of residual blocks, the mean over positions, a linear layer.

    Made by `resnet` and `wide_resnet`.

    Attributes
    ----------
    cells : int
        Input values under the kernel at all positions of the largest layer, for one sample; it
        limits how many samples are evaluated at once.
    """

    def __init__(
        self,
        layers: Layers,
        block: Callable[..., nn.Module],
        sizes: Sequence[int],
        blocks: int,
        image: Image,
        classes: int,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.image = tuple(int(n) for n in image)
        depth, height, width = self.image
        inputs = [depth, *(n / 4 ** max(0, stage - 1) for stage, n in enumerate(sizes))]
        self.cells = math.ceil(9 * max(inputs) * height * width)
        self.conv1 = layers.convolution("conv1", depth, sizes[0], 3)
        late = block is _PreActivated
        self.norm: nn.Module = nn.Identity() if late else nn.BatchNorm2d(sizes[0])
        n_in = sizes[0]
        for stage, n_out in enumerate(sizes[1:], start=1):
            made: OrderedDict[str, nn.Module] = OrderedDict()
            for at in range(1, blocks + 1):
                stride = 2 if stage > 1 and at == 1 else 1
                name = f"stage{stage}.block{at}"
                made[f"block{at}"] = block(layers, name, n_in, n_out, stride)
                n_in = n_out
            self.add_module(f"stage{stage}", nn.Sequential(made))
        self.stages = len(sizes) - 1
        self.last_norm: nn.Module = nn.BatchNorm2d(n_in) if late else nn.Identity()
        self.fc = layers.linear("fc", n_in, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, ...) samples, reshaped to images, to (batch, classes) scores."""
        x = self.conv1(as_images(x, self.image))
        if not isinstance(self.norm, nn.Identity):
            x = torch.relu(self.norm(x))
        for stage in range(1, self.stages + 1):
            blocks: Any = self.get_submodule(f"stage{stage}")
            for block in blocks:
                x = block(x, self.dropped)
        if not isinstance(self.last_norm, nn.Identity):
            x = torch.relu(self.last_norm(x))
        return self.fc(x.mean((2, 3)))


def check_dense(dense: Sequence[str], kinds: Sequence[str]) -> None:
    """Raise a ValueError unless the layers that stay dense are named by their kinds.

    Examples
    --------
    >>> check_dense(["fc"], ["conv1", "fc"])
    """
    if isinstance(dense, str) or not set(dense) <= set(kinds):
        raise ValueError(f"model.dense: expected a list of {', '.join(kinds)}, got {dense!r}")


def _shapes(
    sizes: Sequence[int], blocks: int, image: Image, classes: int, dense: Sequence[str], wide: bool
) -> Shapes:
    """Return the shapes of the sparse layers; checks all sizes."""
    if len(image) != 3 or min(image) < 1 or min(sizes) < 1 or classes < 2:
        raise ValueError(
            "expected an image of channels, height and width, channels of at least 1 and 2 or more "
            f"classes, got {list(image)}, {list(sizes)} and {classes}"
        )
    kinds = ("conv1", "shortcut", "fc") if wide else ("conv1", "fc")
    check_dense(dense, kinds)
    shapes: Shapes = {"conv1": (int(sizes[0]), int(image[0]), 3, 3)}
    n_in = int(sizes[0])
    for stage, n_out in enumerate(map(int, sizes[1:]), start=1):
        for at in range(1, blocks + 1):
            name = f"stage{stage}.block{at}"
            shapes[f"{name}.conv1"] = (n_out, n_in, 3, 3)
            shapes[f"{name}.conv2"] = (n_out, n_out, 3, 3)
            if wide and (n_in != n_out or (stage > 1 and at == 1)):
                shapes[f"{name}.shortcut"] = (n_out, n_in, 1, 1)
            n_in = n_out
    shapes["fc"] = (int(classes), n_in)
    kept = {name for name in shapes if name in dense}
    kept |= {name for name in shapes if "shortcut" in dense and name.endswith(".shortcut")}
    return {name: shape for name, shape in shapes.items() if name not in kept}


def resnet_layers(
    *,
    depth: int = 20,
    channels: Sequence[int] = (16, 32, 64),
    image: Sequence[int] = (3, 32, 32),
    classes: int = 10,
    dense: Sequence[str] = ("conv1",),
) -> Shapes:
    """Return the shapes of the sparse layers of `resnet`, by name, input to output.

    Parameters and errors are those of `resnet`.

    Examples
    --------
    >>> list(resnet_layers(depth=8).items())[:2]
    [('stage1.block1.conv1', (16, 16, 3, 3)), ('stage1.block1.conv2', (16, 16, 3, 3))]
    """
    if not len(channels):
        raise ValueError("model.channels: expected the channels of each stage, got none")
    if list(channels) != sorted(channels):  # shortcuts without parameters can only add channels
        raise ValueError(
            "model.channels: expected no stage with fewer channels than the one before, got "
            f"{list(channels)}"
        )
    blocks, rest = divmod(depth - 2, 2 * len(channels))
    if rest or blocks < 1:
        raise ValueError(
            f"model.depth: expected {2 * len(channels)}n + 2 layers for {len(channels)} stages, "
            f"such as {2 * len(channels) * 3 + 2}, got {depth}"
        )
    return _shapes([channels[0], *channels], blocks, image, classes, dense, wide=False)


def resnet(
    topology: Topology,
    *,
    depth: int = 20,
    channels: Sequence[int] = (16, 32, 64),
    image: Sequence[int] = (3, 32, 32),
    classes: int = 10,
    dense: Sequence[str] = ("conv1",),
    dropout: float = 0.0,
    kernel: str = "auto",
    init: str = "he",
    rng: np.random.Generator | int,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Build the residual network for CIFAR of He et al., with sparse convolutions.

    A 3x3 convolution and three stages of blocks with two 3x3 convolutions each, all followed by
    batch norm; the second and the third stage halve the image. Shortcuts are the paper's option A:
    they have no parameters, skip every other position and add channels of zeros.

    Parameters
    ----------
    topology : dict of LayerGraph
        The layers of `resnet_layers`, each of shape ``(n_out, n_in * height * width)``.
    depth : int
        Number of layers with weights: 6n + 2 for three stages of n blocks.
    channels : sequence of int
        Channels of each stage.
    image : sequence of int
        Channels, height and width of a sample.
    classes : int
    dense : sequence of {"conv1", "fc"}
        Layers that stay dense; by default the first one, as in RigL, whose last one is sparse.
        ITOP's allocation may make the first sparse, too: ``[]``. Batch norm is always dense.
    dropout : float
        Between the convolutions of a block, in [0, 1); 0 in the paper.
    kernel, init : str
        See `SparseConv2d`; dense layers have He's normal initial weights.
    rng : numpy.random.Generator
        Draws the initial weights, layer by layer.
    generator : torch.Generator, optional
        Draws dropout masks; by default one seeded from `rng`.

    Returns
    -------
    torch.nn.Module
        Its outputs are scores, before softmax. With all edges it has 269,722 parameters at depth
        20 and 464,154 at depth 32 (0.27M and 0.46M in the paper).

    Raises
    ------
    ValueError
        If sizes do not fit together, or the topology has other layers.

    References
    ----------
    .. [1] He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016, section
       4.2.
    .. [2] Evci et al., "Rigging the lottery: making all tickets winners", ICML 2020 (what is
       sparse).
    .. [3] Liu et al., "Do we actually need dense over-parameterization? In-time
       over-parameterization in sparse training", ICML 2021.

    Examples
    --------
    >>> from topokit.generators import generate_layers
    >>> sizes = {"depth": 8, "image": (1, 8, 8)}
    >>> topology = generate_layers(resnet_layers(**sizes), "erdos_renyi", density=0.1, rng=0)
    >>> resnet(topology, **sizes, rng=0)(torch.ones(2, 64)).shape
    torch.Size([2, 10])
    """
    shapes = resnet_layers(
        depth=depth, channels=channels, image=image, classes=classes, dense=dense
    )
    rng = as_generator(rng)
    layers = Layers(shapes, topology, kernel=kernel, init=init, rng=rng)
    sizes = [channels[0], *channels]
    return SparseResNet(
        layers, _Basic, sizes, (depth - 2) // (2 * len(channels)), image, classes,
        dropout=dropout, generator=generator, rng=rng,
    )  # fmt: skip


def wide_resnet_layers(
    *,
    depth: int = 16,
    widen: int = 8,
    image: Sequence[int] = (3, 32, 32),
    classes: int = 10,
    dense: Sequence[str] = ("conv1",),
) -> Shapes:
    """Return the shapes of the sparse layers of `wide_resnet`, by name, input to output.

    Parameters and errors are those of `wide_resnet`.

    Examples
    --------
    >>> list(wide_resnet_layers(depth=10, widen=2))[:3]
    ['stage1.block1.conv1', 'stage1.block1.conv2', 'stage1.block1.shortcut']
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1 or widen < 1:
        raise ValueError(
            f"model.depth: expected 6n + 4 layers such as 16 or 22, and a widen of at least 1, got "
            f"{depth} and {widen}"
        )
    sizes = [16, 16 * widen, 32 * widen, 64 * widen]
    return _shapes(sizes, blocks, image, classes, dense, wide=True)


def wide_resnet(
    topology: Topology,
    *,
    depth: int = 16,
    widen: int = 8,
    image: Sequence[int] = (3, 32, 32),
    classes: int = 10,
    dense: Sequence[str] = ("conv1",),
    dropout: float = 0.0,
    kernel: str = "auto",
    init: str = "he",
    rng: np.random.Generator | int,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Build a wide residual network (WRN-depth-widen) with sparse convolutions.

    Batch norm and ReLU precede each convolution; where a block changes the shape its shortcut is a
    1x1 convolution.

    Parameters
    ----------
    topology : dict of LayerGraph
        The layers of `wide_resnet_layers`, each of shape ``(n_out, n_in * height * width)``.
    depth : int
        6n + 4 for three stages of n blocks.
    widen : int
        The stages have 16, 32 and 64 times as many channels.
    image : sequence of int
        Channels, height and width of a sample.
    classes : int
    dense : sequence of {"conv1", "shortcut", "fc"}
        Layers that stay dense; by default the first one, as in RigL.
    dropout : float
        Between the convolutions of a block, in [0, 1).
    kernel, init, rng, generator
        As for `resnet`.

    Returns
    -------
    torch.nn.Module
        Its outputs are scores, before softmax. With all edges, WRN-16-8 has 10,961,370 parameters
        (11.0M in the paper).

    Raises
    ------
    ValueError
        If sizes do not fit together, or the topology has other layers.

    References
    ----------
    .. [1] Zagoruyko, Komodakis, "Wide residual networks", BMVC 2016.
    .. [2] Evci et al., "Rigging the lottery: making all tickets winners", ICML 2020 (what is
       sparse).

    Examples
    --------
    >>> from topokit.generators import generate_layers
    >>> sizes = {"depth": 10, "widen": 1, "image": (1, 8, 8)}
    >>> topology = generate_layers(wide_resnet_layers(**sizes), "erdos_renyi", density=0.1, rng=0)
    >>> wide_resnet(topology, **sizes, rng=0)(torch.ones(2, 64)).shape
    torch.Size([2, 10])
    """
    shapes = wide_resnet_layers(depth=depth, widen=widen, image=image, classes=classes, dense=dense)
    rng = as_generator(rng)
    layers = Layers(shapes, topology, kernel=kernel, init=init, rng=rng)
    sizes = [16, 16 * widen, 32 * widen, 64 * widen]
    return SparseResNet(
        layers, _PreActivated, sizes, (depth - 4) // 6, image, classes,
        dropout=dropout, generator=generator, rng=rng,
    )  # fmt: skip
