"""Runs that start from a finished one: its graphs, as they are or rearranged, and its weights."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from topokit.data.samples import Data, scaled
from topokit.experiments import preparation
from topokit.experiments.config import load_recipe
from topokit.experiments.loop import read_checkpoint
from topokit.experiments.preparation import prepare_run, take_over
from topokit.experiments.runs import _first, check, resume, run
from topokit.nn.initial_topology import INITIAL_TOPOLOGIES
from topokit.nn.layers import sparse_layers

SMALL = {"model.widths": [64, 30, 20, 10], "batch_size": 100, "measures.names": []}
START = {"topology.generator": "run", "topology.run": "first", "rule.name": "static"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs")
    run("set_mlp_digits", path / "first", epochs=3, **SMALL)
    return path


def config_of(**more):
    return load_recipe("set_mlp_digits").override({**SMALL, **START, **more}, epochs=2)


def first_model(folder, name="next", **more):
    config = config_of(**more)
    parts = prepare_run(config, None)
    return _first(config, parts, torch.device("cpu"), folder / name).model


def last_state(folder):
    return read_checkpoint(folder / "first/checkpoint.pt")["model"]


def test_the_graphs_are_those_of_the_end_of_the_run(folder):
    history = run(config_of(), folder / "same")
    last = run("set_mlp_digits", folder.parent / "again", epochs=3, **SMALL).topology(-1)
    assert {k: g.edge_ids.tolist() for k, g in history.topology(0).items()} == {
        k: g.edge_ids.tolist() for k, g in last.items()
    }


def test_weights_are_new_or_taken_over(folder):
    theirs = last_state(folder)
    fresh, signs, values = (
        first_model(folder, **{"topology.weights": how}) for how in ("fresh", "signs", "values")
    )
    for name, layer in sparse_layers(fresh).items():
        old = theirs[f"{name}.values"]
        new = layer.values.detach()
        assert not torch.equal(torch.sign(new), torch.sign(old))
        mixed = sparse_layers(signs)[name].values.detach()
        assert torch.equal(mixed.abs(), new.abs())  # equal seeds: the same absolute values
        assert torch.equal(torch.sign(mixed)[old != 0], torch.sign(old)[old != 0])
        assert not sparse_layers(signs)[name].bias.any()
    for key, value in values.state_dict().items():
        assert torch.equal(value, theirs[key])


def test_the_first_epoch_is_that_of_the_weights_taken_over(folder):
    ended = run(config_of(**{"topology.weights": "values"}), folder / "on").epochs["test_accuracy"]
    new = run(config_of(), folder / "new").epochs["test_accuracy"]
    assert ended.iloc[0] > new.iloc[0] + 0.1


@pytest.mark.parametrize("edges", ["null", "moved"])
def test_rearranged_graphs(folder, edges):
    same, other = (first_model(folder, **{"topology.edges": how}) for how in ("same", edges))
    a, b = ({k: layer.graph for k, layer in sparse_layers(m).items()} for m in (same, other))
    for name in a:
        assert a[name].n_edges == b[name].n_edges
        assert a[name] != b[name]
        for side in ("fan_in", "fan_out"):
            before, after = getattr(a[name], side), getattr(b[name], side)
            if edges == "null":
                assert np.array_equal(before, after)
            else:
                assert np.array_equal(np.sort(before), np.sort(after))
        spectra = [np.linalg.svd(g[name].to_csr().toarray())[1] for g in (a, b)]
        assert np.allclose(*spectra) == (edges == "moved")  # the same graph but for its names
    if edges == "moved":
        assert not np.array_equal(a["fc1"].fan_out, b["fc1"].fan_out)


def test_a_run_is_repeated_and_resumed(folder, tmp_path):
    whole = run(config_of(**{"topology.edges": "null"}), folder / "whole")

    def stop(epoch, frame):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(config_of(**{"topology.edges": "null"}), folder / "part", progress=stop)
    again = resume(folder / "part")
    left, right = (h.epochs.drop(columns=["run", "seconds"]) for h in (whole, again))
    assert left.equals(right)
    assert whole.topology(-1) == again.topology(-1)
    elsewhere = config_of(**{"topology.run": str(folder / "first"), "topology.edges": "null"})
    assert run(elsewhere, tmp_path / "else").topology(0) == whole.topology(0)


def test_errors_come_first(folder, tmp_path):
    with pytest.raises(ValueError, match=r"topology.run: expected a finished run .* found none"):
        run(config_of(), tmp_path / "alone")
    assert not (tmp_path / "alone").exists()
    (tmp_path / "first").mkdir()
    (tmp_path / "first/config.toml").write_text("epochs = 1\n")
    with pytest.raises(ValueError, match="found an unfinished one"):
        run(config_of(), tmp_path / "next")
    with pytest.raises(ValueError, match=r"unknown choice of edges 'nul'; did you mean 'null'"):
        check(config_of(**{"topology.edges": "nul"}), load=False)
    with pytest.raises(ValueError, match="unknown choice of weights 'sign'; did you mean 'signs'"):
        check(config_of(**{"topology.weights": "sign"}), load=False)
    with pytest.raises(ValueError, match="expected 'fresh' with edges 'moved'"):
        check(config_of(**{"topology.edges": "moved", "topology.weights": "signs"}), load=False)
    with pytest.raises(ValueError, match="a topology from a run has the run's edges, got epsilon"):
        config_of(**{"topology.epsilon": 3})
    with pytest.raises(ValueError, match=r"expected layers of widths \[64, 30, 10\] in .*, got 64"):
        run(config_of(**{"model.widths": [64, 30, 10]}), folder / "narrow")
    with pytest.raises(ValueError, match="'run'"):
        check(load_recipe("set_mlp_digits").override({"topology.generator": "run"}), load=False)


def test_weights_of_another_model_are_refused(folder):
    model = first_model(folder, **{"topology.edges": "moved"})
    with pytest.raises(ValueError, match="is of another model: layer fc1 has other edges"):
        take_over(model, folder / "first", "signs")
    assert "run" in INITIAL_TOPOLOGIES


COUNTS = np.random.default_rng(0).poisson(2.0, (60, 8)).astype(np.float32)
BINARY = (np.random.default_rng(1).random((60, 8)) < 0.01).astype(np.float32)  # mostly zeros


@pytest.mark.parametrize(
    ("x", "scale", "threshold", "word"),
    [
        (COUNTS, "none", 0.5, None),
        (COUNTS, "unit", 0.5, None),
        (np.where(COUNTS > 6, 500, COUNTS), "unit", 0.5, "0"),  # few are half of it
        (COUNTS / 20, "none", 0.5, "0"),
        (sp.csr_array(COUNTS / 20), "none", 0.5, "0"),
        (COUNTS + 1, "none", 0.5, "1"),
        (sp.csr_array(COUNTS), "none", -0.5, "1"),
        (COUNTS + 1, "none", 3.5, None),
        (BINARY, "none", 0.5, None),
        (sp.csr_array(BINARY), "none", 0.5, None),
    ],
)
def test_data_on_one_side_of_the_threshold_are_named(
    monkeypatch, caplog, x, scale, threshold, word
):
    x_train, x_test = scaled(x[:50], x[50:], scale, float(x.max()))
    none = np.full(60, -1)
    data = Data("counts", x_train, none[:50], x_test, none[50:], 0)
    monkeypatch.setattr(preparation, "load_data", lambda *_, **__: data)
    settings = {"model.widths": [8, 4], "data.name": "digits", "model.threshold": threshold}
    with caplog.at_level("WARNING", logger="topokit.experiments"):
        prepare_run(load_recipe("set_rbm_mnist").override(settings), None)
    if word is None:
        assert caplog.messages == []
    else:
        (message,) = caplog.messages
        assert f"above the threshold {threshold:g} of the machine" in message
        assert f"to which nearly all are {word}; set model.threshold or data.scale" in message
