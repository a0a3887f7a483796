"""Runs that differ only in their seed, trained together as one block-diagonal network.

A small network leaves most of a graphics card idle, and one step of it takes about as long as the
launching of its kernels. Several of them side by side are one network: units, edges and batches of
all, with edges within each run's part only (`LayerGraph.groups`), so that one product computes a
layer of all runs and one recorded step trains them.

Each run stays what it is alone: a `Training` with its model, optimizer, engine and random streams.
Of these the network is a copy for as long as no run has to be looked at by itself:

- `Network.load` copies weights and the optimizers' states in, `Network.store` back;
- in between, steps are made of the whole, and each run's engine is told of them afterwards
  (`Engine.unseen`);
- steps whose activations a rule looks at are made run by run, and so are evaluation, rewiring,
  measuring and recording, by the code of single runs. Rewirings that are decided on a device
  (`topokit.nn.rewiring`) leave their graphs there, and the network's is made of them there;
- a run that fails is left out from the next epoch on; until then its numbers, which nothing else
  reads, are computed along.

What is equal to single runs. The sums behind a number are those of the single run: over the edges
of a unit, over the samples of a batch, and each run's loss is a mean of its own. On the CPU they
are taken in the same order by the same kernels, so that runs are equal bit for bit. On a graphics
card long rows are split at other places, dense layers are multiplied in batches, and losses are
summed by other kernels: results differ in the last digits from those of single runs.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from topokit.experiments.captured import LOOKED_AT, Steps
from topokit.experiments.config import RunConfig
from topokit.experiments.loop import (
    CHECKED_EVERY,
    Epoch,
    Training,
    TrainState,
    device_of,
    diverged,
    make_step,
    set_rate,
    tiny_as_zero,
)
from topokit.experiments.preparation import make_optimizer
from topokit.experiments.recorder import EpochRecorder
from topokit.experiments.runs import Course, plan_of, recorder_of, with_place
from topokit.experiments.samples import Batch, Samples, shuffled_together
from topokit.graph import EdgeUpdate
from topokit.nn.kernels import choose_kernel
from topokit.nn.kernels.graphs import side_by_side
from topokit.nn.kernels.products import one_by_one
from topokit.nn.kernels.recording import graphs_of
from topokit.nn.layers import SparseLinear
from topokit.nn.models import SparseMLP
from topokit.rules import UpdateRule, make_rule

__all__ = ["Together", "condition_of", "grouped", "run_together", "why_alone"]

MODEL = "set_mlp"  # the model of `MODELS` that can be trained together

Optimizers = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def condition_of(config: RunConfig) -> str:
    """Return a text that is the same for runs that differ only in their seed.

    Examples
    --------
    >>> from topokit.experiments.config import load_recipe
    >>> one = load_recipe("set_mlp_digits")
    >>> condition_of(one) == condition_of(one.override(["seed=7"]))
    True
    """
    return replace(config, seed=0, about={}).to_toml()


def why_alone(config: RunConfig) -> str:
    """Return why a run cannot be trained together with others, in words; "" if it can.

    Examples
    --------
    >>> from topokit.experiments.config import load_recipe
    >>> why_alone(load_recipe("set_mlp_digits"))
    ''
    >>> why_alone(load_recipe("set_mlp_digits").override(["rule.name=sensitivity"]))
    'rule sensitivity adds up the gradients of all steps'
    """
    if config.model.name != MODEL:
        return f"only networks of model {MODEL} can be, and theirs is {config.model.name}"
    rule = make_rule(config.rule.name, **config.rule.params)
    if rule.step is not None:
        return f"rule {config.rule.name} takes part in every step"
    if "sensitivity" in rule.needs:
        return f"rule {config.rule.name} adds up the gradients of all steps"
    return ""


def grouped(
    configs: Mapping[str, RunConfig], most: int
) -> tuple[list[tuple[str, ...]], dict[str, list[str]]]:
    """Return which runs are trained together, and why others are not.

    Parameters
    ----------
    configs : mapping of RunConfig
        By the runs' names.
    most : int
        Number of runs that are trained together.

    Returns
    -------
    groups : list of tuple of str
        Names, in their order; of one alone where a run has no other.
    alone : dict of list of str
        Names of those that no number could bring together with others, by the reason.

    Examples
    --------
    >>> from topokit.experiments.config import load_recipe
    >>> runs = {str(i): load_recipe("set_mlp_digits").override([f"seed={i}"]) for i in range(3)}
    >>> grouped(runs, 2)
    ([('0', '1'), ('2',)], {})
    """
    alike: dict[str, list[str]] = {}
    alone: dict[str, list[str]] = {}
    for name, config in configs.items():
        why = why_alone(config)
        if why:
            alone.setdefault(why, []).append(name)
        alike.setdefault(name if why else condition_of(config), []).append(name)
    listed = {name for names in alone.values() for name in names}
    for names in alike.values():
        if len(names) == 1 and names[0] not in listed:
            alone.setdefault("no other run differs in its seed alone", []).append(names[0])
    groups = [
        tuple(names[at : at + most])
        for names in alike.values()
        for at in range(0, len(names), most)
    ]
    return groups, alone


class _Joined(SparseMLP):
    """Networks of one shape side by side; inputs are (n, networks, features)."""

    generators: Sequence[torch.Generator] = ()  # of each network, which draw for its units


def _joined(models: Sequence[Any]) -> _Joined:
    """Return a network made of several, which still has none of their weights."""
    first = models[0]
    layers: dict[str, SparseLinear] = {}
    for name in first.names:
        own = [model.get_submodule(name) for model in models]
        graph = side_by_side([layer.graph for layer in own])
        layers[name] = SparseLinear(
            graph, kernel=own[0].kernel, bias=own[0].bias is not None, init="zeros", rng=0
        )
        layers[name].groups = len(models)
    activations = []
    for position in range(1, len(first.names)):
        own = [model.get_submodule(f"act{position}") for model in models]
        activation = copy.deepcopy(own[0])
        for name, _ in own[0].named_parameters():
            parts = [part.get_parameter(name).detach() for part in own]
            setattr(activation, name, nn.Parameter(torch.cat(parts)))
        activations.append(activation)
    unused = torch.Generator()
    model = _Joined(layers, activations, dropout=first.dropout, generator=unused, rng=None)
    model.generator = None  # type: ignore[assignment]  # nothing draws from it
    model.generators = [each.generator for each in models]
    return model.to(next(first.parameters()))


@dataclass
class _Engines:
    """What stands for the engines of all runs while steps are recorded and replayed."""

    rule: UpdateRule
    name: str
    paused: bool = False

    def stepped(self) -> None:
        """Count nothing: engines are told afterwards (`Network._tell`)."""


class Network:
    """The networks of several runs as one, trained for epochs.

    Parameters
    ----------
    trainings : sequence of Training
        At the same step, with as many samples, and with networks of the same widths.
    optimizer : callable
        Makes the runs' optimizer for given parameters.

    Attributes
    ----------
    errors : dict
        What ended a run, by its position.
    steps : Steps or None
    """

    def __init__(self, trainings: Sequence[Training], optimizer: Optimizers) -> None:
        self.trainings = list(trainings)
        self.states: list[TrainState] = [training.state for training in trainings]
        models: list[Any] = [state.model for state in self.states]
        self.model = _joined(models)
        self.optimizer = optimizer(self.model.parameters())
        self._layers = {
            name: [model.get_submodule(name) for model in models] for name in self.model.names
        }
        self._indices = {name: self._present(name) for name in self._layers}
        self._pairs = [
            (own, [model.get_parameter(name) for model in models])
            for name, own in self.model.named_parameters()
        ]
        self.errors: dict[int, Exception] = {}
        self._loss = partial(_losses, objective=self.trainings[0].plan.objective)
        self.steps = self._recorded()
        self._waiting: list[torch.Tensor] = []  # losses that are still on a device
        self._losses: list[list[float]] = []

    def _recorded(self) -> Steps | None:
        graphs = graphs_of(device_of(self.model))
        if graphs is None:
            return None
        engine = self.trainings[0].engine
        return Steps(
            graphs,
            self.model,
            self.optimizer,
            _Engines(engine.rule, engine.name),
            generators=self.model.generators,
            loss=self._loss,
            size=self.trainings[0].plan.batch_size,
        )

    def _present(self, name: str) -> list[Any]:
        return [layer.index for layer in self._layers[name]]

    # Between the runs and the network.

    @torch.no_grad()
    def load(self) -> None:
        """Copy the runs' graphs, weights and optimizer state into the network. O(edges)."""
        for name, before in self._indices.items():
            now = self._present(name)
            if any(index is not old for index, old in zip(now, before, strict=True)):
                layer: Any = self.model.get_submodule(name)
                graph = side_by_side([index.graph for index in now])
                source = np.full(graph.n_edges, -1)
                values = layer.values.new_zeros(graph.n_edges)
                layer.replace_graph(EdgeUpdate(layer.graph, graph, source), values)
                self._indices[name] = now
        for own, parts in self._pairs:
            own.copy_(torch.cat([part.detach() for part in parts]))
            states = [
                state.optimizer.state.get(part, {})
                for state, part in zip(self.states, parts, strict=True)
            ]
            first, _ = self._going()[0]  # that of a run that failed may lack entries
            for key, entry in states[first].items():
                if not torch.is_tensor(entry):
                    continue
                whole = entry  # a count of steps, which is the same in all runs
                if entry.shape == parts[first].shape:
                    pairs = zip(states, parts, strict=True)
                    whole = torch.cat([state.get(key, torch.zeros_like(p)) for state, p in pairs])
                _put(self.optimizer.state[own], key, whole)

    @torch.no_grad()
    def store(self) -> None:
        """Copy the network's weights and optimizer state back to the runs. O(edges)."""
        for own, parts in self._pairs:
            sizes = [part.numel() for part in parts]
            for part, now in zip(parts, own.split(sizes), strict=True):
                part.copy_(now)
                part.grad = None
            for key, entry in self.optimizer.state.get(own, {}).items():
                if not torch.is_tensor(entry):
                    continue
                each = entry.split(sizes) if entry.shape == own.shape else [entry] * len(parts)
                for state, part, now in zip(self.states, parts, each, strict=True):
                    _put(state.optimizer.state[part], key, now)

    # Training.

    def epoch(self) -> list[float]:
        """Train over all samples once and return each run's mean loss; see `errors`."""
        plan, epoch = self.trainings[0].plan, self.states[0].epoch
        for model, optimizer in (
            (self.model, self.optimizer),
            *((state.model, state.optimizer) for state in self.states),
        ):
            model.train()
            set_rate(optimizer, plan, epoch)
        self._losses, self._waiting = [], []
        often = 1 if device_of(self.model).type == "cpu" else CHECKED_EVERY
        ahead = made = 0  # steps that engines need not see, and that they have not been told of
        samples = [training.samples for training in self.trainings]
        orders = [state.rngs["order"] for state in self.states]
        for batch in shuffled_together(samples, plan.batch_size, orders):
            if not self._going():
                break
            for state in self.states:
                state.step += 1
            if not ahead:
                ahead = self._unseen()
                if ahead:
                    self.load()
            if not ahead:
                self._apart(batch)
                continue
            self._waiting.append(self._step(batch))
            if len(self._waiting) >= often:
                self._check()
            ahead, made = ahead - 1, made + 1
            if not ahead:
                self._tell(made)
                made = 0
        if made:
            self._tell(made)
        each = zip(*self._losses, strict=True)
        return [
            math.nan if at in self.errors else float(np.mean(own)) for at, own in enumerate(each)
        ]

    def _going(self) -> list[tuple[int, Training]]:
        return [(at, t) for at, t in enumerate(self.trainings) if at not in self.errors]

    def _unseen(self) -> int:
        """Return how many steps may be made of the whole before an engine has to see one.

        On the CPU none while layers of the same name are computed in different ways, as a rule that
        moves edges between layers may bring about: their sums are taken in different orders.
        """
        if one_by_one(self._pairs[0][0]) and not self._alike():
            return 0
        limits = [training.engine.unseen() for _, training in self._going()]
        return min((n for n in limits if n is not None), default=len(self.trainings[0].samples))

    def _alike(self) -> bool:
        """Return whether each layer is computed in the same way in all runs."""
        full, count = self.trainings[0].plan.batch_size, len(self.trainings[0].samples)
        for layers in self._layers.values():
            ways = set()
            for layer in layers:
                graph, kernel = layer.graph, layer.kernel
                sizes = (full, count % full or full)
                chosen = [choose_kernel(kernel, graph, batch=size)[0] for size in sizes]
                ways.add((*chosen, graph.n_absent == 0))
            if len(ways) > 1:
                return False
        return True

    def _step(self, batch: Batch) -> torch.Tensor:
        """Make a step of the whole and return the loss of each run."""
        steps, found = self.steps, []

        def usual() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            losses = self._loss(self.model, batch)
            losses.backward(torch.ones_like(losses))
            self.optimizer.step()
            found.append(losses.detach())

        if steps is None:
            usual()
        elif steps.replays(batch):
            return steps.replay(batch)
        else:
            steps.usual(usual)
        return found[0]

    def _apart(self, batch: Batch) -> None:
        """Make a step run by run, as a single run does."""
        losses = [math.nan] * len(self.trainings)
        for at, training in self._going():
            state = training.state

            def seen(loss: torch.Tensor, at: int = at, state: TrainState = state) -> None:
                losses[at] = float(loss)
                if not math.isfinite(losses[at]):
                    raise diverged(state, losses[at], state.step)

            own = Batch(batch.x[:, at].contiguous(), batch.y[at])
            self._tried(
                at, partial(make_step, state, own, objective=training.plan.objective, seen=seen)
            )
        self._losses.append(losses)
        if self.steps is not None:
            self.steps.note(LOOKED_AT)

    def _tell(self, made: int) -> None:
        """Copy weights back, and tell each engine of some steps; a rewiring may follow the last."""
        self._check()
        self.store()
        for at, training in self._going():
            training.engine.count(made - 1)
            self._tried(at, training.engine.stepped)

    def _tried(self, at: int, call: Callable[[], Any]) -> None:
        """Call a function of one run; an error is that run's alone."""
        try:
            call()
        except Exception as error:
            self.errors[at] = error

    def _check(self) -> None:
        """Fetch the losses of the last steps; note which runs have diverged."""
        rows = torch.stack(self._waiting).tolist() if self._waiting else []
        for ago, row in zip(range(len(rows))[::-1], rows, strict=True):
            for at, state in enumerate(self.states):
                if at not in self.errors and not math.isfinite(row[at]):
                    self.errors[at] = diverged(state, row[at], state.step - ago)
        self._losses += rows
        self._waiting.clear()


def _losses(model: _Joined, batch: Batch, objective: Any) -> torch.Tensor:
    """Return the mean loss of each network on its part of a batch."""
    count = len(model.generators)
    return objective.losses(model(batch.x).t().unflatten(0, (count, -1)), batch.y)


def _put(state: dict[Any, Any], key: str, now: torch.Tensor) -> None:
    """Write an entry of an optimizer's state into the memory that it has, if it fits there."""
    old = state.get(key)
    if old is not None and old.shape == now.shape:
        old.copy_(now)
    else:
        state[key] = now.clone()


class Together:
    """Several runs that are trained together, epoch by epoch.

    Parameters
    ----------
    trainings : sequence of Training
        Whose plans are the same.
    optimizer : callable
        Makes the runs' optimizer for given parameters.

    Attributes
    ----------
    left : list of Training
        Those that have epochs left and have not failed.

    Notes
    -----
    Runs that have finished fewer epochs than others, as after an interruption, catch up first.
    """

    def __init__(self, trainings: Sequence[Training], optimizer: Optimizers) -> None:
        self.left = [training for training in trainings if not training.over]
        self._optimizer = optimizer
        self._network: Network | None = None

    def leave(self, training: Training) -> None:
        """Leave a run out from now on."""
        self.left = [each for each in self.left if each is not training]

    @tiny_as_zero()
    def round(self) -> list[tuple[Training, Epoch | Exception]]:
        """Train an epoch; return it for each run that took part, or what ended the run.

        `seconds` of an epoch are a run's share of the training of all, and its own evaluation and
        rewiring.
        """
        now = self._next()
        start = time.perf_counter()
        try:
            if self._network is None or self._network.trainings != now:
                self._network = Network(now, self._optimizer)
            network = self._network
            losses = network.epoch()
        except Exception as error:  # of the whole, such as too little memory
            self.left = [training for training in self.left if training not in now]
            self._network = None
            return [(training, error) for training in now]
        made = None if network.steps is None else network.steps.report()
        share = (time.perf_counter() - start) / len(now)
        done: list[tuple[Training, Epoch | Exception]] = []
        for at, training in enumerate(now):
            outcome: Epoch | Exception | None = network.errors.get(at)
            if outcome is None:
                try:
                    begun = time.perf_counter() - share
                    outcome = training.end_epoch(losses[at], begun, made)
                except Exception as error:
                    outcome = error
            if isinstance(outcome, Exception) or training.over:
                self.leave(training)
            done.append((training, outcome))
        return done

    def _next(self) -> list[Training]:
        """Return the runs of the next epoch: those furthest behind that are alike."""
        behind = min(self.left, key=lambda training: training.state.epoch)
        return [each for each in self.left if _place(each) == _place(behind)]


def _place(training: Training) -> Any:
    """Return where a run is, and the sizes that runs of one network have in common."""
    state, samples = training.state, training.samples
    shapes = [graph.shape for graph in training.engine.topology.values()]
    return state.epoch, state.step, len(samples), shapes


def run_together(
    runs: Mapping[str, AbstractContextManager[Course]],
    *,
    time_is_up: Callable[[], bool] = bool,
) -> dict[str, BaseException]:
    """Train runs of one condition together, and record each in its own directory.

    Parameters
    ----------
    runs : mapping of context manager
        What `topokit.experiments.runs.started` and ``resumed`` return, by the runs' names. They
        differ in their seed alone.
    time_is_up : callable
        Asked after each epoch; the runs end there if it says so.

    Returns
    -------
    dict of BaseException
        What ended a run that failed. The others have finished, or the time was up.
    """
    failed: dict[str, BaseException] = {}
    shared: dict[int, tuple[Samples, Samples]] = {}
    names: dict[Training, str] = {}
    recorders: dict[Training, EpochRecorder] = {}
    with ExitStack() as stack:
        for name, run in runs.items():
            try:
                course = stack.enter_context(run)
                state, data = course.state, course.parts.data
                if id(data) not in shared:
                    shared[id(data)] = Samples.of(data, device_of(state.model))
                training = Training(state, shared[id(data)], plan_of(course.config))
                stack.callback(training.engine.detach)
                names[training], recorders[training] = name, recorder_of(course)
                if training.over:
                    course.directory.finish()
            except Exception as error:
                failed[name] = error
        if not recorders:
            return failed
        config = next(iter(recorders.values())).config
        group = Together(list(recorders), partial(make_optimizer, config.optimizer))
        while group.left and not time_is_up():
            for training, outcome in group.round():
                reason = _recorded(training, outcome, recorders[training])
                if reason is not None:
                    failed[names[training]] = reason
                    group.leave(training)  # an epoch that was not recorded has none after it
    return failed


def _recorded(
    training: Training, outcome: Epoch | Exception, recorder: EpochRecorder
) -> BaseException | None:
    """Record an epoch of a run, and its end if it was the last; return why that failed, if so."""
    try:
        if isinstance(outcome, Exception):
            raise outcome
        recorder.add(outcome)
        if training.over:
            recorder.directory.finish()
    except FloatingPointError as error:
        return with_place(error, recorder.directory)
    except (Exception, SystemExit) as error:  # a plugin's measure may call exit
        return error
    return None
