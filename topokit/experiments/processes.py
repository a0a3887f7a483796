"""Processes that carry out one run together: started here, or by torchrun."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

from topokit.nn.distributed import Processes
from topokit.plugins import load_plugins, told

__all__ = ["launched", "several"]

# The others wait while the first process measures and records, however long that takes. A process
# that ends is noticed at once, by its closed connection.
PATIENCE = datetime.timedelta(days=30)
STARTED = "started"
REFUSED = (ValueError, FileNotFoundError, FloatingPointError, TypeError)


def launched() -> bool:
    """Return whether this process was started by torchrun, with others."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(name in os.environ for name in names) and int(os.environ["WORLD_SIZE"]) > 1


@contextmanager
def several(
    nproc: int | None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    plugins: Iterable[str] = (),
    threads: int | None = None,
) -> Iterator[Processes | None]:
    """Provide the processes for a run: this one and `nproc` - 1 others, or those of torchrun.

    Within the context the first process calls `topokit.experiments.runs.run` (or ``resume``) with
    the processes. Those started here take part by themselves, print nothing, and end with the
    context, however that ends. Under torchrun each process enters the context, and those that are
    not the first call `topokit.experiments.runs.take_part`.

    Parameters
    ----------
    nproc : int or None
        None: those of torchrun if it started this process, else this process alone.
    data_dir, plugins
        Folder of data sets and modules to import, for the other processes.
    threads : int, optional
        Of each process; by default the cores are shared out.

    Notes
    -----
    A run without random draws in the model equals, to rounding, that of one process, and may be
    resumed with any number of them. With dropout, and for restricted Boltzmann machines, each
    process draws from a stream of its own: the result then depends on the number of processes,
    and only a run resumed with the same number equals one that was not interrupted. Batch
    normalisation is over each process's share. Persistent chains are refused.

    Yields
    ------
    Processes or None
        None: this process alone.

    Raises
    ------
    ValueError
        If `nproc` is not positive or not the number that torchrun started; or in the first process
        if another one refuses its input.
    ConnectionError
        In the first process, if another one has ended otherwise.
    """
    if nproc is not None and nproc < 1:
        raise ValueError(f"expected --nproc of at least 1, got {nproc}")
    if launched():
        size = int(os.environ["WORLD_SIZE"])
        if nproc not in (None, size):
            raise ValueError(f"expected no --nproc, or {size} as torchrun has it, got {nproc}")
        dist.init_process_group("gloo", timeout=PATIENCE)
        try:
            yield Processes(gradients="sum")
        finally:
            dist.destroy_process_group()
        return
    if nproc in (None, 1):
        yield None
        return
    before = torch.get_num_threads()
    threads = threads or max(1, before // nproc)
    store = dist.TCPStore("127.0.0.1", 0, nproc, is_master=True, wait_for_workers=False)
    others = _start(nproc, store.port, threads, data_dir, tuple(plugins))
    torch.set_num_threads(threads)
    try:
        try:
            _wait_for_start(others)
            dist.init_process_group("gloo", store=store, rank=0, world_size=nproc, timeout=PATIENCE)
            yield Processes(gradients="sum")
        except ConnectionError:
            _explain(others)
            raise
    finally:
        for process, _ in others:  # they have done their part, or have no more to do
            process.terminate()
        for process, _ in others:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        if dist.is_initialized():
            dist.destroy_process_group()
        torch.set_num_threads(before)


Other = tuple[Any, Connection]


def _start(
    nproc: int, port: int, threads: int, data_dir: Any, plugins: tuple[str, ...]
) -> list[Other]:
    context = multiprocessing.get_context("spawn")
    others: list[Other] = []
    for rank in range(1, nproc):
        here, there = context.Pipe(duplex=False)
        process = context.Process(
            target=_other,
            args=(rank, nproc, port, threads, data_dir, plugins, there),
            daemon=True,
        )
        process.start()
        there.close()
        others.append((process, here))
    return others


def _wait_for_start(others: list[Other]) -> None:
    """Return when all processes run; raise an error if one ends before."""
    for rank, (process, pipe) in enumerate(others, start=1):
        wait([pipe, process.sentinel])
        try:
            said = pipe.recv()
        except EOFError:
            raise ConnectionError("another process did not start") from None
        if said != STARTED:
            raise _ended(rank, len(others), *said)


def _explain(others: list[Other], patience: float = 5.0) -> None:
    """Raise an error that says why another process ended, if one has."""
    ended = wait([process.sentinel for process, _ in others], timeout=patience)
    for rank, (process, pipe) in enumerate(others, start=1):
        if process.sentinel in ended:
            process.join(patience)  # the exit code is known a moment later
        refused, text = False, ""
        with suppress(EOFError, OSError):
            while pipe.poll():
                said = pipe.recv()
                refused, text = said if said != STARTED else (refused, text)
        if not text and not process.is_alive() and process.exitcode:
            code = process.exitcode
            text = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        if text:
            raise _ended(rank, len(others), refused, text) from None


def _ended(rank: int, n_others: int, refused: bool, text: str) -> Exception:
    words = f"process {rank} of {n_others + 1} ended: {text}"
    return ValueError(words) if refused else ConnectionError(words)


def _other(
    rank: int,
    nproc: int,
    port: int,
    threads: int,
    data_dir: Any,
    plugins: tuple[str, ...],
    pipe: Connection,
) -> None:
    """Take part in a run, in a process of its own; errors are told to the first process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    try:
        from topokit.experiments.runs import take_part

        load_plugins(plugins)
        torch.set_num_threads(threads)
        pipe.send(STARTED)
        store = dist.TCPStore("127.0.0.1", port, nproc, is_master=False)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=nproc, timeout=PATIENCE)
        take_part(Processes(gradients="sum"), data_dir)
        dist.destroy_process_group()
    except ConnectionError:
        os._exit(1)  # another process has ended and says why
    except (Exception, SystemExit) as error:  # a plugin may call exit
        with suppress(OSError):
            plugin = told(error)
            refused = bool(plugin) or isinstance(error, REFUSED)
            pipe.send((refused, plugin or str(error) or type(error).__name__))
        os._exit(1)
