"""Sweeps: run every run of a study on a process pool or on Dask, and collect one frame."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topokit.experiments.config import RunConfig
from topokit.experiments.record import History
from topokit.experiments.rundir import RunDirectory
from topokit.experiments.study import PlannedRun, Study, load_study
from topokit.graph.files import write_atomic
from topokit.tables import import_plugins

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "SweepProgress",
    "SweepResult",
    "cores",
    "dask_pool",
    "local_pool",
    "runs_of",
    "sweep",
    "sweep_frame",
]

METRICS = ("train_loss", "test_loss", "test_accuracy")  # columns of epochs that join the frame
TRIES = 3  # a run whose worker was killed this many times is recorded as failed
PATIENCE = 30.0  # seconds to wait for another process to release a run
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")

# How a sweep works. Each run of the study has its own directory, and these directories are the
# whole state of the sweep: DONE marks a finished run, a checkpoint one that was started. There is
# no queue file that could disagree with them, so an interrupted sweep continues when it is started
# again, and a larger study reuses the runs of a smaller one.
#
# 1. `_check` validates all configurations before anything starts, so that a misspelt key does
#    not end a sweep after hours.
# 2. `_run_all` submits all unfinished runs at once to an executor (processes, Dask, or the
#    caller's) and handles them as they complete. A run that raises is recorded as failed. If a
#    worker is killed (out of memory, say), the process pool breaks and every unfinished run in it
#    fails with BrokenExecutor; these runs are submitted to a new pool. Only runs that had started,
#    i.e. whose directory exists, can have killed the worker; each of them is recorded as failed
#    after `TRIES` times, which bounds the number of pools.
# 3. `run_one`, in the worker, resumes from the checkpoint or starts a new run. It waits up to
#    `PATIENCE` seconds for the lock of the run, since the workers of a killed sweep take a moment
#    to exit.
# 4. `_collected` reads all finished runs in the order of the plan. The frame does not depend on
#    the order of completion, the number of workers or interruptions.


# --- results -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SweepProgress:
    """State of a sweep, as passed to the `progress` callback.

    Parameters
    ----------
    total, done, running, failed : int
        Numbers of runs; `done` includes those that were finished before.
    seconds_left : float
        Estimate from the runs that ended so far; nan before the first.
    last : str
        The run that ended last.
    """

    total: int
    done: int
    running: int
    failed: int
    seconds_left: float
    last: str = ""


@dataclass(frozen=True)
class SweepResult:
    """Result of a sweep: its directory, the frame of all finished runs, and the failures.

    Parameters
    ----------
    directory : Path
        Contains ``runs/``, ``sweep.parquet``, ``failures.json`` and ``study.toml``.
    frame : pandas.DataFrame
        One row for each value: ``run``, ``arm``, a column for each key of the grid (lists as
        text), ``seed``, ``epoch``, ``layer``, ``measure``, ``value``. Accuracy and losses are rows
        of the layer ``"network"``.
    failures : dict of str
        Name and reason of each failed run.
    """

    directory: Path
    frame: pd.DataFrame
    failures: dict[str, str]


def runs_of(directory: str | os.PathLike[str]) -> list[Path]:
    """Return the directories of a sweep's finished runs, or the directory itself if it is a run.

    Parameters
    ----------
    directory : path
        A sweep or a run.

    Returns
    -------
    list of Path
        In alphabetical order.

    Raises
    ------
    FileNotFoundError
        If there is no such directory.
    ValueError
        If it is neither a run nor a sweep, or no run of the sweep has finished.
    """
    path = Path(directory)
    if (path / "study.toml").is_file():
        found = sorted(done.parent for done in path.glob("runs/*/DONE"))
        if not found:
            raise ValueError(f"no run of the sweep {path} has finished yet")
        return found
    return [RunDirectory.open(path).path]


def sweep_frame(directory: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the frame of a finished sweep; see `SweepResult`.

    Parameters
    ----------
    directory : path
        The directory of the sweep.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    import pandas as pd

    path = Path(directory) / "sweep.parquet"
    if not path.is_file():
        raise FileNotFoundError(f"expected the frame of a sweep, found none at {path}")
    return pd.read_parquet(path)


# --- a sweep -------------------------------------------------------------------------------------


def sweep(
    study: Study | str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    plugins: tuple[str, ...] = (),
    progress: Callable[[SweepProgress], None] | None = None,
) -> SweepResult:
    """Run all unfinished runs of a study and collect one frame of all results.

    All configurations are checked before the first run starts. Finished runs are not repeated and
    interrupted ones are resumed, so the same call continues a sweep after any interruption. A run
    that fails is recorded with its reason and does not stop the others. Each run uses the number
    of threads of its configuration, by default one, so that results do not depend on the executor.

    Parameters
    ----------
    study : Study, str or path
        A study, the name of a shipped one, or a TOML file.
    directory : path
        A new directory, or that of an earlier sweep of this study or of a part of it.
    executor : concurrent.futures.Executor, optional
        Runs are submitted to it; by default to a pool of processes on this machine.
    workers : int, optional
        Number of processes of that pool; by default the number of cores divided by the threads of
        a run.
    scheduler : str, optional
        Address of a Dask scheduler to use instead; its workers must be able to write to
        `directory`.
    data_dir : path, optional
        As for `topokit.experiments.runs.run`.
    plugins : tuple of str
        Names of modules that add to the tables, imported by every worker.
    progress : callable, optional
        Called with a `SweepProgress` at the start and whenever a run ends.

    Returns
    -------
    SweepResult

    Raises
    ------
    ValueError
        If a configuration is invalid, another process is sweeping in `directory`, or it holds a
        run with another configuration.
    FileNotFoundError
        If a data set is missing.

    Examples
    --------
    >>> import tempfile
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from topokit.experiments.study import study_from
    >>> study = study_from({
    ...     "study": {"name": "tiny", "recipe": "set_mlp_digits", "seeds": [0, 1]},
    ...     "settings": {"epochs": 1, "model.widths": [64, 20, 10]},
    ... })
    >>> result = sweep(study, tempfile.mkdtemp(), executor=ThreadPoolExecutor(1))
    >>> result.frame["run"].unique().tolist(), result.failures
    (['seed0', 'seed1'], {})
    """
    study = study if isinstance(study, Study) else load_study(study)
    if sum(option is not None for option in (executor, workers, scheduler)) > 1:
        raise ValueError("expected at most one of executor, workers and scheduler")
    if workers is not None and workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    import_plugins(plugins)
    root = Path(directory).absolute()
    folder = None if data_dir is None else str(Path(data_dir).absolute())
    planned = study.runs()
    _check(planned, root, folder)
    root.mkdir(parents=True, exist_ok=True)
    with RunDirectory(root).lock():
        with write_atomic(root / "study.toml") as temporary:
            temporary.write_text(study.to_toml(), encoding="utf-8")
        tasks = {
            run.name: (str(root / "runs" / run.name), run.config.to_toml(), folder, plugins)
            for run in planned
        }
        threads = max(run.config.threads or 1 for run in planned)
        n_workers = workers or max(1, cores() // threads)
        note = _reporter(tasks, n_workers, progress)
        failures = _run_all(tasks, lambda: _pool(executor, scheduler, n_workers, threads), note)
        with write_atomic(root / "failures.json") as temporary:
            temporary.write_text(json.dumps(failures, indent=2) + "\n", encoding="utf-8")
        frame = _collected(planned, root, tuple(study.grid))
        with write_atomic(root / "sweep.parquet") as temporary:
            frame.to_parquet(temporary, index=False)
    return SweepResult(root, frame, failures)


def _check(planned: list[PlannedRun], root: Path, data_dir: str | None) -> None:
    """Raise an error if a run is invalid or its directory holds another configuration."""
    from topokit.experiments.runs import check

    loaded: set[str] = set()
    for run in planned:
        data = repr((run.config.data, run.config.model))
        try:
            check(run.config, data_dir=data_dir, load=data not in loaded)
        except (ValueError, TypeError) as error:
            raise ValueError(f"run {run.name}: {error}") from None
        loaded.add(data)
        path = root / "runs" / run.name
        if (path / "config.toml").is_file():
            there = RunConfig.from_dict(RunDirectory(path).config())
            if replace(there, about={}) != replace(run.config, about={}):  # texts may change
                raise ValueError(
                    f"{path} holds a run with another configuration; choose another --out"
                )


Task = tuple[str, str, str | None, tuple[str, ...]]  # the arguments of `run_one`
Note = Callable[[str, str | None], None]  # called with a run that ended and why it failed, if so


def _reporter(
    tasks: Mapping[str, Task], workers: int, progress: Callable[[SweepProgress], None] | None
) -> Note:
    """Report the start to `progress`; return a function that reports each run that ends."""
    found = sum((Path(task[0]) / "DONE").is_file() for task in tasks.values())
    start, done, failed = time.monotonic(), 0, 0

    def report(last: str) -> None:
        if progress is None:
            return
        left = len(tasks) - found - done - failed
        pace = (time.monotonic() - start) / (done + failed) if done + failed else float("nan")
        running = min(workers, left)
        progress(SweepProgress(len(tasks), found + done, running, failed, pace * left, last))

    def note(name: str, reason: str | None) -> None:
        nonlocal done, failed
        done, failed = done + (reason is None), failed + (reason is not None)
        report(name)

    report("")
    return note


def _run_all(
    tasks: Mapping[str, Task], pool: Callable[[], AbstractContextManager[Executor]], note: Note
) -> dict[str, str]:
    """Run all unfinished tasks, with a new pool whenever one broke; return failures by name."""
    failures: dict[str, str] = {}
    left = {name: task for name, task in tasks.items() if not (Path(task[0]) / "DONE").is_file()}
    tries = dict.fromkeys(left, 0)
    while left:
        lost: dict[str, str] = {}
        with pool() as executor:
            for name, reason, broken in _as_completed(executor, left):
                if broken:
                    lost[name] = str(reason)
                    continue
                if reason is not None:
                    failures[name] = reason
                note(name, reason)
        for name, reason in lost.items():
            tries[name] += Path(tasks[name][0]).exists()  # only started runs can kill a worker
            if tries[name] >= TRIES:
                failures[name] = f"its worker died {TRIES} times: {reason}"
                note(name, failures[name])
        if lost and not any(tries[name] for name in lost):
            raise RuntimeError(f"no worker could be started: {next(iter(lost.values()))}")
        left = {name: left[name] for name in lost if tries[name] < TRIES}
    return {name: failures[name] for name in tasks if name in failures}


def _as_completed(
    executor: Executor, tasks: Mapping[str, Task]
) -> Iterator[tuple[str, str | None, bool]]:
    """Yield each task that ends: its name, why it failed, and whether its worker died."""
    names: dict[Future[str | None], str] = {}
    broken: list[tuple[str, str | None, bool]] = []
    for name, task in tasks.items():
        try:
            names[executor.submit(run_one, *task)] = name
        except BrokenExecutor as error:
            broken.append((name, str(error), True))
    waiting: set[Future[str | None]] = set(names)
    try:
        while waiting:
            ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in sorted(ended, key=list(names).index):
                try:
                    yield names[future], future.result(), False
                except BrokenExecutor as error:
                    yield names[future], str(error), True
                except Exception as error:  # raised by the executor, not by the run
                    yield names[future], f"{type(error).__name__}: {error}", False
        yield from broken
    finally:
        for future in waiting:
            future.cancel()


def _collected(planned: list[PlannedRun], root: Path, keys: tuple[str, ...]) -> pd.DataFrame:
    """Return one frame of all finished runs, in the order of the plan."""
    import pandas as pd

    frames = []
    for run in planned:
        path = root / "runs" / run.name
        if not (path / "DONE").is_file():
            continue
        history = History.load(path)
        metrics = history.epochs.melt(["epoch"], list(METRICS), "measure", "value")
        rows = pd.concat([metrics.assign(layer="network"), history.measures], ignore_index=True)
        rows["value"] = rows["value"].astype(float)
        cell = {key: run.cell[key] for key in keys}
        labels = {key: str(v) if isinstance(v, list | tuple) else v for key, v in cell.items()}
        frames.append(rows.assign(run=run.name, arm=run.arm, seed=run.config.seed, **labels))
    columns = ["run", "arm", *keys, "seed", "epoch", "layer", "measure", "value"]
    if not frames:
        return pd.DataFrame(columns=columns)
    return pd.concat(frames, ignore_index=True)[columns]


# --- in a worker process -------------------------------------------------------------------------


def run_one(
    directory: str, config_toml: str, data_dir: str | None, plugins: tuple[str, ...]
) -> str | None:
    """Start or resume one run; return why it failed, or ``None``."""
    import_plugins(plugins)
    from topokit.experiments.runs import resume, run

    path, config = Path(directory), RunConfig.from_toml(config_toml)
    try:
        _wait_for_lock(path)
        if (path / "DONE").is_file():
            return None
        if (path / "checkpoint.pt").is_file():
            resume(path, data_dir=data_dir)
        else:
            if path.exists():  # interrupted before the first checkpoint: nothing to resume
                shutil.rmtree(path)
            run(config, path, data_dir=data_dir)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _wait_for_lock(path: Path) -> None:
    """Wait until no other process writes to a run, at most `PATIENCE` seconds."""
    end = time.monotonic() + PATIENCE
    while path.is_dir():
        try:
            with RunDirectory(path).lock():
                return
        except ValueError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


# --- executors -----------------------------------------------------------------------------------


def cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _pool(
    executor: Executor | None, scheduler: str | None, workers: int, threads: int
) -> AbstractContextManager[Executor]:
    """Return the executor the caller chose, as a context manager."""
    if executor is not None:
        return nullcontext(executor)
    if scheduler is not None:
        return dask_pool(scheduler)
    return local_pool(workers, threads=threads)


@contextmanager
def local_pool(workers: int, *, threads: int = 1) -> Iterator[Executor]:
    """Yield a pool of new processes that end when this process ends, even if it is killed.

    Parameters
    ----------
    workers, threads : int
        Number of processes, and of threads of each. More than the number of cores in all only
        makes the runs slower.

    Yields
    ------
    concurrent.futures.Executor

    Notes
    -----
    Workers are started with ``spawn``: forking a process with running OpenMP threads is unsafe.
    Each waits on a pipe whose other end only this process holds, and exits when it is closed.

    Examples
    --------
    >>> with local_pool(1) as pool:
    ...     pool.submit(max, 2, 3).result()
    3
    """
    context = multiprocessing.get_context("spawn")
    lifeline, ours = context.Pipe(duplex=False)
    with _environment(dict.fromkeys(THREADS, str(threads))):
        pool = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_start_worker, initargs=(lifeline,)
        )
        try:
            yield pool
            pool.shutdown()
        finally:
            ours.close()  # running workers exit at once: finished epochs are on disk
            lifeline.close()
            pool.shutdown(cancel_futures=True)


def _start_worker(lifeline: connection.Connection) -> None:
    """Ignore interrupts, which the parent handles, and exit when the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        connection.wait([lifeline])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes started within the context."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextmanager
def dask_pool(address: str) -> Iterator[Executor]:
    """Yield the workers of a Dask scheduler as an executor.

    If a worker dies, Dask assigns its run to another one, as often as the scheduler's setting
    ``distributed.scheduler.allowed-failures`` allows.

    Parameters
    ----------
    address : str
        Such as ``tcp://10.0.0.1:8786``.

    Yields
    ------
    concurrent.futures.Executor

    Raises
    ------
    ValueError
        If Dask is not installed or no scheduler answers at `address`.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ValueError(
            "--scheduler needs Dask, which is not installed: pip install 'topokit-nn[dask]'"
        ) from None
    try:
        client: Any = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"expected a Dask scheduler at {address}: {error}") from None
    with client, client.get_executor(pure=False) as pool:
        yield pool
