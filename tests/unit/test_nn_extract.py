import json
import pickle
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from tests.unit.test_nn_kernels import random_graph
from topokit.foreign import ReadingNote
from topokit.graph import same_edges
from topokit.measures import network_spectral_gap
from topokit.nn.models import set_mlp
from topokit.read import topology_of


def edges(graph):
    return graph.to_csr().toarray().astype(bool)


def safetensors(path, tensors, header=None):
    entries, raw = {}, b""
    for name, (kind, tensor) in tensors.items():
        piece = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        place = [len(raw), len(raw) + len(piece)]
        entries[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": place}
        raw += piece
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries, **(header or {})}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw)
    return path


def test_topokit_layers_are_exact_everywhere(rng, tmp_path):
    topology = {"fc1": random_graph(rng, 8, 6, 20), "fc2": random_graph(rng, 6, 3, 5)}
    model = set_mlp(topology, init="zeros", rng=rng)
    torch.save(model.state_dict(), tmp_path / "m.pt")
    torch.save({"model": model.state_dict(), "epoch": 3}, tmp_path / "c.pth")
    for source in (
        model,
        model.state_dict(),
        {"state_dict": model.state_dict()},
        tmp_path / "m.pt",
        str(tmp_path / "c.pth"),
    ):
        found = topology_of(source)
        assert list(found) == ["fc1", "fc2"]
        assert all(same_edges(found[name], topology[name]) for name in topology)


def test_prune_masks_are_exact(rng):
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    prune.random_unstructured(model[0], "weight", amount=0.5)
    with torch.no_grad():
        model[0].weight_orig.zero_()
    for source in (model, model.state_dict()):
        found = topology_of(source)
        assert np.array_equal(edges(found["0"]), model[0].weight_mask.numpy() == 1)
        assert found["2"].density == 1


class Mask(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight):
        return weight * self.mask


class Positive(nn.Module):
    def forward(self, weight):
        return weight.clamp(min=0)


def test_parametrized_masks_and_other_parametrizations():
    mask = torch.rand(6, 8) < 0.4
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 5))
    parametrize.register_parametrization(model[0], "weight", Mask(mask))
    parametrize.register_parametrization(model[1], "weight", Positive())
    found = topology_of(model)
    assert list(found) == ["0", "1"]
    assert np.array_equal(edges(found["0"]), mask.numpy())
    assert np.array_equal(edges(found["1"]), (model[1].weight > 0).numpy())
    with pytest.warns(ReadingNote, match="^1: a parametrization changes its stored weights"):
        assert np.array_equal(edges(topology_of(model.state_dict())["0"]), mask.numpy())
    alone = nn.Linear(8, 6)
    parametrize.register_parametrization(alone, "weight", Mask(mask.float()))
    assert list(topology_of(alone)) == ["weight"]


def test_weights_of_all_kinds():
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(5, 8),
            "conv": nn.Conv2d(2, 4, 3),
            "up": nn.ConvTranspose2d(4, 2, 3),
            "norm": nn.BatchNorm2d(4),
            "attn": nn.MultiheadAttention(8, 2),
            "rnn": nn.LSTM(3, 2),
        }
    )
    with torch.no_grad():
        model["conv"].weight[0, 1] = 0
    found = {name: graph.shape for name, graph in topology_of(model).items()}
    assert found == {
        "conv": (4, 18), "up": (2, 36), "attn.q_proj": (8, 8), "attn.k_proj": (8, 8),
        "attn.v_proj": (8, 8), "attn.out_proj": (8, 8),
        "rnn.weight_ih_l0": (8, 3), "rnn.weight_hh_l0": (8, 2),
    }  # fmt: skip
    conv = topology_of(model)["conv"]
    assert np.array_equal(conv.fan_in, [9, 18, 18, 18])


def test_sparse_tensors_show_their_pattern_with_explicit_zeros():
    dense = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
    for weight in (dense.to_sparse_csr(), dense.to_sparse_coo(), dense.to_sparse_csc()):
        weight = weight.clone()
        weight.values().zero_() if weight.layout != torch.sparse_coo else None
        zeros = weight.layout != torch.sparse_coo
        noted = pytest.warns(ReadingNote, match="^3 stored entries of sparse tensors are zero")
        with noted if zeros else nullcontext():
            assert topology_of({"fc.weight": weight})["fc"].edge_ids.tolist() == [0, 2, 4]


def test_safetensors_of_every_dtype(tmp_path, rng):
    weight = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
    kinds = {
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F64": torch.double,
    }
    tensors = {f"l{k}.weight": (k, weight.to(d)) for k, d in kinds.items()}
    tensors["empty"] = ("F32", torch.empty(0, 3))
    tensors["bias"] = ("F32", torch.ones(2))
    found = topology_of(safetensors(tmp_path / "m.safetensors", tensors))
    assert list(found) == [f"l{k}" for k in kinds]
    assert all(graph.edge_ids.tolist() == [0, 2, 4] for graph in found.values())
    model = set_mlp({"fc1": random_graph(rng, 8, 6, 20)}, rng=rng)
    names = {torch.float32: "F32", torch.int64: "I64", torch.int32: "I32"}
    state = {k: (names[t.dtype], t) for k, t in model.state_dict().items()}
    found = topology_of(safetensors(tmp_path / "m.safetensors", state))
    assert same_edges(found["fc1"], model.fc1.graph)


@pytest.mark.parametrize("form", ["layers.{}.weight", "fc{}.weight", "net.{}.0.weight"])
def test_layers_of_safetensors_are_in_the_order_of_their_numbers(tmp_path, rng, form):
    state = {}
    for i in (*range(0, 24, 2), 100):
        cells = torch.from_numpy(rng.random((5, 5)) < 0.4)
        state[form.format(i)] = ("F32", cells.float())
    of_state = topology_of({name: tensor for name, (_, tensor) in state.items()})
    state |= {form.format(f"{i}.norm"): ("F16", torch.ones(5).half()) for i in (10, 2)}
    as_written = dict(sorted(state.items(), key=lambda one: (one[1][0] != "F32", one[0])))
    found = topology_of(safetensors(tmp_path / "m.safetensors", as_written))
    assert list(found) == list(of_state)
    assert network_spectral_gap(found) == network_spectral_gap(of_state)
    others = dict(reversed(state.items()))  # a writer that kept an order of its own
    found = topology_of(safetensors(tmp_path / "m.safetensors", others))
    assert list(found) == list(of_state)[::-1]


def damaged(path):
    good = safetensors(path, {"fc.weight": ("F32", torch.ones(2, 3))}).read_bytes()
    yield b""
    yield good[:6]
    yield good[:40]
    yield good[:-4]
    yield (1 << 60).to_bytes(8, "little") + good[8:]
    yield (2).to_bytes(8, "little") + b"[]"
    yield (2).to_bytes(8, "little") + b"\xff\xfe"
    for wrong in (
        {"dtype": "F99", "shape": [2, 3], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [-2, -3], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [-24, 0]},
        {"dtype": "F32", "shape": "ab", "data_offsets": [0, 24]},
        {"shape": [2, 3], "data_offsets": [0, 24]},
        [1],
    ):
        tensors = {"fc.weight": ("F32", torch.ones(2, 3))}
        yield safetensors(path, tensors, header={"fc.weight": wrong}).read_bytes()


def test_damaged_safetensors_are_one_clear_line(tmp_path):
    path = tmp_path / "m.safetensors"
    for content in list(damaged(path)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="expected a safetensors file, got") as e:
            topology_of(path)
        assert "\n" not in str(e.value)


class Unsafe:
    def __reduce__(self):
        return (exit, (3,))


def test_damaged_and_unsafe_checkpoints_are_one_clear_line(tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"fc.weight": torch.ones(2, 3)}, path)
    whole = path.read_bytes()
    unsafe = tmp_path / "unsafe.pt"
    torch.save({"fc.weight": torch.ones(2, 3), "x": Unsafe()}, unsafe)
    for content in (
        b"",
        b"junk",
        whole[: len(whole) // 2],
        unsafe.read_bytes(),
        pickle.dumps(Unsafe()),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="expected a torch checkpoint of tensors only") as e:
            topology_of(path)
        assert "\n" not in str(e.value)


def test_sources_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="found nothing at"):
        topology_of(tmp_path / "none.pt")
    with pytest.raises(TypeError, match="expected a torch module, a state dict or a path, got int"):
        topology_of(3)
    for source in ({}, {"a": 1}, {"norm.weight": torch.ones(3)}, nn.ReLU()):
        with pytest.raises(ValueError, match="weights of layers"):
            topology_of(source)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="got: no dictionary of tensors but list"):
        topology_of(tmp_path / "list.pt")
    with pytest.raises(ValueError, match="damaged graph of layer 'fc'"):
        topology_of(
            {
                "fc.indptr": torch.tensor([0, 5]),
                "fc.indices": torch.tensor([1]),
                "fc.shape": torch.tensor([1, 3]),
            }
        )
