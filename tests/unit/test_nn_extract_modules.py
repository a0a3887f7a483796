"""The topology of torch modules of every kind, against masks made by hand."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from topokit.foreign import ReadingNote
from topokit.graph import LayerGraph
from topokit.read import topology_of


@pytest.fixture(autouse=True)
def fixed_weights():
    torch.manual_seed(0)


def edges(graph):
    return graph.to_csr().toarray().astype(bool)


def kept(*shape, share=0.4):
    return torch.rand(*shape) < share


def conv_matrix(mask, groups):
    """The mask of a grouped convolution between all channels, one weight at a time."""
    n_out, width, *kernel = mask.shape
    full = torch.zeros(n_out, width * groups, *kernel, dtype=torch.bool)
    for out in range(n_out):
        group = out // (n_out // groups)
        for channel in range(width):
            full[out, group * width + channel] = mask[out, channel]
    return full.flatten(1).numpy()


def transposed_matrix(mask, groups):
    n_in, width, *kernel = mask.shape
    full = torch.zeros(width * groups, n_in, *kernel, dtype=torch.bool)
    for channel in range(n_in):
        group = channel // (n_in // groups)
        for out in range(width):
            full[group * width + out, channel] = mask[channel, out]
    return full.flatten(1).numpy()


class Conv1D(nn.Module):
    """As in GPT-2: the weight is (in, out)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.weight = nf, nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


class InOut(Conv1D):
    pass


# A module, the weight to mask, and what the masked weight's graph is, by hand.
KINDS = {
    "linear": (lambda: nn.Linear(8, 6), "weight", lambda m: m.numpy()),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, groups=2), "weight", lambda m: conv_matrix(m, 2)),
    "conv2d": (
        lambda: nn.Conv2d(4, 6, (3, 2), stride=2, dilation=2, padding_mode="circular"),
        "weight", lambda m: conv_matrix(m, 1),
    ),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6), "weight", lambda m: conv_matrix(m, 6)),
    "conv3d": (lambda: nn.Conv3d(4, 6, (1, 2, 3)), "weight", lambda m: conv_matrix(m, 1)),
    "up1d": (lambda: nn.ConvTranspose1d(4, 6, 3), "weight", lambda m: transposed_matrix(m, 1)),
    "up2d": (
        lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), "weight", lambda m: transposed_matrix(m, 2)
    ),
    "up3d": (
        lambda: nn.ConvTranspose3d(4, 8, 2, groups=4), "weight", lambda m: transposed_matrix(m, 4)
    ),
    "bilinear": (lambda: nn.Bilinear(3, 4, 5), "weight", lambda m: m.flatten(1).numpy()),
    "in_out": (lambda: Conv1D(6, 8), "weight", lambda m: m.t().numpy()),
    "subclass": (lambda: InOut(6, 8), "weight", lambda m: m.t().numpy()),
    "gru_cell": (lambda: nn.GRUCell(5, 3), "weight_hh", lambda m: m.numpy()),
    "lstm": (lambda: nn.LSTM(5, 3, proj_size=2), "weight_hr_l0", lambda m: m.numpy()),
    "attention": (
        lambda: nn.MultiheadAttention(8, 2, kdim=3, vdim=5), "k_proj_weight", lambda m: m.numpy()
    ),
}  # fmt: skip


class Masked(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight):
        return weight * self.mask


class Off(nn.Module):
    """Sets weights to zero where a boolean buffer is true."""

    def __init__(self, off):
        super().__init__()
        self.register_buffer("off", off)

    def forward(self, weight):
        return weight.masked_fill(self.off, 0)


def zeroed(module, leaf, mask):
    with torch.no_grad():
        getattr(module, leaf).mul_(mask)


def pruned(module, leaf, mask):
    prune.custom_from_mask(module, leaf, mask)
    with torch.no_grad():
        getattr(module, f"{leaf}_orig").view(-1)[:3] = 0  # an edge may have weight zero


def parametrized(module, leaf, mask):
    parametrize.register_parametrization(module, leaf, Masked(mask))
    with torch.no_grad():
        module.parametrizations[leaf].original.view(-1)[:3] = 0


def switched_off(module, leaf, mask):
    parametrize.register_parametrization(module, leaf, Off(~mask))


def with_buffer(module, leaf, mask):
    module.register_buffer(f"{leaf}_mask", mask.float())


def fake_sparsity(module, leaf, mask):
    from torch.ao.pruning.sparsifier.utils import FakeSparsity

    parametrize.register_parametrization(module, leaf, FakeSparsity(mask.float()))


WAYS = [zeroed, pruned, parametrized, switched_off, with_buffer, fake_sparsity]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("kind", list(KINDS))
def test_masks_of_every_kind_and_way(kind, way):
    make, leaf, by_hand = KINDS[kind]
    module = make()
    mask = kept(*getattr(module, leaf).shape)
    way(module, leaf, mask)
    name = leaf.removesuffix("_weight") if kind == "attention" else leaf
    for model, at in ((module, name), (nn.ModuleDict({"a": module}), f"a.{name}")):
        found = topology_of(model)
        expected = "a" if at == "a.weight" else at
        assert np.array_equal(edges(found[expected]), by_hand(mask)), found
        others = [graph for layer, graph in found.items() if layer != expected]
        assert all(graph.density == 1 for graph in others)
        assert not [layer for layer in found if "mask" in layer]


def test_packed_attention_is_three_layers():
    attention = nn.MultiheadAttention(8, 2)
    mask = kept(24, 8)
    prune.custom_from_mask(attention, "in_proj_weight", mask)
    found = topology_of(nn.ModuleDict({"attn": attention}))
    assert list(found) == ["attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj"]
    for i, graph in enumerate(list(found.values())[:3]):
        assert np.array_equal(edges(graph), mask[8 * i : 8 * i + 8].numpy())


def test_recurrent_layers_of_every_shape():
    for model, layers in (
        (nn.LSTM(5, 3, num_layers=2, bidirectional=True, proj_size=2), 12),
        (nn.GRU(5, 3, bidirectional=True), 4),
        (nn.RNN(5, 3, num_layers=3), 6),
        (nn.LSTMCell(5, 3), 2),
        (nn.RNNCell(5, 3), 2),
    ):
        state = {k: v for k, v in model.named_parameters() if k.startswith("weight")}
        found = topology_of(model)
        assert len(found) == layers
        assert {name: (g.n_out, g.n_in) for name, g in found.items()} == {
            name: tuple(tensor.shape) for name, tensor in state.items()
        }


def test_depthwise_is_block_diagonal():
    graph = topology_of(nn.Sequential(nn.Conv2d(6, 6, 3, groups=6)))["0"]
    assert (graph.shape, graph.n_edges, graph.groups) == ((6, 54), 54, 6)
    assert graph.density == 1


def responds(layer, x):
    """Which inputs reach which outputs at one position of a convolution, by its derivative."""
    jacobian = torch.autograd.functional.jacobian(layer, x)
    return (jacobian != 0).reshape(-1, x.numel()).numpy()


@pytest.mark.parametrize("seed", range(6))
def test_the_graph_is_the_response_to_impulses(seed):
    """A kernel laid over an input of its own size: the derivative's pattern is the graph."""
    rng = np.random.default_rng(seed)
    groups, dims = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    channels, n_out = groups * int(rng.integers(1, 3)), groups * int(rng.integers(1, 4))
    kernel = [int(n) for n in rng.integers(1, 4, dims)]
    conv = getattr(nn, f"Conv{dims}d")(channels, n_out, kernel, groups=groups).double()
    prune.random_unstructured(conv, "weight", 0.5)
    x = torch.randn(1, channels, *kernel, dtype=torch.double)
    graph = topology_of(conv)["weight"]
    assert np.array_equal(edges(graph), responds(conv, x))
    up = getattr(nn, f"ConvTranspose{dims}d")(channels, n_out, kernel, groups=groups).double()
    prune.random_unstructured(up, "weight", 0.5)
    cells = int(np.prod(kernel))
    reached = responds(up, torch.randn(1, channels, *[1] * dims, dtype=torch.double))
    by_cell = reached.reshape(n_out, cells, channels).swapaxes(1, 2).reshape(n_out, -1)
    assert np.array_equal(edges(topology_of(up)["weight"]), by_cell)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_computed_weights():
    old_norm = torch.nn.utils.weight_norm(nn.Linear(4, 3))
    old_spectral = torch.nn.utils.spectral_norm(nn.Linear(3, 5))
    new_norm = parametrizations.weight_norm(nn.Linear(5, 4))
    new_spectral = parametrizations.spectral_norm(nn.Linear(4, 2))
    model = nn.Sequential(old_norm, old_spectral, new_norm, new_spectral)
    with torch.no_grad():  # the pattern is that of the next forward, not of the last one
        old_norm.weight_v[0, 1] = 0
        old_spectral.weight_orig[4, 2] = 0
        new_norm.parametrizations.weight.original1[2, 3] = 0
        new_spectral.parametrizations.weight.original[1, 0] = 0
    before = copy.deepcopy(model.state_dict())
    found = topology_of(model)
    holes = {name: np.argwhere(~edges(graph)).tolist() for name, graph in found.items()}
    assert holes == {"0": [[0, 1]], "1": [[4, 2]], "2": [[2, 3]], "3": [[1, 0]]}
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert model[3].parametrizations.weight.training


class Plus(nn.Module):
    def __init__(self, delta):
        super().__init__()
        self.delta = nn.Parameter(delta)

    def forward(self, weight):
        return weight + self.delta


def test_a_weight_plus_zeros_is_dense():
    layer = nn.Linear(8, 6)
    parametrize.register_parametrization(layer, "weight", Plus(torch.zeros(6, 8)))
    assert topology_of(layer)["weight"].n_edges == 48


def test_a_mask_that_is_not_applied_does_not_count():
    class Unused(Masked):
        def forward(self, weight):
            return weight + 1

    layer = nn.Linear(8, 6)
    parametrize.register_parametrization(layer, "weight", Unused(kept(6, 8)))
    assert topology_of(layer)["weight"].n_edges == 48


class MaskedLinear(nn.Module):
    def __init__(self, mask, name="mask"):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(mask.shape))
        self.register_buffer(name, mask)

    def forward(self, x):
        return nn.functional.linear(x, self.weight * self.mask)


def test_masks_in_buffers_of_unknown_modules():
    mask = kept(6, 8)
    for held in (mask, mask.float()):
        for name in ("mask", "weight_mask"):
            found = topology_of(nn.Sequential(MaskedLinear(held, name), nn.Linear(6, 2)))
            assert list(found) == ["0", "1"]
            assert np.array_equal(edges(found["0"]), mask.numpy())
    by_unit = torch.tensor([[True], [False], [True]])
    layer = nn.Linear(4, 3)
    layer.mask = by_unit
    assert topology_of(layer)["weight"].fan_in.tolist() == [4, 0, 4]


SCORES = {
    "logits": lambda: torch.randn(6, 8),
    "shares": lambda: torch.rand(6, 8),
    "by unit": lambda: torch.randn(6, 1),
    "signs": lambda: torch.randint(-1, 2, (6, 8)),
}


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("name", ["mask", "weight_mask", "mask_weight"])
def test_scores_of_which_masks_are_computed_are_no_masks(scores, name):
    layer = nn.Linear(8, 6)
    layer.register_buffer(name, SCORES[scores]())
    for model in (nn.Sequential(layer, nn.Linear(6, 2)), nn.Sequential(nn.Linear(6, 2), layer)):
        with pytest.warns(ReadingNote, match=r"is left out \(its mask has other numbers than 0"):
            assert [g.shape for g in topology_of(model).values()] == [(2, 6)]
        with pytest.warns(ReadingNote, match=r"its mask .* has other numbers than 0 and 1"):
            assert [g.shape for g in topology_of(model.state_dict()).values()] == [(2, 6)]
    unknown = MaskedLinear(SCORES[scores]().expand(6, 8), name)
    with pytest.warns(ReadingNote, match=r"is left out \(its mask has other numbers than 0"):
        assert list(topology_of(nn.Sequential(unknown, nn.Linear(6, 2)))) == ["1"]


@pytest.mark.parametrize("scores", SCORES)
def test_scores_in_a_parametrization_leave_the_computed_weight(scores):
    class Above(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", SCORES[scores]())

        def forward(self, weight):
            return weight * (self.mask > 0.3)

    layer = nn.Linear(8, 6)
    parametrize.register_parametrization(layer, "weight", Above())
    kept_cells = (layer.weight != 0).numpy()
    assert 0 < kept_cells.sum() < 48
    assert np.array_equal(edges(topology_of(layer)["weight"]), kept_cells)


@pytest.mark.parametrize("name", ["mask", "weight_mask", "mask_weight"])
@pytest.mark.parametrize("shape", [(6,), (8,), (2, 3, 4)])
def test_masks_of_another_shape_are_named(name, shape):
    layer = nn.Linear(8, 6)
    layer.register_buffer(name, kept(*shape))
    prune.l1_unstructured(layer, "bias", 0.5)  # whose mask is used where it belongs
    model = nn.Sequential(layer)
    with pytest.warns(ReadingNote, match=rf"^0\.{name} \({shape[0]},.*\) is not used$"):
        assert topology_of(model)["0"].n_edges == 48
    with pytest.warns(ReadingNote, match=rf"^masks that were not used: 0\.{name} \(|has shape"):
        topology_of({**model.state_dict(), "1.weight": torch.ones(2, 6)})


@pytest.mark.parametrize("held", [torch.clone, torch.Tensor.float])
@pytest.mark.parametrize("name", ["mask", "weight_mask", "mask_weight"])
def test_a_mask_of_what_is_left_out_is_noted(name, held):
    layer, mask = nn.Linear(8, 6), kept(6, 8)
    with torch.no_grad():
        layer.weight[mask] = 0
    layer.register_buffer(name, held(mask))
    model = nn.Sequential(layer)
    words = "the mask of 0 is 1 exactly where its weights are 0: it may say what is left out"
    for source in (model, model.state_dict()):
        with pytest.warns(ReadingNote, match=words):
            assert np.array_equal(edges(topology_of(source)["0"]), mask.numpy())
    layer.get_buffer(name).copy_(held(~mask))
    for source in (model, model.state_dict()):
        assert np.array_equal(edges(topology_of(source)["0"]), ~mask.numpy())


def test_orientation_of_unknown_modules_follows_the_bias():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 6))
            self.bias = nn.Parameter(torch.zeros(6))

    assert topology_of(Own())["weight"].shape == (6, 8)


def test_tables_and_norms_are_no_layers():
    embedding = nn.Embedding(11, 8)
    prune.random_unstructured(embedding, "weight", 0.5)
    model = nn.ModuleDict(
        {
            "embedding": embedding, "bag": nn.EmbeddingBag(5, 4), "norm": nn.LayerNorm([4, 5]),
            "rms": nn.RMSNorm([4, 5]), "batch": nn.BatchNorm2d(4), "prelu": nn.PReLU(4),
            "fc": nn.Linear(8, 3),
        }
    )  # fmt: skip
    assert list(topology_of(model)) == ["fc"]
    with pytest.raises(ValueError, match=r"layers in the module .*, found none$"):
        topology_of(embedding)


def test_what_is_left_out_is_named():
    class Vision(nn.Module):
        def __init__(self):
            super().__init__()
            self.position = nn.Parameter(torch.zeros(1, 4, 8))
            self.token = nn.Parameter(torch.zeros(1, 1, 8))
            self.fc = nn.Linear(8, 3)

    with pytest.warns(UserWarning, match=r"^position \(1, 4, 8\) is left out$"):
        assert list(topology_of(Vision())) == ["fc"]
    model = nn.ModuleDict({"a": nn.Linear(6, 6), "b": nn.Linear(6, 6), "c": nn.Linear(6, 6)})
    model["c"].weight = model["a"].weight
    with pytest.warns(UserWarning, match="^c holds the weight of a, which is listed once$"):
        assert list(topology_of(model)) == ["a", "b"]
    with pytest.raises(ValueError, match=r"found none; w \(3, 2\) is left out"):
        topology_of(nn.ParameterDict({"w": torch.ones(3, 2)}))


def test_an_output_tied_to_the_embedding_is_one_layer():
    model = nn.ModuleDict({"embed": nn.Embedding(11, 6), "head": nn.Linear(6, 11)})
    model["head"].weight = model["embed"].weight
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(topology_of(model)) == ["head"]


def test_layers_without_values_are_refused():
    with pytest.raises(ValueError, match=r"lazy one at '1'; pass a batch"):
        topology_of(nn.Sequential(nn.Linear(3, 4), nn.LazyLinear(3)))
    with pytest.raises(ValueError, match="got '0' on the meta device"):
        topology_of(nn.Sequential(nn.Linear(3, 4, device="meta")))


def test_sparse_weights_show_their_pattern():
    dense = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
    layer, other = nn.Linear(3, 2), Conv1D(3, 2)
    layer.weight = nn.Parameter(dense.to_sparse_csr())
    other.weight = nn.Parameter(dense.to_sparse())
    assert topology_of(layer)["weight"].edge_ids.tolist() == [0, 2, 4]
    found = topology_of(other)["weight"]
    assert found == LayerGraph.from_edge_ids([0, 3, 4], (3, 2))


def test_quantized_layers_and_long_lists_are_named_in_brief():
    class Quantized(nn.Module):
        def weight(self):
            return torch.ones(2, 2)

    with pytest.warns(UserWarning, match=r"^0, which is quantized, is left out$"):
        assert list(topology_of(nn.Sequential(Quantized(), nn.Linear(3, 2)))) == ["1"]
    tables = nn.ParameterDict({f"t{i}": torch.ones(3, 2) for i in range(11)})
    with pytest.warns(UserWarning, match=r"^p\.t0 \(3, 2\) is left out; .*; and 3 more$"):
        topology_of(nn.ModuleDict({"p": tables, "fc": nn.Linear(3, 2)}))
