"""One run of a sweep, in a worker process: started or resumed, up to a time."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path
from typing import Any

from topokit.experiments.config import RunConfig
from topokit.experiments.rundir import RunDirectory
from topokit.plugins import load_plugins, told

__all__ = ["DAMAGED", "STOPPED", "is_run", "remedy", "run_one"]

PATIENCE = 30.0  # seconds to wait for another process to release a run
STOPPED = "stopped"  # what `run_one` returns of a run that is unfinished as its time is up
DAMAGED = "damaged"  # the value of a sweep's `rerun` that stands for all damaged runs


def is_run(path: Path) -> bool:
    """Return whether a folder is that of a run, finished or not, damaged or not."""
    try:
        RunDirectory.open(path)
    except (FileNotFoundError, ValueError):
        return False
    return True


class _TimeIsUp(Exception):
    """Raised after the epoch in which the time of a sweep is up."""


def run_one(
    directory: str,
    config_toml: str,
    data_dir: str | None,
    plugins: tuple[str, ...],
    until: dt.datetime | None = None,
) -> str | None:
    """Start or resume one run; return why it failed, ``None``, or `STOPPED` if its time is up."""
    load_plugins(plugins)
    from topokit.experiments.runs import resume, run

    path, config = Path(directory), RunConfig.from_toml(config_toml)
    known = is_run(path)

    def in_time(epoch: Any = None, _: Any = None) -> None:
        last = epoch is not None and epoch.index == config.epochs - 1
        if until is not None and not last and dt.datetime.now(until.tzinfo) >= until:
            raise _TimeIsUp

    try:
        if known:
            _wait_for_lock(path)
        if (path / "DONE").is_file():
            return None
        in_time()
        if known and not _is_free(path, config):
            resume(path, data_dir=data_dir, device=config.device, progress=in_time)
        else:
            run(config, path, data_dir=data_dir, progress=in_time)
    except _TimeIsUp:
        return STOPPED
    except Exception as error:
        reason = told(error) or f"{type(error).__name__}: {error}"
        return f"{reason}; {remedy(path)}" if known and isinstance(error, ValueError) else reason
    return None


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
