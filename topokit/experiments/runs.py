"""Carrying out a run, from a configuration to a directory of results, and its trained network."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from topokit.data import Data
from topokit.experiments.config import (
    RunConfig,
    load_recipe,
    with_registered,
)
from topokit.experiments.loop import Epoch, TrainPlan, TrainState, read_checkpoint, train
from topokit.experiments.preparation import (
    Parts,
    choose_device,
    environment_of,
    first_topology,
    make_optimizer,
    prepare_run,
    resolve_names,
    source_run,
    take_over,
)
from topokit.experiments.record import History
from topokit.experiments.recorder import EpochRecorder
from topokit.experiments.rundir import Record, RunDirectory
from topokit.experiments.samples import OBJECTIVES
from topokit.experiments.tracking import Tracker, tracked
from topokit.experiments.upgrade import upgrade
from topokit.foreign import shell_word
from topokit.graph import Topology
from topokit.graph.checksums import read_seal
from topokit.graph.networks import chain_widths
from topokit.nn.distributed import Processes
from topokit.nn.layers import sparse_layers
from topokit.nn.models import MODELS
from topokit.nn.states import topology_of_state
from topokit.plugins import loaded, unlike
from topokit.progress import over_epochs
from topokit.rules import SCHEDULES, Rewiring, make_rule
from topokit.rules.stream import GROWTH
from topokit.tables import choose

__all__ = [
    "Progress",
    "check",
    "data_of",
    "make_optimizer",
    "model_of",
    "resume",
    "run",
    "take_part",
]

_log = logging.getLogger("topokit.experiments")

Progress = Callable[[Epoch, pd.DataFrame], None]


def run(
    config: RunConfig | str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    progress: Progress | bool | None = None,
    tracker: Tracker | None = None,
    processes: Processes | None = None,
    **changes: Any,
) -> History:
    """Train a network and record the topology of every epoch.

    The configuration is checked before any work starts. On one machine, a seed always gives the
    same result.

    Parameters
    ----------
    config : RunConfig, str or path
        A configuration, the name of a recipe, or a TOML file.
    directory : path
        A new or empty folder, or one in which the same run was interrupted before its first
        checkpoint.
    data_dir : path, optional
        Folder of data sets; else the environment variable ``TOPOKIT_DATA``.
    progress : bool or callable, optional
        Terminals and notebooks have a progress bar, on standard error; False: none, True: also
        elsewhere, as lines. Or a function, called as ``progress(epoch, measures)`` after each
        recorded epoch.
    tracker : object, optional
        Where each epoch is logged too, such as a run of Weights & Biases, a writer of TensorBoard,
        the module ``mlflow`` or a function ``log(values, step)``: see
        `topokit.experiments.tracking.logger_of`.
    processes : Processes, optional
        Processes that train together, this one being the first: see
        `topokit.experiments.processes`.
    **changes
        Other values of the configuration, as for `RunConfig.override`: ``epochs=3``,
        ``rule="rigl"``, ``rule=my_rule``, ``**{"rule.drop_fraction": 0.2}``.

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
    >>> widths = {"model.widths": [64, 30, 10]}
    >>> history = run("set_mlp_digits", tempfile.mkdtemp(), epochs=2, **widths)
    >>> history.epochs["epoch"].tolist(), history.topology(0)["fc1"].n_in
    ([0, 1], 64)
    """
    config = config if isinstance(config, RunConfig) else load_recipe(config)
    config = with_registered(config.override(changes) if changes else config)
    RunDirectory(Path(directory)).check_free(config.to_toml())  # before the work
    with over_epochs(config.epochs, wanted=progress) as shown:
        report = tracked(shown, tracker)
        with started(config, directory, data_dir=data_dir, processes=processes) as course:
            return _loop(course, report, processes)


class Course(NamedTuple):
    """A run that is being carried out; its directory is locked."""

    config: RunConfig
    state: TrainState
    parts: Parts
    directory: RunDirectory


@contextmanager
def started(
    config: RunConfig,
    directory: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    processes: Processes | None = None,
    known: dict[str, Data] | None = None,
) -> Iterator[Course]:
    """Begin a run, with the arguments and errors of `run`; its directory is locked meanwhile.

    `known` as for `topokit.experiments.preparation.prepare_run`.
    """
    run_directory = RunDirectory(Path(directory))
    run_directory.check_free(config.to_toml())  # and again with the lock
    device = _device(config.device, processes)
    parts = prepare_run(config, data_dir, known)
    plan_of(config)  # a rule that cannot be made is refused before anything is written
    state = _first(config, parts, device, run_directory.path)
    run_directory.path.mkdir(parents=True, exist_ok=True)
    with run_directory.lock():
        _create(run_directory, config, parts, processes, device)
        yield Course(config, state, parts, run_directory)


def _device(setting: str, processes: Processes | None) -> torch.device:
    """Return the device of a run; several processes train on the CPU."""
    if processes is not None and processes.size > 1:
        if setting == "cuda":
            raise ValueError(
                f"device: expected 'cpu' with {processes.size} processes, got 'cuda', on which one "
                "process trains"
            )
        return torch.device("cpu")
    return choose_device(setting)


def _create(
    run_directory: RunDirectory,
    config: RunConfig,
    parts: Parts,
    processes: Processes | None,
    device: torch.device,
) -> None:
    environment = environment_of(config, 1 if processes is None else processes.size, device)
    RunDirectory.create(run_directory.path, config.to_toml(), environment, data=parts.checksum)


def resume(
    directory: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    progress: Progress | bool | None = None,
    tracker: Tracker | None = None,
    accept: Iterable[str] = (),
    processes: Processes | None = None,
    device: str | None = None,
) -> History:
    """Continue a run from its last checkpoint; the result is that of an uninterrupted run.

    Configuration, data and checkpoint are compared with the record of the run first.

    Parameters
    ----------
    directory : path
        A run directory. A finished run is returned as it is.
    data_dir, progress, tracker, processes
        As for `run`; the number of processes may be another one than before.
    accept : iterable of str
        What may differ from the beginning of the run and is used from now on: ``"config"``, the
        edited ``config.toml``; ``"data"``, other samples; ``"plugins"``, other plugins, or none;
        ``"growth"``, the present random stream of growth in a run that has drawn from that of an
        earlier version. The record says where it changed.
    device : {"cpu", "cuda", "auto"}, optional
        Another one than the configuration's. From then on sums differ in the last digits, which
        is said in the log, and dropout draws from a stream that follows from the saved one; the
        record says where it changed.

    Returns
    -------
    History

    Raises
    ------
    FileNotFoundError
        If there is no such directory, or the data set is missing.
    ValueError
        If it is not a run directory, a file is damaged or missing, configuration, data, plugins
        or checkpoint are not those of the run, or another process is writing to it. A run never
        loads plugins by itself: see `topokit.load_plugins`.

    Examples
    --------
    >>> import tempfile
    >>> config = load_recipe("set_mlp_digits").override(["epochs=1", "model.widths=[64,30,10]"])
    >>> finished = run(config, tempfile.mkdtemp())
    >>> resume(finished.directory).epochs.equals(finished.epochs)
    True
    """
    accept = {accept} if isinstance(accept, str) else set(accept)
    for what in accept:
        choose("difference", what, ACCEPTED)
    if RunDirectory.open(directory).done:
        return History.load(directory)
    again = resumed(directory, data_dir=data_dir, accept=accept, processes=processes, device=device)
    with again as course, over_epochs(course.config.epochs, wanted=progress) as shown:
        return _loop(course, tracked(shown, tracker), processes)


def model_of(source: str | os.PathLike[str] | History) -> torch.nn.Module:
    """Return the network of a run with the weights of its last checkpoint.

    Parameters
    ----------
    source : path or History
        A run, finished or not.

    Returns
    -------
    torch.nn.Module
        On the CPU and in evaluation mode. Of a finished run it is the network after the last
        epoch, whose test accuracy is the last one recorded; that of the epoch with the best
        accuracy is not kept. Dropout, if it is trained further, draws from the run's seed.

    Raises
    ------
    FileNotFoundError
        If there is no such directory, or it has no checkpoint yet.
    ValueError
        If it is not a run directory, the checkpoint is damaged or of another run, or the model is
        defined in a plugin that has not been loaded (`topokit.load_plugins`).

    Examples
    --------
    >>> import tempfile
    >>> config = load_recipe("set_mlp_digits").override(["epochs=1", "model.widths=[64,30,10]"])
    >>> history = run(config, tempfile.mkdtemp())
    >>> model, data = model_of(history), data_of(history)
    >>> with torch.no_grad():
    ...     right = model(torch.from_numpy(data.x_test)).argmax(1) == torch.from_numpy(data.y_test)
    >>> abs(float(right.double().mean()) - float(history["test_accuracy"].iloc[-1])) < 1e-6
    True
    """
    run_directory, record, config = _of(source)
    try:
        state = _checkpoint(run_directory, record)[0]["model"]
        topology = _sparse_topology(state)
        streams = np.random.default_rng(config.seed), torch.Generator().manual_seed(config.seed)
        model = _model(config, topology, *streams)
        model.load_state_dict(state)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"run {run_directory.path} has no checkpoint.pt, which holds the weights: it was "
            "removed, or the first epoch has not ended"
        ) from None
    except (KeyError, RuntimeError) as error:
        raise run_directory.damaged("checkpoint.pt", str(error).splitlines()[0]) from None
    return model.eval()


def data_of(
    source: str | os.PathLike[str] | History, *, data_dir: str | os.PathLike[str] | None = None
) -> Data:
    """Return the samples that a run was trained and tested on, as the network saw them.

    Parameters
    ----------
    source : path or History
        A run, finished or not.
    data_dir : path, optional
        Where the files of the data set are; see `topokit.load_data`.

    Returns
    -------
    Data
        Scaled and split as in the run.

    Raises
    ------
    FileNotFoundError
        If there is no such directory, or the data set is missing.
    ValueError
        If it is not a run directory, or the samples are not those that the run began with, as when
        a file was changed since (runs of schema 1 have no checksum to compare).

    Examples
    --------
    See `model_of`.
    """
    run_directory, record, config = _of(source)
    parts = _prepared(replace(config, threads=None), data_dir, record, None)
    if record.schema > 1 and parts.checksum != record.data:
        raise ValueError(
            f"the samples are not those of run {run_directory.path} (their checksum is "
            f"{parts.checksum[:8]} and was {record.data[:8]}); restore the files of the data set"
        )
    return parts.data


def _of(source: str | os.PathLike[str] | History) -> tuple[RunDirectory, Record, RunConfig]:
    """Return a run's directory, what it recorded, and its configuration."""
    path = source.directory if isinstance(source, History) else source
    run_directory = RunDirectory.open(path)
    record = run_directory.read()
    run_directory.compare(record)
    return run_directory, record, RunConfig.from_dict(run_directory.config())


@contextmanager
def resumed(
    directory: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    accept: Collection[str] = (),
    processes: Processes | None = None,
    device: str | None = None,
    known: dict[str, Data] | None = None,
) -> Iterator[Course]:
    """Go on with an unfinished run, with the arguments and errors of `resume`; it is locked."""
    run_directory = RunDirectory.open(directory)
    with run_directory.lock():
        record = run_directory.read()
        changed: dict[str, Any] = {}
        text = run_directory.config_text()
        if "config" in accept and record.schema > 1 and text != record.config:
            changed["config"] = text
        record = replace(record, **changed)
        run_directory.compare(record)
        if other := unlike(record.plugins):
            _check_plugins(run_directory, other, accept)
            changed["plugins"] = loaded()
        config = RunConfig.from_dict(run_directory.config())
        where = _device(config.device if device is None else device, processes)
        parts = _prepared(config, data_dir, record, known)
        if not record.run and not record.lines and not run_directory.checkpoint.exists():
            _create(run_directory, config, parts, processes, where)
            record = run_directory.read()
        data = parts.checksum
        if record.schema > 1 and data != record.data:
            _check_data(run_directory, record.data, data, accept)
            changed["data"] = data
        unused = parts.rngs["rule"].bit_generator.state
        state = _restored(run_directory, record, config, parts, where)
        if record.growth != GROWTH:
            if state.rngs["rule"].bit_generator.state != unused:
                _check_growth(run_directory, accept)
            changed["growth"] = GROWTH
        if record.schema > 1 and where.type != record.device:
            _log.warning(
                "run %s goes on from epoch %d on device %s; before that it was trained on %s, "
                "whose sums differ in the last digits",
                run_directory.path, state.epoch, where.type, record.device,
            )  # fmt: skip
            changed["device"] = where.type
        if record.schema < 2:
            upgrade(run_directory, record, data=data, epochs=state.epoch)
        record = run_directory.cut(run_directory.read(), state.epoch)
        for what, now in changed.items():
            line = {"kind": "accepted", "run": record.run, "epoch": state.epoch}
            run_directory.add_line(line | {"what": what, "now": now}, record.last)
            record = run_directory.read()
        yield Course(config, state, parts, run_directory)


ACCEPTED = {
    "config": "an edited config.toml", "data": "other samples", "plugins": "other plugins",
    "growth": "another random stream of growth",
}  # fmt: skip
"""What a resumed run may be told to accept."""


def _check_plugins(run_directory: RunDirectory, other: list[str], accept: Collection[str]) -> None:
    """Raise an error about other plugins than those of a run, unless they are accepted."""
    if "plugins" not in accept:
        raise ValueError(
            f"run {run_directory.path} began with other plugins: {'; '.join(other)}. A run never "
            "loads code by itself: name the plugins that you trust with --plugin FILE "
            "(topokit.load_plugins in Python); '--accept plugins' goes on with those you name, or "
            "with none"
        )


def _check_data(
    run_directory: RunDirectory, before: str, now: str, accept: Collection[str]
) -> None:
    """Raise an error about samples of another checksum, unless they are accepted."""
    if "data" not in accept:
        raise ValueError(
            f"the samples are not those that run {run_directory.path} began with (their checksum "
            f"is {now[:8]} and was {before[:8]}); restore the files of the data set, or 'topokit "
            f"resume {shell_word(run_directory.path)} --accept data' goes on with these"
        )


def _check_growth(run_directory: RunDirectory, accept: Collection[str]) -> None:
    """Raise an error about growth drawn by another version, unless that is accepted."""
    if "growth" not in accept:
        raise ValueError(
            f"run {run_directory.path} has drawn from the random stream of another version of "
            "topokit: rewiring would go on with other edges than an uninterrupted run; start it "
            f"again in another folder (topokit train "
            f"{shell_word(run_directory.path / 'config.toml')} --out NEW), or 'topokit resume "
            f"{shell_word(run_directory.path)} --accept growth' goes on with the present stream"
        )


def _prepared(
    config: RunConfig,
    data_dir: str | os.PathLike[str] | None,
    record: Record,
    known: dict[str, Data] | None,
) -> Parts:
    """Return the parts of a run that goes on; an unknown name may be that of a plugin."""
    try:
        return prepare_run(config, data_dir, known)
    except ValueError as error:
        if not str(error).startswith("unknown"):
            raise
        command = record.environment.get("command")
        began = f"; the run was started by: {command}" if command else ""
        raise ValueError(
            f"{error}; if it is defined in a module of yours, name that with --plugin{began}"
        ) from None


def _restored(
    run_directory: RunDirectory,
    record: Record,
    config: RunConfig,
    parts: Parts,
    device: torch.device,
) -> TrainState:
    """Return the state from which a run goes on: that of its checkpoint, or the first."""
    n_recorded = len(record.lines)
    try:
        checkpoint, sealed = _checkpoint(run_directory, record)
    except FileNotFoundError:
        if n_recorded > 1:  # the first epoch is recorded before there is a checkpoint
            raise ValueError(
                f"the checkpoint of run {run_directory.path} is missing, without which it cannot "
                f"go on after {n_recorded} epochs; start it again in another folder: "
                f"topokit train {shell_word(run_directory.path / 'config.toml')} --out NEW"
            ) from None
        return _first(config, parts, device, run_directory.path)
    epochs = checkpoint["epoch"]
    try:
        if not 0 <= epochs <= min(n_recorded, config.epochs) or epochs != (sealed or epochs):
            raise ValueError(
                f"it is of epoch {epochs}, where {n_recorded} are recorded and {config.epochs} "
                "planned"
            )
        state = _state_of(checkpoint, config, parts, device)
    except ValueError as error:
        if record.schema > 1 and record.config != run_directory.read().config:
            raise ValueError(
                f"run {run_directory.path} cannot go on with the edited config.toml: its "
                f"checkpoint does not fit ({error}); 'topokit verify "
                f"{shell_word(run_directory.path)} --recover' puts the configuration of the run "
                "back"
            ) from None
        raise run_directory.damaged("checkpoint.pt", error) from None
    return state


def _state_of(
    checkpoint: dict[str, Any], config: RunConfig, parts: Parts, device: torch.device
) -> TrainState:
    """Return the state in a checkpoint; raise a ValueError if it does not fit the configuration."""
    state = _build(config, _sparse_topology(checkpoint["model"]), parts, device)
    state.restore(checkpoint)
    layers = sparse_layers(state.model)
    widths = chain_widths({name: layer.graph for name, layer in layers.items()})
    if config.model.widths and widths not in (None, list(config.model.widths)):
        words = f"{widths}, those of the configuration are {list(config.model.widths)}"
        raise ValueError(f"its widths are {words}")
    return state


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
    ValueError: unknown rule 'sett'; did you mean 'set'? ...
    """
    if load:
        prepare_run(config, data_dir)
    else:
        resolve_names(config)
    plan_of(config)


def _checkpoint(run_directory: RunDirectory, record: Record) -> tuple[dict[str, Any], int]:
    """Return the checkpoint of a run, compared with the record, and the epoch that it states."""
    try:
        sealed = int((read_seal(run_directory.checkpoint) or {}).get("epoch", 0))
    except ValueError as error:
        raise run_directory.damaged("checkpoint.pt", error) from None
    check = None
    if record.schema > 1:
        known = 1 <= sealed <= len(record.lines)
        check = record.lines[sealed - 1]["checkpoint"] if known else "none"
    return read_checkpoint(run_directory.checkpoint, check), sealed


def _sparse_topology(state: dict[str, Any]) -> Topology:
    """Return the graphs of the sparse layers in the parameters of a network."""
    topology = topology_of_state(state)
    return {name: graph for name, graph in topology.items() if f"{name}.indptr" in state}


def _first(config: RunConfig, parts: Parts, device: torch.device, path: Path) -> TrainState:
    """Return the state in which a new run begins."""
    folder = path.absolute().parent
    state = _build(config, first_topology(config, parts, folder), parts, device)
    if source := source_run(config, folder):
        take_over(state.model, source, str(config.topology.params.get("weights", "fresh")))
    return state


def _build(config: RunConfig, topology: Topology, parts: Parts, device: torch.device) -> TrainState:
    """Build model and optimizer from a topology, for a new or a resumed run."""
    dropout = torch.Generator(device)
    dropout.manual_seed(int(parts.rngs["dropout"].integers(2**62)))
    model = _model(config, topology, parts.rngs["weights"], dropout).to(device)
    optimizer = make_optimizer(config.optimizer, model.parameters())
    streams = {name: parts.rngs[name] for name in ("order", "rule")}
    return TrainState(model, optimizer, streams, dropout)


def _model(
    config: RunConfig, topology: Topology, rng: np.random.Generator, dropout: torch.Generator
) -> torch.nn.Module:
    """Return a new network with the graphs of a topology, on the CPU."""
    make = MODELS[config.model.name]
    return make(topology, rng=rng, generator=dropout, **config.model.params)


def plan_of(config: RunConfig) -> TrainPlan:
    """Return the settings of the training loop that a configuration describes."""
    spec = config.rule
    return TrainPlan(
        epochs=config.epochs,
        batch_size=config.batch_size,
        rule=make_rule(spec.name, **spec.params),
        lr=config.optimizer.lr,
        lr_schedule=SCHEDULES[config.optimizer.lr_schedule],
        objective=OBJECTIVES[config.model.loss],
        **{option.name: getattr(spec, option.name) for option in fields(Rewiring)},
    )


def _loop(course: Course, progress: Progress, processes: Processes | None) -> History:
    """Train, measure and record until the last epoch."""
    state, data = course.state, course.parts.data
    if processes is not None:
        processes.from_first((course.config, course.parts.checksum, state.to_bytes()))
    record = recorder_of(course)
    for epoch in _guarded(train(state, data, plan_of(course.config), processes), course.directory):
        progress(epoch, record.add(epoch))
    course.directory.finish()
    return History.load(course.directory.path)


def recorder_of(course: Course) -> EpochRecorder:
    """Return what records the epochs of a run in its directory."""
    return EpochRecorder(course.directory, course.config, course.state)


def take_part(processes: Processes, data_dir: str | os.PathLike[str] | None = None) -> None:
    """Train as one of several processes, of which the first calls `run` or `resume`.

    The configuration and the state to begin with come from the first process, which alone records.

    Parameters
    ----------
    processes : Processes
    data_dir : path, optional
        As for `run`.

    Raises
    ------
    ValueError
        If this process reads other samples than the first.
    """
    nothing: Any = None
    config, data, content = processes.from_first(nothing)
    parts = prepare_run(config, data_dir)
    if parts.checksum != data:
        raise ValueError("the samples are not those of the first process; use the same files")
    checkpoint = torch.load(io.BytesIO(content), weights_only=True)
    topology = topology_of_state(checkpoint["model"])
    state = _build(config, topology, parts, torch.device("cpu"))
    state.restore(checkpoint)
    for _ in train(state, parts.data, plan_of(config), processes):
        pass


def _guarded(epochs: Iterator[Epoch], run_directory: RunDirectory) -> Iterator[Epoch]:
    """Re-raise a divergence error with the path of the last checkpoint."""
    try:
        yield from epochs
    except FloatingPointError as error:
        raise with_place(error, run_directory) from None


def with_place(error: FloatingPointError, run_directory: RunDirectory) -> FloatingPointError:
    """Return a divergence error with the path of the last checkpoint."""
    saved = run_directory.checkpoint.exists()
    words = "the state of the last finished epoch is" if saved else "no epoch was finished"
    return FloatingPointError(f"{error}; {words} in {run_directory.path}")
