"""Who does the runs of a sweep: processes on this machine, or the workers of a Dask scheduler."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topokit.experiments.config import RunConfig
from topokit.experiments.record import History, RunDirectory
from topokit.experiments.study import PlannedRun, Study, load_study
from topokit.graph.files import write_atomic

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "SweepProgress",
    "SweepResult",
    "cores",
    "dask_pool",
    "import_modules",
    "local_pool",
    "runs_of",
    "sweep",
    "sweep_frame",
]

THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def cores() -> int:
    """Number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def import_modules(names: Iterable[str]) -> None:
    """Import the modules that add to the tables."""
    for name in names:
        importlib.import_module(name)


@contextmanager
def local_pool(workers: int, *, threads: int = 1) -> Iterator[Executor]:
    """A pool of fresh processes that end with this one, however it ends.

    Parameters
    ----------
    workers, threads : int
        Processes, and threads of each: more than cores together only cost time.

    Yields
    ------
    concurrent.futures.Executor

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
            workers, mp_context=context, initializer=_begin, initargs=(lifeline,)
        )
        try:
            yield pool
            pool.shutdown()
        finally:
            ours.close()  # what still runs stops at once: finished epochs are on disk
            lifeline.close()
            pool.shutdown(cancel_futures=True)


@contextmanager
def dask_pool(address: str) -> Iterator[Executor]:
    """The workers of a Dask scheduler as an executor.

    A run whose worker dies is given to another one, as often as the scheduler's setting
    ``distributed.scheduler.allowed-failures`` says.

    Parameters
    ----------
    address : str
        Such as ``tcp://10.0.0.1:8786``.

    Raises
    ------
    ValueError
        If Dask is not installed or nothing answers at `address`.
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


def _begin(lifeline: connection.Connection) -> None:
    """Start a worker: leave interruptions to the parent, and end when it closes the lifeline."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        connection.wait([lifeline])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables that processes started meanwhile inherit."""
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


METRICS = ("train_loss", "test_loss", "test_accuracy")
TRIES = 3
PATIENCE = 30.0


@dataclass(frozen=True)
class SweepProgress:
    """Where a sweep stands.

    Parameters
    ----------
    total, done, running, failed : int
        Numbers of runs; `done` counts those found finished.
    seconds_left : float
        Estimated from the runs finished so far; nan before the first.
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
    """What a sweep left behind.

    Parameters
    ----------
    directory : Path
        With ``runs/``, ``sweep.parquet``, ``failures.json`` and ``study.toml``.
    frame : pandas.DataFrame
        One row a value: ``run``, ``arm``, a column for each key of the grid (lists as text),
        ``seed``, ``epoch``, ``layer``, ``measure``, ``value``. Accuracy and losses are rows of
        layer ``"network"``.
    failures : dict of str
        Run and reason.
    """

    directory: Path
    frame: pd.DataFrame
    failures: dict[str, str]


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
    """Do every run of a study that is not done yet, and gather one frame over all.

    All configurations are checked before the first run starts. A finished run is never run
    again and a started one is resumed, so the same call goes on after any interruption. A run
    that fails is recorded with its reason and does not stop the others. Every run has the number
    of threads of its configuration, or one: results do not depend on who ran them.

    Parameters
    ----------
    study : Study, str or path
        A study, the name of a shipped one, or a TOML file.
    directory : path
        New, or that of an earlier sweep of this study (or of a part of it).
    executor : concurrent.futures.Executor, optional
        Who runs; by default a pool of processes on this machine.
    workers : int, optional
        Processes of that pool; by default as many as cores, divided by the threads of a run.
    scheduler : str, optional
        Address of a Dask scheduler to run on instead; its workers must see `directory`.
    data_dir : path, optional
        As for `topokit.experiments.runs.run`.
    plugins : tuple of str
        Modules that add to the tables, imported by every worker.
    progress : callable, optional
        Called with a `SweepProgress` at the start and whenever a run ends.

    Returns
    -------
    SweepResult

    Raises
    ------
    ValueError
        If a configuration is wrong, another sweep is writing here, or a run here has another
        configuration than the study says.
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
    import_modules(plugins)
    root = Path(directory).absolute()
    folder = None if data_dir is None else str(Path(data_dir).absolute())
    planned = study.runs()
    _check(planned, root, folder)
    root.mkdir(parents=True, exist_ok=True)
    with RunDirectory(root).lock():
        with write_atomic(root / "study.toml") as temporary:
            temporary.write_text(study.to_toml(), encoding="utf-8")
        jobs = {
            run.name: (str(root / "runs" / run.name), run.config.to_toml(), folder, plugins)
            for run in planned
        }
        threads = max(run.config.threads or 1 for run in planned)
        many = workers or max(1, cores() // threads)
        with _tracing(jobs, many, progress) as note:
            failures = _all(jobs, lambda: _pool(executor, scheduler, many, threads), note)
        with write_atomic(root / "failures.json") as temporary:
            temporary.write_text(json.dumps(failures, indent=2) + "\n", encoding="utf-8")
        frame = _gathered(planned, root, tuple(study.grid))
        with write_atomic(root / "sweep.parquet") as temporary:
            frame.to_parquet(temporary, index=False)
    return SweepResult(root, frame, failures)


def runs_of(directory: str | os.PathLike[str]) -> list[Path]:
    """Return the folders of the finished runs of a sweep, or the folder itself if it is a run.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it is neither.
    """
    path = Path(directory)
    if (path / "study.toml").is_file():
        found = sorted(done.parent for done in path.glob("runs/*/DONE"))
        if not found:
            raise ValueError(f"no run of the sweep {path} has finished yet")
        return found
    return [RunDirectory.open(path).path]


def sweep_frame(directory: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the frame of a sweep; see `SweepResult`.

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


def _check(planned: list[PlannedRun], root: Path, data_dir: str | None) -> None:
    """Find whatever is wrong with any run before the first one starts."""
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
            if there != run.config:
                raise ValueError(
                    f"{path} holds a run of another configuration; choose another --out"
                )


def _pool(
    executor: Executor | None, scheduler: str | None, workers: int, threads: int
) -> AbstractContextManager[Executor]:
    if executor is not None:
        return nullcontext(executor)
    if scheduler is not None:
        return dask_pool(scheduler)
    return local_pool(workers, threads=threads)


Job = tuple[str, str, str | None, tuple[str, ...]]
Note = Callable[[str, str | None], None]


def _all(
    jobs: Mapping[str, Job], pool: Callable[[], AbstractContextManager[Executor]], note: Note
) -> dict[str, str]:
    """Do all jobs; start a new pool where one broke (a worker was killed, say)."""
    failures: dict[str, str] = {}
    left = {name: job for name, job in jobs.items() if not (Path(job[0]) / "DONE").is_file()}
    tries = dict.fromkeys(left, 0)
    while left:
        lost: dict[str, str] = {}
        with pool() as executor:
            for name, reason, broken in _ended(executor, left):
                if broken:
                    lost[name] = str(reason)
                    continue
                if reason is not None:
                    failures[name] = reason
                note(name, reason)
        for name, reason in lost.items():
            tries[name] += Path(jobs[name][0]).exists()  # only what was started can be to blame
            if tries[name] >= TRIES:
                failures[name] = f"its worker died {TRIES} times: {reason}"
                note(name, failures[name])
        if lost and not any(tries[name] for name in lost):
            raise RuntimeError(f"no worker could be started: {next(iter(lost.values()))}")
        left = {name: left[name] for name in lost if tries[name] < TRIES}
    return {name: failures[name] for name in jobs if name in failures}


def _ended(executor: Executor, jobs: Mapping[str, Job]) -> Iterator[tuple[str, str | None, bool]]:
    """Yield each job as it ends: its name, why it failed, and whether that was its worker's end."""
    names: dict[Future[str | None], str] = {}
    broken: list[tuple[str, str | None, bool]] = []
    for name, job in jobs.items():
        try:
            names[executor.submit(work, *job)] = name
        except BrokenExecutor as error:
            broken.append((name, str(error), True))
    open_: set[Future[str | None]] = set(names)
    try:
        while open_:
            ended, open_ = wait(open_, return_when=FIRST_COMPLETED)
            for future in sorted(ended, key=list(names).index):
                try:
                    yield names[future], future.result(), False
                except BrokenExecutor as error:
                    yield names[future], str(error), True
                except Exception as error:  # the executor's own trouble with this job
                    yield names[future], f"{type(error).__name__}: {error}", False
        yield from broken
    finally:
        for future in open_:
            future.cancel()


def work(
    directory: str, config_toml: str, data_dir: str | None, plugins: tuple[str, ...]
) -> str | None:
    """Do or finish one run, in a worker; return why it failed, or ``None``."""
    import_modules(plugins)
    from topokit.experiments.runs import resume, run

    path, config = Path(directory), RunConfig.from_toml(config_toml)
    try:
        _await_lock(path)
        if (path / "DONE").is_file():
            return None
        if (path / "checkpoint.pt").is_file():
            resume(path, data_dir=data_dir)
        else:
            if path.exists():  # killed before the first checkpoint: nothing to go on from
                shutil.rmtree(path)
            run(config, path, data_dir=data_dir)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _await_lock(path: Path) -> None:
    """Wait for the last writer's end: a killed sweep's workers take a moment to follow it."""
    end = time.monotonic() + PATIENCE
    while path.is_dir():
        try:
            with RunDirectory(path).lock():
                return
        except ValueError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


@contextmanager
def _tracing(
    jobs: Mapping[str, Job], workers: int, progress: Callable[[SweepProgress], None] | None
) -> Iterator[Note]:
    """Turn the ends of runs into calls of `progress`."""
    found = sum((Path(job[0]) / "DONE").is_file() for job in jobs.values())
    start, done, failed = time.monotonic(), 0, 0

    def tell(last: str) -> None:
        if progress is None:
            return
        left = len(jobs) - found - done - failed
        pace = (time.monotonic() - start) / (done + failed) if done + failed else float("nan")
        running = min(workers, left)
        progress(SweepProgress(len(jobs), found + done, running, failed, pace * left, last))

    def note(name: str, reason: str | None) -> None:
        nonlocal done, failed
        done, failed = done + (reason is None), failed + (reason is not None)
        tell(name)

    tell("")
    yield note


def _gathered(planned: list[PlannedRun], root: Path, keys: tuple[str, ...]) -> pd.DataFrame:
    """One frame over all finished runs, in the order of the plan."""
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
