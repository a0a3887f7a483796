"""Parameter counts printed in the SET paper."""

import itertools

import numpy as np

from topokit.experiments.config import load_recipe
from topokit.generators import generate
from topokit.graph import LayerGraph
from topokit.nn import sparse_layers
from topokit.nn.models import set_cnn, set_mlp


def complete(n_in, n_out):
    return LayerGraph.from_edge_ids(np.arange(n_in * n_out), (n_out, n_in))


def test_cnn_of_the_paper():
    top = {"fc1": complete(2048, 2048), "fc2": complete(2048, 2048), "fc3": complete(2048, 10)}
    model = set_cnn(top, dropout=0.3, rng=np.random.default_rng(0))
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert sum(n for name, n in sizes.items() if name.startswith("conv")) == 287_008
    assert sum(n for name, n in sizes.items() if name.startswith("fc")) == 8_413_194


def test_dense_mlp_of_the_paper():
    widths = (784, 1000, 1000, 1000, 10)
    topology = {f"fc{i}": complete(a, b) for i, (a, b) in enumerate(itertools.pairwise(widths))}
    model = set_mlp(topology, init="zeros", rng=np.random.default_rng(0))
    assert sum(layer.nnz for layer in sparse_layers(model).values()) == 2_794_000


def test_sparse_top_of_the_cnn_recipe():
    config = load_recipe("set_cnn_cifar10")
    topology = generate(
        config.model.widths, "erdos_renyi", epsilon=20, rng=np.random.default_rng(0)
    )
    model = set_cnn(topology, **config.model.params, rng=np.random.default_rng(0))
    layers = sparse_layers(model)
    assert {name: layer.nnz for name, layer in layers.items()} == {
        "fc1": 81_920, "fc2": 81_920, "fc3": 20_480,
    }  # fmt: skip
    assert sum(layer.nnz for layer in layers.values()) == 184_320
    convolutions = [p for name, p in model.named_parameters() if name.startswith("conv")]
    assert sum(p.numel() for p in convolutions) == 287_008
