"""Networks built from a topology: new, resumed and analysed models are all made here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from topokit.graph import Topology, check_chain
from topokit.nn.activations import ACTIVATIONS, WithDropout
from topokit.nn.conv import SparseConv2d
from topokit.nn.fused import activated, chained, dropped_within
from topokit.nn.language import gpt, gpt_layers
from topokit.nn.layers import SparseLinear
from topokit.nn.rbm import set_rbm
from topokit.nn.residual import (
    as_images,
    resnet,
    resnet_layers,
    wide_resnet,
    wide_resnet_layers,
)
from topokit.tables import Table, as_generator, parameters_of

__all__ = [
    "LAYERS",
    "MODELS",
    "SEQUENCES",
    "UNSUPERVISED",
    "SparseCNN",
    "SparseMLP",
    "inputs_of",
    "layers_for",
    "set_cnn",
    "set_mlp",
]

_RELU = nn.ReLU()


class SparseMLP(WithDropout):
    """Sparse layers ``fc1``, ``fc2``, ... with activations ``act1``, ... between them.

    Made by `set_mlp`. Dropout draws from `generator` alone, whose state is copied and pickled with
    the model.
    """

    def __init__(
        self,
        layers: dict[str, SparseLinear],
        activations: list[nn.Module],
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.names = tuple(layers)
        for name, layer in layers.items():
            self.add_module(name, layer)
        for position, activation in enumerate(activations, start=1):
            self.add_module(f"act{position}", activation)

    @property
    def by_units(self) -> bool:
        """Whether inputs are best given as a transposed view of (units, batch) memory.

        Not to layers that capture: what rules compute depends in the last digit on the layout.
        """
        layers: list[Any] = [self._modules[name] for name in self.names]
        values = getattr(layers[0], "values", None)
        return (
            all(type(layer) is SparseLinear and layer.calls is None for layer in layers)
            and isinstance(values, torch.Tensor)
            and values.is_cpu
        )

    @property
    def _parts(self) -> list[Any]:
        """Layers and activations in the order in which they are applied."""
        own, last = self._modules, len(self.names)
        pairs = ((own[name], own.get(f"act{at}")) for at, name in enumerate(self.names, start=1))
        return [part for pair in pairs for part in pair][: 2 * last - 1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, ...) samples, flattened, to (batch, n_out) scores."""
        x = x.flatten(1)
        if not (self.training and self.dropout):
            y = chained(self._parts, x)
            if y is not None:
                return y
        for position, name in enumerate(self.names, start=1):
            layer: Any = self.get_submodule(name)
            if position == len(self.names):
                return layer(x)
            x = _hidden(self, layer, self.get_submodule(f"act{position}"), x)
        return x


def set_mlp(
    topology: Topology,
    *,
    activation: str = "relu",
    dropout: float = 0.0,
    kernel: str = "auto",
    init: str = "he",
    rng: np.random.Generator | int,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Build the multilayer perceptron of the SET papers from a topology.

    Parameters
    ----------
    topology : dict of LayerGraph
        Layers that chain. A layer of density 1 is computed by a dense product.
    activation : {"relu", "srelu", "all_relu"}
        After each layer but the last.
    dropout : float
        Probability that a hidden activation is dropped in training, in [0, 1); inverted dropout.
    kernel, init : str
        See `SparseLinear`.
    rng : numpy.random.Generator
        Draws the initial weights, layer by layer.
    generator : torch.Generator, optional
        Draws dropout masks; by default one seeded from `rng`.

    Returns
    -------
    torch.nn.Module
        With layers ``fc1``, ``fc2``, ...; its outputs are scores, before softmax.

    Raises
    ------
    ValueError
        If the layers do not chain, or a choice is unknown.

    References
    ----------
    .. [1] Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
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
    rng = as_generator(rng)
    widths = check_chain(topology)
    if activation not in ACTIVATIONS:
        raise ValueError(f"expected an activation of {', '.join(ACTIVATIONS)}, got {activation!r}")
    layers = {
        f"fc{position}": SparseLinear(graph, kernel=kernel, init=init, rng=rng)
        for position, graph in enumerate(topology.values(), start=1)
    }
    activations = [
        ACTIVATIONS[activation](position, units, rng)
        for position, units in enumerate(widths[1:-1], start=1)
    ]
    return SparseMLP(layers, activations, dropout=dropout, generator=generator, rng=rng)


def _hidden(model: WithDropout, layer: Any, activation: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Apply a layer, sparse or a dense copy of one, its activation, and the model's dropout."""
    own = type(model).dropped is not WithDropout.dropped or "dropped" in model.__dict__
    if model.training and model.dropout and not own:
        y = dropped_within(layer, activation, x, model.dropout, model.generators)
        if y is not None:
            return y
    x = activated(layer, activation, x)
    if isinstance(layer, SparseLinear):
        layer.keep("outputs", x)
    return model.dropped(x)


class SparseCNN(WithDropout):
    """Convolutions ``conv1``, ..., two in each stage followed by max pooling, then an MLP.

    Made by `set_cnn`.
    """

    def __init__(
        self,
        convolutions: list[nn.Module],
        top: SparseMLP,
        image: tuple[int, int, int],
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.image, self.depth, self.top_names = image, len(convolutions), top.names
        for position, convolution in enumerate(convolutions, start=1):
            self.add_module(f"conv{position}", convolution)
        for name, module in top.named_children():
            self.add_module(name, module)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, ...) samples, reshaped to images, to (batch, n_out) scores."""
        x = as_images(x, self.image)
        for position in range(1, self.depth + 1):
            x = activated(self.get_submodule(f"conv{position}"), _RELU, x)
            if position % 2:
                x = self.dropped(x)
            else:
                x = nn.functional.max_pool2d(x, 2)
        x = x.flatten(1)
        for position, name in enumerate(self.top_names, start=1):
            layer: Any = self.get_submodule(name)
            if position == len(self.top_names):
                return layer(x)
            x = _hidden(self, layer, self.get_submodule(f"act{position}"), x)
        return x


def set_cnn(
    topology: Topology,
    *,
    channels: Sequence[int] = (32, 64, 128),
    image: Sequence[int] = (3, 32, 32),
    dropout: float = 0.0,
    kernel: str = "auto",
    init: str = "he",
    rng: np.random.Generator | int,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Build the convolutional network of the SET paper, whose fully connected layers are sparse.

    Each stage has two 3x3 convolutions with dropout between them and 2x2 max pooling after; the
    layers of the topology follow, with ReLU and dropout between them.

    Parameters
    ----------
    topology : dict of LayerGraph
        The fully connected layers, which chain; the first has the last stage's ``channels *
        height * width`` inputs (2048 for the defaults). Entries ``conv1``, ``conv2``, ... of shape
        ``(out, 9 * in)`` make those convolutions sparse too; others are dense, as in the paper.
    channels : sequence of int
        Number of channels of each stage.
    image : sequence of int
        Channels, height and width of a sample.
    dropout : float
        In [0, 1); 0.3 in the paper.
    kernel, init : str
        See `SparseLinear`. Dense convolutions always have Glorot's uniform initial weights: max
        pooling raises activations, and with He's the first scores are too large to learn from.
    rng : numpy.random.Generator
    generator : torch.Generator, optional
        As in `set_mlp`.

    Returns
    -------
    torch.nn.Module
        With the defaults the convolutions have 287,008 parameters; with dense layers
        2048-2048-2048-10 after them these have 8,413,194, as in the paper.

    Raises
    ------
    ValueError
        If sizes do not fit together.

    References
    ----------
    .. [1] Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
       connectivity inspired by network science", Nature Communications 9:2383, 2018.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> topology = {"fc1": LayerGraph.from_edge_ids(range(0, 320, 5), (5, 64))}
    >>> model = set_cnn(topology, channels=(4,), image=(1, 8, 8), rng=np.random.default_rng(0))
    >>> model(torch.ones(2, 64)).shape
    torch.Size([2, 5])
    """
    rng = as_generator(rng)
    first, height, width = (int(n) for n in image)
    shrink = 2 ** len(channels)
    top = {name: graph for name, graph in topology.items() if not name.startswith("conv")}
    needed = _cnn_inputs(channels, image)
    if check_chain(top)[0] != needed:
        raise ValueError(
            f"expected a first layer of {needed} inputs ({channels[-1]} channels of "
            f"{height // shrink}x{width // shrink}), got {check_chain(top)[0]}"
        )
    sizes = [first, *(c for c in channels for _ in range(2))]
    convolutions: list[nn.Module] = []
    for position, (n_in, n_out) in enumerate(itertools.pairwise(sizes), start=1):
        graph = topology.get(f"conv{position}")
        if graph is None:
            convolution: nn.Module = _convolution(n_in, n_out, rng)
        elif graph.shape == (n_out, 9 * n_in):
            convolution = SparseConv2d(graph, 3, padding=1, kernel=kernel, init=init, rng=rng)
        else:
            raise ValueError(
                f"expected conv{position} of shape {(n_out, 9 * n_in)}, got {graph.shape}"
            )
        convolutions.append(convolution)
    if generator is None:
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    options = {"dropout": dropout, "generator": generator, "rng": rng}
    mlp: Any = set_mlp(top, kernel=kernel, init=init, rng=rng, generator=generator)
    return SparseCNN(convolutions, mlp, (first, height, width), **options)


def _cnn_inputs(channels: Sequence[int] = (32, 64, 128), image: Sequence[int] = (3, 32, 32)) -> int:
    """Return the number of outputs of the convolutions of `set_cnn`, inputs of the next layer."""
    _, height, width = (int(n) for n in image)
    shrink = 2 ** len(channels)
    if height % shrink or width % shrink or not channels:
        raise ValueError(
            f"expected an image whose sides {len(channels)} poolings can halve, "
            f"got {height}x{width}"
        )
    return int(channels[-1]) * (height // shrink) * (width // shrink)


def inputs_of(model: str, n_features: int, **options: Any) -> int:
    """Return the number of inputs of the first layer of a model's topology for given data.

    Parameters
    ----------
    model : str
        A name of `MODELS`.
    n_features : int
        Number of features of a sample.
    **options
        The model's parameters; only those of its convolutions matter.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the model expects images of another size.

    Examples
    --------
    >>> inputs_of("set_mlp", 784, dropout=0.3), inputs_of("set_cnn", 3072)
    (784, 2048)
    """
    if model != "set_cnn":
        return n_features
    sizes = {key: options[key] for key in ("channels", "image") if key in options}
    image = [int(n) for n in sizes.get("image", (3, 32, 32))]
    if math.prod(image) != n_features:
        raise ValueError(
            f"model.image: expected channels, height and width of {n_features} features, "
            f"got {image}"
        )
    return _cnn_inputs(**sizes)


def _convolution(n_in: int, n_out: int, rng: np.random.Generator) -> nn.Conv2d:
    """Return a dense 3x3 convolution with Glorot's uniform weights, as in Keras, and zero bias."""
    convolution = nn.utils.skip_init(nn.Conv2d, n_in, n_out, 3, padding=1)
    bound = np.sqrt(6 / (9 * (n_in + n_out)))
    weight = rng.uniform(-bound, bound, (n_out, n_in, 3, 3))
    with torch.no_grad():
        convolution.weight.copy_(torch.from_numpy(weight))
        convolution.bias.zero_()
    return convolution


MODELS: dict[str, Callable[..., nn.Module]] = {
    "set_mlp": set_mlp,
    "set_cnn": set_cnn,
    "set_rbm": set_rbm,
    "resnet": resnet,
    "wide_resnet": wide_resnet,
    "gpt": gpt,
}
"""Functions ``(topology, *, rng, generator, **options) -> module`` that build a model, by name."""
MODELS = Table("model", MODELS)

LAYERS: dict[str, Callable[..., dict[str, tuple[int, ...]]]] = {
    "resnet": resnet_layers,
    "wide_resnet": wide_resnet_layers,
    "gpt": gpt_layers,
}
"""Models whose layers are no chain of widths, and the functions ``(**options) -> {name: shape}``
that return the shapes of their sparse layers, input to output."""

_SIZES = {
    "resnet": ("image", "classes"),
    "wide_resnet": ("image", "classes"),
    "gpt": ("context", "vocabulary"),
}
"""The options of these models that say how many features and classes the data must have."""


def layers_for(
    model: str,
    *,
    n_features: int,
    n_classes: int,
    image_shape: Sequence[int] | None = None,
    **options: Any,
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the sparse layers of a model of `LAYERS` for given data.

    Parameters
    ----------
    model : str
        A name of `LAYERS`.
    n_features, n_classes : int
        Number of features of a sample, and of classes.
    image_shape : sequence of int, optional
        Of the data; named in the message if the model expects other images.
    **options
        The model's parameters.

    Returns
    -------
    dict of tuple of int
        ``(n_out, n_in)`` or ``(n_out, n_in, height, width)`` by the layer's name.

    Raises
    ------
    ValueError
        If the model expects other data, or its sizes do not fit together.

    Examples
    --------
    >>> len(layers_for("resnet", n_features=3072, n_classes=10, depth=20))
    19
    >>> layers_for("resnet", n_features=64, n_classes=10, image_shape=(8, 8))
    Traceback (most recent call last):
    ValueError: model.image: the data have 64 features, got 3,32,32; use --set model.image=[1,8,8]
    """
    known = parameters_of(LAYERS[model])
    of_features, of_classes = _SIZES[model]
    for key, wanted, what in (
        (of_features, n_features, "features"),
        (of_classes, n_classes, "classes"),
    ):
        given = options.get(key, known[key].default)
        sizes = [given] if isinstance(given, int) else list(given)
        if math.prod(sizes) != wanted:
            right = str(wanted)
            if len(sizes) == 3:
                image = [1, *image_shape][-3:] if image_shape else ["channels", "height", "width"]
                right = f"[{','.join(map(str, image))}]"
            raise ValueError(
                f"model.{key}: the data have {wanted} {what}, got {','.join(map(str, sizes))}; "
                f"use --set model.{key}={right}"
            )
    return LAYERS[model](**{key: value for key, value in options.items() if key in known})


SEQUENCES = frozenset({"gpt"})
"""Names of models that tell a class for each feature of a sample, such as the next character."""

UNSUPERVISED = frozenset({"set_rbm"})
"""Names of models that learn without labels; their last width is not tied to the classes."""
