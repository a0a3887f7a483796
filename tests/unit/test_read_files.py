"""Files and state dicts from elsewhere: read rightly, or refused in one sentence."""

import io
import itertools
import json
import warnings
import zipfile
from argparse import Namespace
from collections import defaultdict
from datetime import date
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import topokit as tk
from tests.unit.test_nn_extract import Mask, safetensors
from topokit.foreign import ReadingNote, printable
from topokit.graph.convert import as_topology, from_dense, load_topology
from topokit.read import READERS, read_topologies, topology_of


@pytest.fixture
def mask(rng):
    return torch.from_numpy((rng.random((6, 8)) < 0.3).astype(np.float32))


@pytest.fixture
def weight(rng):
    return torch.from_numpy(rng.random((6, 8)).astype(np.float32) + 0.1)


def edges(graph):
    return graph.to_csr().toarray().astype(bool)


def same(graph, cells):
    return np.array_equal(edges(graph), np.asarray(cells) != 0)


# --- masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "beside",
    [
        lambda w, m: {"state_dict": {"fc1.weight": w}, "masks": {"fc1.weight": m}},
        lambda w, m: {"state_dict": {"fc1.weight": w}, "masks": {"fc1": m.bool()}},
        lambda w, m: {"model": {"fc1.weight": w}, "mask": {"fc1.weight_mask": m}},
        lambda w, m: {"state_dict": {"module.fc1.weight": w}, "masks": {"fc1.weight": m}},
        lambda w, m: {"fc1.weight": w, "masks": {"fc1.weight": m}},
        lambda w, m: {"fc1.weight": w, "fc1.weight_mask": m},
        lambda w, m: {"fc1.weight": w, "fc1.mask": m.bool()},
        lambda w, m: {"fc1.weight": w, "mask_fc1": m},
        lambda w, m: {"fc1.weight": w, "masks.fc1.weight": m},
        lambda w, m: {"fc1.weight_orig": w, "fc1.weight_mask": m},
        lambda w, m: {"fc1": m},
        lambda w, m: {"masks": {"fc1.weight": m}},
        lambda w, m: {"fc1.weight_mask": m},
        lambda w, m: {"fc1.weight": w * m},
        lambda w, m: {
            "state_dict": {"fc1.parametrizations.weight.original": w},
            "sparsifier": {"state": {"fc1.weight": {"mask": m}}, "groups": []},
        },
    ],
)
@pytest.mark.filterwarnings("ignore:read as masks:topokit.foreign.ReadingNote")
def test_masks_beside_weights_are_used(weight, mask, beside):
    found = topology_of(beside(weight, mask))
    assert [name.removeprefix("module.") for name in found] == ["fc1"]
    assert same(next(iter(found.values())), mask)


def test_masks_of_torch_pruning(mask):
    from torch.ao.pruning import WeightNormSparsifier

    model = nn.Sequential(nn.Linear(16, 16))
    sparsifier = WeightNormSparsifier(sparsity_level=0.75)
    sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    both = {"state_dict": model.state_dict(), "sparsifier": sparsifier.state_dict()}
    assert topology_of(both)["0"].n_edges == 64
    with pytest.warns(ReadingNote, match="a parametrization changes"):
        assert topology_of(model.state_dict())["0"].density == 1


def test_masks_that_cannot_be_used_are_named(weight, mask):
    state = {"fc1.weight": weight, "fc2.weight": weight}
    with pytest.warns(ReadingNote, match=r"masks that were not used: fc9.mask \(6, 8\)"):
        topology_of({**state, "fc9.mask": mask})
    with pytest.warns(ReadingNote, match=r"left out: fc1 \(its mask 'fc1.mask' has other numbers"):
        assert list(topology_of({**state, "fc1.mask": mask * 0.5})) == ["fc2"]
    with pytest.warns(ReadingNote, match=r"left out: fc1 \(its mask .* has shape \(3, 3\)"):
        topology_of({**state, "fc1.mask": mask[:3, :3]})
    with pytest.raises(ValueError, match=r"several masks of 'fc1.weight': .*; keep one"):
        topology_of({**state, "fc1.mask": mask, "fc1.weight_mask": mask})


# --- which entries are layers ---------------------------------------------------------------------


def test_recurrent_layers_pruned_or_masked(rng):
    lstm = nn.LSTM(3, 2)
    prune.l1_unstructured(lstm, "weight_ih_l0", 0.7)
    found = topology_of(lstm.state_dict())
    assert sorted(found) == ["weight_hh_l0", "weight_ih_l0"]
    assert same(found["weight_ih_l0"], lstm.weight_ih_l0_mask)
    held = torch.from_numpy((rng.random((8, 3)) < 0.5).astype(np.float32))
    state = {**nn.LSTM(3, 2).state_dict(), "weight_ih_l0_mask": held}
    found = topology_of(state)
    assert sorted(found) == ["weight_hh_l0", "weight_ih_l0"]
    assert same(found["weight_ih_l0"], held)
    projected = nn.LSTM(4, 6, proj_size=3, num_layers=2, bidirectional=True)
    assert topology_of(projected.state_dict()) == topology_of(projected)
    cell = nn.Sequential(nn.Linear(4, 5), nn.GRUCell(5, 3)).state_dict()
    assert list(topology_of(cell)) == ["0", "1.weight_ih", "1.weight_hh"]


def test_weight_norm_old_and_new():
    new = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)), nn.Linear(3, 2))
    with torch.no_grad():
        new[0].parametrizations.weight.original1[0, 1] = 0
    with pytest.warns(ReadingNote, match="0 read as weight norm"):
        found = topology_of(new.state_dict())
    assert list(found) == ["0", "1"]
    assert found["0"].n_edges == 11
    v, g = torch.ones(3, 4), torch.tensor([[1.0], [0.0], [1.0]])
    found = topology_of({"fc.weight_g": g, "fc.weight_v": v, "fc.bias": torch.zeros(3)})
    assert found["fc"].fan_in.tolist() == [4, 0, 4]
    orig = {"fc.weight_orig": v, "fc.weight_u": torch.ones(3), "fc.weight_v": torch.ones(4)}
    assert topology_of(orig)["fc"].density == 1


def test_what_a_parametrization_computes_is_not_guessed(weight, mask):
    layer = nn.Linear(8, 6)
    nn.utils.parametrize.register_parametrization(layer, "weight", Mask(mask.bool()))
    assert same(topology_of(layer.state_dict())["weight"], mask)
    key = "0.parametrizations.weight."
    other = {"1.weight": weight, f"{key}original": weight}
    for name, tensor in (("delta", torch.zeros(6, 8)), ("off", mask == 0)):
        with pytest.warns(ReadingNote, match=rf"left out: 0 \(computed from .*{name}; the model"):
            assert list(topology_of({**other, f"{key}0.{name}": tensor})) == ["1"]
    with pytest.raises(ValueError, match=r"no layer that can be read; left out: 0"):
        topology_of({f"{key}original": weight, f"{key}0.off": mask == 0})


def test_packed_bit_masks(mask, tmp_path):
    cells = mask.numpy().astype(bool)
    packed = {
        "compressed": torch.ones(int(cells.sum())),
        "bitmask": torch.from_numpy(np.packbits(cells, axis=1, bitorder="little")),
        "shape": torch.tensor(cells.shape),
        "row_offsets": torch.zeros(6, dtype=torch.int64),
    }
    names = {torch.float32: "F32", torch.uint8: "U8", torch.int64: "I64"}
    for prefix in ("fc.", "fc.weight."):
        tensors = {f"{prefix}{k}": (names[t.dtype], t) for k, t in packed.items()}
        found = topology_of(safetensors(tmp_path / "m.safetensors", tensors))
        assert list(found) == ["fc"]
        assert same(found["fc"], cells)
    state = {f"fc.{k}": t for k, t in packed.items()}
    with pytest.raises(ValueError, match=r"cells and 1 values at 'fc\.'"):
        topology_of({**state, "fc.compressed": torch.ones(1)})


def test_norms_and_positions_are_named_and_left_out(weight):
    state = {
        "fc.weight": weight,
        "norm.weight": torch.ones(4, 5),
        "norm.bias": torch.ones(4, 5),
        "position": torch.ones(1, 7, 3),
    }
    with pytest.warns(
        ReadingNote,
        match=r"^not read, by its name no weight: norm.weight \(4, 5\), norm.bias .*, position",
    ):
        assert list(topology_of(state)) == ["fc"]


def test_attention_is_read_alike_from_the_model_and_its_state():
    for attention in (nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2, kdim=5, vdim=3)):
        model = nn.ModuleDict({"attn": attention})
        of_state = topology_of(model.state_dict())
        assert of_state == topology_of(model)
        assert sorted(of_state) == [f"attn.{n}_proj" for n in ("k", "out", "q", "v")]


# --- orientation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [(9, 7, 5, 4), (4, 4, 4, 6), (5, 8, 8)])
def test_layers_that_follow_each_other_with_inputs_as_rows_are_noted(tmp_path, rng, widths):
    shapes = list(itertools.pairwise(widths))
    arrays = {f"d{i}": (rng.random(shape) < 0.5).astype(float) for i, shape in enumerate(shapes)}
    np.savez(tmp_path / "in_out.npz", **arrays)
    np.savez(tmp_path / "out_in.npz", **{name: array.T for name, array in arrays.items()})
    state = {f"{name}.weight": torch.from_numpy(array) for name, array in arrays.items()}
    straight = {name: tensor.t() for name, tensor in state.items()}
    for source in (tmp_path / "in_out.npz", state):
        with pytest.warns(ReadingNote, match=r"say transpose=True .* if rows are inputs"):
            topology_of(source)
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always")
            turned = topology_of(source, transpose=True)
        assert all(same(turned[name], array.T) for name, array in arrays.items())
        assert not any("transpose" in str(note.message) for note in noted)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        for source in (tmp_path / "out_in.npz", straight):
            topology_of(source)
            topology_of(source, transpose=False)
    assert not any("transpose" in str(note.message) for note in noted)


def test_kernels_that_come_first_are_noted(tmp_path):
    arrays = {"c1": np.ones((3, 3, 1, 16)), "c2": np.ones((3, 3, 16, 32)), "c3": np.ones((5, 8, 9))}
    np.savez(tmp_path / "keras.npz", **arrays)
    with pytest.warns(
        ReadingNote, match=r"^c2, c3 read as \(outputs, inputs, kernel\), as in torch"
    ):
        topology_of(tmp_path / "keras.npz")
    turned = {name: np.moveaxis(array, (-1, -2), (0, 1)) for name, array in arrays.items()}
    np.savez(tmp_path / "torch.npz", **turned)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = topology_of(tmp_path / "torch.npz")
    assert [graph.shape for graph in found.values()] == [(16, 9), (32, 144), (9, 40)]


def test_orientation_is_shown_by_biases_or_asked_for(weight):
    up = nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.Conv2d(6, 2, 3))
    assert topology_of(up.state_dict()) == topology_of(up)
    wide = {"fc.weight": weight, "fc.bias": torch.zeros(8)}
    with pytest.warns(ReadingNote, match=r"read as \(n_in, n_out\), as their biases show: fc"):
        assert topology_of(wide)["fc"].shape == (8, 6)
    square = {**wide, "proj.weight": torch.eye(5), "proj.bias": torch.zeros(5)}
    with pytest.raises(ValueError, match=r"square ones .*proj.weight\); say transpose=True"):
        topology_of(square)
    assert [g.shape for g in topology_of(square, transpose=True).values()] == [(8, 6), (5, 5)]
    with pytest.warns(ReadingNote, match="against what their biases show"):
        assert topology_of(square, transpose=False)["fc"].shape == (6, 8)
    headed = {**square, "score.weight": torch.ones(2, 8)}  # of Linear, whatever the others are
    with pytest.warns(ReadingNote, match=r"like the others, without a bias .*: score\.weight$"):
        assert topology_of(headed, transpose=True)["score"].shape == (8, 2)
    grouped = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.Linear(2, 2))
    with pytest.warns(ReadingNote, match="left out: 0 .a grouped transposed convolution"):
        assert list(topology_of(grouped.state_dict())) == ["1"]


def test_orientation_of_matrices_can_be_chosen(tmp_path, mask):
    cells = mask.numpy()
    sp.save_npz(tmp_path / "a.npz", sp.csr_array(cells))
    np.save(tmp_path / "a.npy", cells)
    scipy.io.mmwrite(tmp_path / "a.mtx", sp.coo_array(cells))
    for name in ("a.npz", "a.npy", "a.mtx"):
        assert same(topology_of(tmp_path / name)["a"], cells)
        assert same(topology_of(tmp_path / name, transpose=True)["a"], cells.T)
    tk.save_topology(tmp_path / "t.npz", {"fc1": from_dense(cells)})
    for source in (tmp_path / "t.npz", nn.Linear(2, 3)):
        with pytest.raises(ValueError, match=r"no orientation to choose \(transpose\)"):
            topology_of(source, transpose=True)


# --- finding the state dict -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        ["params"], ["ema"], ["model_state"], ["generator"], ["encoder"], ["model", "state_dict"],
        ["checkpoint", "net", "module"],
    ],
)  # fmt: skip
def test_state_dicts_are_found_inside(weight, keys):
    content = {"fc.weight": weight}
    for key in reversed(keys):
        optimizer = {"state": {0: {"exp_avg": weight}}, "param_groups": [{"lr": 0.1}]}
        content = {key: content, "epoch": 3, "optimizer": optimizer}
    assert list(topology_of(content)) == ["fc"]


def test_of_several_state_dicts_one_is_chosen(weight, tmp_path):
    content = {"generator": {"a.weight": weight}, "discriminator": {"b.weight": weight}}
    torch.save(content, tmp_path / "gan.pt")
    for source in (content, tmp_path / "gan.pt"):
        with pytest.raises(ValueError, match="several state dicts: 'generator', 'discriminator'"):
            topology_of(source)
        assert list(topology_of(source, entry="discriminator")) == ["b"]
        with pytest.raises(ValueError, match="no state dict 'ema'; it has 'generator', 'discr"):
            topology_of(source, entry="ema")


def test_masks_of_another_state_dict_are_not_used(weight, mask):
    masked = {"fc.weight": weight, "fc.weight_mask": mask}
    plain = {"fc.weight": weight}
    for content, entry, cells in (
        ({"generator": plain, "discriminator": masked}, "generator", weight),
        ({"generator": plain, "discriminator": masked}, "discriminator", mask),
        ({"generator": masked, "masks": {"fc.weight": 1 - mask}}, "generator", mask),
        ({"image_encoder": plain, "mask_decoder": masked}, "mask_decoder", mask),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReadingNote)
            assert same(topology_of(content, entry=entry)["fc"], cells)
    sam = {"mask_decoder.fc.weight": weight, "decoder.fc.weight": weight.clone()}
    assert all(graph.density == 1 for graph in topology_of(sam).values())


# --- one list of readers --------------------------------------------------------------------------


def test_every_format_is_read_by_every_entry_point(tmp_path, mask, capsys):
    from topokit.cli import main

    graph = from_dense(mask.numpy())
    tk.save_topology(tmp_path / "a.npz", {"a": graph})
    np.save(tmp_path / "a.npy", mask.numpy())
    scipy.io.mmwrite(tmp_path / "a.mtx", graph.to_csr())
    nx.write_graphml(tk.to_networkx(graph), tmp_path / "a.graphml")
    nx.write_gexf(tk.to_networkx(graph), tmp_path / "a.gexf")
    for end in ("pt", "pth", "ckpt", "bin"):
        torch.save({"a.weight": mask}, tmp_path / f"a.{end}")
    safetensors(tmp_path / "a.safetensors", {"a.weight": ("F32", mask)})
    assert {path.suffix for path in tmp_path.iterdir()} == set(READERS)
    for path in tmp_path.iterdir():
        for read in (topology_of, load_topology, as_topology, lambda p: read_topologies(p)[0]):
            assert read(path) == {"a": graph}, path
    for end in ("bin", "mtx", "npy"):
        assert main(["analyze", str(tmp_path / f"a.{end}"), "--measures", "fan_in"]) == 0
    capsys.readouterr()
    assert main(["list", "formats"]) == 0
    listed = capsys.readouterr().out
    assert all(end in listed for end in READERS)


def test_notes_and_options_at_the_command_line(tmp_path, weight, capsys):
    from topokit.cli import main

    torch.save({"a.weight": weight, "b": weight[None]}, tmp_path / "a.pt")
    arguments = ["analyze", str(tmp_path / "a.pt"), "--measures", "fan_in"]
    assert main(arguments) == 0
    assert "note: not read, by its name no weight: b (1, 6, 8)" in capsys.readouterr().err
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == [
        "not read, by its name no weight: b (1, 6, 8)"
    ]
    assert main([*arguments, "--entry", "z"]) == 2
    assert "no state dict 'z'" in capsys.readouterr().err
    assert main([*arguments, "--epoch", "3"]) == 2
    assert "--epoch: expected a run" in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected a run directory to choose epoch 3 of"):
        read_topologies(tmp_path / "a.pt", 3)
    assert main([*arguments, "--transpose"]) == 0


# --- stored zeros ---------------------------------------------------------------------------------


def test_stored_zeros_are_edges_in_every_sparse_format(tmp_path, rng):
    dense = (rng.random((6, 8)) < 0.4).astype(float)
    csr = sp.csr_array(dense)
    csr.data[::3] = 0
    zeros = int((csr.data == 0).sum())
    for kind in ("csr", "csc", "coo"):
        sp.save_npz(tmp_path / f"{kind}.npz", csr.asformat(kind))
    scipy.io.mmwrite(tmp_path / "m.mtx", csr.tocoo())
    for name in ("csr.npz", "csc.npz", "coo.npz", "m.mtx"):
        with pytest.warns(ReadingNote, match=f"^{zeros} of the {csr.nnz} stored entries are zero"):
            assert same(next(iter(topology_of(tmp_path / name).values())), dense)
    dia = sp.dia_array(([[1, 0, 2, 0], [0, 3, 0, 4]], [0, 1]), shape=(4, 4))
    sp.save_npz(tmp_path / "dia.npz", dia)
    with pytest.warns(ReadingNote, match="^3 of the 7 stored entries are zero"):
        assert topology_of(tmp_path / "dia.npz")["dia"].n_edges == 7
    block = sp.bsr_array(np.kron(np.eye(2), np.eye(2)), blocksize=(2, 2))
    sp.save_npz(tmp_path / "bsr.npz", block)
    with pytest.warns(ReadingNote, match="^4 of the 8 stored entries are zero"):
        assert topology_of(tmp_path / "bsr.npz")["bsr"].n_edges == 8
    assert tk.from_scipy(dia).n_edges == 7
    scipy.io.mmwrite(tmp_path / "full.mtx", dense)
    assert same(topology_of(tmp_path / "full.mtx")["full"], dense)


# --- arrays of numpy ------------------------------------------------------------------------------


def test_dense_arrays(tmp_path, mask, weight):
    cells = mask.numpy()
    conv = np.stack([cells, 1 - cells], axis=2)[..., None]
    np.savez(tmp_path / "m.npz", fc1=cells.astype(bool), fc2=cells.T.astype(np.int8), conv=conv)
    found = topology_of(tmp_path / "m.npz")
    assert list(found) == ["fc1", "fc2", "conv"]
    assert same(found["fc1"], cells)
    assert found["conv"].shape == (6, 16)
    assert list(topology_of(tmp_path / "m.npz", entry="fc2")) == ["fc2"]
    np.savez(tmp_path / "w.npz", fc1=weight.numpy() * cells, bias=np.ones(6))
    with pytest.warns(ReadingNote, match="fc1 read as weights: cells that are not zero"):
        assert same(topology_of(tmp_path / "w.npz")["fc1"], cells)
    np.savez(tmp_path / "degrees.npz", inputLayerConnections=np.arange(12).reshape(2, 6))
    with pytest.raises(ValueError, match=r"no layer: it has inputLayerConnections int64 \(2, 6\)"):
        topology_of(tmp_path / "degrees.npz")
    np.savez(tmp_path / "data.npz", x=np.ones((4, 3)), y=np.ones(4))
    with pytest.raises(ValueError, match="a data set"):
        topology_of(tmp_path / "data.npz")


@pytest.mark.data
def test_files_of_the_set_authors(data_dir):
    folder = data_dir / "set_topologies" / "w0" / "epoch_000"
    for layer, shape in ((0, (784, 785)), (1, (784, 785)), (3, (10, 785))):  # the last is the bias
        path = folder / f"weight_l{layer}.npz"
        assert topology_of(path, transpose=True)[path.stem].shape == shape


# --- graphs ---------------------------------------------------------------------------------------


def graphml(path, keys, nodes, edges):
    path.write_text(
        f'<?xml version="1.0"?><graphml xmlns="http://graphml.graphdrawing.org/xmlns">{keys}'
        f'<graph edgedefault="undirected">{nodes}{edges}</graph></graphml>'
    )
    return path


def test_conventions_of_graphml(tmp_path):
    key = '<key id="k" for="node" attr.name="{}" attr.type="{}"><default>{}</default></key>'
    node = '<node id="{}"><data key="k">{}</data></node>'
    nodes = '<node id="a"/><node id="b"/>' + node.format("c", "{one}")
    edges = '<edge source="a" target="c"/><edge source="c" target="b"/>'
    for name, kind, zero, one in (
        ("bipartite", "int", 0, 1), ("bipartite", "double", "0.0", "1.0"),
        ("type", "boolean", "false", "true"), ("type", "boolean", "0", "1"),
    ):  # fmt: skip
        path = graphml(
            tmp_path / "g.graphml", key.format(name, kind, zero), nodes.format(one=one), edges
        )
        assert topology_of(path)["g"].shape == (1, 2)
        assert topology_of(path)["g"].n_edges == 2
    path = graphml(tmp_path / "g.graphml", key.format("side", "int", 0), nodes.format(one=1), edges)
    with pytest.raises(ValueError, match=r"or igraph's boolean 'type'.*got None on node 'a'"):
        topology_of(path)
    for wrong, words in (
        (edges + '<edge source="a" target="z"/>', "'a' - 'z', whose nodes are not both there"),
        (edges + '<edge source="a" target="b"/>', "'a' - 'b' within one"),
        (edges + '<edge source="a"/>', "no entry 'target'"),
        ('<node id="a"/>', "two nodes 'a'"),
        ("<hyperedge/>", "hyperedge"),
        ("<edge", "ExpatError"),
        ("<a>" * 200, "nested more than 100 deep"),
    ):
        path = graphml(
            tmp_path / "g.graphml", key.format("bipartite", "int", 0), nodes.format(one=1), wrong
        )
        with pytest.raises(ValueError, match=f"expected a GraphML file, got: .*{words}"):
            topology_of(path)


def gexf(path, attributes, nodes, edges, mode="static"):
    path.write_text(
        '<?xml version="1.0"?><gexf xmlns="http://gexf.net/1.3" version="1.3" '
        'xmlns:viz="http://gexf.net/1.3/viz">'
        f'<graph defaultedgetype="directed" mode="{mode}">{attributes}<nodes>{nodes}</nodes>'
        f"<edges>{edges}</edges></graph></gexf>"
    )
    return path


def test_conventions_of_gexf(tmp_path):
    key = (
        '<attributes class="{}" mode="static"><attribute id="0" title="{}" type="{}">'
        "<default>{}</default></attribute></attributes>"
    )
    node = (
        '<node id="{}" label="x"><attvalues><attvalue {}="0" value="{}"/></attvalues>'
        '<viz:size value="3"/></node>'
    )
    edges = '<edge id="0" source="a" target="c"/><edge id="1" source="c" target="b"/>'
    for name, kind, zero, one, said in (
        ("bipartite", "integer", 0, 1, "for"), ("bipartite", "double", "0.0", "1.0", "for"),
        ("type", "boolean", "false", "true", "for"), ("type", "boolean", "false", "true", "id"),
    ):  # fmt: skip
        nodes = '<node id="a"/><node id="b"/>' + node.format("c", said, one)
        path = gexf(tmp_path / "g.gexf", key.format("node", name, kind, zero), nodes, edges)
        assert topology_of(path)["g"].shape == (1, 2)
        assert topology_of(path)["g"].n_edges == 2
    keys, nodes = (
        key.format("node", "type", "boolean", "false"),
        nodes.replace('id="0" v', 'for="0" v'),
    )
    for wrong, words in (
        ({"attributes": key.format("edge", "type", "boolean", "false")}, "got None on node 'a'"),
        ({"edges": '<edge source="a" target="z"/>'}, "'a' - 'z', whose nodes are not both there"),
        ({"edges": '<edge source="a" target="b"/>'}, "'a' - 'b' within one"),
        ({"edges": '<edge source="a"/>'}, "no entry 'target'"),
        ({"nodes": nodes + '<node id="a"/>'}, "two nodes 'a'"),
        ({"nodes": '<node id="a"><nodes><node id="b"/></nodes></node>'}, "a node within a node"),
        ({"nodes": node.format("a", "for", "true").replace("/></att", '/><attvalue for="0" '
          'value="false"/></att')}, "two values of 'type' for one node"),
        ({"mode": "dynamic"}, "a graph of the mode 'dynamic', expected a static one"),
        ({"edges": "<edge"}, "ExpatError"),
        ({"edges": "<a>" * 200}, "nested more than 100 deep"),
        ({"edges": "</edges></graph><graph><edges>"}, "more than one graph"),
    ):  # fmt: skip
        path = gexf(
            tmp_path / "g.gexf",
            **{"attributes": keys, "nodes": nodes, "edges": edges, **wrong},
        )
        with pytest.raises(ValueError, match=f"expected a GEXF file, got: .*{words}"):
            topology_of(path)
    swapped = graphml(tmp_path / "a.gexf", "", "", "")
    with pytest.raises(ValueError, match="expected a GEXF file, got: an XML file of 'graphml'"):
        topology_of(swapped)


def test_a_network_written_whole_is_read_as_its_layers(tmp_path):
    topology = tk.generate([6, 5, 4], "erdos_renyi", density=0.5, rng=0)
    topology = {"encoder <&>\x1b": topology["fc1"], "decoder": topology["fc2"]}
    graph = tk.to_networkx(topology)
    nx.write_graphml(tk.to_networkx({"a": topology["decoder"]}), tmp_path / "n.graphml")
    assert list(topology_of(tmp_path / "n.graphml")) == ["a"]
    shuffled = nx.Graph()
    shuffled.add_nodes_from(reversed(list(graph.nodes(data=True))))
    shuffled.add_edges_from(graph.edges())
    for found in (as_topology(graph), as_topology(shuffled)):
        assert found == topology
    for name in ("n.graphml", "N.GEXF", "n.npz"):
        tk.save_topology(tmp_path / name, topology)
        found = tk.load_topology(tmp_path / name)
        assert list(found) == ["encoder <&>\\x1b", "decoder"]
        assert list(found.values()) == list(topology.values())
    with pytest.raises(ValueError, match=r"the graph of one layer, got 2 layers"):
        tk.from_networkx(graph)
    graph.add_edge(0, 14)
    with pytest.raises(ValueError, match="from a layer to the next"):
        as_topology(graph)
    sides = nx.Graph([(0, 1)])
    nx.set_node_attributes(sides, {0: False, 1: True}, "type")
    assert tk.from_networkx(sides).shape == (1, 1)


@pytest.mark.parametrize("name", ["n.gml", "n.MTX", "n", "n_0.05"])
def test_a_topology_is_not_written_where_it_could_not_be_read(tmp_path, name):
    topology = tk.generate([6, 5, 4], "erdos_renyi", density=0.5, rng=0)
    with pytest.raises(
        ValueError, match=r"ends in \.npz, \.graphml or \.gexf, got .*; to_networkx"
    ):
        tk.save_topology(tmp_path / name, topology)
    assert not list(tmp_path.iterdir())


def test_layers_that_do_not_chain_are_not_written_as_one_graph(tmp_path):
    topology = tk.generate([6, 5, 4], "erdos_renyi", density=0.5, rng=0)
    for wrong in (
        {"a": topology["fc1"], "b": topology["fc1"]},
        {"a": from_dense(np.zeros((0, 3)))},
    ):
        for name in ("n.graphml", "n.gexf"):
            with pytest.raises(ValueError, match=r"expected layers"):
                tk.save_topology(tmp_path / name, wrong)
            assert not list(tmp_path.iterdir())


# --- refusals -------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)


@pytest.mark.parametrize(
    ("thing", "named"),
    [
        (Namespace(lr=0.1), "argparse.Namespace"),
        (np.float64(1.0), "numpy"),
        (np.ones(3), "numpy"),
        (Path("a"), "pathlib"),
        (date(2020, 1, 1), "datetime.date"),
        (Net(), "Net"),
        (bytearray(5), "builtins.bytearray"),
    ],
)
def test_objects_in_a_checkpoint_are_named_with_the_remedy(tmp_path, thing, named):
    state = {"fc.weight": torch.ones(2, 3)}
    for legacy in (False, True):
        path = tmp_path / "c.pt"
        torch.save(
            {"state_dict": state, "x": thing}, path, _use_new_zipfile_serialization=not legacy
        )
        with pytest.raises(ValueError, match=f"objects of .*{named}.*save the state dict") as error:
            topology_of(path)
        assert "\n" not in str(error.value)
        assert "\x1b" not in str(error.value)
    torch.save({"state_dict": state, "x": defaultdict(int)}, path)


def test_what_a_file_is_instead(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones((2, 2)))
    for content, words in (
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "an HDF5 file"),
        (b"\x1f\x8b" + bytes(20), "a gzip archive"),
        (safetensors(tmp_path / "x", {"a": ("F32", torch.ones(1))}).read_bytes(), "a safetensors"),
        (buffer.getvalue(), "arrays of numpy"),
        (b"hello", "torch.save did not write it"),
    ):
        (tmp_path / "c.pt").write_bytes(content)
        with pytest.raises(ValueError, match=f"c.pt: expected .*, got: .*{words}"):
            topology_of(tmp_path / "c.pt")
    with zipfile.ZipFile(tmp_path / "s.pt", "w") as archive:
        archive.writestr("s/constants.pkl", b"x")
        archive.writestr("s/data.pkl", b"x")
    with pytest.raises(ValueError, match="a TorchScript program"):
        topology_of(tmp_path / "s.pt")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("4 3\n1 1 1\n", "line 2: expected the numbers of rows, columns and entries, got '4 3'"),
        ("2 2 1\n1 99999999999999999999 1\n", "(64 bits|overflow|Overflow)"),
        ("2 2 1\n1 1.5 1\n", "expected integers in column 2"),
        ("2 2 1\n1 1 nan\n", "expected finite numbers in column 3"),
        ("2 2 1\n1 1\n", "could not convert|empty"),
        ("2 2 1\n1 1 1 1\n", "more than 3 numbers|Expected 3 fields"),
        ("2 2 2\n1 1 1\n\n", "1 entries, not the 2"),
        ("2 2 1\n1 1 3.75E", "could not convert|invalid"),
        ("2 2 1\n1 1 1\0\n", "line 3: expected numbers, got the character '.x00'"),
        ("2 2 9\n1 1 1\n", "9 entries, but there are"),
        ("2147483648 2 1\n1 1 1\n", "a layer of 2 -> 2147483648 units with 1 edges"),
        ("2 2 1\n3 1 1\n", r"rows 3\.\.3, not within 1\.\.2"),
        ("", "line 2: expected the numbers of rows"),
    ],
)
def test_matrix_market_that_is_wrong(tmp_path, body, words):
    path = tmp_path / "a.mtx"
    path.write_text("%%MatrixMarket matrix coordinate integer general\n" + body)
    with pytest.raises(ValueError, match=f"a.mtx: expected a Matrix Market file, got: .*{words}"):
        topology_of(path)


def test_matrix_market_equals_scipys_reader(tmp_path, rng):
    path = tmp_path / "a.mtx"
    square = np.round((rng.random((7, 7)) - 0.5) * (rng.random((7, 7)) < 0.4), 2)
    skew = np.triu(square, 1) - np.triu(square, 1).T
    for dense, symmetry in (
        (square[:, :5], "general"), (square + square.T, "symmetric"), (skew, "skew-symmetric"),
        (1j * skew, "hermitian"), (np.round(100 * square), "general"),
    ):  # fmt: skip
        for matrix in (sp.coo_array(dense), dense):
            scipy.io.mmwrite(path, matrix, comment="one\ntwo", symmetry=symmetry)
            assert same(topology_of(path)["a"], dense)
    big = "%%MatrixMarket matrix coordinate integer general\n2 2 1\n1 1 99999999999999999999\n"
    path.write_text(big)
    assert topology_of(path)["a"].edge_ids.tolist() == [0]


def test_tensors_of_unknown_types_are_skipped_and_named(tmp_path, mask):
    extra = {kind: (kind, torch.zeros(4, dtype=torch.uint8)) for kind in ("F4", "F8_E8M0", "X9")}
    known = {"u.weight": ("U16", (mask * 300).to(torch.int16)), "a.weight": ("F32", mask)}
    path = safetensors(tmp_path / "m.safetensors", {**known, **extra}, header=None)
    with pytest.warns(ReadingNote, match=r"^not read, of an unknown type: F4 F4 \(4,\), F8_E8M0"):
        found = topology_of(path)
    assert all(same(found[name], mask) for name in ("u", "a"))


def crafted(folder):
    """Small files that claim much, or lie about what compiled code would trust."""

    def arrays(name, **entries):
        np.savez(folder / name, **entries)
        return folder / name

    yield arrays(
        "claims.npz", format=np.array("topokit-topology-1"), names=np.array(["a"]),
        shape_0=np.array([2, 2**31 - 1]), indptr_0=np.array([0, 1, 1]),
        indices_0=np.array([5], np.int32),
    )  # fmt: skip
    yield arrays(
        "twice.npz", format=np.array("topokit-topology-1"), names=np.array(["a", "a"]),
        **{f"shape_{i}": np.array([1, 2]) for i in (0, 1)},
        **{f"indptr_{i}": np.array([0, 1]) for i in (0, 1)},
        **{f"indices_{i}": np.array([i]) for i in (0, 1)},
    )  # fmt: skip
    for indptr, indices in (([0, 10**9, 2], [0, 1]), ([0, 1, 2], [0, 99]), ([0, 1, 2], [0, -1])):
        yield arrays(
            "lies.npz", format=b"csr", shape=np.array([2, 3]), data=np.ones(2),
            indptr=np.array(indptr), indices=np.array(indices),
        )  # fmt: skip
    yield arrays(
        "coo.npz", format=b"coo", shape=np.array([2, 3]), data=np.ones(2),
        row=np.array([0, 7]), col=np.array([0, 1]),
    )  # fmt: skip
    for index in (np.array([0.9]), np.array([1j]), np.array(["0"]), np.array([2**32])):
        yield arrays(
            "index.npz", format=np.array("topokit-topology-1"), names=np.array(["a"]),
            shape_0=np.array([1, 3]), indptr_0=np.array([0, 1]), indices_0=index,
        )  # fmt: skip
    for name, wrong in (("indices", [0.5, 1.0]), ("indptr", [0, 1, 2.5]), ("shape", [2.5, 3])):
        entries = {"shape": [2, 3], "indptr": [0, 1, 2], "indices": [0, 1]} | {name: wrong}
        yield arrays("reals.npz", format=b"csr", data=np.ones(2), **entries)
    with zipfile.ZipFile(folder / "alike.npz", "w") as archive:
        for name, size in (("a.npy", 2), ("a", 3)):
            buffer = io.BytesIO()
            np.save(buffer, np.eye(size))
            archive.writestr(name, buffer.getvalue())
    yield folder / "alike.npz"
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        header = np.lib.format.magic(1, 0) + (118).to_bytes(2, "little")
        text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000, 30000), }"
        archive.writestr("a.npy", header + text.ljust(117) + b"\n" + bytes(30_000_000))
    yield folder / "bomb.npz"
    raw = np.lib.format.magic(1, 0) + (118).to_bytes(2, "little")
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    (folder / "a.npy").write_bytes(raw + text.ljust(117) + b"\n" + bytes(100))
    yield folder / "a.npy"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        csr = torch.sparse_csr_tensor([0, 1, 2], [0, 1], [1.0, 2.0], (2, 3))
        csr.col_indices()[1] = 10**8
        torch.save({"fc.weight": csr}, folder / "csr.pt")
        yield folder / "csr.pt"
    torch.save({"fc.weight": torch.ones(1).expand(100_000, 100_000)}, folder / "expanded.pt")
    yield folder / "expanded.pt"
    torch.save({"fc.weight": torch.ones(3, 3, device="meta")}, folder / "meta.pt")
    yield folder / "meta.pt"
    stored = {"fc.indptr": [0, 1, 1], "fc.indices": [5], "fc.shape": [2, 2**31 - 1]}
    torch.save({k: torch.tensor(v) for k, v in stored.items()}, folder / "stored.pt")
    yield folder / "stored.pt"
    nodes = '<!DOCTYPE g [<!ENTITY a "aaaa">]><graphml><graph></graph></graphml>'
    (folder / "entity.graphml").write_text(nodes)
    yield folder / "entity.graphml"
    (folder / "entity.gexf").write_text(nodes.replace("graphml", "gexf"))
    yield folder / "entity.gexf"
    overlap = {"a.weight": {"dtype": "U8", "shape": [2, 2], "data_offsets": [0, 4]}}
    overlap["b.weight"] = overlap["a.weight"]
    text = json.dumps(overlap).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(4)
    (folder / "overlap.safetensors").write_bytes(content)
    yield folder / "overlap.safetensors"


def test_files_that_claim_much_or_lie_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("topokit.foreign.LIMIT", 2**24)
    for path in crafted(tmp_path):
        with pytest.raises(ValueError, match=path.name) as error:
            topology_of(path)
        assert "\n" not in str(error.value)


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    import os
    import socket

    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.npz").mkdir()
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(tmp_path / "socket.npz"))
        for name in ("pipe.npz", "socket.npz"):
            with pytest.raises(ValueError, match=f"{name}: expected a file"):
                topology_of(tmp_path / name)
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="expected a file, got a pipe or device"):
        topology_of(tmp_path / "zero.npz")
    (tmp_path / "a.pkl").write_bytes(b"x")
    with pytest.raises(ValueError, match="expected a run directory"):
        topology_of(tmp_path / "a.pkl")


def test_names_of_layers_are_made_printable(tmp_path, weight):
    name = "\x1b[31mfc\x00\n‮"
    torch.save({f"{name}.weight": weight}, tmp_path / "c.pt")
    tk.save_topology(tmp_path / "t.npz", {name: from_dense(weight)})
    expected = "\\x1b[31mfc\\x00\\n\\u202e"
    assert printable(name) == expected
    for path in (tmp_path / "c.pt", tmp_path / "t.npz"):
        assert list(topology_of(path)) == [expected]
    assert list(load_topology(tmp_path / "t.npz")) == [expected]
    with pytest.raises(ValueError, match="name of 5,000 characters"):
        topology_of({"a" * 5000 + ".weight": weight})


def test_names_from_files_leave_figures_and_graphs_valid(tmp_path, weight):
    from xml.dom import minidom

    import matplotlib.pyplot as plt

    torch.save({"<a>&\x1b\x00]]>.weight": weight}, tmp_path / "c.pt")
    topology = topology_of(tmp_path / "c.pt")
    figure, axes = plt.subplots(figsize=(2, 2))
    axes.set_title(next(iter(topology)))
    figure.savefig(tmp_path / "a.svg")
    plt.close(figure)
    minidom.parse(str(tmp_path / "a.svg"))
    minidom.parseString("\n".join(nx.generate_graphml(tk.to_networkx(topology))))
