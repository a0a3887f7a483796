import itertools

import numpy as np
import pytest
import torch

from topokit.experiments.config import load_recipe
from topokit.experiments.runs import run
from topokit.generators import NETWORKS, generate
from topokit.graph import same_edges
from topokit.graph.convert import save_topology
from topokit.nn.initial_topology import INITIAL_TOPOLOGIES, snip

WIDTHS = (20, 30, 25, 4)


@pytest.fixture
def samples(rng):
    return rng.standard_normal((60, 20)), rng.integers(4, size=60)


def reference(x, y, seed, widths, counts, samples):
    """SNIP by autograd on dense weights drawn as ours are, one block a layer."""
    rng = np.random.default_rng(seed)
    batch = rng.permutation(len(x))[:samples]
    start = int(rng.integers(2**62))
    h, weights = torch.tensor(x[batch], dtype=torch.float64), []
    for layer, (a, b) in enumerate(itertools.pairwise(widths)):
        draws = np.random.default_rng([start, layer, 0, 0])
        weight = draws.standard_normal((b, a), dtype=np.float32) * np.float32(np.sqrt(2 / a))
        weights.append(torch.tensor(weight, dtype=torch.float64, requires_grad=True))
        h = h @ weights[-1].T
        h = torch.relu(h) if layer < len(widths) - 2 else h
    torch.nn.functional.cross_entropy(h, torch.tensor(y[batch]), reduction="sum").backward()
    scores = [(w * w.grad).abs().detach().numpy().ravel() for w in weights]
    return [np.sort(np.argsort(-s)[:n]) for s, n in zip(scores, counts, strict=True)], scores


def test_snip_takes_the_most_sensitive_edges_of_each_layer(samples):
    x, y = samples
    density = [0.1, 0.05, 0.2]
    counts = [
        round(d * a * b) for d, (a, b) in zip(density, itertools.pairwise(WIDTHS), strict=True)
    ]
    options = {"widths": WIDTHS, "density": density, "samples": 40}
    ours = snip(x, y, **options, budgets="layer", rng=np.random.default_rng(3))
    theirs, scores = reference(x, y, 3, WIDTHS, counts, 40)
    for graph, ids in zip(ours.values(), theirs, strict=True):
        assert graph.edge_ids.tolist() == ids.tolist()
    ours = snip(x, y, **options, rng=np.random.default_rng(3))
    assert sum(graph.n_edges for graph in ours.values()) == sum(counts)
    threshold = np.sort(np.concatenate(scores))[-sum(counts)]
    for graph, score in zip(ours.values(), scores, strict=True):
        assert score[graph.edge_ids].min() >= threshold * (1 - 1e-6)


def test_snip_is_bounded_seeded_and_never_empties_a_layer(samples):
    x, y = samples
    few = {"widths": WIDTHS, "density": [0.002, 0.002, 0.002]}
    topology = snip(x, y, **few, rng=np.random.default_rng(0))
    assert min(graph.n_edges for graph in topology.values()) >= 1
    again = snip(x, y, **few, rng=np.random.default_rng(0))
    other = snip(x, y, **few, rng=np.random.default_rng(1))
    assert all(same_edges(topology[name], again[name]) for name in topology)
    assert not all(same_edges(topology[name], other[name]) for name in topology)
    small = snip(x, y, **few, block_cells=7, rng=np.random.default_rng(0))
    assert [g.shape for g in small.values()] == [g.shape for g in topology.values()]


@pytest.mark.parametrize("label", [3, 40])
def test_snip_refuses_labels_without_an_output_unit(label):
    x, y = np.ones((6, 4)), np.array([0, 1, 2, 0, 1, label])
    options = {"widths": [4, 5, 3], "density": [0.5, 0.5], "rng": np.random.default_rng(0)}
    with pytest.raises(ValueError, match=rf"expected labels in 0..2, got {label}"):
        snip(x, y, **options)


@pytest.mark.parametrize(
    "y", [np.zeros(6), np.zeros((6, 1), int), np.zeros(5, int), np.array(list("ababab")), None]
)
def test_snip_refuses_what_are_no_classes_of_the_samples(y):
    options = {"widths": [4, 5, 3], "density": [0.5, 0.5], "rng": np.random.default_rng(0)}
    with pytest.raises(ValueError, match="a class for each sample: expected 6 whole numbers, got"):
        snip(np.ones((6, 4)), y, **options)


def test_snip_takes_classes_of_two_kinds_as_numbers(samples):
    x, y = samples[0], samples[1] % 2
    options = {"widths": [20, 5, 2], "density": [0.5, 0.5]}
    expected = snip(x, y, **options, rng=np.random.default_rng(0))
    found = snip(x, y == 1, **options, rng=np.random.default_rng(0))
    assert all(same_edges(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"density": None}, "a density in .0, 1. for each of 2 layers, got None"),
        ({"density": [0.5]}, "for each of 2 layers"),
        ({"density": [0.5, 1.5]}, "for each of 2 layers"),
        ({"density": [0.0, 0.5]}, "for each of 2 layers"),
        ({"samples": 2.5}, "samples of at least 1, got 2.5"),
    ],
)
def test_snip_refuses_budgets_that_are_none(samples, options, words):
    given = {"widths": [20, 5, 4], "density": [0.5, 0.5], "rng": np.random.default_rng(0)}
    with pytest.raises(ValueError, match=words):
        snip(*samples, **{**given, **options})
    x = np.where(np.arange(20) == 3, np.nan, samples[0])
    with pytest.raises(ValueError, match="needs samples without nan"):
        snip(x, samples[1], **given)


@pytest.mark.slow
def test_snip_never_forms_a_dense_layer(rng):
    import tracemalloc

    x, y = rng.standard_normal((8, 4000)).astype(np.float32), rng.integers(2, size=8)
    tracemalloc.start()
    topology = snip(x, y, widths=[4000, 5000, 2], density=[1e-4, 1], block_cells=1 << 16, rng=rng)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(graph.n_edges for graph in topology.values()) == 2000 + 10_000
    assert peak < 8e6  # dense float32: 80 MB


def test_invalid_arguments_are_refused(samples, tmp_path, rng):
    x, y = samples
    with pytest.raises(ValueError, match="the samples as input: expected 20 inputs, got 7"):
        snip(x, y, widths=[7, 4], density=[0.5], rng=rng)
    with pytest.raises(ValueError, match="samples with labels, got none"):
        snip(x, -np.ones(60, int), widths=[20, 4], density=[0.5], rng=rng)
    with pytest.raises(ValueError, match="budgets to be 'network' or 'layer', got 'all'"):
        snip(x, y, widths=[20, 4], density=[0.5], budgets="all", rng=rng)
    with pytest.raises(ValueError, match="samples of at least 1, got 0"):
        snip(x, y, widths=[20, 4], density=[0.5], samples=0, rng=rng)
    save_topology(tmp_path / "t.npz", generate([20, 9, 4], "erdos_renyi", epsilon=2, rng=rng))
    with pytest.raises(
        ValueError, match=r"expected layers of widths \[20, 4\] in .*t.npz, got 20 -> 9"
    ):
        INITIAL_TOPOLOGIES["file"](x, y, widths=[20, 4], path=str(tmp_path / "t.npz"), rng=rng)
    with pytest.raises(FileNotFoundError):
        INITIAL_TOPOLOGIES["file"](x, y, widths=[20, 4], path=str(tmp_path / "none.pt"), rng=rng)


SMALL = ["epochs=2", "model.widths=[64,30,20,10]", "rule.name=set", "threads=1"]


def test_a_run_begins_with_masks_from_a_file(tmp_path, rng):
    mask = generate([64, 30, 20, 10], "biregular", density=0.2, rng=rng)
    save_topology(tmp_path / "mask.npz", mask)
    state = {
        f"layer{i}.weight_mask": torch.tensor(g.to_csr().toarray())
        for i, g in enumerate(mask.values())
    }
    torch.save(
        {
            k: v
            for name, v in state.items()
            for k, v in ((name, v), (name.replace("mask", "orig"), v.float()))
        },
        tmp_path / "mask.pt",
    )
    for kind in ("npz", "pt"):
        settings = [*SMALL, "topology.generator=file", f'topology.path="{tmp_path}/mask.{kind}"']
        config = load_recipe("set_mlp_digits").override(settings)
        assert (config.topology.epsilon, config.topology.density) == (None, None)
        history = run(config, tmp_path / kind)
        for name, graph in history.topology(0).items():
            assert same_edges(graph, mask[name])


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_of_a_run_depend_on_each_other_whatever_the_form_of_the_budget(name, tmp_path):
    settings = ["epochs=1", "threads=1", f"topology.generator={name}", "model.widths=[64,64,64,10]"]
    config = load_recipe("set_mlp_digits").override(settings)
    each = run(config.override(["topology.densities=[0.125,0.125,0.125]"]), tmp_path / "each")
    one = run(config.override(["topology.density=0.125"]), tmp_path / "one")
    first = each.topology(0)
    assert first == one.topology(0)
    assert first["fc1"] != first["fc2"]  # with stride 1 in every layer they would be equal


def test_a_run_begins_with_snip_and_with_a_density_for_each_layer(tmp_path):
    config = load_recipe("set_mlp_digits").override([*SMALL, "topology.generator=snip"])
    first = run(config, tmp_path / "snip").topology(0)
    assert sum(g.n_edges for g in first.values()) == 3 * (94 + 50 + 30)
    config = load_recipe("set_mlp_digits").override([*SMALL, "topology.densities=[0.05,0.1,1]"])
    first = run(config, tmp_path / "each").topology(0)
    assert [g.n_edges for g in first.values()] == [96, 60, 200]
    assert config.override(["topology.density=0.2"]).topology.densities is None
    with pytest.raises(ValueError, match="expected one for each of 3 layers, got 2"):
        run(config.override(["topology.densities=[0.1,1]"]), tmp_path / "two")
    with pytest.raises(ValueError, match="from a file has the file's edges, got epsilon 3"):
        load_recipe("set_mlp_digits").override(["topology.generator=file", "topology.epsilon=3"])
