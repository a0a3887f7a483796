"""Runs of a sweep in a worker process, one or several together, started or resumed."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topokit.experiments.config import RunConfig
from topokit.experiments.rundir import RunDirectory
from topokit.plugins import load_plugins, told

__all__ = [
    "DAMAGED",
    "STOPPED",
    "Task",
    "is_damaged",
    "is_run",
    "remedy",
    "run_one",
    "run_several",
    "run_some",
]

PATIENCE = 30.0  # seconds to wait for another process to release a run
STOPPED = "stopped"  # what `run_one` returns of a run that is unfinished as its time is up
DAMAGED = "damaged"  # the value of a sweep's `rerun` that stands for all damaged runs


@dataclass(frozen=True)
class Task:
    """A run that a worker is to start or resume.

    Parameters
    ----------
    directory : str
        That of the run.
    config : str
        Its configuration as TOML.
    data_dir : str or None
        The folder of data sets.
    plugins : tuple of str
        What is loaded before; see `topokit.load_plugins`.
    until : datetime.datetime, optional
        No epoch begins after this time.
    """

    directory: str
    config: str
    data_dir: str | None
    plugins: tuple[str, ...]
    until: dt.datetime | None = None


def is_run(path: Path) -> bool:
    """Return whether a folder is that of a run, finished or not, damaged or not."""
    try:
        RunDirectory.open(path)
    except (FileNotFoundError, ValueError):
        return False
    return True


def is_damaged(path: Path) -> bool:
    """Return whether a finished run is not intact, or an unfinished one cannot go on."""
    from topokit.experiments.verify import LOST, verify

    try:
        found = verify(path)
    except ValueError:
        return True
    return bool(found.findings) and (
        (path / "DONE").exists() or any(finding.state == LOST for finding in found.findings)
    )


class _TimeIsUp(Exception):
    """Raised after the epoch in which the time of a sweep is up."""


def run_one(task: Task) -> str | None:
    """Start or resume one run; return why it failed, ``None``, or `STOPPED` if its time is up."""
    load_plugins(task.plugins)
    from topokit.experiments.runs import resume, run

    path, config = Path(task.directory), RunConfig.from_toml(task.config)
    known = is_run(path)

    def in_time(epoch: Any = None, _: Any = None) -> None:
        last = epoch is not None and epoch.index == config.epochs - 1
        if not last and _is_past(task.until):
            raise _TimeIsUp

    try:
        if known:
            _wait_for_lock(path)
        if (path / "DONE").is_file():
            return None
        in_time()
        if known and not _is_free(path, config):
            resume(path, data_dir=task.data_dir, device=config.device, progress=in_time)
        else:
            run(config, path, data_dir=task.data_dir, progress=in_time)
    except _TimeIsUp:
        return STOPPED
    except (Exception, SystemExit) as error:  # a plugin may call exit
        return _reason(error, path, known)
    return None


def run_several(tasks: Sequence[Task]) -> dict[str, str | None]:
    """Start or resume runs that are trained together; return by directory what `run_one` would.

    The tasks have the same data, plugins and time.
    """
    data_dir, until = tasks[0].data_dir, tasks[0].until
    load_plugins(tasks[0].plugins)
    from topokit.data import Data
    from topokit.experiments.runs import resumed, started
    from topokit.experiments.together import run_together

    found: dict[str, str | None] = {}
    runs: dict[str, Any] = {}
    known: dict[str, bool] = {}
    samples: dict[str, Data] = {}
    for task in tasks:
        directory = task.directory
        path, config = Path(directory), RunConfig.from_toml(task.config)
        known[directory] = is_run(path)
        try:
            if known[directory]:
                _wait_for_lock(path)
            if (path / "DONE").is_file():
                found[directory] = None
            elif known[directory] and not _is_free(path, config):
                runs[directory] = resumed(
                    path, data_dir=data_dir, device=config.device, known=samples
                )
            else:
                runs[directory] = started(config, path, data_dir=data_dir, known=samples)
        except Exception as error:
            found[directory] = _reason(error, path, known[directory])
    if _is_past(until):
        return {**dict.fromkeys(runs, STOPPED), **found}
    failed = run_together(runs, time_is_up=lambda: _is_past(until))
    for directory in runs:
        path = Path(directory)
        if directory in failed:
            found[directory] = _reason(failed[directory], path, known[directory])
        else:
            found[directory] = None if (path / "DONE").is_file() else STOPPED
    return found


def run_some(*tasks: Task) -> dict[str, str | None]:
    """Start or resume one run, or several together; return by directory what `run_one` would."""
    if len(tasks) == 1:
        return {tasks[0].directory: run_one(tasks[0])}
    return run_several(tasks)


def _is_past(until: dt.datetime | None) -> bool:
    return until is not None and dt.datetime.now(until.tzinfo) >= until


def _reason(error: BaseException, path: Path, known: bool) -> str:
    """Return why a run failed, in words; `known` if there was such a run before."""
    reason = told(error) or f"{type(error).__name__}: {error}"
    return f"{reason}; {remedy(path)}" if known and isinstance(error, ValueError) else reason


def _is_free(path: Path, config: RunConfig) -> bool:
    """Return whether a run can start in a folder: no epoch has been finished in it."""
    try:
        RunDirectory(path).check_free(config.to_toml())
    except ValueError:
        return False
    return True


def remedy(path: Path) -> str:
    """Return how a damaged run is trained again."""
    return f"'--rerun {path.name}' trains it again, '--rerun {DAMAGED}' all damaged runs"


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
