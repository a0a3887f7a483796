"""Executors: process pools that end with their parent, Dask, and whatever else can submit calls."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from typing import Any

__all__ = [
    "GUARD",
    "Ended",
    "as_completed",
    "choose_pool",
    "cores",
    "dask_pool",
    "local_pool",
    "refuse_in_import",
]

GUARD = 'put what the script does under `if __name__ == "__main__":`'
"""What a script needs that starts processes, each of which imports it."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
ANSWER = "10s"  # within which a Dask scheduler has to answer
PAUSES = 0.01, 0.5  # seconds between two looks at calls that run, the shortest and the longest


@dataclass(frozen=True)
class Ended:
    """A call that ended.

    Parameters
    ----------
    name : str
    result : object
        What the call returned, ``None`` if it did not return.
    error : str
        Why it did not return; "" if it did.
    broken : bool
        Whether that is because a worker died, so that the executor takes no further calls.
    """

    name: str
    result: Any = None
    error: str = ""
    broken: bool = False


def as_completed(
    executor: Executor, function: Callable[..., Any], tasks: Mapping[str, tuple[Any, ...]]
) -> Iterator[Ended]:
    """Submit one call for each task at once and yield each when it ends.

    Parameters
    ----------
    executor : concurrent.futures.Executor
        Or any object whose ``submit(function, *arguments)`` returns an object with ``done()`` and
        ``result()``, such as the executors of loky, executorlib and submitit.
    function : callable
    tasks : dict of tuple
        Arguments of each call by its name.

    Yields
    ------
    Ended

    Raises
    ------
    ConnectionError
        If the executor cancels its calls, as Dask does when the scheduler is lost.

    Notes
    -----
    Calls are looked at in turn, since not all executors return futures that can be waited for: a
    look at 1,000 calls takes about a millisecond, at most every half second while nothing ends.
    """
    waiting: dict[str, Any] = {}
    refused: list[Ended] = []
    shortest, longest = PAUSES
    pause = shortest
    try:
        for name, task in tasks.items():
            try:
                waiting[name] = executor.submit(function, *task)
            except BrokenExecutor as error:
                refused.append(Ended(name, error=str(error), broken=True))
        while waiting:
            ended = [name for name, call in waiting.items() if call.done()]
            for name in ended:
                yield _ended(name, waiting.pop(name))
            if not ended:
                time.sleep(pause)
            pause = shortest if ended else min(2 * pause, longest)
        yield from refused
    finally:
        for call in waiting.values():
            if hasattr(call, "cancel"):
                call.cancel()


def _ended(name: str, call: Any) -> Ended:
    """Return the outcome of a call that is done."""
    try:
        return Ended(name, call.result())
    except CancelledError:
        raise ConnectionError(
            "the executor or its scheduler ended before its runs did; finished epochs are saved, "
            "and the same command continues once it is there again"
        ) from None
    except BrokenExecutor as error:
        return Ended(name, error=str(error), broken=True)
    except (Exception, SystemExit) as error:  # of the executor, or of a plugin that calls exit
        return Ended(name, error=f"{type(error).__name__}: {error}")


def cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def refuse_in_import(what: str) -> None:
    """Refuse what starts processes while a process so started imports the script that started it.

    Parameters
    ----------
    what : str
        The call, for the message.

    Raises
    ------
    RuntimeError
        If this process is still importing that script.

    Examples
    --------
    >>> refuse_in_import("sweep")
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(f"{what}: reached again as a new process imports this script; {GUARD}")


def choose_pool(
    executor: Executor | None, scheduler: str | None, workers: int, threads: int
) -> AbstractContextManager[Executor]:
    """Return the executor the caller chose, as a context manager.

    Parameters
    ----------
    executor : concurrent.futures.Executor, optional
        Used as it is, and not shut down.
    scheduler : str, optional
        Address of a Dask scheduler; see `dask_pool`.
    workers, threads : int
        See `local_pool`, which is used if neither is given.

    Returns
    -------
    context manager of an executor
    """
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
    values = dict.fromkeys(THREADS, str(threads))
    # If this process is killed, Python's resource tracker removes the semaphores of the pool, which
    # is no news to the user.
    quiet = [os.environ.get("PYTHONWARNINGS", ""), "ignore:resource_tracker:UserWarning"]
    values["PYTHONWARNINGS"] = ",".join(filter(None, quiet))
    with _environment(values):
        _start_tracker()
        pool = _Processes(
            workers, mp_context=context, initializer=_start_worker, initargs=(lifeline,)
        )
        try:
            yield pool
            pool.shutdown()
        finally:
            ours.close()  # running workers exit at once: finished epochs are on disk
            lifeline.close()
            pool.shutdown(cancel_futures=True)


class _Processes(ProcessPoolExecutor):
    """A pool whose processes cannot be interrupted, not even while they start."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        # Processes are started here. They inherit which signals are blocked.
        with _blocked("SIGINT"):
            return super().submit(fn, *args, **kwargs)


def _start_tracker() -> None:
    """Start Python's resource tracker such that it outlives the terminal.

    It ignores what ends a process group, but for SIGHUP; what is blocked stays blocked in it.
    """
    if os.name != "posix":
        return  # there is none
    with _blocked("SIGHUP"):
        resource_tracker.ensure_running()


@contextmanager
def _blocked(name: str) -> Iterator[None]:
    """Block a signal for the processes started in the block; this one receives it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {getattr(signal, name)})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
        client: Any = Client(address, timeout=ANSWER, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"expected a Dask scheduler at {address}: {error}") from None
    with _unlogged("distributed", "tornado"), client, client.get_executor(pure=False) as pool:
        yield pool


@contextmanager
def _unlogged(*packages: str) -> Iterator[None]:
    """Silence the loggers of packages, which report a lost scheduler by many tracebacks."""
    names = [n for n in logging.root.manager.loggerDict if n.partition(".")[0] in packages]
    loggers = [logging.getLogger(name) for name in (*names, "asyncio")]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
