"""Sweeps: run every run of a study, all at once or in parts, and collect one frame."""

from __future__ import annotations

import datetime as dt
import io
import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from numbers import Real
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from topokit.experiments.config import RunConfig, with_registered
from topokit.experiments.executors import (
    GUARD,
    as_completed,
    choose_pool,
    cores,
    refuse_in_import,
)
from topokit.experiments.record import History
from topokit.experiments.rundir import RunDirectory
from topokit.experiments.study import (
    PlannedRun,
    Study,
    check_folder,
    check_name,
    in_order,
    load_study,
    same_run,
)
from topokit.experiments.worker import DAMAGED, STOPPED, Task, is_damaged, is_run, remedy, run_some
from topokit.foreign import first_few
from topokit.graph.checksums import read_file
from topokit.graph.files import check_writable, locked, write_atomic
from topokit.plugins import for_workers, load_plugins, only_here
from topokit.progress import over_runs
from topokit.tables import as_html, choose

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SweepProgress", "SweepResult", "gather", "runs_of", "sweep", "sweep_frame"]

_log = logging.getLogger("topokit.experiments")

METRICS = ("train_loss", "test_loss", "test_accuracy")  # columns of epochs that join the frame
TRIES = 3  # a run whose worker was killed this many times, at the same epoch, counts as failed

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
#    is lost; these runs are submitted to a new pool. Only runs whose directory exists can have
#    killed the worker; each is recorded as failed once it was lost `TRIES` times without having
#    finished an epoch in between. That, and giving up after `TRIES` pools that did not start a
#    single run, bounds the number of pools.
# 3. `worker.run_one`, in a worker process, starts a new run, also where one was interrupted before
#    its first epoch, or resumes it. It waits up to `worker.PATIENCE` seconds for the lock of the
#    run, since the workers of a killed sweep take a moment to exit. It removes nothing: a run whose
#    checkpoint is lost or damaged, or a folder with other files, is a failure.
# 4. `_collected` reads all finished runs in the order of the plan. The frame does not depend on
#    the order of completion, the number of workers or interruptions. A run that cannot be read is
#    a failure, too.
#
# Runs that start from another run of the study are submitted when all others have ended; if that
# one has not finished by then, they fail and say so.
#
# `together`: runs of a condition are one call, `worker.run_several`, which returns what became of
# each; everything else, also what a killed worker means, is said of each run as if it were alone.
#
# `only` and `until`: the chosen runs are done in the order of the patterns, and stopped after the
# epoch in which the time is up, with its checkpoint, as an interruption would leave them. The frame
# has all finished runs of the study.
#
# Parts: part i of n takes every n-th run of the plan, from the i-th on. Parts share the lock of the
# sweep and write nothing but their runs and a list of failures of their own; `gather` does step 4.


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
        One row for each value: ``run``, ``arm``, ``case`` if the study has cases, a column for
        each key of the grid (as text if values are lists, tables, or of several kinds such as
        ``"epoch"`` and 100), ``seed``, ``epoch``, ``layer``, ``measure``, ``value``. Accuracy and
        losses are rows of the layer ``"network"``.
    failures : dict of str
        Name and reason of each failed run.
    unfinished : tuple of str
        Runs that have not been finished, but of which no failure was reported: none but after
        `gather` and where the time was up.
    """

    directory: Path
    frame: pd.DataFrame
    failures: dict[str, str]
    unfinished: tuple[str, ...] = ()

    def __repr__(self) -> str:
        n_runs = self.frame["run"].nunique()
        return f"SweepResult({str(self.directory)!r}, {n_runs} runs, {len(self.failures)} failed)"

    def _repr_html_(self) -> str:
        return as_html(repr(self), self.failures)


def runs_of(directory: str | os.PathLike[str]) -> list[Path]:
    """Return the finished runs of a sweep, the runs in a folder, or the directory of one run.

    Parameters
    ----------
    directory : path
        A sweep, a run, or a folder of runs.

    Returns
    -------
    list of Path
        Those of a sweep in the order of its study, those of a folder of runs in alphabetical order.

    Raises
    ------
    FileNotFoundError
        If there is no such directory.
    ValueError
        If it is neither a run nor a sweep, no run of the sweep has finished, or a folder holds the
        run that the study has under another name.
    """
    path = Path(directory)
    if (path / "study.toml").is_file():
        found = sorted(done.parent for done in path.glob("runs/*/DONE"))
        if not found:
            raise ValueError(f"no run of the sweep {path} has finished yet")
        return in_order(path, found)
    if not (path / "config.toml").is_file():
        found = sorted(config.parent for config in path.glob("*/config.toml"))
        if found and not (path / "record.jsonl").is_file():
            return [RunDirectory.open(run).path for run in found]
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
    ValueError
        If it is damaged, or another table.
    """
    import pandas as pd

    path = Path(directory) / "sweep.parquet"
    try:
        frame = pd.read_parquet(io.BytesIO(read_file(path)), page_checksum_verification=True)
        if not {"run", "arm", "seed", "epoch", "layer", "measure", "value"} <= {*frame.columns}:
            raise ValueError("it is another table")
    except FileNotFoundError:
        raise FileNotFoundError(f"expected the frame of a sweep, found none at {path}") from None
    except Exception as error:  # pyarrow raises errors of many kinds
        raise ValueError(f"{path} is damaged: {error}; --gather writes it again") from error
    return frame


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
    part: tuple[int, int] | None = None,
    only: Sequence[str] = (),
    until: dt.datetime | None = None,
    rerun: Sequence[str] = (),
    together: int = 1,
    progress: Callable[[SweepProgress], None] | bool | None = None,
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
        Runs are submitted to it; by default to a pool of processes on this machine. Any object
        whose ``submit`` returns objects with ``done()`` and ``result()`` will do, such as the
        executors of loky, executorlib and submitit.
    workers : int, optional
        Number of processes of that pool; by default the number of cores divided by the threads of
        a run.
    scheduler : str, optional
        Address of a Dask scheduler to use instead; its workers must be able to write to
        `directory`.
    data_dir : path, optional
        As for `topokit.experiments.runs.run`.
    plugins : tuple of str
        Files or names of plugins, loaded here and by every worker; see `topokit.load_plugins`.
        Modules that were imported here and registered something are loaded there too.
    part : (int, int), optional
        ``(i, n)`` runs the i-th of n parts of the study only, counted from 1. Parts may run at the
        same time, for example in the jobs of an array; `gather` collects their results.
    only : sequence of str
        Run only runs whose names match one of these patterns, such as ``"set-*-seed0"``, in the
        order of the patterns.
    until : datetime.datetime, optional
        Begin no epoch after this time, by this machine's clock. Runs that are not finished then can
        be continued by the same call.
    rerun : sequence of str
        Names of runs to train again from the start, or ``"damaged"`` for all that are damaged. What
        was there is moved to ``replaced/`` in the sweep's directory.
    together : int
        Train up to so many runs that differ only in their seed as one network, for a graphics card
        that one run does not fill. Each has its own directory, and is there what it is alone: bit
        for bit on the CPU, up to the last digits of sums on a graphics card. Runs that cannot be
        are trained one by one, which is said in the log.
    progress : bool or callable, optional
        Terminals and notebooks have a progress bar, on standard error; False: none, True: also
        elsewhere, as lines. Or a function, called with a `SweepProgress` at the start and whenever
        a run ends.

    Returns
    -------
    SweepResult
        Of the runs of the part, if `part` is given.

    Raises
    ------
    ValueError
        If a configuration is invalid, another process is sweeping in `directory`, it holds files
        that topokit did not make or a run with another configuration, or `together` is above 1 and
        no two runs can be trained together.
    FileNotFoundError
        If a data set is missing.
    ConnectionError
        If the executor or the scheduler is lost.
    ChildProcessError
        If no worker can be started.
    RuntimeError
        If it is called while a worker imports the script that called it.

    Notes
    -----
    The workers of the pool are new processes, which import the script that calls this: there it
    has to stand under ``if __name__ == "__main__":``. A notebook needs nothing of the kind.

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
    refuse_in_import("sweep")
    study = study if isinstance(study, Study) else load_study(study)
    if sum(option is not None for option in (executor, workers, scheduler)) > 1:
        raise ValueError("expected at most one of executor, workers and scheduler")
    if workers is not None and workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    if together < 1:
        raise ValueError(f"together: expected at least 1, got {together}")
    load_plugins(plugins)
    plugins = for_workers()
    root = Path(directory).absolute()
    folder = None if data_dir is None else str(Path(data_dir).absolute())
    until = None if until is None else until.astimezone()  # workers may have other time zones
    if part is not None and only:
        raise ValueError("expected at most one of part and only")
    whole = [replace(run, config=with_registered(run.config)) for run in study.runs()]
    planned = _chosen(_part_of(whole, part), only)
    if executor is None:
        _check_visible(planned)
    for name in rerun:
        if name != DAMAGED:
            choose("run", name, {run.name: run for run in planned})
    check_folder(root, study.name)
    check_writable(root, made=True)
    _check(planned, root, folder)
    groups = _groups(planned, together)
    root.mkdir(parents=True, exist_ok=True)
    with _locks(root, part):
        earlier = _reasons(root / "failures.json") if only else {}
        with write_atomic(root / "study.toml") as temporary:
            temporary.write_text(study.to_toml(), encoding="utf-8")
        _replace(planned, root, rerun)
        runs = root / "runs"
        tasks = {
            run.name: Task(str(runs / run.name), run.config.to_toml(), folder, plugins, until)
            for run in planned
        }
        others = {name: why for name, why in earlier.items() if name not in tasks}
        threads = max((run.config.threads or 1 for run in planned), default=1)
        n_workers = workers or max(1, cores() // threads)
        with over_runs(wanted=progress) as report:
            note = _reporter(tasks, n_workers * max(map(len, groups), default=1), report)
            failures: dict[str, str] = {}
            for later in (False, True):
                stage = {run.name: tasks[run.name] for run in planned if bool(run.after) == later}
                pool = partial(choose_pool, executor, scheduler, n_workers, threads)
                failures |= _run_all(stage, groups, pool, note)
        result = _result(study, whole if only else planned, root, failures, part, others)
        left = [run.name for run in planned if not (root / "runs" / run.name / "DONE").is_file()]
        left = [name for name in left if name not in result.failures]
        return replace(result, unfinished=tuple(left))


def gather(study: Study | str | os.PathLike[str], directory: str | os.PathLike[str]) -> SweepResult:
    """Collect the results of a sweep that ran in parts; the same as if it had run as a whole.

    Parameters
    ----------
    study : Study, str or path
        As for `sweep`.
    directory : path
        The directory of the sweep.

    Returns
    -------
    SweepResult
        A run of the study that has not been finished is among its failures if a part has
        reported why, and else among the unfinished ones.

    Raises
    ------
    FileNotFoundError
        If there is no such directory.
    ValueError
        If another process is sweeping in it, or it is not the directory of a sweep, or that of
        another study's.

    Examples
    --------
    >>> import tempfile
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from topokit.experiments.study import study_from
    >>> study = study_from({
    ...     "study": {"name": "tiny", "recipe": "set_mlp_digits", "seeds": [0, 1]},
    ...     "settings": {"epochs": 1, "model.widths": [64, 20, 10]},
    ... })
    >>> folder = tempfile.mkdtemp()
    >>> for i in (1, 2):
    ...     _ = sweep(study, folder, executor=ThreadPoolExecutor(1), part=(i, 2))
    >>> gather(study, folder).frame["run"].unique().tolist()
    ['seed0', 'seed1']
    """
    study = study if isinstance(study, Study) else load_study(study)
    root = Path(directory).absolute()
    if not root.is_dir():
        raise FileNotFoundError(f"expected the directory of a sweep, found no folder {root}")
    if not (root / "study.toml").is_file():
        raise ValueError(f"expected the directory of a sweep, {root} is none")
    check_name(root, study.name)
    with _locks(root, None):
        reasons: dict[str, str] = {}
        for path in sorted(root.glob("failures-*-of-*.json"), key=lambda p: p.lstat().st_mtime):
            reasons |= _reasons(path)
        planned = study.runs()
        left = [run.name for run in planned if not (root / "runs" / run.name / "DONE").is_file()]
        failures = {name: reasons[name] for name in left if name in reasons}
        result = _result(study, planned, root, failures, None)
        return replace(result, unfinished=tuple(name for name in left if name not in reasons))


def _check_visible(planned: list[PlannedRun]) -> None:
    """Raise an error if runs need something registered in a notebook, which no worker has."""
    configs = [run.config for run in planned]
    names = {
        "rule": [config.rule.name for config in configs],
        "generator": [config.topology.generator for config in configs],
        "data set": [config.data.name for config in configs],
        "model": [config.model.name for config in configs],
        "measure": [name for config in configs for name in config.measures.at(0, 1, ())],
    }
    if here := only_here(names):
        raise ValueError(
            f"{here} of this notebook or shell cannot be seen by other processes: put it into a "
            'file and name that with plugins=["./FILE.py"], or run the sweep in this process with '
            "executor=concurrent.futures.ThreadPoolExecutor(1)"
        )


def _reasons(path: Path) -> dict[str, str]:
    """Return the failures that a sweep, or a part of it, has listed; none without a list."""
    if not os.path.lexists(path):
        return {}
    try:
        found = json.loads(read_file(path))
        if not isinstance(found, dict):
            raise ValueError("it is no list of failures")
    except ValueError as error:
        words = str(error) if str(path) in str(error) else f"{path} is damaged: {error}"
        raise ValueError(f"{words}; it only says why runs failed, and may be removed") from None
    return {str(name): str(reason) for name, reason in found.items()}


def _part_of(planned: list[PlannedRun], part: tuple[int, int] | None) -> list[PlannedRun]:
    """Return every n-th run of a plan from the i-th on: long and short runs in every part."""
    if part is None:
        return planned
    i, n = part
    if not 1 <= i <= n:
        raise ValueError(f"part: expected i of n with 1 <= i <= n, got {i} of {n}")
    return planned[i - 1 :: n]


def _chosen(planned: list[PlannedRun], only: Sequence[str]) -> list[PlannedRun]:
    """Return the runs of a plan that match, in the order of the patterns; all without patterns."""
    if not only:
        return planned
    found: dict[str, PlannedRun] = {}
    for pattern in only:
        matching = {run.name: run for run in planned if fnmatchcase(run.name, pattern)}
        if not matching:
            names = first_few([run.name for run in planned], 3)
            raise ValueError(
                f"only: expected a pattern of the names of runs ({names}), got {pattern!r}"
            )
        found |= {name: run for name, run in matching.items() if name not in found}
    return list(found.values())


def _groups(planned: list[PlannedRun], most: int) -> list[tuple[str, ...]]:
    """Return the names of runs that are trained together, at most so many, in the plan's order.

    Raises
    ------
    ValueError
        If `most` is above 1 and there are no two.
    """
    if most == 1:
        return [(run.name,) for run in planned]
    from topokit.experiments.together import grouped

    groups, alone = grouped({run.name: run.config for run in planned}, most)
    if all(len(group) == 1 for group in groups):
        reasons = "; ".join(f"{first_few(names, 3)}: {why}" for why, names in alone.items())
        raise ValueError(f"together: expected runs that can be trained together ({reasons})")
    for why, names in alone.items():
        _log.info("trained one by one: %s (%s)", first_few(names, 3), why)
    return groups


@contextmanager
def _locks(root: Path, part: tuple[int, int] | None) -> Iterator[None]:
    """Lock a sweep as a whole, or one part of it: parts exclude only themselves and the whole."""
    with locked(root / ".lock", what=f"the sweep {root}", shared=part is not None):
        if part is None:
            yield
            return
        i, n = part
        what = f"part {i} of {n} of the sweep {root}"
        with locked(root / f".lock-{i}-of-{n}", what=what):
            yield


def _result(
    study: Study,
    planned: list[PlannedRun],
    root: Path,
    failures: dict[str, str],
    part: tuple[int, int] | None,
    others: Mapping[str, str] = MappingProxyType({}),
) -> SweepResult:
    """Collect the finished runs, and write the frame and the failures.

    The file keeps those of `others`, runs that were left alone, which still are not done.
    """
    frame, damaged = _collected(planned, root, (*(("case",) if study.cases else ()), *study.grid))
    failures = failures | damaged
    failures = {run.name: failures[run.name] for run in planned if run.name in failures}
    name = "failures.json" if part is None else f"failures-{part[0]}-of-{part[1]}.json"
    done = {run.name for run in planned if (root / "runs" / run.name / "DONE").is_file()}
    listed = {run.name: others[run.name] for run in planned if run.name in others.keys() - done}
    with write_atomic(root / name) as temporary:
        temporary.write_text(json.dumps(listed | failures, indent=2) + "\n", encoding="utf-8")
    if part is None:
        with write_atomic(root / "sweep.parquet") as temporary:
            frame.to_parquet(temporary, index=False, write_page_checksum=True)
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
        if (path / "config.toml").is_file() and not same_run(path, run.config):
            raise ValueError(f"{path} holds a run with another configuration; choose another --out")


def _replace(planned: list[PlannedRun], root: Path, rerun: Sequence[str]) -> None:
    """Move the directories of runs that are to be trained again to ``replaced/``."""
    for run in planned:
        path = root / "runs" / run.name
        if not is_run(path):  # nothing there, or not made by topokit
            continue
        if run.name not in rerun and not (DAMAGED in rerun and is_damaged(path)):
            continue
        aside = root / "replaced"
        aside.mkdir(exist_ok=True)
        places = (aside / f"{run.name}-{number}" for number in itertools.count(1))
        with RunDirectory(path).lock():
            path.rename(next(place for place in places if not os.path.lexists(place)))


Tasks = Mapping[str, Task]  # by the names of runs
Groups = Sequence[tuple[str, ...]]  # names of runs that are trained together
Note = Callable[[str, str | None], None]  # called with a run that ended and why it failed, if so


def _reporter(tasks: Tasks, workers: int, progress: Callable[[SweepProgress], None]) -> Note:
    """Report the start to `progress`; return a function that reports each run that ends."""
    found = sum((Path(task.directory) / "DONE").is_file() for task in tasks.values())
    start, done, failed = time.monotonic(), 0, 0

    def report(last: str) -> None:
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
    tasks: Tasks, groups: Groups, pool: Callable[[], AbstractContextManager[Executor]], note: Note
) -> dict[str, str]:
    """Run all unfinished tasks, with a new pool whenever one broke; return failures by name."""
    folders = {name: Path(task.directory) for name, task in tasks.items()}
    failures: dict[str, str] = {}
    left = [name for name, folder in folders.items() if not (folder / "DONE").is_file()]
    lost_at: dict[str, list[float]] = {name: [] for name in left}
    idle = 0  # pools in a row that broke before a run was started
    while left:
        now = [tuple(name for name in group if name in left) for group in groups]
        with pool() as executor:
            lost = _run_in_pool(executor, tasks, [group for group in now if group], failures, note)
        idle = idle + 1 if len(lost) == len(left) else 0
        for name, reason in lost.items():
            if folders[name].exists():  # only started runs can kill a worker
                idle = 0
                at = _last_epoch(folders[name])
                lost_at[name] = [before for before in lost_at[name] if before == at] + [at]
            if len(lost_at[name]) >= TRIES:
                failures[name] = f"its worker died {TRIES} times: {reason}"
                note(name, failures[name])
        if lost and idle >= TRIES:
            reason = next(iter(lost.values()))
            words = f"workers import the script that starts them; {GUARD}"
            raise ChildProcessError(f"no worker could be started: {reason} ({words})")
        left = [name for name in lost if len(lost_at[name]) < TRIES]
    return failures


def _run_in_pool(
    executor: Executor, tasks: Tasks, groups: Groups, failures: dict[str, str], note: Note
) -> dict[str, str]:
    """Run groups of tasks, and add those that fail to `failures`; return those that were lost."""
    lost: dict[str, str] = {}
    calls = {group[0]: group for group in groups}
    asked = {name: tuple(tasks[each] for each in group) for name, group in calls.items()}
    for ended in as_completed(executor, run_some, asked):
        for name in calls[ended.name]:
            if ended.broken:
                lost[name] = ended.error
                continue
            reason = ended.error or ended.result[tasks[name].directory]
            if reason == STOPPED:
                continue
            if reason:
                failures[name] = reason
            note(name, reason)
    return lost


def _last_epoch(path: Path) -> float:
    """Return when the last checkpoint of a run was written, or 0."""
    try:
        return (path / "checkpoint.pt").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _collected(
    planned: list[PlannedRun], root: Path, keys: tuple[str, ...]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return one frame of all finished runs, in the order of the plan, and what is damaged."""
    import pandas as pd

    frames, damaged = [], {}
    as_text = {key for key in keys if not _fit_together([run.cell[key] for run in planned])}
    for run in planned:
        path = root / "runs" / run.name
        if not (path / "DONE").is_file():
            continue
        try:
            rows = _finished(path, run.config)
        except Exception as error:  # whatever a damaged file leads to
            damaged[run.name] = f"it is finished but damaged: {error}; {remedy(path)}"
            continue
        cell = {key: run.cell[key] for key in keys}
        labels = {key: str(v) if key in as_text else v for key, v in cell.items()}
        frames.append(rows.assign(run=run.name, arm=run.arm, seed=run.config.seed, **labels))
    columns = ["run", "arm", *keys, "seed", "epoch", "layer", "measure", "value"]
    if not frames:
        return pd.DataFrame(columns=columns), damaged
    return pd.concat(frames, ignore_index=True)[columns], damaged


def _fit_together(values: Sequence[Any]) -> bool:
    """Return whether values of a grid can be in one column of a table, which is of one kind."""
    kinds: tuple[tuple[Any, Any], ...] = ((bool, ()), (str, ()), (Real, bool))
    small = all(abs(value) < 2**63 for value in values if isinstance(value, int))
    return small and any(
        all(isinstance(value, kind) and not isinstance(value, other) for value in values)
        for kind, other in kinds
    )


def _finished(path: Path, config: RunConfig) -> pd.DataFrame:
    """Return all values of a finished run as rows, or raise an error if any is missing."""
    import pandas as pd

    if not same_run(path, config, loosely=True):
        raise ValueError("it has another configuration than the study")
    history = History.load(path)
    found = history.epochs["epoch"].tolist()
    if found != list(range(config.epochs)):
        raise ValueError(f"expected epochs 0 to {config.epochs - 1}, found {len(found)} rows")
    metrics = history.epochs.melt(["epoch"], list(METRICS), "measure", "value")
    rows = pd.concat([metrics.assign(layer="network"), history.measures], ignore_index=True)
    rows["value"] = rows["value"].astype(float)
    return rows
