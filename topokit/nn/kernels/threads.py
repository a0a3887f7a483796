"""Running a compiled job on as many threads as torch uses."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["bounds_of", "even_bounds", "run_job"]

SERIAL_WORK = 1 << 18  # multiplications below which threads cost more than they save
KEPT_BYTES, LARGEST_KEPT = 1 << 28, 1 << 25  # of freed memory at the top; of one allocation
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers for mallopt
PARTS = 4  # parts a thread, so that a thread that is held up leaves its share to the others

_log = logging.getLogger("topokit.nn")


Bounds = Callable[[int], "ctypes.Array[ctypes.c_int64]"]
"""From a number of parts to where they begin, and where the last ends."""


def bounds_of(starts: NDArray[np.int64], parts: int) -> ctypes.Array[ctypes.c_int64]:
    """Bounds of rows that split a graph into parts of about equally many edges."""
    shares = np.searchsorted(starts, np.linspace(0, starts[-1], parts + 1)[1:-1])
    rows = starts.size - 1
    return (ctypes.c_int64 * (parts + 1))(0, *np.clip(shares, 0, rows).tolist(), rows)


def even_bounds(rows: int) -> Bounds:
    """Bounds of parts of equally many rows."""
    return lambda parts: (ctypes.c_int64 * (parts + 1))(
        *(part * rows // parts for part in range(parts + 1))
    )


def run_job(
    kernel: str,
    size: int,
    bounds: Bounds,
    work: int,
    arguments: tuple[int, ...],
) -> None:
    """Run a kernel of `topokit.nn.kernels.cpu` to its end.

    Parameters
    ----------
    kernel : str
    size : int
        Bytes of an element: 4 or 8.
    bounds : callable
        ``bounds(parts)``, rows of each part.
    work : int
        Multiplications, from which the number of threads follows.
    arguments : tuple of int
        Addresses and sizes, as the kernel expects them.
    """
    threads = 1 if work < SERIAL_WORK else torch.get_num_threads()
    entry, kernels = _entry()
    rows = bounds(1 if threads == 1 else PARTS * threads)
    words = (0, len(rows) - 1, ctypes.addressof(rows), size, kernels[kernel], *arguments)
    job = (ctypes.c_int64 * len(words))(*words)
    _let_loose(entry, ctypes.addressof(job), threads)


def _let_loose(entry: Any, job: int, threads: int) -> None:
    """Call ``entry(job)`` in this thread and in ``threads - 1`` others; return when all have."""
    team = _openmp()
    if threads == 1:
        entry(job)
    elif team is not None:
        team(entry, job, threads, 0)
    else:
        others = [_pool(os.getpid(), threads).submit(entry, job) for _ in range(threads - 1)]
        entry(job)
        wait(others)  # they write into memory of this call


@cache
def _entry() -> tuple[Any, dict[str, int]]:
    """The compiled function as one that ctypes calls, and the numbers of its kernels."""
    from topokit.nn.kernels.cpu import KERNELS, work

    if not any(Path(__file__).parent.glob("__pycache__/cpu._work-*.nbi")):
        _log.info("compiling the sparse kernels: a few seconds, once per machine")
    _keep_freed_memory()
    return ctypes.CFUNCTYPE(None, ctypes.c_int64)(work()), {k: i for i, k in enumerate(KERNELS)}


def _keep_freed_memory() -> None:
    """Let glibc keep up to KEPT_BYTES of freed memory for the next step, in the whole process.

    By default it gives activations back to the system after every step and gets them again,
    page by page, in the next: up to a quarter of a sparse step. Left as it is where the user has
    said otherwise in the environment, and where there is no glibc.
    """
    if any(name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(_MMAP_THRESHOLD, LARGEST_KEPT)


@cache
def _openmp() -> Any:
    """Torch's own OpenMP team, whose threads are awake already; ``None`` where it is not GNU's."""
    paths = sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*"))
    for path in paths:
        try:
            call = ctypes.CDLL(str(path)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        call.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint, ctypes.c_uint]
        call.restype = None
        return call
    return None


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Worker threads of this process; the kernels release the interpreter's lock."""
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="topokit-kernel")
