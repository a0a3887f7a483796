"""The trained network of a run, and the samples it was trained on."""

import shutil

import numpy as np
import pytest
import torch

from tests.end_to_end.test_resume import Stop, stop_after
from topokit import data_of, model_of
from topokit.experiments import preparation
from topokit.experiments.config import load_recipe
from topokit.experiments.loop import read_checkpoint
from topokit.experiments.record import History
from topokit.experiments.runs import run
from topokit.nn.layers import sparse_layers

TINY = ["data.name=digits", "data.n_train=60", "data.n_test=30", "epochs=3", "batch_size=30",
        'measures.names=["fan_in"]']  # fmt: skip
MLP = ["model.widths=[64,14,10]"]


def config(recipe="set_mlp_digits", more=MLP):
    return load_recipe(recipe).override([*TINY, *more])


@pytest.mark.parametrize(
    ("recipe", "more"),
    [("set_mlp_digits", MLP),
     ("set_mlp_digits", [*MLP, "seed=3", "model.activation=srelu", "model.dropout=0.3"]),
     ("set_mlp_digits", [*MLP, "optimizer.name=adam", "optimizer.momentum=0.0", "rule.name=rigl"]),
     pytest.param("set_cnn_cifar10",
                  ["model.image=[1,8,8]", "model.widths=[128,20,10]", "epochs=2"],
                  marks=pytest.mark.slow)],
)  # fmt: skip
def test_the_network_has_the_accuracy_that_was_recorded(tmp_path, recipe, more):
    history = run(config(recipe, more), tmp_path / "run")
    shutil.move(tmp_path / "run", tmp_path / "moved")
    before = torch.get_num_threads(), torch.get_rng_state()
    model, data = model_of(tmp_path / "moved"), data_of(tmp_path / "moved")
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert not model.training
    x, y = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    if "cnn" in recipe:
        x = x.reshape(-1, 1, 8, 8)
    with torch.no_grad():
        accuracy = float((model(x).argmax(1) == y).double().mean())
    assert accuracy == pytest.approx(history["test_accuracy"].iloc[-1], abs=1e-9)
    last = History.load(tmp_path / "moved").topology(-1)
    assert all(layer.graph == last[name] for name, layer in sparse_layers(model).items())


def test_a_boltzmann_machine_has_the_weights_of_its_checkpoint(tmp_path):
    history = run(config("set_rbm_mnist", ["model.widths=[64,20]"]), tmp_path / "run")
    state = read_checkpoint(tmp_path / "run" / "checkpoint.pt")["model"]
    found = model_of(history).state_dict()
    assert state.keys() == found.keys()
    assert all(torch.equal(state[name], value) for name, value in found.items())


def test_of_an_unfinished_run_it_is_that_of_the_last_checkpoint(tmp_path):
    with pytest.raises(Stop):
        run(config(), tmp_path / "run", progress=stop_after(2))
    history = History.load(tmp_path / "run")
    model, data = model_of(history), data_of(history)
    with torch.no_grad():
        right = model(torch.from_numpy(data.x_test)).argmax(1).numpy() == data.y_test
    done = read_checkpoint(tmp_path / "run" / "checkpoint.pt")["epoch"]
    assert right.mean() == pytest.approx(history["test_accuracy"].iloc[done - 1])


def test_what_cannot_be_the_network_or_samples_of_a_run_is_refused(tmp_path, monkeypatch):
    run(config(), tmp_path / "run")
    run(config(more=[*MLP, "seed=1"]), tmp_path / "other")
    for function in (model_of, data_of):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            function(tmp_path / "nowhere")
    path = tmp_path / "run" / "checkpoint.pt"
    mine = path.read_bytes()
    path.write_bytes((tmp_path / "other" / "checkpoint.pt").read_bytes())
    with pytest.raises(ValueError, match="not the one that was saved"):
        model_of(tmp_path / "run")
    path.write_bytes(mine[:-40])
    with pytest.raises(ValueError, match="damaged"):
        model_of(tmp_path / "run")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no checkpoint\.pt, which holds the weights"):
        model_of(tmp_path / "run")
    original = preparation.load_data

    def changed(*args, **kwargs):
        data = original(*args, **kwargs)
        data.x_test[3] = np.roll(data.x_test[3], 1)
        return data

    monkeypatch.setattr(preparation, "load_data", changed)
    with pytest.raises(ValueError, match=r"the samples are not those of run .* restore the files"):
        data_of(tmp_path / "run")
