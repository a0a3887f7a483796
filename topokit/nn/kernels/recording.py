"""Work on a graphics card that is recorded once, as a CUDA graph, and replayed from then on.

`topokit.experiments.captured` records training steps, `topokit.nn.rewiring` decisions. What is
recorded must not wait for the device nor bring anything to it, and a replay reads and writes the
same memory as the recorded call.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

__all__ = ["CudaGraphs", "Graphs", "Recorded", "copy_all", "graphs_of"]

_log = logging.getLogger("topokit.nn")

Tensors = list[torch.Tensor]


class Graphs(Protocol):
    """How work on a device is recorded."""

    def apart(self, call: Callable[[], Any]) -> Any:
        """Call a function where recording may follow it, and return its result."""

    def record(
        self, call: Callable[[], None], generators: Sequence[torch.Generator]
    ) -> Callable[[], None]:
        """Record what a function does on the device, without doing it; return what replays it."""


class CudaGraphs:
    """Recording by CUDA graphs, in a stream of its own as torch asks for.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def apart(self, call: Callable[[], Any]) -> Any:
        """Call a function in the stream that records; the others wait for it, also if it fails."""
        others = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(others)
        try:
            with torch.cuda.stream(self.stream):
                return call()
        finally:
            others.wait_stream(self.stream)

    def record(
        self, call: Callable[[], None], generators: Sequence[torch.Generator]
    ) -> Callable[[], None]:
        """Record a function that draws from some generators, or from none.

        What replays it holds the function, and so the memory that the recorded work uses.
        """
        with torch.cuda.device(self.device), _uncollected():
            graph = torch.cuda.CUDAGraph()
            for generator in generators:
                if generator.device.type == self.device.type:
                    graph.register_generator_state(generator)  # takes memory of the current device
            before = torch.cuda.current_stream()
            try:
                with torch.cuda.graph(graph, stream=self.stream):
                    call()
            finally:
                torch.cuda.set_stream(before)  # torch leaves the other one where recording fails

        def replay(held: Callable[[], None] = call) -> None:
            graph.replay()

        return replay


@contextmanager
def _uncollected() -> Iterator[None]:
    """Let Python not look for cycles.

    One of those that it frees may hold a recording, as an engine that nobody has detached does, and
    a recording that ends while another is made ends that one too.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def graphs_of(device: torch.device) -> Graphs | None:
    """Return how steps are recorded on a device; None where they are not, as on the CPU.

    Examples
    --------
    >>> graphs_of(torch.device("cpu")) is None
    True
    """
    return CudaGraphs(device) if device.type == "cuda" else None


def copy_all(into: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> None:
    """Copy tensors into others of the same sizes; one launch for all of a number type.

    Examples
    --------
    >>> ours = [torch.zeros(2), torch.zeros(1, dtype=torch.bool)]
    >>> copy_all(ours, [torch.ones(2), torch.ones(1, dtype=torch.bool)])
    >>> ours
    [tensor([1., 1.]), tensor([True])]
    """
    kinds: dict[Any, tuple[Tensors, Tensors]] = {}
    for own, other in zip(into, others, strict=True):
        pair = kinds.setdefault((own.dtype, other.dtype), ([], []))
        pair[0].append(own)
        pair[1].append(other)
    for ours, theirs in kinds.values():
        torch._foreach_copy_(ours, theirs)


class Recorded:
    """A function of tensors of certain sizes that is recorded when it is called again.

    The first call with a key is made as usual, which compiles kernels and sets up libraries, the
    second records, and further ones replay. One key is kept.

    Parameters
    ----------
    graphs : Graphs, optional
        Without it nothing is recorded, and no function is kept.

    Attributes
    ----------
    why : str
        Why nothing is recorded although it could be; "" otherwise.

    Examples
    --------
    >>> twice = Recorded(None)
    >>> twice("double", lambda: lambda x: [2 * x], [torch.ones(2)])
    [tensor([2., 2.])]
    """

    def __init__(self, graphs: Graphs | None) -> None:
        self.graphs, self.why = graphs, ""
        self._key: Hashable = None
        self._function: Any = None
        self._made: Any = None  # memory of the inputs, that of the results, and what replays

    def __call__(
        self, key: Hashable, make: Callable[[], Callable[..., Tensors]], inputs: Tensors
    ) -> Tensors:
        """Return what a function returns for some tensors, in memory of its own.

        Parameters
        ----------
        key : hashable
            Equal keys stand for functions that do the same, of inputs of the same sizes and types.
        make : callable
            Returns the function, from tensors to a list of them; called where none is kept. It must
            not hold memory that is written to elsewhere.
        inputs : list of tensor
        """
        if self.graphs is None or self.why:
            return make()(*inputs)
        if key != self._key:
            self._key = self._function = self._made = None  # its memory, before new is taken
            function = make()
            results = self.graphs.apart(lambda: function(*inputs))
            self._key, self._function = key, function  # not where it failed: it is not set up then
            return results
        function = self._function
        if self._made is None:
            try:
                self._made = _record(self.graphs, function, inputs)
            except RuntimeError as error:
                first = str(error).partition("\n")[0]
                self.why = f"torch could not record it ({first})"
                self._key = self._function = None
                _log.warning("rewirings are launched one by one: %s", self.why)
                return function(*inputs)
        own, results, replay = self._made
        copy_all(own, inputs)
        replay()
        copies = [torch.empty_like(each) for each in results]
        copy_all(copies, results)
        return copies


def _record(graphs: Graphs, function: Callable[..., Tensors], inputs: Tensors) -> Any:
    """Return memory for the inputs of a function, that of its results, and what replays it."""
    own = [each.clone() for each in inputs]
    results: Tensors = []

    def call() -> None:
        results[:] = function(*own)

    replay = graphs.record(call, ())
    return own, results, replay
