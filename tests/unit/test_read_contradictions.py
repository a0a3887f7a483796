"""Files that contradict themselves or their format, and weights that are no numbers."""

import json
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import nn
from torch.nn.utils import prune

from topokit.foreign import ReadingNote
from topokit.nn.sparsify import sparsify
from topokit.read import topology_of

pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
NAN, INF = float("nan"), float("inf")


# --- safetensors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("places", "size", "words"),
    [
        ([(0, 4)], 8, "4 bytes after the last tensor, which belong to none"),
        ([(4, 8)], 8, r"a wrong place of 'w0.weight': bytes 4\.\.8 of 8, expected them to begin"),
        ([(0, 4), (5, 9)], 9, r"a wrong place of 'w1.weight': bytes 5\.\.9"),
        ([(5, 9), (0, 4)], 9, r"a wrong place of 'w0.weight': bytes 5\.\.9"),
        ([(0, 4), (2, 6)], 6, r"a wrong place of 'w1.weight': bytes 2\.\.6"),
        ([(0, 4), (4, 8)], 7, r"a wrong place of 'w1.weight': bytes 4\.\.8 of 7"),
        ([], 3, "3 bytes after the last tensor"),
    ],
)
def test_every_byte_of_a_safetensors_file_belongs_to_a_tensor(tmp_path, places, size, words):
    path = tmp_path / "a.safetensors"
    header = {
        f"w{i}.weight": {"dtype": "U8", "shape": [2, 2], "data_offsets": place}
        for i, place in enumerate(places)
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
    with pytest.raises(ValueError, match=words):
        topology_of(path)


def test_tensors_without_numbers_leave_no_hole(tmp_path):
    path = tmp_path / "a.safetensors"
    header = {
        name: {"dtype": "U8", "shape": shape, "data_offsets": place}
        for name, shape, place in (
            ("a.weight", [2, 2], [0, 4]), ("b", [0, 3], [4, 4]), ("c", [0], [0, 0]),
        )
    }  # fmt: skip
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\1\0\1\1")
    assert topology_of(path)["a"].n_edges == 3


# --- Matrix Market --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("coordinate real skew-symmetric", "2 2 2\n1 1 3\n2 1 1\n", "a skew-symmetric matrix"),
        ("coordinate real skew-symmetric", "2 2 1\n2 2 0\n", "a skew-symmetric matrix"),
        ("coordinate integer skew-symmetric", "3 3 1\n3 3 7\n", "a skew-symmetric matrix"),
        ("coordinate complex hermitian", "2 2 1\n2 2 3 1\n", "diagonal of a hermitian matrix"),
        ("array complex hermitian", "2 2\n1 0\n2 2\n3 1\n", "diagonal of a hermitian matrix"),
    ],
)
def test_a_diagonal_against_the_symmetry_is_refused(tmp_path, kind, body, words):
    path = tmp_path / "a.mtx"
    path.write_text(f"%%MatrixMarket matrix {kind}\n{body}")
    with pytest.raises(ValueError, match=words):
        topology_of(path)


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e400"])
@pytest.mark.parametrize(
    "body", ["coordinate real general\n2 2 1\n2 1 {}", "array real general\n1 2\n1\n{}"]
)
def test_numbers_in_matrix_market_are_finite(tmp_path, body, number):
    path = tmp_path / "a.mtx"
    path.write_text(f"%%MatrixMarket matrix {body.format(number)}\n")
    with pytest.raises(ValueError, match=r"expected finite numbers in column [13]"):
        topology_of(path)


@pytest.mark.parametrize(
    ("kind", "body", "edges"),
    [
        ("coordinate complex hermitian", "2 2 2\n1 1 3 0\n2 1 1 1\n", [0, 1, 2]),
        ("array complex hermitian", "2 2\n1 0\n2 2\n0 0\n", [0, 1, 2]),
        ("coordinate real symmetric", "2 2 2\n2 2 3\n2 1 1\n", [1, 2, 3]),
        ("coordinate real skew-symmetric", "2 2 1\n2 1 -1\n", [1, 2]),
    ],
)
def test_a_diagonal_that_fits_is_read(tmp_path, kind, body, edges):
    path = tmp_path / "a.mtx"
    path.write_text(f"%%MatrixMarket matrix {kind}\n{body}")
    assert topology_of(path)["a"].edge_ids.tolist() == edges


# --- sparse tensors -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["bsr", "bsc"])
@pytest.mark.parametrize("blocks", [(2, 2), (3, 4), (6, 1)])
def test_blocks_of_sparse_tensors_are_read(tmp_path, rng, layout, blocks):
    dense = torch.from_numpy((rng.random((6, 8)) < 0.2) * rng.random((6, 8)))
    sparse = getattr(dense, f"to_sparse_{layout}")(blocks)
    torch.save({"fc.weight": sparse, "fc.bias": torch.zeros(6)}, tmp_path / "a.pt")
    stored = dense.reshape(6 // blocks[0], blocks[0], 8 // blocks[1], blocks[1])
    stored = (stored != 0).any(3, keepdim=True).any(1, keepdim=True)
    expected = stored.expand(-1, blocks[0], -1, blocks[1]).reshape(6, 8).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReadingNote)  # stored zeros
        found = topology_of(tmp_path / "a.pt")["fc"]
        turned = topology_of(tmp_path / "a.pt", transpose=True)["fc"]
    assert np.array_equal(found.to_csr().toarray() != 0, expected)
    assert np.array_equal(turned.to_csr().toarray() != 0, expected.T)
    like = sp.bsr_array(dense.numpy(), blocksize=blocks)
    sp.save_npz(tmp_path / "a.npz", like)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReadingNote)
        assert np.array_equal(topology_of(tmp_path / "a.npz")["a"].edge_ids, found.edge_ids)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (lambda: torch.ones(6, 8, 2).to_sparse(2), "a sparse tensor of dense blocks"),
        (lambda: torch.ones(2, 6, 8).to_sparse_csr(), "torch.sparse_csr of 3 dimensions"),
    ],
)
def test_sparse_tensors_that_are_no_layer_are_named_once(tensor, words):
    with pytest.raises(ValueError, match=words) as error:
        topology_of({"fc.weight": tensor()})
    text = str(error.value)
    assert "no layer that can be read; left out: fc (" in text
    assert text.count(words) == 1
    assert "no weights of layers" not in text


def lying(layout, pointers, indices, values, shape):
    build = getattr(torch, f"sparse_{layout}_tensor")
    parts = [torch.tensor(part) for part in ([pointers, indices] if pointers else [indices])]
    return build(*parts, torch.ones(values), shape, check_invariants=False)


@pytest.mark.parametrize(
    "lie",
    [
        ("csr", [0, 1, 99], [0, 1], 2, (2, 3)),
        ("csr", [0, 1, 2], [0, 77], 2, (2, 3)),
        ("csr", [0, 2, 2], [1, 0], 2, (2, 3)),
        ("csr", [1, 2, 2], [0, 1], 2, (2, 3)),
        ("csc", [0, 2, 1, 2], [0, 1], 2, (2, 3)),
        ("bsr", [0, 1, 2], [0, 7], (2, 2, 2), (4, 4)),
        ("bsc", [0, 1, 2], [0, -1], (2, 2, 2), (4, 4)),
        ("coo", None, [[0, 9], [0, 1]], 2, (2, 3)),
        ("coo", None, [[0, -1], [0, 1]], 2, (2, 3)),
    ],
)
def test_a_lying_sparse_tensor_is_refused_in_plain_words(tmp_path, lie):
    torch.save({"fc.weight": lying(*lie)}, tmp_path / "a.pt")
    words = "got: a sparse tensor whose indices contradict its shape or are not sorted"
    with pytest.raises(ValueError, match=f"a.pt: .*{words}"):
        topology_of(tmp_path / "a.pt")


# --- weights that are no numbers ------------------------------------------------------------------

BAD = np.array([[NAN, 1.0, 0.0], [INF, 0.0, -INF]])
FINITE = np.where(np.isfinite(BAD), BAD, 2.0)


def as_module(cells):
    layer = nn.Linear(3, 2)
    layer.weight.data = torch.tensor(cells, dtype=torch.float32)
    return layer


def in_a_file(ending, write):
    def made(cells, folder):
        write(folder / f"a{ending}", cells)
        return folder / f"a{ending}"

    return made


SOURCES = {
    "module": lambda cells, folder: as_module(cells),
    "state": lambda cells, folder: {"fc.weight": torch.tensor(cells)},
    "half": lambda cells, folder: {"fc.weight": torch.tensor(cells, dtype=torch.bfloat16)},
    "complex": lambda cells, folder: {"fc.weight": torch.tensor(cells, dtype=torch.complex64)},
    "coo": lambda cells, folder: {"fc.weight": torch.tensor(cells).to_sparse_coo()},
    "csr": lambda cells, folder: {"fc.weight": torch.tensor(cells).to_sparse_csr()},
    "bsr": lambda cells, folder: {"fc.weight": torch.tensor(cells).to_sparse_bsr((1, 1))},
    "weight norm": lambda cells, folder: {
        "fc.weight_g": torch.ones(2, 1), "fc.weight_v": torch.tensor(cells),
    },
    "pt": in_a_file(".pt", lambda path, cells: torch.save({"a.weight": torch.tensor(cells)}, path)),
    "npy": in_a_file(".npy", np.save),
    "npz": in_a_file(".npz", lambda path, cells: np.savez(path, fc=cells)),
    "scipy": in_a_file(".npz", lambda path, cells: sp.save_npz(path, sp.csr_array(cells))),
}  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_weights_that_are_nan_or_infinite_are_noted(tmp_path, source):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ReadingNote)
        (found,) = topology_of(SOURCES[source](BAD, tmp_path)).values()
        (same,) = topology_of(SOURCES[source](FINITE, tmp_path)).values()
    assert found.edge_ids.tolist() == same.edge_ids.tolist() == [0, 1, 3, 5]
    texts = [str(one.message) for one in caught if issubclass(one.category, ReadingNote)]
    noted = [text for text in texts if "nan or infinite" in text]
    assert len(noted) == 1
    assert "3" in noted[0]


def test_a_mask_decides_whatever_the_weights_are():
    mask = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])
    found = topology_of({"fc.weight": torch.tensor(BAD), "fc.weight_mask": mask})
    assert found["fc"].edge_ids.tolist() == [0, 5]


# --- integers as weights --------------------------------------------------------------------------

CODES = torch.tensor([[0, 5, -3], [7, 0, 0]], dtype=torch.int8)
ABSENT = {"fc.weight_zero_point": torch.zeros(2), "fc.zeros": torch.zeros(1, dtype=torch.int32)}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_packed_codes_are_no_weights(dtype):
    """Such as weights of four bits, two in a byte: rows and columns are not those of the layer."""
    packed = {"fc.weight": CODES.to(dtype), "fc.weight.absmax": torch.ones(3)}
    with pytest.raises(
        ValueError, match=r"no layer that can be read; left out: fc \(codes of quant"
    ):
        topology_of(packed)
    with pytest.warns(
        ReadingNote, match=r"left out: fc \(codes of quantized weights in u?int\d+, of"
    ):
        assert list(topology_of({**packed, "last.weight": torch.ones(2, 2)})) == ["last"]


def test_codes_of_eight_bits_without_a_zero_point_are_weights():
    for more in ({}, {"fc.SCB": torch.ones(2)}, ABSENT, {"other.zero_point": torch.ones(1)}):
        with pytest.warns(ReadingNote, match="integers, of which 0 is taken for a weight of 0: fc"):
            found = topology_of({"fc.weight": CODES, **more})["fc"]
        assert found.edge_ids.tolist() == [1, 2, 3]


@pytest.mark.parametrize("name", ["weight_zero_point", "zero_point", "weight.zero_point", "qzeros"])
def test_a_zero_point_hides_which_codes_stand_for_0(name):
    with pytest.raises(ValueError, match=r"left out: fc \(quantized with a zero point"):
        topology_of({"fc.weight": CODES + 3, f"fc.{name}": torch.tensor([3, 0])})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64, torch.bool])
@pytest.mark.parametrize("one", [1, 100])
def test_patterns_of_integers_are_edges_as_before(dtype, one):
    pattern = ((CODES != 0) * one).to(dtype)
    for state in ({"fc.weight": pattern}, {"fc.weight": CODES.int(), "fc.mask": CODES != 0}):
        assert topology_of(state)["fc"].edge_ids.tolist() == [1, 2, 3]


def test_codes_in_a_module_are_read_as_those_in_a_state_dict():
    class Quantized(nn.Linear):
        def __init__(self, codes, **more):
            super().__init__(3, 2)
            self.weight = nn.Parameter(codes, requires_grad=False)
            for name, tensor in more.items():
                self.register_buffer(name, tensor)

    moved = {"weight_zero_point": torch.ones(2)}
    model = nn.Sequential(
        Quantized(CODES.to(torch.uint8)), Quantized(CODES, **moved), Quantized(CODES)
    )
    words = r"^0 is left out \(codes.*; 1 is left out.*; 2 has integers"
    with pytest.warns(ReadingNote, match=words):
        found = topology_of(model)
    assert {name: graph.edge_ids.tolist() for name, graph in found.items()} == {"2": [1, 2, 3]}


# --- one weight with two names --------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("file", [False, True])
def test_a_weight_with_two_names_is_one_layer(tmp_path, sparse, file):
    first, last = nn.Linear(6, 6), nn.Linear(6, 4)
    if sparse:
        first = sparsify(first, density=0.4, rng=0)
    model = nn.Sequential(first, nn.ReLU(), first, last)
    if not sparse:
        model[2] = nn.Linear(6, 6)
        model[2].weight = first.weight
    state = model.state_dict()
    if file:
        torch.save(state, tmp_path / "a.pt")
        state = tmp_path / "a.pt"
    with pytest.warns(ReadingNote, match=r"^2 holds the weight of 0, which is listed once$"):
        found = topology_of(state)
    assert [(name, graph.n_in) for name, graph in found.items()] == [("0", 6), ("3", 6)]


def test_equal_weights_and_parts_of_one_tensor_are_layers_of_their_own():
    whole = torch.ones(4, 4)
    state = {"a.weight": whole[:2], "b.weight": whole[2:], "c.weight": whole.t()[:2, :3]}
    state |= {
        "d.weight": torch.ones(2, 4),
        "e.weight": torch.ones(2, 4),
        "f.weight": torch.ones(0, 4),
    }
    assert list(topology_of(state | {"g.weight": torch.ones(0, 4)})) == list("abcdefg")


# --- weights that low-rank factors change ---------------------------------------------------------

FACTORS = {
    "peft": ("fc.base_layer", "fc.lora_A.default", "fc.lora_B.default"),
    "peft, saved": ("fc", "base_model.fc.lora_A", "base_model.fc.lora_B"),
    "torchtune": ("fc", "fc.lora_a", "fc.lora_b"),
    "kohya": ("fc", "lora_unet_fc.lora_down", "lora_unet_fc.lora_up"),
    "diffusers": ("fc", "to_q_lora.down", "to_q_lora.up"),
}


def nested(names):
    """A module with linear layers of these names, the last two of rank 2."""
    root = nn.Module()
    for name, sizes in zip(names, [(6, 5), (6, 2), (2, 5)], strict=True):
        part, (*outer, leaf) = root, name.split(".")
        for word in outer:
            if not hasattr(part, word):
                part.add_module(word, nn.Module())
            part = getattr(part, word)
        part.add_module(leaf, nn.Linear(*sizes, bias=False))
    return root


@pytest.mark.parametrize("file", ["module", "state", "file"])
@pytest.mark.parametrize("names", FACTORS.values(), ids=FACTORS)
def test_low_rank_factors_are_named(tmp_path, names, file):
    source = nested(names)
    if file != "module":
        source = source.state_dict()
    if file == "file":
        torch.save(source, tmp_path / "a.pt")
        source = tmp_path / "a.pt"
    words = rf"{names[1]}, {names[2]} are factors of low-rank changes .* read without them: merge"
    with pytest.warns(ReadingNote, match=words):
        found = topology_of(source)
    assert {*found} == {*names}


def test_other_names_say_nothing_of_low_rank_factors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        topology_of(nested(("flora", "explorable.a", "lo.ra")))
        topology_of(nested(("flora", "explorable.a", "lo.ra")).state_dict())


def generator_of_images():
    """Without biases, as that of DCGAN."""
    return nn.Sequential(
        nn.ConvTranspose2d(10, 8, 4, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.ConvTranspose2d(4, 3, 4, 2, 1, bias=False), nn.Tanh(),
    )  # fmt: skip


def autoencoder():
    return nn.Sequential(
        nn.Conv1d(3, 6, 3, bias=False), nn.BatchNorm1d(6), nn.Conv1d(6, 9, 3, bias=False),
        nn.ConvTranspose1d(9, 5, 3, bias=False), nn.GroupNorm(1, 5),
        nn.ConvTranspose1d(5, 7, 3, bias=False), nn.InstanceNorm1d(7, affine=True),
    )  # fmt: skip


def pruned_generator():
    model = generator_of_images()
    for at in (0, 3):
        prune.random_unstructured(model[at], "weight", 0.5)
    return model


@pytest.mark.parametrize(
    ("make", "names"),
    [(generator_of_images, "0, 3"), (pruned_generator, "0, 3"), (autoencoder, "5")],
)
def test_kernels_of_transposed_convolutions_without_a_bias_are_noted(make, names):
    state = make().state_dict()
    words = rf"(^|; ){names}: read as \(n_out, n_in\), but by the normalisation after them rather"
    with pytest.warns(ReadingNote, match=words):
        topology_of(state)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "(.*; )?.*by the normalisation", ReadingNote)
        turned = topology_of(state, transpose=True)
        topology_of(state, transpose=False)
    if make is generator_of_images:
        assert turned == topology_of(make())


class ConvolutionsFirst(nn.Module):
    """As many write them: the layers by kind, not in the order in which they are called."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 8, 3, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(8)


def preactivated():
    return nn.Sequential(
        nn.BatchNorm2d(4), nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8),
        nn.Conv2d(8, 6, 3, bias=False), nn.Flatten(), nn.Linear(6, 2),
    )  # fmt: skip


def depthwise():
    return nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4))


@pytest.mark.parametrize("make", [ConvolutionsFirst, preactivated, depthwise])
def test_ordinary_convolutions_are_not_taken_for_transposed_ones(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ReadingNote)
        topology_of(make().state_dict())
