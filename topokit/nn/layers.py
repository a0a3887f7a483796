"""Sparse layers: parameters on the edges of a graph, which can be replaced while training."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Mapping
from operator import is_
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from topokit.graph import EdgeUpdate, LayerGraph, check_per_edge, same_edges
from topokit.nn.captures import Call, Calls
from topokit.nn.kernels import (
    KERNEL_CHOICES,
    Edges,
    choose_kernel,
    edge_product,
)
from topokit.nn.kernels.graphs import renew, tensors_of
from topokit.nn.kernels.ops import array_of, composed, dense_weight, uncompiled
from topokit.nn.kernels.products import EdgeIndex
from topokit.nn.kinds import Weight, check_module, graph_of, not_written, read_only
from topokit.nn.optimizer_state import carry_state, tensor_of
from topokit.rules.init import INITS
from topokit.rules.rewire import LayerView
from topokit.tables import as_generator, choose

__all__ = [
    "EdgeLayer",
    "INITS",
    "SparseLinear",
    "explain_kernel",
    "initial_values",
    "sparse_layers",
    "sparse_or_dense",
]


class EdgeLayer(nn.Module):
    """The base class of sparse layers: parameters on the edges of a graph.

    The graph is held in the buffers ``indptr``, ``indices`` and ``shape``, so it is part of the
    ``state_dict``, and loading a state replaces it. Subclasses call `_set_graph` in their
    constructor.

    Torch's tools work with a layer as with its own: ``torch.compile``, also with
    ``fullgraph=True``, ``torch.export``, ``torch.jit.trace``, ``functional_call`` and the
    transformations of ``torch.func``. Gradients can be differentiated again; forward-mode
    differentiation (``jvp``, ``jacfwd``) is possible once. The graph's buffers are inputs of a
    compiled program, so it follows every rewiring; it is compiled again when the number of edges
    changes, until torch's ``recompile_limit`` is reached (it then says so and goes on uncompiled,
    or with ``fullgraph=True`` raises an error; with
    ``torch._dynamo.config.force_parameter_static_shapes = False`` one program serves all), and
    while `capture` is on it breaks after the layer. Parameters and buffers stay the same objects at
    a rewiring, so traced and exported programs and dictionaries for ``functional_call`` follow,
    too. ``torch.onnx.export`` writes values and graph, from which the program makes the dense
    weight. ``torch.jit.script`` takes the dense copy that `topokit.densify` makes.
    """

    values: nn.Parameter
    bias: nn.Parameter | None
    indptr: torch.Tensor
    indices: torch.Tensor
    shape: torch.Tensor
    calls: Calls | None = None  # what goes through the layer, while `capture` is on
    _engine: weakref.ref[Any] | None = None  # the engine that rewires the layer
    groups: int = 1

    def _set_graph(
        self, graph: LayerGraph, values: torch.Tensor, *, bias: bool, kernel: str
    ) -> None:
        """Register a graph with its values, and a bias of zeros if `bias`."""
        if kernel not in KERNEL_CHOICES:
            raise ValueError(f"expected a kernel of {', '.join(KERNEL_CHOICES)}, got {kernel!r}")
        self.kernel = kernel
        self.values = nn.Parameter(values)
        self.bias = nn.Parameter(torch.zeros(graph.n_out, dtype=values.dtype)) if bias else None
        for name, buffer in _buffers(graph, "cpu").items():
            self.register_buffer(name, buffer)
        self._graph_shape = graph.shape
        self._index: tuple[Any, Any, EdgeIndex] | None = None

    @property
    def index(self) -> EdgeIndex:
        """The graph and the arrays that kernels derive from it; rebuilt when a buffer changes.

        Raises
        ------
        ValueError
            If other edges were written into the buffers. Code that copies buffers from model to
            model, as averages of weights do, leaves values there that belong to other edges.
        """
        stored = self._buffers
        stamp = _stamp(stored)
        known = self._index
        if known is not None and known[0] == stamp:
            return known[2]
        held = tuple(stored.values())  # keeps the identities in the stamp from being reused
        written = known is not None and all(map(is_, held, known[1]))
        try:
            index = EdgeIndex(_graph_of(self.indptr, self.indices, self.shape, self.groups))
        except ValueError as error:
            raise ValueError(_OVERWRITTEN) if written else error from None
        if written and known is not None:
            if not same_edges(index.graph, known[2].graph):
                raise ValueError(_OVERWRITTEN)
            index = known[2]
        self._index = (stamp, held, index)
        return index

    def _rewired_by(self) -> Any:
        """Return the engine that rewires the layer, or None."""
        return None if self._engine is None else self._engine()

    def _note_graph(self) -> None:
        """Read the graph from the buffers now, so that later writes into them are noticed."""
        self._index = None
        if all(type(b) is torch.Tensor and b.device.type != "meta" for b in self._buffers.values()):
            with contextlib.suppress(ValueError):  # a damaged graph is an error when it is used
                _ = self.index

    @property
    def edges(self) -> EdgeIndex | Edges:
        """The graph as `topokit.nn.kernels.edge_product` needs it in the present context.

        That is `index`; or the buffers themselves where torch follows the computation, so that a
        compiled program or a transformation has them as inputs.
        """
        if composed(self.values):
            return Edges(self.indptr, self.indices, *self._graph_shape, self.indices.shape[-1])
        return self.index

    @property
    def graph(self) -> LayerGraph:
        """The layer's graph; `replace_graph` sets another one."""
        return self.index.graph

    @property
    def n_in(self) -> int:
        """Number of input units."""
        return self._graph_shape[1]

    @property
    def n_out(self) -> int:
        """Number of output units."""
        return self._graph_shape[0]

    @property
    def nnz(self) -> int:
        """Number of edges, those of value zero included."""
        return self.indices.shape[-1]

    @property
    def density(self) -> float:
        """Edges over possible edges, those within the groups, as of the layer's graph."""
        possible = self.n_out * self.n_in // self.groups
        return self.nnz / possible if possible else math.nan

    @property
    def capture(self) -> bool:
        """Whether what goes through the layer is kept for a rule: see `topokit.nn.captures`."""
        return self.calls is not None

    @capture.setter
    def capture(self, on: bool) -> None:
        if bool(on) != self.capture:
            self._keep_calls(Calls() if on else None)

    def _keep_calls(self, calls: Calls | None) -> None:
        if self.calls is not None:
            self.calls.close()
        self.calls = calls
        self._listen()

    def _listen(self) -> None:
        """Have captures notice gradients of the present values."""
        if self.calls is not None:
            self.calls.listen(self._parameters.get("values"))

    def keep(self, name: str, activations: torch.Tensor) -> None:
        """Keep a batch of activations for `view` if `capture` is on.

        Models call this with the name ``"outputs"`` after the activation function, which replaces
        the outputs that the layer itself has kept.
        """
        if self.calls is not None and self.calls.last is not None:
            setattr(self.calls.last, name, activations.detach())

    @uncompiled
    def _record(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Keep inputs, outputs and, after the backward pass, the gradient of the outputs.

        Returns the outputs; a copy of a view, as no gradient comes to a view changed in place.
        """
        if self.calls is not None:
            y = y.clone() if y._is_view() else y
            self.calls.record(self.values, x, y)
        return y

    def view(self) -> LayerView:
        """Return the data a rule can read: numpy arrays, what was captured as (samples, units).

        Captured are all calls of the layer whose gradient has been added to that of the values; or
        if there are none, the last call.
        """
        arrays: dict[str, Any] = {name: x.cpu().numpy() for name, x in self.captured().items()}
        values = array_of(_known(self.values))  # a copy: steps change the layer's own
        return LayerView(self.graph, values, **arrays)

    def captured(self) -> dict[str, torch.Tensor]:
        """Return what was captured, as `view` does, where it is; bfloat16 as float32."""
        found = {}
        calls = [] if self.calls is None else self.calls.shown()
        sides = {"inputs": self.n_in, "outputs": self.n_out, "output_grad": self.n_out}
        for name, width in sides.items():
            parts = [getattr(call, name) for call in calls]
            if parts and all(part is not None for part in parts):
                flat = [_known(self._samples(name, call)).reshape(-1, width) for call in calls]
                found[name] = flat[0] if len(flat) == 1 else torch.cat(flat)
        return found

    def _samples(self, name: str, call: Call) -> torch.Tensor:
        """Return what was captured of a call in the form (..., units)."""
        return getattr(call, name)

    def replace_graph(
        self,
        update: EdgeUpdate,
        values: NDArray[Any] | torch.Tensor,
        optimizer: torch.optim.Optimizer | list[Any] | None = None,
        *,
        grown_state: str | Mapping[str, str] = "neutral",
    ) -> None:
        """Replace the graph by ``update.after``, with new values and carried optimizer state.

        The parameter and the buffers stay the same objects, so that programs and dictionaries that
        hold them have the new graph with its values. In every per-edge tensor of the parameter's
        optimizer state, kept edges keep their entries bit for bit. The gradient and the captured
        batch are discarded.

        Parameters
        ----------
        update : EdgeUpdate
            ``update.before`` must have this layer's edges.
        values : (update.after.n_edges,) array or tensor
        optimizer : torch.optim.Optimizer or list, optional
            The optimizer that holds the values, or several with their wrappers. If it is not given,
            its state keeps the old number of edges and no longer fits.
        grown_state : {"neutral", "zero"} or mapping
            What grown edges get there: see `topokit.nn.optimizer_state.carry_state`.

        Raises
        ------
        ValueError
            If edges or counts do not match.

        Notes
        -----
        O(n_edges).
        """
        if not same_edges(update.before, self.graph):
            raise ValueError(f"expected an update of {self.graph}, got one of {update.before}")
        if update.after.groups != self.groups:
            after = update.after
            after = LayerGraph(after.shape, after.indptr, after.indices, self.groups)
            update = EdgeUpdate(update.before, after, update.source)
        values = tensor_of(values)
        check_per_edge(update.after, values, layer="the new graph")
        if optimizer is not None:
            carry_state(optimizer, self.values, update, values, grown_state)
        self._exchange(values.to(self.values.device, self.values.dtype))
        indptr, indices = tensors_of(update.after, self.indices.device)
        self._renew_graph({"indptr": indptr, "indices": indices})
        held = tuple(self._buffers.values())
        self._index = (_stamp(self._buffers), held, EdgeIndex(update.after))
        self._keep_calls(None if self.calls is None else Calls())

    def _exchange(self, values: torch.Tensor) -> None:
        """Replace the parameter's data by a tensor of any length; the parameter object stays."""
        self.values.grad = None
        renew(self.values, values)

    def _renew_graph(self, buffers: dict[str, torch.Tensor]) -> None:
        """Replace the content of some buffers of the graph."""
        for name, new in buffers.items():
            held = self._buffers[name]
            if held is None or held.is_inference():
                setattr(self, name, new)
            else:
                renew(held, new)

    @torch.no_grad()
    def take(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Copy values from an (n_out, n_in / groups) weight at the layer's edges, and the bias."""
        ids = torch.from_numpy(self.graph.ids_in_groups).to(weight.device)
        self.values.copy_(weight.reshape(-1)[ids])
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)

    def reset_parameters(self) -> None:
        """Draw the values at the present edges again (He's normal) and set the bias to 0.

        As torch's own layers do, this draws from torch's global random numbers.
        """
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        with torch.no_grad():
            self.values.copy_(initial_values("he", self.graph, rng))
            if self.bias is not None:
                self.bias.zero_()
        if (engine := self._rewired_by()) is not None:
            engine.restarted(self)

    def as_trained(self, dense: Any) -> Self:
        """Take from a dense layer which parameters are trained, and the mode; return the layer."""
        self.values.requires_grad_(dense.weight.requires_grad)
        if self.bias is not None:
            self.bias.requires_grad_(dense.bias.requires_grad)
        return self.train(dense.training)

    def choose_kernel(self) -> tuple[str, str]:
        """Return the kernel in use and the reason in words."""
        values = self.values
        return choose_kernel(self.kernel, self.graph, values.device, dtype=values.dtype)

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight in torch's shape, a new tensor, for code that needs one.

        Gradients flow through it to the values. Writing to it, which could not reach them, is
        refused, and so is assigning another one. Within compiled functions and transformations of
        ``torch.func`` it is an ordinary tensor.
        """
        return read_only(self._weight())

    @weight.setter
    def weight(self, weight: Any) -> None:
        raise not_written("an assignment")

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter; one of the name of the dense weight is refused."""
        if name.startswith("weight"):  # torch.nn.utils.prune calls its own ``weight_orig``
            raise not_written("an assignment" if name == "weight" else f"a parameter {name!r}")
        super().register_parameter(name, param)

    def _weight(self) -> torch.Tensor:
        """Return the dense weight in torch's shape."""
        return self.to_dense()

    def to_dense(self) -> torch.Tensor:
        """Return the (n_out, n_in) weight matrix, zeros where no edge is: O(n_out * n_in)."""
        edges = self.edges
        if isinstance(edges, Edges):
            return dense_weight(self.values, edges)
        weight = self.values.new_zeros(self.n_out * self.n_in)
        return weight.scatter(0, edges.flat(weight.device), self.values).view(self._graph_shape)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Replace the graph by that of the state, then let torch copy (or assign) everything."""
        local_metadata, _strict, missing_keys, _unexpected_keys, error_msgs = args
        held = [name for name in self._parameters if name.startswith("values")] or ["values"]
        names = ("indptr", "indices", "shape", held[0])  # values_orig where they are pruned
        found = [name for name in names if prefix + name in state_dict]
        if found and len(found) < len(names):
            missing_keys.extend(prefix + name for name in names if name not in found)
            error_msgs.append(
                f"expected a graph and its values ({', '.join(names)}) at {prefix or 'the layer'}, "
                f"got {', '.join(found)} alone: values belong to the edges they were saved with"
            )
            return
        if all(isinstance(state_dict.get(prefix + name), torch.Tensor) for name in names):
            indptr, indices, shape, values = (state_dict[prefix + name] for name in names)
            try:
                graph = _graph_of(indptr, indices, shape, self.groups)
            except ValueError as error:
                error_msgs.append(f"the graph of {prefix or 'the layer.'}shape is damaged: {error}")
                return
            assigns = bool(local_metadata.get("assign_to_params_buffers"))
            if problem := self._why_not_loaded(graph, values, prefix, assigns):
                error_msgs.append(problem)
                return
            if (engine := self._rewired_by()) is not None:
                engine.loaded(self, graph, _known(values.detach()).cpu().numpy())
            if values.shape != self.values.shape and held == ["values"]:
                self._exchange(self.values.new_empty(graph.n_edges))
            self._renew_graph(_buffers(graph, self.indices.device))
            self._keep_calls(None if self.calls is None else Calls())
        self._index = None
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._listen()  # hooks stay behind where torch swaps tensors
        self._note_graph()

    def _why_not_loaded(
        self, graph: LayerGraph, values: torch.Tensor, prefix: str, assigns: bool
    ) -> str:
        """Return why the graph and the values of a state cannot be loaded here; "" if they can."""
        if graph.shape != self._graph_shape:
            return (
                f"expected a graph of shape {self._graph_shape} for "
                f"{prefix or 'the layer.'}shape, got {graph.shape}"
            )
        if values.shape != (graph.n_edges,):
            return (
                f"expected {graph.n_edges} edge values at {prefix}values, "
                f"got shape {tuple(values.shape)}"
            )
        if assigns and self._rewired_by() is not None:
            return (
                "expected assign=False for a model that an engine rewires, or its optimizer would "
                "keep the parameters of before"
            )
        return ""

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        _ = self._index and self.index
        super()._save_to_state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        _ = self._index and self.index
        result = super()._apply(*args, **kwargs)
        self._listen()
        self._note_graph()
        return result

    def __getstate__(self) -> dict[str, Any]:
        _ = self._index and self.index  # refuses a graph that was overwritten
        free = self.calls is None or self._engine is not None
        return {
            **self.__dict__,
            "_index": None,
            "_engine": None,  # a copy is not rewired, nor does it capture for an engine
            "calls": None if free else Calls(),
        }

    def __delattr__(self, name: str) -> None:
        """Refuse ``torch.nn.utils.parametrize``, which removes the values and then stops."""
        if name == "values" and name in self._parameters:
            raise TypeError(
                "expected the values of a sparse layer to stay: torch.nn.utils.parametrize cannot "
                "take a tensor called 'values' (torch.nn.utils.prune can)"
            )
        super().__delattr__(name)

    def __prepare_scriptable__(self) -> Any:
        """Refuse ``torch.jit.script``, which calls this."""
        raise TypeError(
            "torch.jit.script cannot compile a sparse layer: script topokit.densify(model), or use "
            "torch.export or torch.jit.trace"
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if not self.shape.is_meta:
            n_out, n_in = self.shape.tolist()
            self._graph_shape = (n_out, n_in)
        self._note_graph()


_OVERWRITTEN = (
    "the graph of this sparse layer was overwritten in place by that of another model, and its "
    "weights are those of other edges; averages of weights follow a rewired model if they are "
    "registered with engine.average(copy) before the first rewiring, and a graph with its weights "
    "is copied by load_state_dict; averages of buffers (use_buffers=True) other than the plain "
    "mean round the whole numbers of a graph"
)


def _stamp(buffers: dict[str, Any]) -> tuple[int, ...]:
    """Return numbers that change when a buffer of the graph is replaced or written to."""
    stamp = []
    for name in ("indptr", "indices", "shape"):
        buffer = buffers[name]
        stamp += [id(buffer), 0 if buffer.is_inference() else buffer._version]
    return tuple(stamp)


def _buffers(graph: LayerGraph, device: Any) -> dict[str, torch.Tensor]:
    """Return the graph as tensors on a device that share no memory with it."""
    indptr, indices = tensors_of(graph, device)
    shape = torch.tensor(graph.shape, dtype=torch.int64, device=device)
    return {"indptr": indptr, "indices": indices, "shape": shape}


def _graph_of(
    indptr: torch.Tensor, indices: torch.Tensor, shape: torch.Tensor, groups: int
) -> LayerGraph:
    """Return the graph held by buffers, validated, with arrays that share no memory with them."""
    if indptr.is_meta:
        raise ValueError(
            "expected a graph with its edges, got one on the meta device, where tensors have no "
            "content; load a state first, by load_state_dict(state, assign=True)"
        )
    (n_out, n_in), rows, columns = (array_of(tensor) for tensor in (shape, indptr, indices))
    return LayerGraph((int(n_out), int(n_in)), rows, columns, groups)


def _known(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor of a number type that numpy has: bfloat16 as float32."""
    return x.float() if x.dtype == torch.bfloat16 else x


def initial_values(init: str, graph: LayerGraph, rng: np.random.Generator) -> torch.Tensor:
    """Draw (n_edges,) initial values in torch's default dtype.

    Raises
    ------
    ValueError
        If `init` is not in `INITS`.
    """
    function = choose("init", init, INITS)
    values = function(LayerView(graph, np.zeros(graph.n_edges)), graph.edge_ids, rng)
    return torch.from_numpy(values).to(torch.get_default_dtype())


class SparseLinear(EdgeLayer):
    """A linear layer with weights on the edges of a graph only.

    Parameters
    ----------
    graph : LayerGraph
        Shape ``(n_out, n_in)``. With density 1 it is an ordinary dense layer.
    kernel : {"auto", "csr", "dense"}
        How the product is computed: see `topokit.nn.kernels`. Results agree up to rounding.
    bias : bool
        Add a bias, initially zero, to each output unit.
    init : str
        Initial values, a name of `INITS`.
    rng : numpy.random.Generator or int

    Attributes
    ----------
    values : torch.nn.Parameter
        (n_edges,), in the order of ``graph.indices``. A value of zero is still an edge.
    bias : torch.nn.Parameter or None
        (n_out,).
    capture : bool
        Keep the activations and gradients of a step for a rule: see `topokit.nn.captures`.

    Notes
    -----
    Weights, gradients and optimizer state are vectors of one number per edge; with the index, in
    float32 and with momentum, that is 28 bytes per edge. The ``state_dict`` holds the graph;
    loading that of a layer of the same shape replaces it, whatever its number of edges.

    Values and inputs are float32, float64, float16, bfloat16 or complex. What torch's tools can do
    with a layer is said at `EdgeLayer`; `topokit.densify` makes a dense copy for other tools.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 2, 5], (2, 3))
    >>> layer = SparseLinear(graph, init="normal", rng=np.random.default_rng(0))
    >>> layer.values.shape, layer(torch.ones(4, 3)).shape
    (torch.Size([3]), torch.Size([4, 2]))
    """

    def __init__(
        self,
        graph: LayerGraph,
        *,
        kernel: str = "auto",
        bias: bool = True,
        init: str = "he",
        rng: np.random.Generator | int,
    ) -> None:
        super().__init__()
        values = initial_values(init, graph, as_generator(rng))
        self._set_graph(graph, values, bias=bias, kernel=kernel)

    @classmethod
    def from_dense(
        cls, linear: nn.Linear, graph: LayerGraph | None = None, *, kernel: str = "auto"
    ) -> SparseLinear:
        """Return a sparse layer with the weights and bias of a dense layer at some edges.

        Parameters
        ----------
        linear : torch.nn.Linear
        graph : LayerGraph, optional
            By default the positions where the weight is not zero.
        kernel : str
            As of the class.

        Raises
        ------
        ValueError
            If the shapes differ.

        Examples
        --------
        >>> layer = SparseLinear.from_dense(nn.Linear(3, 2))
        >>> layer.nnz, layer.density
        (6, 1.0)
        """
        weight = linear.weight.detach()
        graph = graph_of(Weight("", "weight"), weight) if graph is None else graph
        if graph.shape != tuple(weight.shape):
            raise ValueError(f"expected a graph of shape {tuple(weight.shape)}, got {graph.shape}")
        bias = linear.bias is not None
        layer = cls(graph, kernel=kernel, bias=bias, init="zeros", rng=0).to(weight)
        layer.take(weight, linear.bias)
        return layer.as_trained(linear)

    @property
    def in_features(self) -> int:
        """Number of input units, as in ``torch.nn.Linear``."""
        return self.n_in

    @property
    def out_features(self) -> int:
        """Number of output units, as in ``torch.nn.Linear``."""
        return self.n_out

    def forward(self, x: torch.Tensor, *, relu: bool = False) -> torch.Tensor:
        """Map (..., n_in) to (..., n_out), followed by ReLU if `relu`.

        Under automatic mixed precision the product keeps the precision of the values.
        """
        fused = relu and not self.capture  # captured gradients are those before the activation
        y = edge_product(x, self.values, self.bias, self.edges, self.kernel, relu=fused)
        if self.capture:
            y = self._record(x, y)
        return torch.relu(y) if relu and not fused else y

    def extra_repr(self) -> str:
        """Sizes, edges and kernel."""
        return (
            f"{self.n_in} -> {self.n_out}, {self.nnz} edges (density {self.density:.3g}), "
            f"bias={self.bias is not None}, kernel={self.kernel}"
        )


def sparse_or_dense(
    dense: Mapping[str, nn.Linear], graphs: Mapping[str, LayerGraph], kernel: str
) -> dict[str, nn.Module]:
    """Return linear layers by name: sparse ones where there is a graph, the dense ones elsewhere.

    Raises
    ------
    ValueError
        If there is a graph of another name.

    Examples
    --------
    >>> dense = {"a": nn.Linear(2, 1), "b": nn.Linear(2, 1)}
    >>> made = sparse_or_dense(dense, {"a": LayerGraph.from_edge_ids([1], (1, 2))}, "auto")
    >>> [type(layer).__name__ for layer in made.values()]
    ['SparseLinear', 'Linear']
    """
    if unknown := sorted(set(graphs) - set(dense)):
        raise ValueError(f"expected graphs of {', '.join(dense)}, got {unknown}")
    return {
        name: SparseLinear.from_dense(layer, graphs[name], kernel=kernel)
        if name in graphs
        else layer
        for name, layer in dense.items()
    }


def explain_kernel(layer: EdgeLayer) -> str:
    """Return a sentence that names the kernel a layer uses and the reason.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids(range(6), (2, 3))
    >>> explain_kernel(SparseLinear(graph, rng=np.random.default_rng(0)))
    'dense: the graph is complete'
    """
    choice, reason = layer.choose_kernel()
    return f"{choice}: {reason}"


def sparse_layers(model: nn.Module) -> dict[str, Any]:
    """Return a model's sparse layers by name, in the order of ``named_modules()``.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids(range(6), (2, 3))
    >>> model = nn.Sequential(SparseLinear(graph, rng=np.random.default_rng(0)), nn.ReLU())
    >>> list(sparse_layers(model))
    ['0']
    """
    check_module(model)
    return {name: m for name, m in model.named_modules() if isinstance(m, EdgeLayer)}
