"""The training loop: a generator that yields epochs; measuring and recording are its caller's."""

from __future__ import annotations

import io
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from topokit.experiments.captured import Steps
from topokit.experiments.samples import CLASSES, Batch, Classes, Numbers, Samples, evaluate
from topokit.graph import EdgeUpdate, Topology
from topokit.graph.checksums import read_file, seal, unseal
from topokit.nn.distributed import Processes, reduce_gradients
from topokit.nn.engine import Engine, as_arrays, as_tensors
from topokit.nn.kernels.recording import graphs_of
from topokit.nn.kernels.threads import on_all_threads
from topokit.rules import RULES, Rewiring, UpdateRule
from topokit.rules.rewire import constant

if TYPE_CHECKING:
    from topokit.data import Data

__all__ = ["Epoch", "TrainPlan", "TrainState", "train"]

ENTRIES = {
    "model": dict, "optimizer": dict, "rngs": str, "dropout": torch.Tensor,
    "epoch": int, "step": int, "memory": dict,
}  # fmt: skip


@dataclass(frozen=True)
class Epoch:
    """One finished epoch.

    Parameters
    ----------
    index : int
        Counts from 0.
    metrics : dict of float
        ``train_loss`` (mean over the epoch's batches, with dropout), ``test_loss``,
        ``test_accuracy`` (in [0, 1]) and ``seconds`` (wall time of training, evaluating and
        rewiring). Cross-entropies are in nats. Models that learn without labels have
        reconstruction errors as losses and an accuracy of ``nan``.
    topology : dict of LayerGraph
        The graphs these metrics were measured on.
    explored : dict of float or None
        Share of each layer's possible edges present at any time so far, if layers are rewired
        within epochs, through graphs that are not the topology of any epoch; else None, since the
        share can be computed from the topologies of all epochs.
    updates : dict of EdgeUpdate or None
        What the rewiring since the epoch before changed, exactly; layers that kept their graph are
        left out. None if it is not known: in the first epoch, after a resume, and after several
        rewirings.
    steps : dict or None
        On a graphics card, how many of the epoch's steps were ``replayed``, and how many were
        launched ``one_by_one`` for which reasons (see `topokit.experiments.captured`).
    """

    index: int
    metrics: dict[str, float]
    topology: Topology
    explored: dict[str, float] | None = None
    updates: dict[str, EdgeUpdate] | None = None
    steps: dict[str, Any] | None = None


@dataclass(frozen=True)
class TrainPlan(Rewiring):
    """The settings of the training loop.

    Parameters
    ----------
    epochs : int or None
        None if the end is not known: then every epoch is followed by a rewiring, and schedules
        must be constant.
    batch_size : int
        The last batch of an epoch may be smaller.
    rule : UpdateRule or None
        How layers are rewired; ``None`` keeps the topology.
    lr : float or None
        Learning rate of the first epoch, scaled by ``lr_schedule(epoch, epochs)`` before each
        epoch; ``None`` leaves the optimizer alone.
    objective : Classes or Numbers
        What is asked of the model's outputs.
    watch : callable, optional
        ``watch(epoch, metrics) -> bool``, called after each evaluation and before the rewiring;
        training ends there if it returns True.
    drop_fraction, schedule, every, stop, skip, final, grown_state
        As in `topokit.rules.Rewiring`.
    """

    epochs: int | None
    batch_size: int
    rule: UpdateRule | None = None
    lr: float | None = None
    lr_schedule: Callable[[int, int], float] = constant
    objective: Classes | Numbers = CLASSES
    watch: Callable[[int, dict[str, float]], bool] | None = None


@dataclass
class TrainState:
    """Everything that changes during training; a checkpoint of it is enough to continue.

    Parameters
    ----------
    model : torch.nn.Module
    optimizer : torch.optim.Optimizer
    rngs : dict of numpy.random.Generator
        Streams ``order`` (of samples) and ``rule``.
    dropout : torch.Generator
        The stream the model draws dropout masks from.
    epoch, step : int
        Number of finished epochs and of finished steps.
    memory : dict
        What the engine and the rule keep between rewirings (`topokit.nn.engine.Engine.memory`).
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    rngs: dict[str, np.random.Generator]
    dropout: torch.Generator
    epoch: int = 0
    step: int = 0
    memory: dict[str, Any] = field(default_factory=dict)

    def to_bytes(self, **about: Any) -> bytes:
        """Return the content of a checkpoint file, sealed (see `topokit.graph.checksums`).

        Parameters
        ----------
        **about
            Kept in the seal, such as the identity of the run.
        """
        streams = {name: rng.bit_generator.state for name, rng in self.rngs.items()}
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rngs": json.dumps(streams),
            "dropout": self.dropout.get_state(),
            "epoch": self.epoch,
            "step": self.step,
            "memory": as_tensors(self.memory),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return seal(buffer.getvalue(), epoch=self.epoch, **about)

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Set the state to that of a checkpoint read by `read_checkpoint`.

        The model must have been built from the checkpoint's topology. It may be on another device
        than that of the checkpoint.

        Raises
        ------
        ValueError
            If an entry is missing or does not fit the model, the optimizer or the streams.
        """
        try:
            self.model.load_state_dict(checkpoint["model"])
            load_optimizer(self.optimizer, checkpoint["optimizer"])
            streams = json.loads(checkpoint["rngs"])
            if set(streams) != set(self.rngs):
                has = ", ".join(sorted(streams)) or "none"
                raise ValueError(f"expected random streams {', '.join(self.rngs)}, got {has}")
            for name, state in streams.items():
                self.rngs[name].bit_generator.state = state
            _set_stream(self.dropout, checkpoint["dropout"])
            self.memory = as_arrays(checkpoint["memory"])
        except Exception as error:  # torch and numpy raise errors of many kinds
            raise ValueError(f"the checkpoint does not fit the run: {_first_line(error)}") from None
        self.epoch, self.step = checkpoint["epoch"], checkpoint["step"]
        if self.step < self.epoch or (self.step > 0) != (self.epoch > 0):
            raise ValueError(
                f"the checkpoint does not fit the run: {self.step} steps in {self.epoch} epochs"
            )
        self._check_optimizer()

    def _check_optimizer(self) -> None:
        """Raise a ValueError if the optimizer lacks state that a step has given it."""
        groups, states = self.optimizer.param_groups, self.optimizer.state
        keeps = not isinstance(self.optimizer, torch.optim.SGD) or any(
            group["momentum"] for group in groups
        )
        # Only tensors: the engine also notes in the state of a layer which graph it is of.
        tensors = {
            parameter: {key: value for key, value in state.items() if torch.is_tensor(value)}
            for parameter, state in states.items()
        }
        entries: set[str] = set().union(*tensors.values())
        for group in groups:
            for at, parameter in enumerate(group["params"]):
                found = tensors.get(parameter, {})
                wrong = [k for k, v in found.items() if v.ndim and v.shape != parameter.shape]
                if wrong or (keeps and self.step and (not found or set(found) != entries)):
                    raise ValueError(
                        f"the checkpoint does not fit the run: the optimizer's state of parameter "
                        f"{at} is {'of another shape' if wrong else 'missing'}"
                    )


OF_DEVICE = ("capturable", "fused", "foreach")
"""Options of an optimizer that say how it computes, which depends on the device."""


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load an optimizer's state, which may be that of another device, with its own options.

    Examples
    --------
    >>> optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    >>> saved = optimizer.state_dict()
    >>> saved["param_groups"][0].update(lr=0.2, fused=True)
    >>> load_optimizer(optimizer, saved)
    >>> optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["fused"]
    (0.2, None)
    """
    groups = [dict(group) for group in saved["param_groups"]]  # torch checks their number
    for group, now in zip(groups, optimizer.param_groups, strict=False):
        group.update({key: now[key] for key in OF_DEVICE if key in now})
    optimizer.load_state_dict({**saved, "param_groups": groups})


def read_checkpoint(path: str | os.PathLike[str], check: str | None = None) -> dict[str, Any]:
    """Read a checkpoint without unpickling arbitrary objects.

    Parameters
    ----------
    path : path
    check : str, optional
        The checksum in its seal; by default any, or none at all.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is damaged, is no checkpoint of a run, or is not the one with that checksum.
    """
    path = Path(path)
    try:
        content = read_file(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"expected a checkpoint, found none at {path}") from None
    try:
        about = unseal(content)
        if check is not None and (about or {}).get("digest") != check:
            raise ValueError("it is not the one that was saved at this point of the run")
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        missing = set(ENTRIES) - set(checkpoint)
    except Exception as error:
        raise ValueError(f"the checkpoint {path} is damaged: {_first_line(error)}") from error
    if missing:
        raise ValueError(f"the checkpoint {path} lacks {', '.join(sorted(missing))}")
    for name, kind in ENTRIES.items():
        if not isinstance(checkpoint[name], kind) or isinstance(checkpoint[name], bool):
            raise ValueError(
                f"the checkpoint {path} is damaged: its entry {name!r} is of type "
                f"{type(checkpoint[name]).__name__}"
            )
    return checkpoint


def move(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a model to a device, with the stream of its dropout; return it.

    Examples
    --------
    >>> move(nn.Linear(2, 1), torch.device("cpu"))
    Linear(in_features=2, out_features=1, bias=True)
    """
    before = getattr(model, "generator", None)
    if before is not None and before.device.type != device.type:
        moved = torch.Generator(device)
        _set_stream(moved, before.get_state())
        model.generator = moved  # type: ignore[assignment]  # a module's attributes are tensors
    return model.to(device)


def _set_stream(generator: torch.Generator, state: torch.Tensor) -> None:
    """Set a stream to a state; one of another device's gives a new stream that follows from it."""
    if state.shape == generator.get_state().shape:
        generator.set_state(state)
    else:
        _seed(generator, np.frombuffer(state.numpy().tobytes(), np.uint8).tolist())


def _seed(generator: torch.Generator, numbers: list[int]) -> None:
    """Seed a stream by numbers that are mixed: equal ones give equal streams, others do not."""
    seed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    generator.manual_seed(int(seed >> np.uint64(1)))  # torch takes 63 bits


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def train(
    state: TrainState,
    data: Data | tuple[Samples, Samples],
    plan: TrainPlan,
    processes: Processes | None = None,
) -> Generator[Epoch]:
    """Train from `state` on and yield each epoch after its rewiring.

    The order within an epoch is fixed: train, evaluate, keep the graphs, rewire (never after the
    last epoch), yield. `state` is changed in place. When an epoch is yielded its rewiring is done,
    so a checkpoint saved at that point is complete. The rewiring is that of `topokit.attach`.

    Parameters
    ----------
    state : TrainState
    data : Data, or tuple of Samples
        What is trained on and what is evaluated on, the samples on the model's device.
    plan : TrainPlan
    processes : Processes, optional
        Processes that train together, made with ``gradients="sum"``. Each calls this with an equal
        state and takes its share of every batch; only the first evaluates, the metrics of the
        others are ``nan``. The first one's state is that to save.

    Yields
    ------
    Epoch

    Raises
    ------
    ValueError
        If the rule watches validation accuracy and there are fewer than ten training samples; if
        states of several processes differ, or the model has persistent chains.
    FloatingPointError
        If the loss of a step is not finite; `state` is then of no use.
    """
    training = Training(state, data, plan, processes)
    steps = None if processes is not None else _steps(state, training.engine, plan)
    try:
        while not training.over:
            start = time.perf_counter()
            with tiny_as_zero():
                loss = _one_epoch(state, training.samples, plan, processes, steps)
                epoch = training.end_epoch(loss, start, None if steps is None else steps.report())
            yield epoch
    finally:
        training.engine.detach()


@contextmanager
def tiny_as_zero() -> Iterator[None]:
    """Let the processor take numbers below the normal range (1.2e-38 in float32) for 0.

    Weights that decay and get no gradient end there, and their velocities stay there: 0.9 times the
    smallest number is rounded to the smallest number. Arithmetic with such numbers is many times as
    slow: without this, a step of 784-300-300-300-10 that is never rewired took four times as long
    after 500 epochs of a decay of 2e-4 a step. Sums with normal numbers do not notice them.

    Notes
    -----
    Each thread has a setting of its own. All are set, so that results do not depend on which thread
    computes what; where that is not possible, or a processor does not have this, nothing changes.
    What was set before is restored.
    """
    before = not float(torch.full((1,), torch.finfo(torch.float32).tiny) / 2)
    there = on_all_threads(partial(torch.set_flush_denormal, True))
    try:
        yield
    finally:
        if there:
            on_all_threads(partial(torch.set_flush_denormal, before))


class Training:
    """A run that is being trained: its samples, its engine, and what is done after an epoch.

    Parameters
    ----------
    state, data, plan, processes
        As for `train`.

    Attributes
    ----------
    samples : Samples
        Those that are trained on.
    engine : Engine
        Attached until its `detach` is called.
    over : bool
        Whether no epoch is left.
    """

    def __init__(
        self,
        state: TrainState,
        data: Data | tuple[Samples, Samples],
        plan: TrainPlan,
        processes: Processes | None = None,
    ) -> None:
        self.state, self.plan = state, plan
        given = data if isinstance(data, tuple) else Samples.of(data, device_of(state.model))
        samples, self._others = given
        rule = RULES["static"]() if plan.rule is None else plan.rule
        held_out = _held_out(len(samples)) if "stalled" in rule.needs else np.empty(0, np.int64)
        if "stalled" in rule.needs and not len(held_out):
            raise ValueError(
                "a rule that watches validation accuracy holds out a tenth of the training "
                f"samples: expected at least 10 training samples, got {len(samples)}"
            )
        self._watched = samples[held_out] if len(held_out) else None
        if self._watched is not None:
            samples = samples[np.setdiff1d(np.arange(len(samples)), held_out)]
        self.samples = samples
        batches = -(-len(samples) // plan.batch_size)
        self._by_steps = isinstance(plan.every, int)
        total = plan.epochs
        if total is not None and self._by_steps:
            total *= batches
        self.engine = Engine(
            state.model,
            state.optimizer,
            rule,
            plan,
            total=total,
            epoch_steps=batches,
            samples=samples.inputs,
            track_explored=self._by_steps,
            rng=state.rngs["rule"],
        )
        self.engine.join(processes)
        self.engine.go_on(state.step, state.epoch, state.memory)
        state.memory = self.engine.memory
        self._first = processes is None or processes.first
        self._ended = False
        self._known = False  # whether the graphs of the epoch before are known
        self._before = 0  # rewirings then

    @property
    def over(self) -> bool:
        """Whether no epoch is left."""
        epochs = self.plan.epochs
        return self._ended or (epochs is not None and self.state.epoch >= epochs)

    def end_epoch(self, loss: float, start: float, made: dict[str, Any] | None = None) -> Epoch:
        """Evaluate, keep the graphs, rewire, and return the epoch.

        Parameters
        ----------
        loss : float
            Mean training loss.
        start : float
            When the epoch began, by ``time.perf_counter``.
        made : dict, optional
            How the epoch's steps were made, as in `Epoch`.
        """
        state, engine, plan, index = self.state, self.engine, self.plan, self.state.epoch
        test_loss, score, validation = math.nan, math.nan, None
        if self._first:
            test_loss, score = evaluate(state.model, self._others, plan.objective)
            if self._watched is not None:
                _, validation = evaluate(state.model, self._watched, plan.objective)
        topology = engine.topology
        explored = engine.explored if self._by_steps else None
        since = engine.updates - self._before
        updates = None if not self._known or since > 1 else engine.last if since else {}
        self._known, self._before = True, engine.updates
        state.epoch = index + 1
        metrics = {
            "train_loss": loss,
            "test_loss": test_loss,
            f"test_{plan.objective.score}": score,
            "seconds": math.nan,
        }
        self._ended = plan.watch is not None and plan.watch(index, metrics)
        if not self._ended:
            engine.end_epoch(validation)
        metrics["seconds"] = time.perf_counter() - start
        return Epoch(index, metrics, topology, explored, updates, made)


def _held_out(n: int) -> np.ndarray:
    """Return the positions of a tenth of the training samples, held out for validation accuracy.

    They are the same in all runs on a data set, whatever the seed.
    """
    return np.sort(np.random.default_rng(42).permutation(n)[: n // 10])


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters.

    Examples
    --------
    >>> device_of(nn.Linear(2, 1))
    device(type='cpu')
    """
    return next(model.parameters()).device


def _steps(state: TrainState, engine: Engine, plan: TrainPlan) -> Steps | None:
    """Return the steps of a model that is on a device where they can be recorded."""
    graphs = graphs_of(device_of(state.model))
    if graphs is None:
        return None
    return Steps(
        graphs,
        state.model,
        state.optimizer,
        engine,
        generators=(state.dropout,),
        loss=plan.objective.loss,
        size=plan.batch_size,
    )


def _one_epoch(
    state: TrainState,
    samples: Samples,
    plan: TrainPlan,
    processes: Processes | None,
    steps: Steps | None = None,
) -> float:
    """Train over all samples once and return the mean loss of the batches.

    Samples are changed, if they are to be, from the stream that orders them.
    """
    state.model.train()
    if processes is not None:
        _draw_apart(state, processes)
    set_rate(state.optimizer, plan, state.epoch)
    losses: list[float] = []
    waiting: list[torch.Tensor] = []  # losses that are still on a device
    often = 1 if samples.device.type == "cpu" else CHECKED_EVERY
    model: Any = state.model
    by_units = partial(getattr, model, "by_units", False) if processes is None else bool

    def seen(loss: torch.Tensor) -> None:
        nonlocal losses
        waiting.append(loss)
        if len(waiting) >= often:
            losses += _finite(state, waiting)

    usual = partial(make_step, state, objective=plan.objective, seen=seen)

    for batch in samples.shuffled(plan.batch_size, state.rngs["order"], by_units=by_units):
        state.step += 1
        if processes is not None:
            state.optimizer.zero_grad(set_to_none=True)
            mean = _shared_gradient(state.model, batch, plan.objective, processes)
            losses += _finite(state, [torch.tensor(mean, dtype=torch.float64)])
            state.optimizer.step()
        elif steps is None:
            usual(batch)
        elif steps.replays(batch):
            seen(steps.replay(batch))
        else:
            steps.usual(partial(usual, batch))
    return float(np.mean(losses + _finite(state, waiting)))


def set_rate(optimizer: torch.optim.Optimizer, plan: TrainPlan, epoch: int) -> None:
    """Set the learning rate of an epoch."""
    if plan.lr is not None:
        factor = 1.0 if plan.epochs is None else plan.lr_schedule(epoch, plan.epochs)
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * factor


def make_step(
    state: TrainState,
    batch: Batch,
    *,
    objective: Classes | Numbers,
    seen: Callable[[torch.Tensor], None],
) -> None:
    """Make a training step; `seen` is called with the loss before its gradients are computed."""
    for group in state.optimizer.param_groups:
        for parameter in group["params"]:  # what zero_grad does
            parameter.grad = None
    loss = objective.loss(state.model, batch)
    seen(loss.detach())
    loss.backward()
    state.optimizer.step()  # its hook calls the engine, which rewires


CHECKED_EVERY = 50
"""Steps after which losses are fetched from a device: each time, it waits for the CPU."""


def _finite(state: TrainState, waiting: list[torch.Tensor]) -> list[float]:
    """Return the losses of the last steps as numbers, and forget their tensors.

    Raises
    ------
    FloatingPointError
        If one is not finite.
    """
    losses = torch.stack(waiting).tolist() if len(waiting) > 1 else [float(v) for v in waiting]
    for ago, loss in zip(range(len(losses))[::-1], losses, strict=True):
        if not math.isfinite(loss):
            raise diverged(state, loss, state.step - ago)
    waiting.clear()
    return losses


def diverged(state: TrainState, loss: float, step: int) -> FloatingPointError:
    """Return the error of a loss that is not finite."""
    lr = state.optimizer.param_groups[0]["lr"]
    return FloatingPointError(
        f"the loss became {loss} at step {step} (epoch {state.epoch}); "
        f"try a learning rate below {lr:g} (--set optimizer.lr={lr / 10:g})"
    )


def _shared_gradient(
    model: Any, batch: Batch, objective: Classes | Numbers, processes: Processes
) -> float:
    """Leave the gradient of a batch's mean loss in every process, and return that loss.

    Each process computes it for its share of the samples, which may be none.
    """
    own = batch.share(processes.rank, processes.size)
    part = torch.zeros(1, dtype=torch.float64)
    if len(own.x):
        loss = objective.loss(model, own) * (len(own.x) / len(batch.x))
        loss.backward()
        part += float(loss.detach())
    reduce_gradients(model, group=processes.group, average=False)
    return float(processes.summed(part))


def _draw_apart(state: TrainState, processes: Processes) -> None:
    """Give each process a dropout stream of its own for an epoch, as samples differ.

    That of the first is the state's. The others follow from it, so a checkpoint holds them all.
    """
    if getattr(state.model, "chains", None) is not None:
        raise ValueError(
            "expected one process for a model with persistent chains (model.persistent), which go "
            f"through all samples, got {processes.size}"
        )
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in state.model.modules()):
        raise ValueError(
            "expected one process for a model with batch norm, whose statistics are those of a "
            f"whole batch, got {processes.size}"
        )
    bits = processes.from_first(state.dropout.get_state().numpy())
    if not processes.first:
        _seed(state.dropout, [zlib.crc32(bits.tobytes()), state.epoch, processes.rank])
