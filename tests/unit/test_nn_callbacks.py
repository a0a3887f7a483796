"""Trainers of other libraries, against a loop of one's own. Each is skipped if not installed."""

import copy
import importlib.util
import pickle
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.test_nn_engine import random_layer
from topokit.graph import same_edges
from topokit.nn import SparseLinear, sparse_layers
from topokit.nn.engine import attach
from topokit.nn.skorch import Rewiring as SkorchRewiring
from topokit.nn.transformers import Rewiring as TrainerRewiring


def needs(name):
    missing = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(missing, reason=f"{name} is not installed (the extra 'trainers')")


def network():
    rng = np.random.default_rng(0)
    return nn.Sequential(
        SparseLinear(random_layer(20, 30, density=0.3, rng=rng), rng=rng),
        nn.ReLU(),
        SparseLinear(random_layer(30, 5, density=0.3, rng=rng), rng=rng),
    )


def samples(n=48):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 20, generator=generator), torch.arange(n) % 5


def own_loop(rule, *, every, epochs=4, batch=8, accumulate=1, accuracy=None, **options):
    """Train by a loop of one's own."""
    model, (x, y) = network(), samples()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    engine = attach(model, optimizer, rule, every=every, rng=3, **options)
    for _ in range(epochs):
        for number, rows in enumerate(torch.arange(len(x)).split(batch), start=1):
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows]) / accumulate
            loss.backward()
            if number % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
        engine.end_epoch(accuracy)
    return model, engine


def equal(a, b):
    layers = list(sparse_layers(a).values()), list(sparse_layers(b).values())
    for x, y in zip(*layers, strict=True):
        assert same_edges(x.graph, y.graph)
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ["set", "rigl", "snfs", "sensitivity", "mest"])
def test_a_step_with_a_closure_is_seen_as_one_without(rule):
    model, (x, y) = network(), samples()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    engine = attach(model, optimizer, rule, every=4, rng=3)
    for step in range(12):
        rows = slice(step * 8 % 48, step * 8 % 48 + 8)

        def closure(rows=rows):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            return loss

        optimizer.step(closure) if step % 2 else optimizer.step(closure=closure)
    assert engine.updates == 3
    equal(model, own_loop(rule, every=4, epochs=2)[0])


@needs("accelerate")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rule", ["set", "rigl", "sensitivity"])
def test_accelerate_with_accumulated_gradients(rule):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, (x, y) = network(), samples()
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model, optimizer, data = accelerator.prepare(model, optimizer, data)
    engine = attach(model, optimizer, rule, every=4, rng=3)
    for _ in range(4):
        for inputs, labels in data:
            with accelerator.accumulate(model):
                accelerator.backward(nn.functional.cross_entropy(model(inputs), labels))
                optimizer.step()
                optimizer.zero_grad()
    assert (engine.steps, engine.updates) == (12, 3)
    expected, _ = own_loop(rule, every=4, accumulate=2)
    equal(model, expected)


@needs("ignite")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rule", ["set", "rigl"])
def test_ignite_by_a_handler_of_one_line(rule):
    from ignite.engine import Events, create_supervised_trainer

    model, (x, y) = network(), samples()
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    trainer = create_supervised_trainer(model, optimizer, nn.functional.cross_entropy)
    engine = attach(model, optimizer, rule, every="epoch", epoch_steps=6, rng=3)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: engine.end_epoch())
    trainer.run(data, max_epochs=4)
    assert (engine.steps, engine.updates) == (24, 4)
    expected, _ = own_loop(rule, every="epoch", epoch_steps=6)
    equal(model, expected)


def net_of(callback, epochs):
    from skorch import NeuralNetClassifier

    return NeuralNetClassifier(
        network(), criterion=nn.CrossEntropyLoss, optimizer=torch.optim.AdamW, lr=0.01,
        max_epochs=epochs, batch_size=8, train_split=None, callbacks=[callback], verbose=0,
        iterator_train__shuffle=False,
    )  # fmt: skip


@needs("skorch")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rule", ["set", "rigl"])
def test_skorch_goes_on_where_it_stopped_also_when_pickled(rule):
    x, y = (tensor.numpy() for tensor in samples())
    callback = SkorchRewiring(rule, options={"epoch_steps": 6}, rng=3)
    whole = net_of(callback, 4).fit(x, y)
    assert callback.engine_.updates == 4
    expected, _ = own_loop(rule, every="epoch", epoch_steps=6)
    equal(whole.module_, expected)
    for through in (lambda net: net, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))):
        callback = SkorchRewiring(rule, options={"epoch_steps": 6}, rng=3)
        parted = through(net_of(callback, 2).fit(x, y))
        parted.set_params(max_epochs=2)
        equal(parted.partial_fit(x, y).module_, expected)


@pytest.mark.skipif(importlib.util.find_spec("skorch") is not None, reason="skorch is installed")
def test_skorch_missing_is_said():
    with pytest.raises(ImportError, match=r"pip install 'topokit-nn\[trainers\]'"):
        SkorchRewiring("set")


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is not None, reason="transformers is installed"
)
def test_transformers_missing_is_said():
    with pytest.raises(ImportError, match=r"pip install 'topokit-nn\[trainers\]'"):
        TrainerRewiring("set")


@pytest.fixture
def begun(monkeypatch):
    """Begin a training as the Trainer does, without transformers; return callback and engine."""
    monkeypatch.setattr("topokit.nn.transformers.TrainerCallback", object)

    def begin(callback, loader, epochs=3.0, max_steps=-1, accumulate=1, *, remainder=True):
        args = SimpleNamespace(
            max_steps=max_steps, num_train_epochs=epochs, gradient_accumulation_steps=accumulate
        )
        total, count = max_steps, sys.maxsize  # of data without a length
        if hasattr(loader, "__len__"):
            steps = max(1, (len(loader) + remainder * (accumulate - 1)) // accumulate)
            total = max_steps if max_steps > 0 else int(np.ceil(epochs * steps))
            count = int(np.ceil(total / steps if max_steps > 0 else epochs))
        state = SimpleNamespace(max_steps=total, num_train_epochs=count, global_step=0)
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        callback.on_train_begin(
            args, state, None, model=model, optimizer=optimizer, train_dataloader=loader
        )
        return callback.engine

    return begin


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 10),
        ({"epochs": 1.5}, 10),
        ({"epochs": 0.5}, 10),
        ({"max_steps": 15}, 10),
        ({"max_steps": 7}, 10),
        ({"accumulate": 4}, 3),
        ({"accumulate": 4, "remainder": False}, 2),
        ({"accumulate": 4, "max_steps": 5}, 3),
        ({"accumulate": 16, "remainder": False}, 1),
    ],
)
def test_the_trainers_epochs_are_those_of_its_data(begun, options, steps):
    engine = begun(TrainerRewiring("set", rng=0), range(10), **options)
    assert (engine.options.every, engine.epoch_steps) == (steps, steps)


def test_data_of_unknown_length_need_a_number_of_steps(begun):
    with pytest.raises(ValueError, match="got None with data of unknown length"):
        begun(TrainerRewiring("set", rng=0), iter([]), max_steps=20)
    engine = begun(TrainerRewiring("set", every=4, rng=0), iter([]), max_steps=20)
    assert (engine.options.every, engine.epoch_steps, engine.total) == (4, None, 20)


def test_a_training_after_one_that_an_error_ended(begun):
    callback = TrainerRewiring("set", rng=0)
    first = begun(callback, range(10))
    assert begun(callback, range(10)) is not first
    assert "detached" in repr(first)


@pytest.mark.parametrize("every", [0, -1, 2.5, True, "epoch"])
def test_numbers_of_steps_that_are_none_are_refused_by_callbacks(begun, every):
    from topokit.nn.lightning import rewiring

    for make in (TrainerRewiring, rewiring):
        with pytest.raises(ValueError, match="every: expected a positive number of steps"):
            make("set", every=every, rng=0)


@needs("skorch")
@pytest.mark.filterwarnings("ignore")
def test_skorch_trains_again_after_an_error():
    x, y = (tensor.numpy() for tensor in samples())
    callback = SkorchRewiring("set", rng=3)
    net = net_of(callback, 2)
    with pytest.raises(RuntimeError, match="multi-target not supported"):
        net.fit(x, y[:, None])
    assert net.fit(x, y) is net
    assert callback.engine_.updates == 2


@needs("transformers")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rule", ["set", "rigl"])
def test_the_trainer_of_transformers_resumes(tmp_path, rule):
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, inputs, labels):
            scores = self.net(inputs)
            return {"loss": nn.functional.cross_entropy(scores, labels), "logits": scores}

    class Samples(torch.utils.data.Dataset):
        x, y = samples()

        def __len__(self):
            return len(self.x)

        def __getitem__(self, at):
            return {"inputs": self.x[at], "labels": self.y[at]}

    def trainer(out):
        arguments = TrainingArguments(
            output_dir=str(out), num_train_epochs=4, per_device_train_batch_size=4,
            gradient_accumulation_steps=2, learning_rate=0.01, save_strategy="steps", save_steps=7,
            report_to=[], use_cpu=True, disable_tqdm=True, logging_strategy="no", seed=0,
        )  # fmt: skip
        callback = TrainerRewiring(rule, every=5, rng=3)
        seen = []
        callback.options["recorder"] = lambda step, topology: seen.append(step)
        return Trainer(Model(), arguments, train_dataset=Samples(), callbacks=[callback]), seen

    whole, seen = trainer(tmp_path / "whole")
    whole.train()
    assert seen == [0, 5, 10, 15, 20]
    resumed, seen = trainer(tmp_path / "whole")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-7"))
    assert seen == [0, 10, 15, 20]
    equal(whole.model, resumed.model)
    (tmp_path / "whole" / "checkpoint-7" / "topokit_engine.pt").unlink()
    with pytest.raises(ValueError, match="expected the state of the rewiring at"):
        trainer(tmp_path / "whole")[0].train(
            resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-7")
        )


def lightning_module(two=False):
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()
            self.automatic_optimization = not two

        def training_step(self, batch, index):
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            if two:
                self.manual_backward(loss)
                for optimizer in self.optimizers():
                    optimizer.step()
                    optimizer.zero_grad()
            return loss

        def configure_optimizers(self):
            if two:
                return [
                    torch.optim.AdamW(self.net[0].parameters(), lr=0.01),
                    torch.optim.AdamW(self.net[2].parameters(), lr=0.01),
                ]
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    return Module()


@needs("lightning")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ["set", "rigl", "snfs", "accumulate", "two optimizers"])
def test_lightning_resumes_from_its_own_checkpoints(tmp_path, case):
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    from topokit.nn.lightning import rewiring

    two = case == "two optimizers"
    rule = case if case in ("set", "rigl", "snfs") else "rigl"
    accumulate = 2 if case == "accumulate" else 1

    def fit(path=None, epochs=4):
        model, (x, y) = lightning_module(two), samples()
        callback = rewiring(rule, every=5, rng=3)
        saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        trainer = lightning.Trainer(
            max_epochs=epochs, accumulate_grad_batches=accumulate, callbacks=[callback, saver],
            logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        data = torch.utils.data.TensorDataset(x, y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=8), ckpt_path=path)
        return model, callback.engine

    whole, engine = fit()
    assert engine.steps == 24 // accumulate
    expected, _ = own_loop(rule, every=5, accumulate=accumulate, total=24 // accumulate)
    equal(whole, expected)
    resumed, engine = fit(tmp_path / "epoch=1.ckpt")
    assert engine.steps == 24 // accumulate
    equal(whole, resumed)
