"""The device of a run, tested without a GPU.

A step on a device copies nothing to the CPU: here the CPU stands in for the device. Products,
activations and dropout are made to take the ways of other devices, and every reading of numbers
from a tensor, and every array that becomes one, is noticed.
"""

import copy
import json

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from topokit.cli import main
from topokit.experiments import preparation
from topokit.experiments.config import RunConfig, load_recipe
from topokit.experiments.loop import _set_stream, move, read_checkpoint
from topokit.experiments.preparation import choose_device, first_topology, information, prepare_run
from topokit.experiments.record import History
from topokit.experiments.runs import _build, resume, run
from topokit.experiments.samples import CLASSES, NUMBERS, Batch, Samples, evaluate
from topokit.experiments.study import study_from
from topokit.nn import activations, kernels, models
from topokit.nn.kernels import ops
from topokit.nn.kernels.products import PRODUCTS

TINY = ["epochs=2", "model.widths=[64,20,10]", "data.n_train=100", "data.n_test=20"]


class Noticed(AssertionError):
    """Numbers were read from a tensor, or brought into one."""


@pytest.fixture
def on_device(monkeypatch):
    """Take the ways of devices other than the CPU."""
    monkeypatch.setattr(kernels, "sparse_product", lambda kind: PRODUCTS["torch"])
    monkeypatch.setattr(ops, "sparse_product", lambda kind: PRODUCTS["torch"])
    monkeypatch.setattr(models, "chained", lambda parts, x: None)
    monkeypatch.setattr(activations, "_compiled_takes", lambda x: False)


READING = ("cpu", "numpy", "tolist", "item", "__array__", "__float__", "__int__", "__bool__")


@pytest.fixture
def watched(monkeypatch):
    """Begin to notice."""

    def refuse(name):
        def noticed(*args, **kwargs):
            raise Noticed(f"Tensor.{name}")

        return noticed

    def begin():
        for name in READING:
            monkeypatch.setattr(torch.Tensor, name, refuse(name))
        monkeypatch.setattr(torch, "from_numpy", refuse("from_numpy"))

    return begin


def state_of(settings, recipe="set_mlp_digits"):
    config = load_recipe(recipe).override(settings)
    parts = prepare_run(config, None)
    state = _build(config, first_topology(config, parts), parts, torch.device("cpu"))
    return state, Samples.of(parts.data, "cpu")[0]


MODELS = {
    "relu and dropout": [*TINY, "model.dropout=0.3"],
    "srelu": [*TINY, "model.activation=srelu", "model.dropout=0.3"],
    "all_relu": [*TINY, "model.activation=all_relu", "optimizer.decay_per_step=1e-4"],
    "dense product": [*TINY, "model.kernel=dense"],
    "rbm": ["model.name=set_rbm", "model.widths=[64,20]"],
    "cnn": [
        "model.name=set_cnn", "model.channels=[4]", "model.image=[1,8,8]",
        "model.widths=[64,20,10]", "model.dropout=0.3",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_step_reads_no_number_and_copies_nothing(name, on_device, watched, monkeypatch):
    state, samples = state_of(MODELS[name])
    state.model.train()
    batches = [samples.shuffled(16, np.random.default_rng(0)) for _ in range(2)]

    def step(batch):
        state.optimizer.zero_grad(set_to_none=True)
        loss = CLASSES.loss(state.model, batch)
        loss.backward()
        state.optimizer.step()
        return loss.detach()

    first = step(next(batches[0]))  # fills what is kept from step to step
    kept = next(batches[1])
    watched()
    second = step(kept)
    for _ in range(2):
        step(next(batches[0]))
    monkeypatch.undo()
    assert torch.isfinite(first)
    assert torch.isfinite(second)


def test_readings_are_noticed(watched, monkeypatch):
    ones, numbers = torch.ones(3), np.ones(3)
    watched()
    for read in (
        lambda: float(ones.sum()), lambda: bool(ones.any()), lambda: ones.sum().item(),
        ones.cpu, ones.numpy, ones.tolist, lambda: np.asarray(ones), lambda: int(ones.sum()),
        lambda: torch.from_numpy(numbers),
    ):  # fmt: skip
        with pytest.raises(Noticed):
            read()
    monkeypatch.undo()


def test_losses_on_a_device_are_read_in_blocks(monkeypatch):
    from topokit.experiments import loop

    state, samples = state_of(TINY)
    plan = loop.TrainPlan(epochs=1, batch_size=10)
    blocks = []
    finite = loop._finite
    monkeypatch.setattr(loop, "CHECKED_EVERY", 4)
    monkeypatch.setattr(
        loop,
        "_finite",
        lambda state, waiting: blocks.append(len(waiting)) or finite(state, waiting),
    )
    order = np.random.default_rng(5)
    state.rngs["order"] = np.random.default_rng(5)
    twin, _ = state_of(TINY)
    twin.rngs["order"] = order
    losses = loop._one_epoch(twin, samples, plan, None)
    assert blocks == [1] * 10 + [0]
    blocks.clear()
    there = copy.copy(samples)  # as if it were on another device
    there.device, there.shuffled = torch.device("meta"), samples.shuffled
    assert loop._one_epoch(state, there, plan, None) == pytest.approx(losses, rel=1e-6)
    assert blocks == [4, 4, 2]
    with torch.no_grad():
        next(state.model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"nan at step 11 \(epoch 0\)"):
        loop._one_epoch(state, there, plan, None)


@pytest.mark.parametrize("objective", [CLASSES, NUMBERS])
def test_samples_that_do_not_fit_are_copied_batch_by_batch(objective, monkeypatch, rng):
    x = rng.random((30, 5)).astype(np.float32)
    y = rng.integers(0, 3, 30) if objective is CLASSES else rng.random((30, 3)).astype(np.float32)
    weights = rng.random(30).astype(np.float32)
    ways = [Samples(x, y, weights), Samples(sp.csr_array(x), y, weights)]
    monkeypatch.setattr(Samples, "_fits", lambda self: False)
    ways.append(Samples(x, y, weights))
    ways.append(Samples(x, y, weights, change=lambda part, stream: part))
    assert [way.resident for way in ways] == [True, False, False, False]
    model = torch.nn.Linear(5, 3)
    found = [evaluate(model, way, objective) for way in ways]
    assert found == [found[0]] * 4
    for way in ways:
        batches = list(way.shuffled(8, np.random.default_rng(0)))
        order = np.random.default_rng(0).permutation(30)
        for part, name in ((x, "x"), (y, "y"), (weights, "weights")):
            joined = np.concatenate([getattr(batch, name).numpy() for batch in batches])
            np.testing.assert_array_equal(joined, part[order])
        assert isinstance(batches[0], Batch)
        part = way[np.array([3, 1])]
        np.testing.assert_array_equal(next(part.in_order(5)).x.numpy(), x[[3, 1]])
        assert len(part) == 2


def test_the_device_of_a_configuration():
    config = load_recipe("set_mlp_digits")
    assert config.device == "cpu"
    assert "device" not in config.to_dict()  # as in the runs of before there was one
    there = config.override(["device=auto"])
    assert there.device == "auto"
    assert RunConfig.from_toml(there.to_toml()) == there
    with pytest.raises(ValueError, match='device: expected "cpu", "cuda" or "auto", got \'gpu\''):
        config.override(["device=gpu"])
    study = study_from(
        {"study": {"name": "a", "recipe": "set_mlp_digits"}, "settings": {"device": "auto"}}
    )
    assert study.runs()[0].config.device == "auto"


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_cuda_without_a_gpu_is_refused_before_any_work(tmp_path, no_gpu, capsys):
    words = r"device: expected a GPU for 'cuda', got none: torch .* use device 'cpu', or 'auto'"
    config = load_recipe("set_mlp_digits").override([*TINY, "device=cuda"])
    with pytest.raises(ValueError, match=words):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert main(["train", "--device", "cuda", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "expected a GPU for 'cuda'" in " ".join(error.split())
    assert "Traceback" not in error


def test_auto_says_what_it_chose(no_gpu, caplog, monkeypatch):
    caplog.set_level("INFO", "topokit")
    assert choose_device("auto").type == "cpu"
    assert caplog.messages[-1].startswith("device auto: cpu (torch ")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    assert choose_device("auto").type == choose_device("cuda").type == "cuda"
    assert caplog.messages[-1] == "device auto: cuda (Some GPU)"
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        choose_device("gpu")


def test_a_run_says_where_it_was_computed_and_goes_on_elsewhere(tmp_path, no_gpu, caplog):
    config = load_recipe("set_mlp_digits").override([*TINY, "model.dropout=0.2", "device=auto"])
    run(config, tmp_path / "whole")
    history = History.load(tmp_path / "whole")
    assert history.environment["device"] == "cpu"
    assert json.loads((tmp_path / "whole/environment.json").read_text())["device"] == "cpu"

    def stop(epoch, frame):
        raise KeyboardInterrupt

    for name in ("same", "other"):
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / name, progress=stop)
    same = resume(tmp_path / "same")
    assert same.epochs["train_loss"].tolist() == history.epochs["train_loss"].tolist()
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    # As if this machine had been another device: the record says that it was trained on one.
    from topokit.experiments.rundir import RunDirectory

    directory = RunDirectory(tmp_path / "other")
    before = directory.read()
    line = {"kind": "accepted", "run": before.run, "epoch": 1, "what": "device", "now": "cuda"}
    directory.add_line(line, before.last)
    assert directory.read().device == "cuda"
    resume(tmp_path / "other", device="cpu")
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "goes on from epoch 1 on device cpu; before that it was trained on cuda" in said
    assert directory.read().device == "cpu"
    assert main(["verify", str(tmp_path / "other")]) == 0


def test_another_device_in_a_configuration_is_the_same_run(tmp_path):
    from topokit.experiments.rundir import RunDirectory

    config = load_recipe("set_mlp_digits").override([*TINY, "epochs=1"])
    run(config, tmp_path / "run")
    assert RunDirectory(tmp_path / "run").holds(config.override(["device=cuda"]).to_toml())
    assert not RunDirectory(tmp_path / "run").holds(config.override(["seed=7"]).to_toml())


def test_states_of_streams_load_on_any_device(tmp_path):
    """The state of a GPU's stream has 16 bytes, that of the CPU's 5,056."""
    config = load_recipe("set_mlp_digits").override([*TINY, "epochs=1", "model.dropout=0.2"])
    run(config, tmp_path / "run")
    checkpoint = read_checkpoint(tmp_path / "run" / "checkpoint.pt")
    foreign = torch.arange(16, dtype=torch.uint8)
    drawn = []
    for state in (foreign, foreign, foreign.flip(0)):
        restored, _ = state_of([*TINY, "epochs=1", "model.dropout=0.2"])
        restored.model.load_state_dict(checkpoint["model"])
        restored.restore({**checkpoint, "dropout": state})
        drawn.append(torch.rand(3, generator=restored.dropout))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    own, other = torch.Generator().manual_seed(3), torch.Generator()
    _set_stream(other, own.get_state())
    assert torch.equal(torch.rand(3, generator=own), torch.rand(3, generator=other))
    model = restored.model
    assert move(model, torch.device("cpu")).generator is restored.dropout


def test_checkpoints_of_a_gpu_are_read_without_one(tmp_path, monkeypatch):
    where = []
    load = torch.load
    monkeypatch.setattr(
        torch,
        "load",
        lambda *a, map_location=None, **k: where.append(map_location) or load(*a, **k),
    )
    config = load_recipe("set_mlp_digits").override([*TINY, "epochs=1"])
    run(config, tmp_path / "run")
    read_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert where == ["cpu"]


def test_info_says_what_is_there(capsys, no_gpu):
    assert main(["info"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"torch {torch.__version__}" in text
    assert "GPUs: none: torch" in text
    assert "auto means cpu here" in text
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == information()
    assert found["threads"] == torch.get_num_threads()
    assert set(found["packages"]) <= {*preparation.PACKAGES, *preparation.OPTIONAL}
