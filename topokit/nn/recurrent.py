"""Recurrent layers whose weights are on the edges of graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from topokit.graph import LayerGraph
from topokit.nn.kernels import check_input
from topokit.nn.kinds import OfLayers, check_kind, check_layers, linear_of, weights_of
from topokit.nn.layers import sparse_or_dense

__all__ = ["SparseRecurrent", "SparseRecurrentCell"]

State = tuple[torch.Tensor, ...]
GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}

# How a recurrent layer is computed.
#
# Idea: batches of all steps lie one below the other, (steps * batch, units), as in torch's packed
# sequences, with the number of sequences at each step in `sizes`. The input's product is one sparse
# product for all steps; the hidden state's is one for each step. At a step the first `sizes[t]`
# rows of the state are replaced and the others kept: going forwards these are sequences that have
# ended, going backwards sequences that have not begun, so one loop does for both directions.
#
# Cost: O(n_edges * steps * batch); a call of the kernel for each step and direction.


def _next_state(mode: str, x: torch.Tensor, h: torch.Tensor, state: State) -> State:
    """Return the state after a step, from both products with their biases, and the state before."""
    if mode == "LSTM":
        i, f, g, o = (x + h).chunk(4, -1)
        cell = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell
    if mode == "GRU":
        reset_x, update_x, new_x = x.chunk(3, -1)
        reset_h, update_h, new_h = h.chunk(3, -1)
        update = torch.sigmoid(update_x + update_h)
        new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
        return (new + update * (state[0] - new),)
    return (torch.tanh(x + h) if mode == "RNN_TANH" else torch.relu(x + h),)


def _dense_parts(module: nn.Module) -> dict[str, nn.Linear]:
    """Return a dense linear layer for each weight of a recurrent module, by its name."""
    parts = {}
    for weight in weights_of(module) or []:
        stored = getattr(module, weight.leaf)
        bias = getattr(module, weight.leaf.replace("weight", "bias"), None)
        trained = stored.requires_grad, bias is not None and bias.requires_grad
        parts[weight.leaf] = linear_of(stored, bias, trained=trained)
    return parts


def _check_parts(
    parts: Mapping[str, Any], mode: str, *, layers: int, directions: int, projected: int
) -> None:
    """Raise a ValueError unless there is a part for each weight, of the right size.

    0 layers are those of a cell, whose names have no ending.
    """
    if mode not in GATES:
        raise ValueError(f"expected a mode of {', '.join(GATES)}, got {mode!r}")
    ends = [f"_l{at}{end}" for at in range(layers) for end in ("", "_reverse")[:directions]]
    kinds = ("ih", "hh", "hr") if projected else ("ih", "hh")
    names = [f"weight_{kind}{end}" for end in ends or [""] for kind in kinds]
    check_layers(parts, names)
    n_in, n_out = (getattr(parts[names[0]], f"{side}_features") for side in ("in", "out"))
    hidden, rest = divmod(n_out, GATES[mode])
    if rest:
        raise ValueError(
            f"expected {GATES[mode]} gates of equal size in {names[0]}, got {n_out} outputs"
        )
    state = projected or hidden
    for at, name in enumerate(names):
        first = at // len(kinds) < directions
        wanted = {
            "ih": (n_in if first else state * directions, n_out),
            "hh": (state, n_out),
            "hr": (hidden, state),
        }[kinds[at % len(kinds)]]
        got = parts[name].in_features, parts[name].out_features
        if got != wanted:
            raise ValueError(
                f"expected {name} with {wanted[0]} inputs and {wanted[1]} outputs, got {got[0]} "
                f"and {got[1]}"
            )


class SparseRecurrent(OfLayers):
    """An LSTM, GRU or RNN with sparse projections, instead of torch's module of that name.

    Made by `topokit.sparsify` or `from_dense`. Inputs, states and outputs are those of torch's
    module, packed sequences and inputs without a batch included; only dropout between layers draws
    other numbers. Steps are computed one by one, as graphs may change while it trains.

    Parameters
    ----------
    parts : mapping of str to torch.nn.Module
        The projections by the names of torch's parameters: ``weight_ih_l0`` (input),
        ``weight_hh_l0`` (hidden state), with `proj_size` ``weight_hr_l0``; ``l1`` is the next
        layer, and names of the reverse direction end with ``_reverse``. Each is a `SparseLinear`
        or, where it stays dense, a ``torch.nn.Linear``, and holds the bias of the same ending. Its
        outputs are the gates, one below the other, in torch's order.
    mode : {"LSTM", "GRU", "RNN_TANH", "RNN_RELU"}
    num_layers : int
    dropout : float
        Of the outputs of each layer but the last, in training.
    batch_first, bidirectional : bool
    proj_size : int
        Width of the projected hidden state of an LSTM, 0 without projection.

    Attributes
    ----------
    input_size, hidden_size : int

    Notes
    -----
    The ``state_dict`` has, for each weight, ``weight_ih_l0.values``, its graph and its bias
    ``weight_ih_l0.bias`` (torch's ``bias_ih_l0``).

    Examples
    --------
    >>> dense = nn.LSTM(3, 2)
    >>> graph = LayerGraph.from_edge_ids([0, 5, 10], (8, 3))
    >>> sparse = SparseRecurrent.from_dense(dense, {"weight_ih_l0": graph})
    >>> output, (h, c) = sparse(torch.ones(4, 1, 3))
    >>> output.shape, sparse.weight_ih_l0.nnz, type(sparse.weight_hh_l0).__name__
    (torch.Size([4, 1, 2]), 3, 'Linear')
    """

    def __init__(
        self,
        parts: Mapping[str, Any],
        mode: str,
        *,
        num_layers: int = 1,
        dropout: float = 0.0,
        batch_first: bool = False,
        bidirectional: bool = False,
        proj_size: int = 0,
    ) -> None:
        super().__init__()
        directions = 2 if bidirectional else 1
        _check_parts(parts, mode, layers=num_layers, directions=directions, projected=proj_size)
        self.mode, self.num_layers, self.dropout = mode, num_layers, dropout
        self.batch_first, self.bidirectional = batch_first, bidirectional
        self.proj_size = proj_size
        self.input_size = int(parts["weight_ih_l0"].in_features)
        self.hidden_size = int(parts["weight_ih_l0"].out_features) // GATES[mode]
        self.bias = parts["weight_ih_l0"].bias is not None
        for name, part in parts.items():
            self.add_module(name, part)

    @classmethod
    def from_dense(
        cls, module: nn.RNNBase, graphs: Mapping[str, LayerGraph], *, kernel: str = "auto"
    ) -> SparseRecurrent:
        """Return a sparse module with the weights and biases of a dense one at some edges.

        Parameters
        ----------
        module : torch.nn.LSTM, torch.nn.GRU or torch.nn.RNN
        graphs : mapping of str to LayerGraph
            For any of the names of its weights; others stay dense.
        kernel : {"auto", "csr", "dense"}

        Raises
        ------
        ValueError
            If a name is unknown or a shape differs.
        TypeError
            If it is another module.
        """
        check_kind(module, nn.RNNBase)
        dense = _dense_parts(module)
        names = ("num_layers", "dropout", "batch_first", "bidirectional", "proj_size")
        options: dict[str, Any] = {name: getattr(module, name) for name in names}
        made = cls(sparse_or_dense(dense, graphs, kernel), module.mode, **options)
        return made.train(module.training)

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """Return outputs of all steps and the last state, as torch's module does.

        Parameters
        ----------
        input : tensor or PackedSequence
            (steps, batch, input_size), with `batch_first` (batch, steps, input_size), or (steps,
            input_size).
        hx : tensor, or for an LSTM a pair of tensors, optional
            The first state, (num_layers * directions, batch, size); by default zeros.
        """
        packed = isinstance(input, PackedSequence)
        check_input(input.data if packed else input)
        if packed:
            x, sizes = input.data, input.batch_sizes.tolist()
            order, back = input.sorted_indices, input.unsorted_indices
        else:
            if input.ndim not in (2, 3) or not input.shape[-1] == self.input_size:
                raise ValueError(
                    f"expected an input of (steps, {self.input_size}) or of three dimensions with "
                    f"a batch, got {tuple(input.shape)}"
                )
            steps = input[:, None] if input.ndim == 2 else input
            steps = steps.transpose(0, 1) if self.batch_first and input.ndim == 3 else steps
            x, sizes = steps.flatten(0, 1), [steps.shape[1]] * steps.shape[0]
            order = back = None
        if not sizes:
            raise ValueError("expected at least one step, got none")
        single = not packed and input.ndim == 2
        state = self._first_state(x, hx, sizes[0], single)
        state = tuple(_reordered(s, order) for s in state)
        x, state = self._run(x, sizes, state)
        state = tuple(_reordered(s, back) for s in state)
        state = tuple(s[:, 0] for s in state) if single else state
        last = state if self.mode == "LSTM" else state[0]
        if packed:
            return PackedSequence(x, input.batch_sizes, order, back), last
        y = x.unflatten(0, (len(sizes), sizes[0]))
        if single:
            return y[:, 0], last
        return (y.transpose(0, 1) if self.batch_first else y), last

    def _first_state(self, x: torch.Tensor, hx: Any, batch: int, single: bool) -> State:
        """Return the first state, checked, zeros by default."""
        count = self.num_layers * (2 if self.bidirectional else 1)
        shapes = [(count, batch, self.proj_size or self.hidden_size)]
        shapes += [(count, batch, self.hidden_size)] * (self.mode == "LSTM")
        if hx is None:
            return tuple(x.new_zeros(shape) for shape in shapes)
        state = _given(hx, self.mode)
        state = tuple(s[:, None] for s in state) if single else state
        if [tuple(s.shape) for s in state] != shapes:
            got = [tuple(s.shape) for s in state]
            raise ValueError(f"expected a state of shape {shapes}, got {got}")
        return state

    def _run(self, x: torch.Tensor, sizes: list[int], state: State) -> tuple[torch.Tensor, State]:
        """Run all layers; return the outputs of the last and the last states of all."""
        ends: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(2 if self.bidirectional else 1):
                first = tuple(s[len(ends)] for s in state)
                y, end = self._direction(x, sizes, first, layer, direction == 1)
                outputs.append(y)
                ends.append(end)
            x = torch.cat(outputs, 1) if self.bidirectional else outputs[0]
            if self.dropout and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        return x, tuple(torch.stack(pieces) for pieces in zip(*ends, strict=True))

    def _direction(
        self, x: torch.Tensor, sizes: list[int], state: State, layer: int, reverse: bool
    ) -> tuple[torch.Tensor, State]:
        ending = f"l{layer}_reverse" if reverse else f"l{layer}"
        parts = self._modules
        hidden, projection = parts[f"weight_hh_{ending}"], parts.get(f"weight_hr_{ending}")
        assert hidden is not None
        from_input = self.get_submodule(f"weight_ih_{ending}")(x).split(sizes)
        outputs: list[Any] = [None] * len(sizes)
        for t in reversed(range(len(sizes))) if reverse else range(len(sizes)):
            size = sizes[t]
            now = tuple(s[:size] for s in state)
            new = _next_state(self.mode, from_input[t], hidden(now[0]), now)
            if projection is not None:
                new = (projection(new[0]), *new[1:])
            outputs[t] = new[0]
            if size < len(state[0]):
                new = tuple(torch.cat([n, s[size:]]) for n, s in zip(new, state, strict=True))
            state = new
        return torch.cat(outputs), state

    def flatten_parameters(self) -> None:
        """Do nothing: for code written for torch's modules."""

    def extra_repr(self) -> str:
        """Sizes and options."""
        return (
            f"{self.mode}, {self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, "
            f"batch_first={self.batch_first}, bidirectional={self.bidirectional}"
        )


def _given(hx: Any, mode: str) -> State:
    """Return a given state as a tuple: a pair for an LSTM."""
    pair = mode == "LSTM"
    state = tuple(hx) if pair and isinstance(hx, tuple | list | torch.Tensor) else (hx,)
    if len(state) != 1 + pair or not all(isinstance(s, torch.Tensor) for s in state):
        wanted = "a pair of tensors" if pair else "a tensor"
        raise ValueError(
            f"expected {wanted} as the state, got {', '.join(type(s).__name__ for s in state)}"
        )
    return state


def _reordered(state: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    return state if order is None else state.index_select(1, order)


class SparseRecurrentCell(OfLayers):
    """An LSTM, GRU or RNN cell with sparse projections, instead of torch's module of that name.

    Made by `topokit.sparsify` or `from_dense`. Arguments and results are those of torch's module.

    Parameters
    ----------
    parts : mapping of str to torch.nn.Module
        ``weight_ih`` and ``weight_hh``; see `SparseRecurrent`.
    mode : {"LSTM", "GRU", "RNN_TANH", "RNN_RELU"}

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 5, 10], (6, 3))
    >>> cell = SparseRecurrentCell.from_dense(nn.GRUCell(3, 2), {"weight_ih": graph})
    >>> cell(torch.ones(4, 3)).shape
    torch.Size([4, 2])
    """

    def __init__(self, parts: Mapping[str, Any], mode: str) -> None:
        super().__init__()
        _check_parts(parts, mode, layers=0, directions=1, projected=0)
        self.mode = mode
        self.input_size = int(parts["weight_ih"].in_features)
        self.hidden_size = int(parts["weight_hh"].in_features)
        self.bias = parts["weight_ih"].bias is not None
        self.weight_ih, self.weight_hh = parts["weight_ih"], parts["weight_hh"]

    @classmethod
    def from_dense(
        cls, cell: nn.RNNCellBase, graphs: Mapping[str, LayerGraph], *, kernel: str = "auto"
    ) -> SparseRecurrentCell:
        """Return a sparse cell with the weights and biases of a dense one at some edges.

        Parameters and errors as for `SparseRecurrent.from_dense`.
        """
        check_kind(cell, nn.RNNCellBase)
        dense = _dense_parts(cell)
        kinds = {nn.LSTMCell: "LSTM", nn.GRUCell: "GRU", nn.RNNCell: "RNN"}
        mode = next(mode for kind, mode in kinds.items() if isinstance(cell, kind))
        mode = f"RNN_{cell.nonlinearity.upper()}" if isinstance(cell, nn.RNNCell) else mode
        return cls(sparse_or_dense(dense, graphs, kernel), mode).train(cell.training)

    def forward(self, input: torch.Tensor, hx: Any = None) -> Any:
        """Map an input (batch, input_size), or without a batch, and a state to the next state."""
        check_input(input)
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise ValueError(
                f"expected an input of (batch, {self.input_size}), got {tuple(input.shape)}"
            )
        count = 2 if self.mode == "LSTM" else 1
        shape = (*input.shape[:-1], self.hidden_size)
        state = (input.new_zeros(shape),) * count if hx is None else _given(hx, self.mode)
        if any(tuple(s.shape) != shape for s in state):
            got = ", ".join(str(tuple(s.shape)) for s in state)
            raise ValueError(f"expected a state of shape {shape}, got {got}")
        new = _next_state(self.mode, self.weight_ih(input), self.weight_hh(state[0]), state)
        return new if count == 2 else new[0]

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.mode}, {self.input_size}, {self.hidden_size}"
