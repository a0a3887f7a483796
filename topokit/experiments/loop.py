"""The training loop, as a generator: it yields epochs and knows nothing of what becomes of them."""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from topokit.experiments.observe import Observer
from topokit.graph import Topology
from topokit.graph.files import write_atomic
from topokit.nn.layers import sparse_layers
from topokit.rules.rewire import LayerView, UpdateRule, constant, rewire_network

if TYPE_CHECKING:
    from topokit.data import Data

__all__ = ["Epoch", "TrainPlan", "TrainState", "train"]

CHECKPOINT = ("model", "optimizer", "rngs", "dropout", "epoch", "step", "memory")
EVALUATION_BATCH = 2000
WIDEST_CELLS = 1 << 26  # samples times units of the widest layer that are evaluated at once


@dataclass(frozen=True)
class Epoch:
    """One finished epoch.

    Parameters
    ----------
    index : int
        Counts from 0.
    metrics : dict of float
        ``train_loss`` (mean over the epoch's batches, with dropout), ``test_loss`` (nats),
        ``test_accuracy`` (in [0, 1]) and ``seconds`` (wall time of training, evaluating and
        rewiring). Models that learn without labels have reconstruction errors as losses and an
        accuracy of ``nan``.
    topology : dict of LayerGraph
        The graphs these metrics were measured on.
    explored : dict of float or None
        Share of each layer's possible edges ever present so far, where rewirings within epochs
        leave graphs that no epoch has; else None: the topologies of all epochs tell it.
    """

    index: int
    metrics: dict[str, float]
    topology: Topology
    explored: dict[str, float] | None = None


@dataclass(frozen=True)
class TrainPlan:
    """What to do in each epoch.

    Parameters
    ----------
    epochs, batch_size : int
        The last batch of an epoch may be smaller.
    rule : UpdateRule or None
        How layers are rewired; ``None`` keeps the topology.
    drop_fraction : float
        Share of a layer's edges replaced at one update, before the schedule.
    schedule : callable
        ``schedule(at, end) -> float`` scales the drop fraction (`topokit.rules.SCHEDULES`); both
        count epochs, or steps with `every`, and `end` is where rewiring stops.
    every : int or None
        Steps between rewirings; ``None`` rewires between epochs.
    stop : int or None
        Epoch from which the topology is kept; ``None`` rewires up to the last epoch. No rewiring
        follows the last step or epoch in either case.
    skip : tuple of str
        Layers never rewired.
    final : {"keep", "drop"}
        What happens after the last epoch: nothing, or the SET paper's last removal without
        growing.
    lr : float or None
        Learning rate of the first epoch, scaled by ``lr_schedule(epoch, epochs)`` before each
        epoch; ``None`` leaves the optimizer alone.
    """

    epochs: int
    batch_size: int
    rule: UpdateRule | None = None
    drop_fraction: float = 0.3
    schedule: Callable[[int, int], float] = constant
    every: int | None = None
    stop: int | None = None
    skip: tuple[str, ...] = ()
    final: str = "keep"
    lr: float | None = None
    lr_schedule: Callable[[int, int], float] = constant

    def rewiring(self, *, epoch: int, step: int, batches: int) -> tuple[int, int, float]:
        """Return where a rewiring stands: its position, where rewiring ends, and its progress.

        Positions count epochs, or steps with `every`; `batches` is the number of steps of an epoch.
        Rewiring happens at positions below the end. Progress, in (0, 1], is 1 at the last one, so
        that rules which change the density end at their final one.

        Examples
        --------
        >>> plan = TrainPlan(epochs=5, batch_size=10)
        >>> [plan.rewiring(epoch=e, step=0, batches=3) for e in (1, 4)]
        [(1, 5, 0.25), (4, 5, 1.0)]
        >>> plan = TrainPlan(epochs=5, batch_size=10, every=4, stop=3)
        >>> plan.rewiring(epoch=1, step=4, batches=3)
        (4, 9, 0.5)
        """
        until = self.epochs if self.stop is None else min(self.stop, self.epochs)
        if self.every is None:
            at, end, last = epoch, until, until - 1
        else:
            at, end = step, until * batches
            last = (end - 1) // self.every * self.every
        return at, end, min(1.0, at / max(1, last))


@dataclass
class TrainState:
    """Everything that changes in training: a checkpoint of it is enough to go on.

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
        What the rule remembers from one rewiring to the next (`topokit.experiments.observe`).
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    rngs: dict[str, np.random.Generator]
    dropout: torch.Generator
    epoch: int = 0
    step: int = 0
    memory: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write a checkpoint beside `path` and move it into place."""
        streams = {name: rng.bit_generator.state for name, rng in self.rngs.items()}
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rngs": json.dumps(streams),
            "dropout": self.dropout.get_state(),
            "epoch": self.epoch,
            "step": self.step,
            "memory": _as_tensors(self.memory),
        }
        buffer = io.BytesIO()  # a full disk is then an OSError, not an error of the serialiser
        torch.save(content, buffer)
        with write_atomic(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Take over a checkpoint read by `read_checkpoint`.

        The model must have been built from the checkpoint's topology.
        """
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        for name, state in json.loads(checkpoint["rngs"]).items():
            self.rngs[name].bit_generator.state = state
        self.dropout.set_state(checkpoint["dropout"])
        self.epoch, self.step = checkpoint["epoch"], checkpoint["step"]
        self.memory = _as_arrays(checkpoint["memory"])


def _as_tensors(value: Any) -> Any:
    """Nested dictionaries with arrays as tensors, which load without unpickling objects."""
    if isinstance(value, dict):
        return {key: _as_tensors(item) for key, item in value.items()}
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


def _as_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_arrays(item) for key, item in value.items()}
    return value.numpy() if isinstance(value, torch.Tensor) else value


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint without unpickling arbitrary objects.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is damaged or is no checkpoint of a run.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a checkpoint, found none at {path}")
    try:
        checkpoint = torch.load(io.BytesIO(path.read_bytes()), weights_only=True)
        missing = {"model", "optimizer", "rngs", "dropout", "epoch", "step", "memory"} - set(
            checkpoint
        )
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"the checkpoint {path} is damaged: {first}") from error
    if missing:
        raise ValueError(f"the checkpoint {path} lacks {', '.join(sorted(missing))}")
    return checkpoint


def train(state: TrainState, data: Data, plan: TrainPlan) -> Iterator[Epoch]:
    """Train from `state` on, yielding each epoch after its rewiring.

    The order inside an epoch is fixed: train, evaluate, note the graphs, rewire (never after the
    last), yield. `state` is changed in place; at the yield it is past the rewiring, so a
    checkpoint taken there needs nothing else.

    Parameters
    ----------
    state : TrainState
    data : Data
    plan : TrainPlan

    Yields
    ------
    Epoch

    Raises
    ------
    FloatingPointError
        If the loss of a step is not finite; `state` is then of no use.
    """
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    needs = () if plan.rule is None else plan.rule.needs
    held_out = _held_out(len(x)) if "stalled" in needs else np.empty(0, np.int64)
    if len(held_out):
        rest = np.setdiff1d(np.arange(len(x)), held_out)
        x, y = x[rest], y[rest]
    batches = -(-len(x) // plan.batch_size)
    momentum = state.optimizer.param_groups[0].get("momentum", 0.9) or 0.9
    if plan.every is not None:
        needs = (*needs, "explored")
    observer = Observer(state.model, needs, momentum=momentum)
    observer.memory |= state.memory
    state.memory = observer.memory
    for index in range(state.epoch, plan.epochs):
        start = time.perf_counter()
        loss, views = _one_epoch(state, x, y, plan, observer)
        test_loss, accuracy = evaluate(state.model, data.x_test, data.y_test)
        if len(held_out):
            _, validation = evaluate(state.model, data.x_train[held_out], data.y_train[held_out])
            observer.memory["accuracies"].append(validation)
        topology = {name: layer.graph for name, layer in sparse_layers(state.model).items()}
        explored = None if plan.every is None else observer.explored()
        state.epoch = index + 1
        last = state.epoch == plan.epochs
        if last and plan.final == "drop":
            _rewire(state, plan, observer, views, batches, grow=False)
        elif not last and plan.every is None:
            _rewire(state, plan, observer, views, batches)
        metrics = {
            "train_loss": loss,
            "test_loss": test_loss,
            "test_accuracy": accuracy,
            "seconds": time.perf_counter() - start,
        }
        yield Epoch(index, metrics, topology, explored)


def _held_out(n: int) -> np.ndarray:
    """A tenth of the training samples, for rules that watch validation accuracy; never trained on.

    The same samples in every run on a data set, whatever its seed.
    """
    return np.sort(np.random.default_rng(42).permutation(n)[: n // 10])


def _loss(model: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The loss of a batch: the model's own, without labels, if it has one; else cross-entropy."""
    if hasattr(model, "batch_loss"):
        return model.batch_loss(x)
    return nn.functional.cross_entropy(model(x), y)


def evaluate(model: Any, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the mean cross-entropy (nats) and the accuracy of a model on samples.

    Of a model that learns without labels: its mean reconstruction error per unit, and ``nan``.
    """
    model.eval()
    total, right = 0.0, 0
    unlabelled = getattr(model, "reconstruction_error", None)
    draws = torch.Generator().manual_seed(0)  # of each evaluation the same
    widest = max((max(layer.graph.shape) for layer in sparse_layers(model).values()), default=1)
    batch = max(1, min(EVALUATION_BATCH, WIDEST_CELLS // max(1, widest)))
    with torch.no_grad():
        for at in range(0, len(x), batch):
            samples = torch.from_numpy(x[at : at + batch])
            if unlabelled is not None:
                total += float(unlabelled(samples, generator=draws).sum())
                continue
            target = torch.from_numpy(y[at : at + batch])
            scores = model(samples)
            total += float(nn.functional.cross_entropy(scores, target, reduction="sum"))
            right += int((scores.argmax(dim=1) == target).sum())
    return total / len(x), right / len(x) if unlabelled is None else math.nan


def _one_epoch(
    state: TrainState, x: torch.Tensor, y: torch.Tensor, plan: TrainPlan, observer: Observer
) -> tuple[float, dict[str, LayerView]]:
    """Train over all samples once; return the mean loss of the batches and what a rule may see."""
    state.model.train()
    if plan.lr is not None:
        for group in state.optimizer.param_groups:
            group["lr"] = plan.lr * plan.lr_schedule(state.epoch, plan.epochs)
    order = torch.from_numpy(state.rngs["order"].permutation(len(x)))
    batches = order.split(plan.batch_size)
    losses = []
    for i, batch in enumerate(batches):
        left = plan.every - state.step % plan.every if plan.every else len(batches) - i
        observer.before_batch(left)
        state.optimizer.zero_grad(set_to_none=True)
        loss = _loss(state.model, x[batch], y[batch])
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            lr = state.optimizer.param_groups[0]["lr"]
            raise FloatingPointError(
                f"the loss became {losses[-1]} at step {state.step + 1} (epoch {state.epoch}); "
                f"try a learning rate below {lr:g} (--set optimizer.lr={lr / 10:g})"
            )
        loss.backward()
        observer.after_backward()
        state.optimizer.step()
        state.step += 1
        if plan.every and left == 1:
            _rewire(state, plan, observer, observer.views(x), len(batches))
    return float(np.mean(losses)), {} if plan.every else observer.views(x)


def _rewire(
    state: TrainState,
    plan: TrainPlan,
    observer: Observer,
    views: dict[str, LayerView],
    batches: int,
    *,
    grow: bool = True,
) -> None:
    """Apply the rule once to the whole network, unless it is past the end."""
    rule = plan.rule
    at, end, progress = plan.rewiring(epoch=state.epoch, step=state.step, batches=batches)
    ended = at >= end if grow else plan.stop is not None and state.epoch >= plan.stop
    if rule is None or ended:
        return
    layers = sparse_layers(state.model)
    changes = rewire_network(
        views,
        rule if grow else rule._replace(plan=_without_growing(rule.plan)),
        drop_fraction=plan.drop_fraction * plan.schedule(at, end),
        progress=progress,
        rng=state.rngs["rule"],
        fixed=plan.skip,
    )
    for name, (update, values) in changes.items():
        layers[name].replace_graph(update, values, state.optimizer)
        observer.rewired(name, update, values)


def _without_growing(plan: Callable[..., dict[str, tuple[int, int]]]) -> Any:
    """Turn a plan into one that only drops."""

    def drops(*args: Any, **kwargs: Any) -> dict[str, tuple[int, int]]:
        return {name: (n_drop, 0) for name, (n_drop, _) in plan(*args, **kwargs).items()}

    return drops
