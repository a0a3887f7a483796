"""Who does the runs of a sweep: processes on this machine, or the workers of a Dask scheduler."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

__all__ = ["cores", "dask_pool", "import_modules", "local_pool"]

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


def _begin(lifeline: Connection) -> None:
    """Start a worker: leave interruptions to the parent, and end when it closes the lifeline."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        wait([lifeline])
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
