"""Whatever holds a graph is accepted wherever one is meant, and integers where a stream is."""

import os

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import topokit as tk
from topokit.graph.convert import as_graph, as_topology, from_dense
from topokit.nn import SparseLinear

GRAPH = tk.LayerGraph.from_edge_ids([0, 1, 3, 5, 7, 10, 11, 14], (3, 5))
NEXT = tk.LayerGraph.from_edge_ids([0, 2, 3], (2, 3))
ONE, TWO = {"fc1": GRAPH}, {"fc1": GRAPH, "fc2": NEXT}


def model_of(topology):
    layers = [SparseLinear(graph, rng=np.random.default_rng(0)) for graph in topology.values()]
    return torch.nn.Sequential(*layers)


def masked():
    linear = torch.nn.Linear(5, 3)
    linear.weight.data *= torch.from_numpy(GRAPH.to_csr().toarray() != 0)
    return linear


def recording(*topologies):
    kept = tk.Recording()
    for epoch, topology in enumerate(topologies):
        kept(epoch, topology)
        kept.note(epoch, test_accuracy=0.5, test_loss=1.0)
    return kept


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("accepted")
    tk.save_topology(folder / "one.npz", ONE)
    torch.save(model_of(ONE).state_dict(), folder / "one.pt")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "tiny"
    config = tk.load_recipe("set_mlp_digits").override(["epochs=2", "model.widths=[64, 10, 10]"])
    return tk.run(config, directory)


HOLDERS = {
    "graph": lambda folder: GRAPH,
    "topology": lambda folder: ONE,
    "dict of matrices": lambda folder: {"fc1": GRAPH.to_csr()},
    "scipy array": lambda folder: GRAPH.to_csr(),
    "networkx graph": lambda folder: tk.to_networkx(GRAPH),
    "sparse layer": lambda folder: model_of(ONE)[0],
    "model": lambda folder: model_of(ONE),
    "dense model with zeros": lambda folder: masked(),
    "state dict": lambda folder: model_of(ONE).state_dict(),
    "recording": lambda folder: recording({"fc1": NEXT}, ONE),
    "path": lambda folder: folder / "one.npz",
    "path as a string": lambda folder: str(folder / "one.npz"),
    "checkpoint": lambda folder: os.fspath(folder / "one.pt"),
}

CALLS = {
    "as_graph": as_graph,
    "measure": lambda x: tk.measure(x, ["fan_in", "components"])["value"].tolist(),
    "layer measure": lambda x: tk.LAYER_MEASURES["spectral_gap"](x),
    "layer measure of the package": lambda x: tk.measures.spectral_gap(x),
    "network measure": lambda x: tk.NETWORK_MEASURES["components"](x),
    "singular values": lambda x: tk.measures.singular_values(x).tolist(),
    "power_law_of": lambda x: tk.measures.power_law_of(x).n,
    "degree_report": lambda x: tk.degree_report(x, bootstrap=1, rng=0).sentence,
    "null_scores": lambda x: tk.null_scores(x, {"gap": len_gap}, twins=2, rng=0)["gap"].value,
    "randomized_twin": lambda x: tk.randomized_twin(
        x, rng=np.random.default_rng(0)
    ).fan_in.tolist(),
    "describe": lambda x: tk.generators.describe(x).n_edges,
    "topology_distance": lambda x: tk.topology_distance(x, GRAPH),
    "to_networkx": lambda x: sorted(tk.to_networkx(x).edges),
    "network": lambda x: len(drawn(tk.plots.network, x).collections),
    **{
        name: lambda x, plot=plot: drawn(plot, x).get_xlabel()
        for name, plot in tk.LAYER_PLOTS.items()
    },
}


def len_gap(graph):
    return float(graph.n_edges)


def drawn(plot, x):
    return plot(x, ax=Figure().add_subplot())


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("holder", HOLDERS)
def test_every_holder_of_a_graph_gives_what_the_graph_gives(call, holder, folder):
    given = HOLDERS[holder](folder)
    expected, got = CALLS[call](GRAPH), CALLS[call](given)
    if isinstance(expected, tk.LayerGraph):
        expected, got = expected.edge_ids.tolist(), got.edge_ids.tolist()
    assert repr(got) == repr(expected)


def test_save_topology_accepts_them_too(tmp_path):
    tk.save_topology(str(tmp_path / "model.npz"), model_of(TWO))
    kept = tk.load_topology(str(tmp_path / "model.npz"))
    assert [graph.shape for graph in kept.values()] == [(3, 5), (2, 3)]


def test_save_topology_takes_the_path_first(tmp_path):
    with pytest.raises(TypeError) as caught:
        tk.save_topology(ONE, tmp_path / "one.npz")
    assert str(caught.value) == (
        "expected save_topology(path, topology), the path first as in numpy.savez, got dict as the "
        "path"
    )


def test_an_engine_and_a_classifier_hold_topologies():
    model = model_of(ONE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = tk.attach(model, optimizer, "set", every=1, rng=np.random.default_rng(0))
    assert as_graph(engine).n_edges == GRAPH.n_edges
    x = np.random.default_rng(0).random((20, 5))
    fitted = tk.SparseMLPClassifier((3,), epsilon=1, max_iter=1, random_state=0)
    fitted.fit(x, np.arange(20) % 2)
    assert as_topology(fitted) is fitted.topology_


def test_a_run_is_measured_at_its_last_epoch_and_against_the_one_before(run):
    expected = tk.measure(run.topology(1), ["turnover"], previous=run.topology(0))
    for given in (run, run.directory, str(run.directory)):
        pd.testing.assert_frame_equal(tk.measure(given, ["turnover"]), expected)
    kept = recording({"fc1": GRAPH}, {"fc1": GRAPH})
    assert tk.measure(kept, "turnover")["value"].tolist() == [0.0]


@pytest.mark.parametrize("name", tk.HISTORY_PLOTS)
def test_plots_of_runs_accept_a_directory(name, run):
    for given in (run, run.directory, str(run.directory)):
        assert isinstance(drawn(tk.HISTORY_PLOTS[name], given), Axes)


@pytest.mark.parametrize("name", sorted(set(tk.HISTORY_PLOTS) - {"network"}))
def test_plots_of_runs_say_what_they_need(name):
    with pytest.raises(TypeError, match=r"^expected a run .*, got dict$"):
        drawn(tk.HISTORY_PLOTS[name], ONE)


SEVERAL = (
    "expected the graph of one layer, got 2 layers (fc1, fc2); pass one of them, such as "
    "topology['fc1']"
)


@pytest.mark.parametrize(
    "call",
    [
        tk.LAYER_MEASURES["spectral_gap"],
        lambda x: tk.degree_report(x, rng=0),
        lambda x: tk.null_scores(x, rng=0),
        lambda x: tk.randomized_twin(x, rng=np.random.default_rng(0)),
        tk.plots.degree_distribution,
        tk.plots.adjacency,
    ],
)
@pytest.mark.parametrize("given", [TWO, recording(TWO)])
def test_several_layers_where_one_is_meant_are_refused_with_what_to_pass(call, given):
    with pytest.raises(ValueError) as caught:
        call(given)
    assert str(caught.value) == SEVERAL


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (3, TypeError, "or a path, got int$"),
        (None, TypeError, "or a path, got NoneType$"),
        (np.eye(3), TypeError, "got ndarray; topokit.graph.convert.from_dense reads dense masks$"),
        (torch.eye(3), TypeError, "got Tensor; topokit.graph.convert.from_dense reads"),
        ([GRAPH], TypeError, "a dict of them.*got list$"),
        ({"fc1": GRAPH, "fc2": 3}, TypeError, "a dict of layer graphs, got a dict with a int$"),
        ({"fc1": 3}, ValueError, "expected weights of layers"),
        ("nowhere.npz", FileNotFoundError, "found nothing at nowhere.npz$"),
        (nx.path_graph(3), ValueError, "expected the node attribute bipartite"),
        (torch.nn.ReLU(), ValueError, "expected weights of layers"),
        (tk.Recording(), ValueError, "run recording has not recorded an epoch yet$"),
        ({}, ValueError, "got 0 layers \\(none\\)"),
    ],
)
def test_what_holds_no_graph_is_refused_in_one_sentence(given, kind, words):
    for call in (as_graph, tk.LAYER_MEASURES["fan_in"], tk.plots.spectrum):
        with pytest.raises(kind, match=words):
            call(given)


def test_a_power_law_is_fitted_to_degrees():
    for given in (GRAPH, ONE):
        with pytest.raises(TypeError, match=r"such as graph.fan_in.*power_law_of fits a graph's"):
            tk.fit_power_law(given)


def test_dense_masks_are_read_by_name():
    assert as_graph(from_dense(GRAPH.to_csr().toarray())).n_edges == GRAPH.n_edges


def in_bits(value):
    return repr(value.edge_ids.tolist() if isinstance(value, tk.LayerGraph) else value)


STREAMS = {
    "generate": lambda rng: tk.generate([8, 6], "erdos_renyi", density=0.4, rng=rng)["fc1"],
    "generator": lambda rng: tk.GENERATORS["biregular"](8, 6, density=0.5, rng=rng),
    "randomized_twin": lambda rng: tk.randomized_twin(GRAPH, rng=rng),
    "expected_degree_sample": lambda rng: tk.measures.nulls.expected_degree_sample(GRAPH, rng=rng),
    "null_scores": lambda rng: tk.null_scores(GRAPH, twins=2, rng=rng),
    "degree_report": lambda rng: tk.degree_report(GRAPH, bootstrap=2, rng=rng).sentence,
    "fit_power_law": lambda rng: tk.fit_power_law([1, 2, 2, 3, 9], bootstrap=5, rng=rng).p_value,
    "find_communities": lambda rng: tk.measures.find_communities(GRAPH, rng=rng).modularity,
    "load_data": lambda rng: tk.load_data("synthetic", rng=rng).x_train.sum(),
    "sparsify": lambda rng: as_graph(tk.sparsify(torch.nn.Linear(8, 6), density=0.4, rng=rng)),
    "SparseLinear": lambda rng: SparseLinear(GRAPH, rng=rng).values.tolist(),
    "SparseRBM": lambda rng: [v.tolist() for v in tk.nn.SparseRBM(GRAPH, rng=rng).parameters()],
    "set_mlp": lambda rng: tk.MODELS["set_mlp"](TWO, rng=rng).state_dict()["fc1.values"].tolist(),
}


@pytest.mark.parametrize("name", STREAMS)
def test_integers_are_seeds(name):
    expected = in_bits(STREAMS[name](np.random.default_rng(3)))
    assert in_bits(STREAMS[name](3)) == expected
    assert in_bits(STREAMS[name](np.int64(3))) == expected


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("seed", [True, "0", 1.5])
def test_other_things_are_no_seeds(name, seed):
    with pytest.raises(TypeError, match=r"^expected rng to be a numpy"):
        STREAMS[name](seed)
