"""Carrying out a run: from a configuration to a directory of results."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from topokit.data import DATASETS, Data, load_data
from topokit.experiments.config import (
    OPTIMIZERS,
    WITHOUT_BUDGET,
    OptimizerSpec,
    RunConfig,
    check_widths,
    load_recipe,
    resolve,
)
from topokit.experiments.loop import Epoch, TrainPlan, TrainState, read_checkpoint, train
from topokit.experiments.record import EXPLORED, History, Recorder, RunDirectory
from topokit.generators import DENSITIES, GENERATORS, generate, layer_densities
from topokit.generators.density import shapes_of
from topokit.graph import EdgeUpdate, Topology
from topokit.graph.files import write_atomic
from topokit.measures import (
    CHANGE_MEASURES,
    CORE,
    LAYER_MEASURES,
    NETWORK_MEASURES,
    measure,
    prepare,
)
from topokit.nn.checkpoints import topology_of_state
from topokit.nn.initial_topology import INITIAL_TOPOLOGIES
from topokit.nn.models import MODELS, UNSUPERVISED, inputs_of
from topokit.rules import RULES, SCHEDULES, Rewiring

__all__ = ["Progress", "check", "make_optimizer", "resume", "run"]

Progress = Callable[[Epoch, pd.DataFrame], None]

STREAMS = ("topology", "weights", "order", "rule", "dropout", "data")


def run(
    config: RunConfig | str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> History:
    """Train a network and record the topology of every epoch.

    The configuration is checked before any work starts. On one machine, a seed always gives the
    same result.

    Parameters
    ----------
    config : RunConfig, str or path
        A configuration, the name of a recipe, or a TOML file.
    directory : path
        A new or empty folder.
    data_dir : path, optional
        Folder of data sets; else the environment variable ``TOPOKIT_DATA``.
    progress : callable, optional
        Called as ``progress(epoch, measures)`` after each recorded epoch.

    Returns
    -------
    History
        The two frames, and any epoch's topology on demand.

    Raises
    ------
    ValueError
        If the configuration, the data or the directory is wrong.
    FileNotFoundError
        If the data set is not where it was looked for.
    FloatingPointError
        If training diverges; the state after the last finished epoch is kept.

    Examples
    --------
    >>> import tempfile
    >>> config = load_recipe("set_mlp_digits").override(["epochs=2", "model.widths=[64,30,10]"])
    >>> history = run(config, tempfile.mkdtemp())
    >>> history.epochs["epoch"].tolist(), history.topology(0)["fc1"].n_in
    ([0, 1], 64)
    """
    config = config if isinstance(config, RunConfig) else load_recipe(config)
    parts = _prepare(config, data_dir)
    state = _build(config, _first_topology(config, parts), parts)
    run_directory = RunDirectory.create(directory, config.to_toml(), _environment(config))
    with run_directory.lock():
        state.save(run_directory.checkpoint)
        return _loop(config, state, parts, run_directory, progress)


def resume(
    directory: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> History:
    """Continue a run from its last checkpoint; the result is that of an uninterrupted run.

    Parameters
    ----------
    directory : path
        A run directory. A finished run is returned as it is.
    data_dir, progress
        As for `run`.

    Returns
    -------
    History

    Raises
    ------
    FileNotFoundError
        If there is no such directory, or the data set is missing.
    ValueError
        If it is not a run directory, its checkpoint is damaged, or another process is writing to
        it.

    Examples
    --------
    >>> import tempfile
    >>> config = load_recipe("set_mlp_digits").override(["epochs=1", "model.widths=[64,30,10]"])
    >>> finished = run(config, tempfile.mkdtemp())
    >>> resume(finished.directory).epochs.equals(finished.epochs)
    True
    """
    run_directory = RunDirectory.open(directory)
    if run_directory.done:
        return run_directory.history()
    config = RunConfig.from_dict(run_directory.config())
    with run_directory.lock():
        checkpoint = read_checkpoint(run_directory.checkpoint)
        parts = _prepare(config, data_dir)
        state = _build(config, topology_of_state(checkpoint["model"]), parts)
        state.restore(checkpoint)
        return _loop(config, state, parts, run_directory, progress)


@dataclass(frozen=True)
class _Parts:
    """Data and random streams, from which new and resumed runs are built."""

    data: Data
    rngs: dict[str, np.random.Generator]


def check(
    config: RunConfig, *, data_dir: str | os.PathLike[str] | None = None, load: bool = True
) -> None:
    """Raise an error if a configuration cannot be run, without running it.

    Parameters
    ----------
    config : RunConfig
    data_dir : path, optional
        As for `run`.
    load : bool
        Whether to load the data as well, to check that they exist and that the widths fit.

    Raises
    ------
    ValueError, FileNotFoundError
        As `run` would, before any work.

    Examples
    --------
    >>> check(load_recipe("set_mlp_digits").override(["rule.name=sett"]))
    Traceback (most recent call last):
    ValueError: unknown rule 'sett'; did you mean 'set'? rules: ...
    """
    if load:
        _prepare(config, data_dir)
    else:
        _resolve(config)
    _plan(config)


def _resolve(config: RunConfig) -> None:
    """Check the names and parameters of a configuration against all tables."""
    resolve(
        config,
        tables={
            "data": DATASETS,
            "model": MODELS,
            "topology": {**GENERATORS, **INITIAL_TOPOLOGIES},
            "densities": DENSITIES,
            "rule": RULES,
            "measures": {**LAYER_MEASURES, **NETWORK_MEASURES, **CHANGE_MEASURES, EXPLORED: len},
        },
    )


def _prepare(config: RunConfig, data_dir: str | os.PathLike[str] | None) -> _Parts:
    """Check the configuration, then load the data and check that the widths match."""
    _resolve(config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    rngs = {
        name: np.random.Generator(
            np.random.PCG64(np.random.SeedSequence(config.seed, spawn_key=(i,)))
        )
        for i, name in enumerate(STREAMS)
    }
    folder = None if data_dir is None else Path(data_dir)
    data = load_data(config.data.name, data_dir=folder, rng=rngs["data"], **config.data.params)
    n_inputs = inputs_of(config.model.name, data.n_features, **config.model.params)
    n_classes = 0 if config.model.name in UNSUPERVISED else data.n_classes
    if not n_classes and config.model.name not in UNSUPERVISED:
        raise ValueError(
            f"data.name: model {config.model.name!r} expected a data set with labels, got "
            f"{data.name!r}, which has none; {', '.join(sorted(UNSUPERVISED))} learns without"
        )
    check_widths(config, n_features=data.n_features, n_classes=n_classes, n_inputs=n_inputs)
    return _Parts(data, rngs)


def _first_topology(config: RunConfig, parts: _Parts) -> Topology:
    """Return the initial topology of a new run."""
    spec, widths, rng = config.topology, config.model.widths, parts.rngs["topology"]
    budget: dict[str, Any] = {
        "epsilon": spec.epsilon,
        "density": spec.density,
        "densities": spec.densities,
    }
    if spec.generator in INITIAL_TOPOLOGIES:
        shares = None
        if spec.generator not in WITHOUT_BUDGET:
            shares = layer_densities(shapes_of(widths), **budget)
        data = parts.data
        return INITIAL_TOPOLOGIES[spec.generator](
            data.x_train, data.y_train, widths=widths, density=shares, rng=rng, **spec.params
        )
    return generate(widths, spec.generator, **budget, rng=rng, **spec.params)


def _build(config: RunConfig, topology: Topology, parts: _Parts) -> TrainState:
    """Build model and optimizer from a topology, for a new or a resumed run."""
    dropout = torch.Generator()
    dropout.manual_seed(int(parts.rngs["dropout"].integers(2**62)))
    model = MODELS[config.model.name](
        topology, rng=parts.rngs["weights"], generator=dropout, **config.model.params
    )
    optimizer = make_optimizer(config.optimizer, model.parameters())
    streams = {name: parts.rngs[name] for name in ("order", "rule")}
    return TrainState(model, optimizer, streams, dropout)


def make_optimizer(
    spec: OptimizerSpec, parameters: Iterable[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """Return the torch optimizer that a configuration's ``[optimizer]`` describes.

    Parameters
    ----------
    spec : OptimizerSpec
    parameters : iterable of torch.nn.Parameter

    Returns
    -------
    torch.optim.Optimizer

    Examples
    --------
    >>> spec = OptimizerSpec("adam", lr=0.001)
    >>> type(make_optimizer(spec, [torch.nn.Parameter(torch.ones(2))])).__name__
    'Adam'
    """
    options: dict[str, Any] = {"lr": spec.lr, "weight_decay": spec.weight_decay}
    if spec.name == "sgd":
        options |= {"momentum": spec.momentum, "nesterov": spec.nesterov}
    kind: Callable[..., torch.optim.Optimizer] = getattr(torch.optim, OPTIMIZERS[spec.name])
    return kind(parameters, **options)


def _plan(config: RunConfig) -> TrainPlan:
    spec = config.rule
    return TrainPlan(
        epochs=config.epochs,
        batch_size=config.batch_size,
        rule=RULES[spec.name](**spec.params),
        lr=config.optimizer.lr,
        lr_schedule=SCHEDULES[config.optimizer.lr_schedule],
        **{option.name: getattr(spec, option.name) for option in fields(Rewiring)},
    )


def _loop(
    config: RunConfig,
    state: TrainState,
    parts: _Parts,
    run_directory: RunDirectory,
    progress: Progress | None,
) -> History:
    """Train, measure and record until the last epoch; the checkpoint is always written last."""
    recorder = Recorder(run_directory, upto=state.epoch - 1)
    timing = _read_timing(run_directory)
    prepare(name for name in config.measures.at(0, 1, CORE) if name != EXPLORED)
    for epoch in _guarded(train(state, parts.data, _plan(config)), run_directory):
        start = time.perf_counter()
        changes = _changes(epoch, recorder.previous)
        frame = _measured(config, epoch, recorder, changes)
        measuring = time.perf_counter() - start
        recorder.write(epoch.index, epoch.metrics, epoch.topology, frame, changes)
        timing = {
            "epochs": epoch.index + 1,
            "training_seconds": timing["training_seconds"] + epoch.metrics["seconds"],
            "measuring_seconds": timing["measuring_seconds"] + measuring,
        }
        with write_atomic(run_directory.path / "timing.json") as temporary:
            temporary.write_text(json.dumps(timing, indent=2) + "\n", encoding="utf-8")
        state.save(run_directory.checkpoint)
        if progress is not None:
            progress(epoch, frame)
    run_directory.finish()
    return run_directory.history()


def _guarded(epochs: Iterator[Epoch], run_directory: RunDirectory) -> Iterator[Epoch]:
    """Re-raise a divergence error with the path of the last checkpoint."""
    try:
        yield from epochs
    except FloatingPointError as error:
        path = run_directory.path
        raise FloatingPointError(
            f"{error}; the state of the last finished epoch is in {path}"
        ) from None


def _changes(epoch: Epoch, previous: Topology | None) -> dict[str, EdgeUpdate] | None:
    """Return the change of each layer since the previous epoch, None in the first one.

    It is the rewiring itself if that is known, else it is found by comparing the graphs. An edge
    present in both epochs counts as kept, even if it was dropped and grown again in between.
    """
    if previous is None:
        return None
    changes = {}
    for name, graph in epoch.topology.items():
        if epoch.updates is None:
            changes[name] = EdgeUpdate.between(previous[name], graph)
        elif name in epoch.updates:
            changes[name] = epoch.updates[name].net()
        else:
            changes[name] = EdgeUpdate(graph, graph, np.arange(graph.n_edges))
    return changes


def _measured(
    config: RunConfig, epoch: Epoch, recorder: Recorder, changes: dict[str, EdgeUpdate] | None
) -> pd.DataFrame:
    """Measure an epoch's topology; the explored fraction needs all epochs, so it is added here."""
    explored = recorder.explore(epoch.topology) if epoch.explored is None else epoch.explored
    names = config.measures.at(epoch.index, config.epochs, (*CORE, EXPLORED))
    others = [name for name in names if name != EXPLORED]
    frame = measure(epoch.topology, others, changes=changes)
    if EXPLORED in names:
        rows = pd.DataFrame(
            [(layer, EXPLORED, share) for layer, share in explored.items()], columns=frame.columns
        )
        frame = pd.concat([frame, rows], ignore_index=True) if len(frame) else rows
    return frame


def _read_timing(run_directory: RunDirectory) -> dict[str, float]:
    """Return the seconds spent so far in training and in measuring."""
    try:
        timing = json.loads((run_directory.path / "timing.json").read_text(encoding="utf-8"))
        return {key: float(timing[key]) for key in ("training_seconds", "measuring_seconds")}
    except (OSError, ValueError, KeyError):
        return {"training_seconds": 0.0, "measuring_seconds": 0.0}


def _environment(config: RunConfig) -> dict[str, Any]:
    """Return versions, machine, seed and command: what is needed to repeat the run."""
    packages = ("topokit-nn", "torch", "numpy", "scipy", "numba", "pandas", "networkx")
    return {
        "seed": config.seed,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "packages": {name: version(name) for name in packages},
    }
