"""Several processes that train one model: they agree on every rewiring.

The process of rank 0 sees the whole batch and decides; every process applies the same changes.
Works with ``torch.nn.parallel.DistributedDataParallel`` and with gradients that a loop reduces
itself (`reduce_gradients`). Models whose parameters are divided among processes are refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import hashlib
import inspect
import itertools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn

from topokit.graph import EdgeUpdate, LayerGraph
from topokit.nn.layers import EdgeLayer, sparse_layers
from topokit.nn.wrappers import (
    WRAPPER,
    bare,
    check_torch,
    fit_wrappers,
    keep_graphs_local,
    make_reducer,
    refuse_join,
    with_state,
)

__all__ = ["Processes", "reduce_gradients"]

T = TypeVar("T")
E = TypeVar("E", bound=Any)
P = ParamSpec("P")
Changes = dict[str, tuple[EdgeUpdate, NDArray[Any]]]

DIVIDED = ("FullyShardedDataParallel", "FSDPModule", "DTensor")


class Processes:
    """The processes that train one model together, as seen from one of them.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        By default all processes.
    gradients : {"mean", "sum"}
        How the gradients of the processes are combined before a step: ``"mean"`` under
        DistributedDataParallel. Captured gradients of the loss are scaled alike, so that rules see
        the gradient that the optimizer uses.

    Attributes
    ----------
    rank, size : int
        This process's number in the group, from 0, and how many there are.

    Raises
    ------
    ValueError
        If this process is not in the group.

    Notes
    -----
    All methods are collective: every process of the group has to call them, in the same order. If
    another process has ended, they raise a ConnectionError.

    Tested with gloo on the CPU. With NCCL the same calls exchange pickled arrays through the
    current CUDA device; that path has not been tested.
    """

    def __init__(self, group: Any = None, *, gradients: str = "mean") -> None:
        if gradients not in ("mean", "sum"):
            raise ValueError(f'expected gradients of "mean" or "sum", got {gradients!r}')
        self.group = dist.group.WORLD if group is None else group
        self.rank, self.size = dist.get_rank(self.group), dist.get_world_size(self.group)
        if self.rank < 0:
            raise ValueError("expected a process group that has this process, got another one")
        self.share = 1.0 / self.size if gradients == "mean" else 1.0
        self.wrapper: WRAPPER | None = None
        self._found: list[WRAPPER] | None = None
        self._root = dist.get_global_rank(self.group, 0)  # type: ignore[arg-type]  # stub lacks None

    @property
    def first(self) -> bool:
        """Whether this is the process that decides."""
        return self.rank == 0

    def wrappers(self, layers: Iterable[EdgeLayer]) -> list[WRAPPER]:
        """Return the DistributedDataParallel models that contain any of the layers.

        Not collective. A layer does not know what wraps it, and a model may be wrapped before or
        after `attach`. So unless `attach` was given the wrapped model, the objects of this process
        are searched: 0.1 s for a million of them.
        """
        if self.wrapper is not None:
            return [self.wrapper]
        wanted = {id(layer) for layer in layers}
        things = gc.get_objects()
        # No Python code runs for each object.
        kinds = {kind for kind in set(map(type, things)) if WRAPPER in kind.__mro__}
        found = itertools.compress(things, map(kinds.__contains__, map(type, things)))
        return [model for model in found if any(id(m) in wanted for m in model.modules())]

    def from_first(self, value: T) -> T:
        """Return the value that the first process gave."""
        box = [value if self.first else None]
        with _answered():
            dist.broadcast_object_list(box, src=self._root, group=self.group)
        return value if self.first else box[0]  # type: ignore[return-value]  # filled

    def to_first(self, value: T) -> list[T]:
        """Return the values of all processes at the first one, and an empty list at the others."""
        values: Any = [None] * self.size if self.first else None
        with _answered():
            dist.gather_object(value, values, dst=self._root, group=self.group)
        return values or []

    def of_all(self, value: T) -> list[T]:
        """Return the values of all processes."""
        values: Any = [None] * self.size
        with _answered():
            dist.all_gather_object(values, value, group=self.group)
        return values

    def together(self, call: Callable[[], T]) -> T:
        """Call a function in every process; if one raises an error, all do."""
        result: Any = None
        failure: Exception | None = None
        try:
            result = call()
        except Exception as error:
            failure = error
        told = self.of_all(None if failure is None else _told(failure))
        if failure is not None:
            raise failure
        for rank, text in enumerate(told):
            if text is not None:
                raise ValueError(f"process {rank} of {self.size}: {text}")
        return result

    def decided(self, call: Callable[[], T]) -> T:
        """Return what a function returns in the first process, which alone calls it.

        If it raises an error there, every process raises one.
        """
        result: Any = None
        failure: Exception | None = None
        if self.first:
            try:
                result = call()
            except Exception as error:
                failure = error
        text, shared = self.from_first((None if failure is None else _told(failure), result))
        if failure is not None:
            raise failure
        if text is not None:
            raise ValueError(f"process 0 of {self.size}: {text}")
        return result if self.first else shared

    def check_equal(self, what: str, parts: Mapping[str, str], hint: str) -> None:
        """Raise a ValueError in every process unless all have the same texts.

        Parameters
        ----------
        what : str
            What the processes should have in common, for the message.
        parts : mapping of str to str
            A digest or description for each part, by its name.
        hint : str
            What to do about a difference.
        """
        every = self.of_all(dict(parts))
        for rank, other in enumerate(every):
            if other != every[0]:
                names = [n for n in {**every[0], **other} if every[0].get(n) != other.get(n)]
                raise ValueError(
                    f"expected {what} to be the same in all {self.size} processes, but those of "
                    f"process {rank} and process 0 differ in {', '.join(names)}; {hint}"
                )

    def gathered(self, batch: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return the whole batch's captured arrays at the first process, nothing at the others.

        Parameters
        ----------
        batch : mapping of layer name to mapping of name to (samples, units) array
            What this process captured of its part. ``output_grad`` is scaled so that the gradient
            is that of the combined loss.
        """
        every = self.to_first({name: dict(arrays) for name, arrays in batch.items()})
        names = dict.fromkeys(name for part in every for name in part)
        whole: dict[str, dict[str, Any]] = {}
        for name in names:
            parts = [part[name] for part in every if name in part]
            keys = [key for key, entry in parts[0].items() if isinstance(entry, np.ndarray)]
            whole[name] = {key: np.concatenate([part[key] for part in parts]) for key in keys}
            if "output_grad" in whole[name]:
                gradient = whole[name]["output_grad"]
                whole[name]["output_grad"] = gradient * gradient.dtype.type(self.share)
        return whole

    def mean(self, value: float | None) -> float | None:
        """Return the mean of the processes' numbers; those that give None are left out."""
        given = [number for number in self.of_all(value) if number is not None]
        return float(np.mean(given)) if given else None

    def summed(self, tensor: torch.Tensor) -> torch.Tensor:
        """Add up a tensor over the processes, in place, and return it."""
        with _answered():
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def agree(
        self, layers: Mapping[str, EdgeLayer], decide: Callable[[], Changes], rng: Any
    ) -> tuple[Changes, Any]:
        """Return the changes that the first process decides on, and its random stream after it.

        Only dropped positions, grown edges and their values travel: O(edges moved).

        Raises
        ------
        ValueError
            If graphs or values differ between the processes, or the rule fails.
        """
        if self._found is None:  # only now: the model may have been wrapped since `attach`
            self._found = self.wrappers(layers.values())
        refuse_join(self._found)
        self.check_equal("graphs and weights", edges_of(layers), UNEQUAL)
        changes: Changes = {}

        def compact() -> Any:
            changes.update(decide())
            return {name: _compact(*change) for name, change in changes.items()}, rng

        moves, stream = self.decided(compact)
        if self.first:
            return changes, rng
        return {name: _expanded(layers[name], move) for name, move in moves.items()}, stream


UNEQUAL = (
    "wrap the model in DistributedDataParallel, or reduce the gradients before each step with "
    "topokit.nn.distributed.reduce_gradients; process_group=None trains each process's model on "
    "its own"
)
UNEQUAL_START = (
    "make them from the same seed or load the same checkpoint (DistributedDataParallel copies the "
    "weights of process 0 if the model is wrapped before attach); process_group=None trains each "
    "process's model on its own"
)


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    """Say in words that another process does not answer."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            "another process of this training has ended or does not answer; see its own message"
        ) from error


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


def _compact(update: EdgeUpdate, values: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Return positions dropped, edge ids grown and the grown edges' values."""
    kept = np.zeros(update.before.n_edges, bool)
    kept[update.source[~update.grown]] = True
    return np.flatnonzero(~kept), update.after.edge_ids[update.grown], values[update.grown]


def _expanded(layer: EdgeLayer, move: tuple[NDArray[Any], ...]) -> tuple[EdgeUpdate, NDArray[Any]]:
    """Undo `_compact` for a layer with the same graph and values."""
    dropped, grown, start = move
    update = EdgeUpdate.from_decisions(layer.graph, dropped, grown)
    values = update.carry(layer.view().values)
    values[update.grown] = start
    return update, values


def edges_of(layers: Mapping[str, EdgeLayer]) -> dict[str, str]:
    """Return a digest of each layer's graph and values."""
    return {name: digest((layer.graph, layer.values.detach())) for name, layer in layers.items()}


def digest(value: Any) -> str:
    """Return a short text that is the same in every process for equal values.

    Arrays, tensors, containers, dataclasses and graphs are compared by content; functions by their
    code, defaults and the variables they enclose; random generators not at all.
    """
    state = hashlib.blake2b(digest_size=12)
    _feed(state.update, value, {})
    return state.hexdigest()


def _feed(add: Callable[[bytes], None], value: Any, seen: dict[int, Any]) -> None:
    """Add a value to a digest; objects met before, which `seen` keeps alive, are left out."""
    add(type(value).__qualname__.encode())
    if value is None or isinstance(value, str | bytes | bool | int | float | complex | np.generic):
        add(repr(value).encode())
        return
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        add(str(value.dtype).encode())
        value = value.reshape(-1).view(torch.uint8).numpy() if value.numel() else np.empty(0)
    if isinstance(value, np.ndarray) and value.dtype != object:
        add(f"{value.dtype}{value.shape}".encode())
        add(np.ascontiguousarray(value).tobytes())
        return
    if isinstance(value, LayerGraph):
        add(repr((value.shape, hash(value))).encode())
        return
    if id(value) in seen or isinstance(value, np.random.Generator | torch.Generator):
        return
    seen[id(value)] = value
    for part in _parts_of(value):
        _feed(add, part, seen)


def _parts_of(value: Any) -> Iterable[Any]:
    """Return the values by which objects other than arrays and single values are compared."""
    if isinstance(value, Mapping):
        return [item for pair in value.items() for item in pair]
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, types.FunctionType):
        cells = inspect.getclosurevars(value).nonlocals
        code = value.__code__.co_code
        return (value.__module__, value.__qualname__, code, value.__defaults__,
                value.__kwdefaults__, cells)  # fmt: skip
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    name = getattr(value, "__qualname__", "")
    if isinstance(value, type | types.ModuleType):
        return (name,)
    return name, getattr(value, "__dict__", {})


def processes_of(
    model: nn.Module, group: Any = "world", gradients: str = "mean"
) -> Processes | None:
    """Return the processes that train a model together, None if this one trains alone.

    Parameters
    ----------
    model : torch.nn.Module
    group : torch.distributed.ProcessGroup, None or "world"
        None: this process alone. ``"world"``: the group of the model's DistributedDataParallel, if
        it is one, else all processes.
    gradients : {"mean", "sum"}
        As for `Processes`.
    """
    if group is None or not (dist.is_available() and dist.is_initialized()):
        return None
    if isinstance(group, str):
        if group != "world":
            raise ValueError(f'expected a process group, None or "world", got {group!r}')
        group = getattr(model, "process_group", None) if bare(model) is not model else None
    processes = Processes(group, gradients=gradients)
    processes.wrapper = model if isinstance(model, WRAPPER) else None
    return processes if processes.size > 1 else None


def refuse_divided(model: nn.Module) -> None:
    """Raise a ValueError if parameters are divided among processes.

    Types are compared by name, so that nothing is imported.
    """
    for part in (*model.modules(), *model.parameters()):
        kinds = {kind.__name__ for kind in type(part).__mro__}
        found = next((name for name in DIVIDED if name in kinds), None)
        if found is not None:
            raise ValueError(
                f"expected a model whose parameters every process has in full, got {found}: fully "
                "sharded and tensor-parallel models cannot be rewired; use DistributedDataParallel"
            )
        if "DataParallel" in kinds and len(getattr(part, "device_ids", ())) > 1:
            raise ValueError(
                "expected one model in each process, got torch.nn.DataParallel, whose copies "
                "cannot be rewired; use DistributedDataParallel"
            )


class Member:
    """What an engine has in common with those of other processes: part of `topokit.nn.engine`."""

    _processes: Processes | None = None

    def join(self: Any, processes: Processes | None) -> None:
        """Rewire together with other processes, each of which calls this with an equal engine.

        The first process decides; its random stream counts.

        Raises
        ------
        ValueError
            In every process, if graphs, weights, optimizers, rules or options differ.
        """
        if processes is None:
            return
        settings = {"rule": self.rule, "options": (self.options, self.total, self.epoch_steps)}
        data = self._data
        try:
            data.samples, self.rng = agree_at_start(
                processes, self.model, self.optimizers, settings, data.samples, self.rng
            )
        except BaseException:
            self.detach()
            raise
        self._processes = data.processes = processes

    @property
    def _decides(self) -> bool:
        """Whether this process decides, alone or for all."""
        return self._processes is None or self._processes.first

    def _agreed(self: Any, decide: Callable[[], Changes]) -> Changes:
        """Return the changes that this process, or the first of several, decides on."""
        if self._processes is None:
            return decide()
        changes, self.rng = self._processes.agree(self._layers, decide, self.rng)
        return changes

    def _fit_wrappers(self: Any, changes: Changes) -> None:
        """Make DistributedDataParallel expect the layers' new numbers of edges."""
        resized = [n for n, (update, _) in changes.items() if update.n_grown != update.n_dropped]
        if self._processes is not None and resized:
            fit_wrappers(self._processes.wrappers(self._layers[n] for n in resized), resized)


def in_all_processes(make: Callable[P, E]) -> Callable[P, E]:
    """Let a function that makes an engine do so in all processes, or fail in all of them."""

    @functools.wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> E:
        model: Any = args[0] if args else kwargs.get("model")
        options: Any = {"process_group": "world", "gradients": "mean", **kwargs}
        processes = processes_of(model, options["process_group"], options["gradients"])
        if processes is None:
            return make(*args, **kwargs)
        engine = processes.together(lambda: make(*args, **kwargs))
        engine.join(processes)
        return engine

    return call


@contextlib.contextmanager
def without_reducing(layers: Iterable[EdgeLayer], processes: Processes | None) -> Iterator[None]:
    """Run a backward pass whose gradients DistributedDataParallel does not reduce."""
    with contextlib.ExitStack() as stack:
        for wrapper in [] if processes is None else processes.wrappers(layers):
            stack.enter_context(wrapper.no_sync())
        yield


def agree_at_start(
    processes: Processes,
    model: nn.Module,
    optimizers: Iterable[torch.optim.Optimizer],
    settings: Mapping[str, Any],
    samples: torch.Tensor | None,
    rng: np.random.Generator,
) -> tuple[torch.Tensor | None, np.random.Generator]:
    """Check that processes start alike; return the samples and the random stream to use.

    The stream is the first process's; another one's own stream is never touched. If the processes
    gave different samples (each those of its part of the data), the first gets all of them.
    """
    layers = sparse_layers(model)
    own = {id(layer.values) for layer in layers.values()}
    parts = {
        **edges_of(layers),
        "other parameters": digest([p for p in model.parameters() if id(p) not in own]),
        "optimizer": digest([(type(each), each.state_dict()) for each in optimizers]),
        **{name: digest(setting) for name, setting in settings.items()},
        "samples": digest(samples is None),
    }
    processes.check_equal("graphs, weights, optimizer, rule and options", parts, UNEQUAL_START)
    wrappers = processes.wrappers(layers.values())
    for wrapper in wrappers:
        check_torch(wrapper)
    keep_graphs_local(wrappers, model, layers)
    for wrapper in wrappers:
        if not with_state(wrapper):
            make_reducer(wrapper)  # weights of other sizes may have been loaded
    if samples is not None and len({*processes.of_all(digest(samples))}) > 1:
        every = processes.to_first(samples.cpu())
        samples = torch.cat(every).to(samples.device) if every else samples
    return samples, processes.from_first(rng)


def reduce_gradients(
    parameters: nn.Module | Iterable[torch.Tensor], *, group: Any = None, average: bool = True
) -> None:
    """Combine the gradients of all processes, after ``backward`` and before the optimizer's step.

    For loops without DistributedDataParallel. A parameter that has a gradient in some processes
    only counts as 0 in the others; one that has none anywhere stays without.

    Parameters
    ----------
    parameters : torch.nn.Module or iterable of torch.Tensor
        The same in every process.
    group : torch.distributed.ProcessGroup, optional
        By default all processes.
    average : bool
        Divide the sum by the number of processes, as DistributedDataParallel does. With False, let
        each process scale the loss of its part by ``len(part) / len(batch)``: the result is then
        the gradient of the whole batch's mean loss also for parts of unequal length. Tell
        `topokit.attach` by its argument `gradients`.

    Raises
    ------
    ConnectionError
        If another process has ended.

    Notes
    -----
    One exchange for each dtype and device, O(parameters) in memory and time. It does not overlap
    with the backward pass, as that of DistributedDataParallel does.

    Examples
    --------
    >>> weight = nn.Parameter(torch.ones(2))
    >>> weight.sum().backward()
    >>> if dist.is_initialized():
    ...     reduce_gradients([weight])
    """
    every = parameters.parameters() if isinstance(parameters, nn.Module) else parameters
    kinds: dict[tuple[Any, Any], list[torch.Tensor]] = {}
    for parameter in every:
        if parameter.requires_grad:
            kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    factor = 1.0 / dist.get_world_size(group) if average else 1.0
    for alike in kinds.values():
        has = alike[0].new_tensor([0.0 if p.grad is None else 1.0 for p in alike])
        pieces = [
            (torch.zeros_like(p) if p.grad is None else p.grad).detach().reshape(-1) for p in alike
        ]
        flat = torch.cat([has, *pieces])
        with _answered():
            dist.all_reduce(flat, group=group)
        known, *sums = flat.split([len(alike), *(p.numel() for p in alike)])
        for parameter, somewhere, total in zip(alike, known.tolist(), sums, strict=True):
            if somewhere:
                gradient = total.mul_(factor).view_as(parameter)
                if parameter.grad is None:
                    parameter.grad = gradient.clone()
                else:
                    parameter.grad.copy_(gradient)
