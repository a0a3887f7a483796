"""Arguments of the compiled kernels, and the threads that share their work.

`topokit.nn.kernels` gives an overview; this module connects tensors and compiled code.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = [
    "ARGUMENTS",
    "BLOCK_BYTES",
    "HEADER",
    "Choice",
    "Descent",
    "Dropout",
    "EdgeGradient",
    "Gather",
    "Kernel",
    "Kernels",
    "ProductBackward",
    "ProductForward",
    "SReLUBackward",
    "SReLUForward",
    "equal_edge_bounds",
    "equal_row_bounds",
    "on_all_threads",
    "run_kernel",
]

BLOCK_BYTES = 512
"""Bytes of a unit's batch that the kernels process at once."""

# Multiplications below which one thread is faster than several.
SERIAL_WORK = 1 << 18
# Parts for each thread: the parts that a delayed thread has not begun are done by the others.
PARTS_PER_THREAD = 4

# glibc's limits: freed memory kept at the end of the heap, and the largest allocation from it.
KEPT_BYTES, LARGEST_FROM_HEAP = 1 << 28, 1 << 25
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # numbers of the settings in malloc.h

_log = logging.getLogger("topokit.nn")


# ---------------------------------------------------------------------------------------------
# Arguments. A kernel gets one record of 64-bit integers: the header, then its own fields. Both
# sides name the fields, Python as keywords here and compiled code as attributes of a record that
# `topokit.nn.kernels.cpu` derives from these classes; no code depends on positions.
#
# A field is an address (of the first element of C-contiguous memory), a number of elements, or a
# flag of 0 or 1. An address that may be absent is then 0. A stride is the number of elements from
# one unit to the next.

HEADER = ("next_part", "n_parts", "bounds", "item_bytes", "kernel", "next")
"""Fields of every record: the next part to be claimed; the number of parts; address of their
bounds; bytes of a number (4 or 8); the kernel's position in `ARGUMENTS`; and the distance in bytes
to the record of a kernel that the same thread runs afterwards, or 0."""


class ProductForward(NamedTuple):
    """``y[i] = bias[i] + sum over the edges of row i of value * x[unit]``."""

    x: int
    x_stride: int
    row_pointers: int
    """First edge of row i in tile t at position ``t * tile_stride + i``, its end at
    ``(t + 1) * tile_stride + i``; one tile with a stride of 1 is an ordinary CSR."""
    units: int
    values: int
    bias: int
    """Or 0."""
    y: int
    """Its stride is the batch."""
    batch: int
    relu: int
    n_tiles: int
    tile_stride: int
    bits: int = 0
    """Of a dropout of y, as in `Dropout`, or 0."""
    limit: int = 0
    scale: int = 0


class EdgeGradient(NamedTuple):
    """``gradient[edge] = <g[i], x[unit]>`` for the edges of row i."""

    x: int
    x_stride: int
    row_pointers: int
    """As in `ProductForward`."""
    units: int
    g: int
    g_stride: int
    gradient: int
    batch: int
    n_tiles: int
    tile_stride: int


class ProductBackward(NamedTuple):
    """``dx[j] = sum over the edges of column j of value * g[unit]``, and the edges' gradients."""

    g: int
    g_stride: int
    column_pointers: int
    units: int
    positions: int
    """Of the column's edges in `values` and `gradient`, which are in the order of rows."""
    values: int
    x: int
    x_stride: int
    dx: int
    """Its stride is the batch."""
    gradient: int
    batch: int
    relu: int
    """Whether x is the output of a ReLU, whose gradient is 0 where x is 0."""
    sums: int
    """Of dx over the batch; or 0."""


class SReLUForward(NamedTuple):
    """`topokit.nn.activations.SReLU`."""

    x: int
    x_stride: int
    y: int
    batch: int
    t_left: int
    a_left: int
    t_width: int
    a_right: int


class SReLUBackward(NamedTuple):
    """Gradients of the input and, (4, units), of the parameters."""

    x: int
    x_stride: int
    g: int
    g_stride: int
    t_left: int
    a_left: int
    t_width: int
    a_right: int
    dx: int
    gradients: int
    units: int
    batch: int


class Dropout(NamedTuple):
    """``y = x * scale`` where the 16 random bits of an element reach a limit, else ``x * 0``."""

    x: int
    bits: int
    y: int
    limit: int
    scale: int
    """Address of one number."""


class Descent(NamedTuple):
    """A step of stochastic gradient descent, with momentum: `topokit.nn.optimizers.SGD`."""

    weights: int
    gradient: int
    momentum: int
    """Or 0."""
    settings: int
    """Address of four numbers: weight decay, momentum, the part of the gradient that is added to
    the momentum, and the learning rate times -1."""
    decays: int
    begins: int
    """Whether the momentum is to become the gradient, at the first step."""
    nesterov: int


class Gather(NamedTuple):
    """``y[j, k] = x[samples[k], j]``."""

    x: int
    x_stride: int
    """From one sample to the next."""
    samples: int
    y: int
    batch: int


Arguments = (
    ProductForward
    | EdgeGradient
    | ProductBackward
    | SReLUForward
    | SReLUBackward
    | Dropout
    | Descent
    | Gather
)

ARGUMENTS: tuple[type[Arguments], ...] = (
    ProductForward, EdgeGradient, ProductBackward, SReLUForward, SReLUBackward, Dropout, Descent,
    Gather,
)  # fmt: skip
"""The record of each kernel; its position is the kernel's number."""

_NUMBERS = {kind: number for number, kind in enumerate(ARGUMENTS)}


# ---------------------------------------------------------------------------------------------
# Parts and threads.

Bounds = Callable[[int], "ctypes.Array[ctypes.c_int64]"]
"""Map a number of parts to their bounds: part p has rows ``bounds[p]`` to ``bounds[p + 1] - 1``."""


def equal_edge_bounds(pointers: NDArray[np.int64], parts: int) -> ctypes.Array[ctypes.c_int64]:
    """Return bounds of rows that split a graph into parts of about equally many edges."""
    shares = np.searchsorted(pointers, np.linspace(0, pointers[-1], parts + 1)[1:-1])
    rows = pointers.size - 1
    return (ctypes.c_int64 * (parts + 1))(0, *np.clip(shares, 0, rows).tolist(), rows)


def equal_row_bounds(rows: int) -> Bounds:
    """Return a function that splits rows into parts of about equally many rows."""
    return lambda parts: (ctypes.c_int64 * (parts + 1))(
        *(part * rows // parts for part in range(parts + 1))
    )


def run_kernel(arguments: Arguments, *, item_bytes: int, bounds: Bounds, work: int) -> None:
    """Run a compiled kernel on one or several threads, and wait until it has finished.

    The memory at the addresses must stay allocated until this returns; tensors that are made for
    the call alone therefore need a name in the caller.

    Parameters
    ----------
    arguments : NamedTuple
        An instance of one of `ARGUMENTS`; its class selects the kernel.
    item_bytes : int
        Bytes of a number: 4 (float32) or 8 (float64).
    bounds : callable
        ``bounds(parts)`` splits the rows.
    work : int
        Number of multiplications, which decides between one thread and all.
    """
    kernel, threads, choice = Kernel(arguments, item_bytes, bounds, work), 1, None
    if work >= SERIAL_WORK and torch.get_num_threads() > 1:
        threads, choice = _threads_for(kernel)
    rows = bounds(1 if threads == 1 else PARTS_PER_THREAD * threads)
    fields = _fields(kernel, rows, 0)
    record = (ctypes.c_int64 * len(fields))(*fields)
    _run(ctypes.addressof(record), kernel, threads, choice)


class Kernel(NamedTuple):
    """A kernel to run: see `run_kernel`."""

    arguments: Arguments
    item_bytes: int
    bounds: Bounds
    work: int


class Kernels:
    """Kernels that run one after the other, with records that are made once.

    On one thread they take one call of compiled code; with several each is run by `run_kernel`'s
    rules.

    Parameters
    ----------
    kernels : sequence of Kernel
        For numbers of one size. Arguments that are not known yet may be 0.

    Attributes
    ----------
    starts : list of int
        Position of each kernel's own arguments in a record, the first of them at this position.

    Examples
    --------
    >>> kernel = Kernel(Dropout(0, 0, 0, limit=5, scale=0), 4, equal_row_bounds(10), work=20)
    >>> kernels = Kernels([kernel, kernel])
    >>> record = kernels.record()
    >>> [record[start + Dropout._fields.index("limit")] for start in kernels.starts]
    [5, 5]
    """

    def __init__(self, kernels: Sequence[Kernel]) -> None:
        self._kernels = list(kernels)
        (self._item_bytes,) = {kernel.item_bytes for kernel in self._kernels}
        fields: list[int] = []
        self.starts: list[int] = []
        self._rows = []  # held, as the records have their addresses
        for number, kernel in enumerate(self._kernels):
            self._rows.append(kernel.bounds(1))
            last = number + 1 == len(self._kernels)
            own = _fields(kernel, self._rows[-1], 0)
            distance = 0 if last else 8 * len(own)
            self.starts.append(len(fields) + len(HEADER))
            fields += _fields(kernel, self._rows[-1], distance)
        self._type = ctypes.c_int64 * len(fields)
        self._template = bytes(self._type(*fields))

    def record(self) -> Any:
        """Return records of all kernels, as one array of integers, for one call of `run`."""
        return self._type.from_buffer_copy(self._template)

    def run(self, record: Any) -> None:
        """Run the kernels on arguments that are complete."""
        address = ctypes.addressof(record)
        if torch.get_num_threads() == 1:
            _run_on_threads(_entry(self._item_bytes), address, 1)
            return
        for kernel, start in zip(self._kernels, self.starts, strict=True):
            head = start - len(HEADER)
            threads, choice = 1, None
            if kernel.work >= SERIAL_WORK:
                threads, choice = _threads_for(kernel)
            record[head + HEADER.index("next")] = 0
            rows = kernel.bounds(1 if threads == 1 else PARTS_PER_THREAD * threads)
            record[head + HEADER.index("n_parts")] = len(rows) - 1
            record[head + HEADER.index("bounds")] = ctypes.addressof(rows)
            _run(address + 8 * head, kernel, threads, choice)


def _fields(kernel: Kernel, rows: Any, distance: int) -> tuple[int, ...]:
    """Return the fields of a kernel's record."""
    number, at = _NUMBERS[type(kernel.arguments)], ctypes.addressof(rows)
    return (0, len(rows) - 1, at, kernel.item_bytes, number, distance, *kernel.arguments)


def _threads_for(kernel: Kernel) -> tuple[int, Choice]:
    """Return how many threads of several a kernel is to use now, and where that is decided."""
    most = torch.get_num_threads()
    number = _NUMBERS[type(kernel.arguments)]
    key = number, kernel.item_bytes, kernel.work.bit_length(), most
    choice = _CHOICES.get(key) or _CHOICES.setdefault(key, Choice())
    return most if choice.many else 1, choice


def _run(address: int, kernel: Kernel, threads: int, choice: Choice | None) -> None:
    """Run the kernel of a record, and note how long it took."""
    start = perf_counter()
    _run_on_threads(_entry(kernel.item_bytes), address, threads)
    if choice is not None:
        choice.note((perf_counter() - start) / kernel.work)


# A parallel region ends when its last thread has come. Where other programs use the cores, that
# thread waits for its turn, some milliseconds, while a kernel takes a tenth of one: two threads
# were 14 times slower than one. So one thread is tried now and then, and when several have become
# much slower; what was faster is kept. Results do not depend on the number of threads.

BLOCK_CALLS, TRIAL_CALLS, BLOCKS_BETWEEN = 16, 8, 32
MUCH_SLOWER, WORTH_LEAVING = 2.0, 0.85  # one thread has to be clearly faster to be kept


class Choice:
    """Whether kernels of a kind and size run on several threads or on one: what is faster now.

    Attributes
    ----------
    many : bool
        Whether the next call should use several threads.

    Notes
    -----
    Calls are counted in blocks of `BLOCK_CALLS`, whose slowest call is left out. Every
    `BLOCKS_BETWEEN` blocks, after the first, and after one that took `MUCH_SLOWER` times as long as
    that before, the other way is tried for `TRIAL_CALLS`. On idle cores that costs less than a
    hundredth.

    Examples
    --------
    >>> choice = Choice()
    >>> for _ in range(200):
    ...     choice.note(14.0 if choice.many else 1.0)
    >>> choice.many
    False
    """

    def __init__(self) -> None:
        self.many = True
        self._trial = False
        self._before = 0.0  # seconds of a call in the block before
        self._total, self._most, self._calls = 0.0, 0.0, 0
        self._blocks = BLOCKS_BETWEEN - 1

    def note(self, seconds: float) -> None:
        """Note how long a call took, for a unit of work."""
        self._total += seconds
        self._most = max(self._most, seconds)
        self._calls += 1
        if self._calls < (TRIAL_CALLS if self._trial else BLOCK_CALLS):
            return
        mean = (self._total - self._most) / (self._calls - 1)
        self._total, self._most, self._calls = 0.0, 0.0, 0
        if self._trial:
            self._trial, self._blocks = False, 0
            if mean >= (self._before if self.many else WORTH_LEAVING * self._before):
                self.many = not self.many
                return
        else:
            self._blocks += 1
            slower = self._before and mean > MUCH_SLOWER * self._before
            if slower or self._blocks >= BLOCKS_BETWEEN:
                self._trial, self.many = True, not self.many
        self._before = mean


_CHOICES: dict[tuple[int, int, int, int], Choice] = {}


# Threads claim the parts of a record by an atomic counter, its first field, so any number of them
# can run on the same record. Torch's own thread pool is used: its threads have just finished a
# torch operation and wait for the next one actively, so they begin at once, and there are never
# more threads than cores. `GOMP_parallel` is the function that GNU's compilers call for
# ``#pragma omp parallel``. Where torch is built with another OpenMP, on macOS and Windows, a
# separate thread pool is used, whose threads the operating system has to wake each time.


def _run_on_threads(entry: Any, record: int, threads: int) -> None:
    """Call ``entry(record)`` in this thread and in ``threads - 1`` others, and wait for all."""
    parallel = _gomp_parallel()
    if threads == 1:
        entry(record)
    elif parallel is not None:
        parallel(entry, record, threads, 0)
    else:
        pool = _own_thread_pool(os.getpid(), threads)
        others = [pool.submit(entry, record) for _ in range(threads - 1)]
        entry(record)
        wait(others)  # they write into memory of this call


def on_all_threads(call: Callable[[], Any]) -> bool:
    """Call a function in each thread that torch and the kernels compute with; wait for all.

    Returns
    -------
    bool
        Whether there was a way to do that; else nothing was called. With one thread there always
        is, with several where they are those of GNU OpenMP.

    Examples
    --------
    >>> import threading
    >>> seen = set()
    >>> on_all_threads(lambda: seen.add(threading.get_ident())) and threading.get_ident() in seen
    True
    """
    threads, parallel = torch.get_num_threads(), _gomp_parallel()
    if threads == 1:
        call()
    elif parallel is None:
        return False
    else:
        in_thread = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: call())
        parallel(in_thread, 0, threads, 0)
    return True


def _keep_freed_memory() -> None:
    """Set glibc's allocator to keep freed memory for the next step, in the whole process.

    By default glibc returns the memory of a large network's activations to the system after every
    step and gets it again in the next, page by page: 1000 page faults in a step of
    3072-4000-1000-4000-10, batch 128, an eighth of its time. There is no difference for networks
    whose activations take less than a few megabytes.

    Effect on the process: up to 256 MB of freed memory are kept, and allocations of up to 32 MB
    come from the heap, so that memory freed between allocations in use is not returned either.
    Called once, when the first compiled kernel runs. Nothing is changed where the user has set
    ``MALLOC_TRIM_THRESHOLD_`` or ``MALLOC_MMAP_THRESHOLD_`` in the environment, or without glibc.
    """
    if any(name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(_M_MMAP_THRESHOLD, LARGEST_FROM_HEAP)


@cache
def _gomp_parallel() -> Any:
    """Return the function of torch's GNU OpenMP that runs a function on all threads, or None."""
    for path in sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*")):
        try:
            call = ctypes.CDLL(str(path)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        call.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint, ctypes.c_uint]
        call.restype = None
        return call
    return None


@cache
def _own_thread_pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Return a thread pool of this process (a fork needs its own); kernels release the GIL."""
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="topokit-kernel")


@cache
def _entry(item_bytes: int) -> Any:
    """Return the compiled function of `topokit.nn.kernels.cpu` as one that ctypes can call."""
    from topokit.nn.kernels.cpu import compiled

    if not any(Path(__file__).parent.glob("__pycache__/cpu.*.nbi")):
        _log.info("compiling the sparse kernels: some seconds, once per machine")
    _keep_freed_memory()
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(compiled(item_bytes))
