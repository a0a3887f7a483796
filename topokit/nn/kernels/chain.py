"""Sparse layers that follow each other, computed as one node of torch's graph, on the CPU.

Around each kernel of a small network, Python, torch's operators and autograd took as long as the
kernel itself. A chain calls compiled code once forward and once backward (`threads.Kernels`), with
records that are made once for a graph and a batch size. The kernels and the order in which they run
are those of the single products of `topokit.nn.kernels.autograd`, so numbers are the same bit for
bit.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch

from topokit.nn.kernels import ops
from topokit.nn.kernels.autograd import (
    MAKERS,
    EdgeProduct,
    Masked,
    is_unchanged,
    maker_of,
    seen_by_maker_alone,
)
from topokit.nn.kernels.products import (
    PRODUCTS,
    EdgeIndex,
    backward_kernel,
    edge_kernel,
    few_outputs,
    forward_kernel,
    samples_first,
    units_first,
)
from topokit.nn.kernels.threads import (
    HEADER,
    EdgeGradient,
    Kernels,
    ProductBackward,
    ProductForward,
)

__all__ = ["EdgeChain", "Link"]

MOST_PLANS = 16  # of a graph: batch sizes in use, and parameters that need gradients


class Link(NamedTuple):
    """One layer of a chain: its graph, and how it is computed."""

    edges: EdgeIndex
    relu: bool
    dense: bool


Links = tuple[Link, ...]


class EdgeChain(torch.autograd.Function):
    """``apply(x, links, *values, *biases)`` maps (batch, n_in) to the last layer's (batch, n_out).

    All layers but the last have a ReLU. The batch of x is contiguous in memory and not empty;
    tensors are of one of the `NATIVE` dtypes, on the CPU. Biases may be None.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, links: Links, *parameters: Any) -> torch.Tensor:
        """Compute the layers; as one node of torch's graph."""
        ctx.maker, ctx.input = maker_of(x), weakref.ref(x)
        outputs = chain_forward(units_first(x), links, parameters)
        y = samples_first(outputs.pop())
        ctx.relu = links[-1].relu
        ctx.save_for_backward(x, *parameters, *outputs, *([y] if ctx.relu else []))
        ctx.links, ctx.masked = links, None
        return y

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[Any, ...]:
        """Compute the gradients of x, values and biases."""
        if ops.autocast_on(g):  # gradients in the precision of the values too
            with torch.autocast(g.device.type, enabled=False):
                return EdgeChain.backward(ctx, g)
        links, count = ctx.links, len(ctx.links)
        x, *saved = ctx.saved_tensors
        parameters, outputs = saved[: 2 * count], saved[2 * count :]
        needs_x, _, *needs = ctx.needs_input_grad
        if torch.is_grad_enabled() or ops.composed(g):
            return _one_by_one(x, links, parameters, g, (needs_x, *needs))
        known = ctx.masked if ctx.relu and is_unchanged(g, ctx.masked) else None
        dbias = None if known is None else known.sums
        ctx.masked = None
        g = units_first(g)
        if ctx.relu and (known is None or known.whole):
            g = torch.ops.aten.threshold_backward(g, outputs[-1].t(), 0)
        inputs = [units_first(x), *outputs[: count - 1]]
        mask = ctx.maker is not None
        wanted = _wanted(needs_x, tuple(needs[:count]), tuple(needs[count:]), mask)
        dx, sums, dvalues, dbiases = chain_gradients(g, inputs, links, parameters, wanted)
        if dx is not None and mask and (whole := not seen_by_maker_alone(ctx)):
            wanted = wanted._replace(masks=(False, *wanted.masks[1:]))
            dx, *_ = chain_gradients(g, inputs, links, parameters, wanted)
        if needs[-1]:
            dbiases[-1] = g.sum(dim=1) if dbias is None else dbias
        gradients = (
            gradient if need else None
            for gradient, need in zip((*dvalues, *dbiases), needs, strict=True)
        )
        if dx is not None:
            dx = dx.t()
            if mask:
                ctx.maker.masked = Masked(dx, dx._version, sums, whole)
        return (dx, None, *gradients)


MAKERS.add(EdgeChain)


def _one_by_one(
    x: torch.Tensor, links: Links, parameters: Sequence[Any], g: torch.Tensor, needs: Sequence[bool]
) -> tuple[Any, ...]:
    """Return the gradients by single products, as they can be differentiated in turn."""
    again, count, way = torch.is_grad_enabled(), len(links), PRODUCTS
    with torch.enable_grad():
        # Views: a layer that stands twice in the chain has a gradient for each place.
        inputs: list[Any] = [None if t is None else t.view_as(t) for t in (x, *parameters)]
        y, *parameters = inputs
        for i, link in enumerate(links):
            kind = way["dense" if link.dense else "compiled"]
            pair = parameters[i], parameters[count + i]
            y = EdgeProduct.apply(y, *pair, link.edges, link.relu, kind)
    wanted = [t for t, need in zip(inputs, needs, strict=True) if need]
    found = iter(torch.autograd.grad(y, wanted, g, create_graph=again))
    dx, *rest = (next(found) if need else None for need in needs)
    return (dx, None, *rest)


# ---------------------------------------------------------------------------------------------
# Forward.

_HEAD = len(HEADER)
_FORWARD, _EDGES, _BACKWARD = (
    {name: at for at, name in enumerate(kind._fields)}
    for kind in (ProductForward, EdgeGradient, ProductBackward)
)


def chain_forward(x: torch.Tensor, links: Links, parameters: Sequence[Any]) -> list[torch.Tensor]:
    """Return the outputs of all layers, (units, batch), for an input of that form.

    `parameters` are the values of all layers, then their biases.
    """
    count, batch = len(links), x.shape[1]
    outputs: list[torch.Tensor] = []
    held: list[Any] = []  # whose addresses kernels have
    for first, kernels in _plan(links, batch, x.dtype, None):
        if kernels is None:
            link, values, bias = links[first], parameters[first], parameters[count + first]
            x = PRODUCTS["dense"].product(x, values.detach(), bias, link.edges, link.relu)
            outputs.append(x)
            continue
        record = kernels.record()
        for i, start in enumerate(kernels.starts, first):
            values, bias = parameters[i].detach().contiguous(), parameters[count + i]
            y = x.new_empty(links[i].edges.graph.n_out, batch)
            record[start + _FORWARD["x"]] = x.data_ptr()
            record[start + _FORWARD["x_stride"]] = x.stride(0)
            record[start + _FORWARD["values"]] = values.data_ptr()
            if bias is not None:
                bias = bias.detach().contiguous()
                record[start + _FORWARD["bias"]] = bias.data_ptr()
            record[start + _FORWARD["y"]] = y.data_ptr()
            held += (values, bias)
            outputs.append(y)
            x = y
        kernels.run(record)
    return outputs


# ---------------------------------------------------------------------------------------------
# Backward.


class Wanted(NamedTuple):
    """Which gradients of a chain are needed."""

    inputs: tuple[bool, ...]
    """Of each layer's input."""
    calls: tuple[bool, ...]
    """Of each layer's input or values."""
    masks: tuple[bool, ...]
    """Whether each layer's input comes from a ReLU, so that its gradient is 0 where it is 0."""


def _wanted(
    of_x: bool, of_values: tuple[bool, ...], of_biases: tuple[bool, ...], mask: bool
) -> Wanted:
    inputs = [of_x]
    for values, bias in zip(of_values[:-1], of_biases[:-1], strict=True):
        inputs.append(inputs[-1] or values or bias)
    calls = tuple(i or v for i, v in zip(inputs, of_values, strict=True))
    return Wanted(tuple(inputs), calls, (mask, *[True] * (len(inputs) - 1)))


def chain_gradients(
    g: torch.Tensor,
    inputs: Sequence[torch.Tensor],
    links: Links,
    values: Sequence[torch.Tensor],
    wanted: Wanted,
) -> tuple[torch.Tensor | None, torch.Tensor | None, list[Any], list[Any]]:
    """Return the gradients of x, its sums over the batch, and those of values and biases.

    Parameters
    ----------
    g : (n_out, batch) tensor
        Gradient of the last layer's output; that of its bias is not computed.
    inputs : list of (n_in, batch) tensor
        Of all layers.
    links, values, wanted
        As in `EdgeChain`.
    """
    count, batch = len(links), g.shape[1]
    dvalues: list[Any] = [None] * count
    sums: list[Any] = [None] * (count + 1)  # of the gradient of each layer's input
    for last, kernels in _plan(links, batch, g.dtype, wanted):
        if kernels is None:
            g, dvalues[last], sums[last] = PRODUCTS["dense"].gradients(  # type: ignore[assignment]  # the last g may be None
                g, inputs[last], values[last].detach(), links[last].edges,
                wanted.inputs[last], wanted.masks[last],
            )  # fmt: skip
            if sums[last] is None and last and wanted.inputs[last]:
                sums[last] = g.sum(dim=1)
            continue
        record, held = kernels.record(), [g]
        end = last - len(kernels.starts) + 1
        between = [links[i].edges.graph.n_in for i in range(end + 1, last + 1)]
        spare = [g.new_empty(max(between), batch) for _ in between[:2]]
        for i, start in zip(range(last, end - 1, -1), kernels.starts, strict=True):
            graph, x, own = links[i].edges.graph, inputs[i], values[i].detach().contiguous()
            at = _BACKWARD if wanted.inputs[i] else _EDGES
            dvalues[i] = own.new_empty(graph.n_edges)
            record[start + at["g"]] = g.data_ptr()
            record[start + at["g_stride"]] = g.stride(0)
            record[start + at["x"]] = x.data_ptr()
            record[start + at["x_stride"]] = x.stride(0)
            record[start + at["gradient"]] = dvalues[i].data_ptr()
            held.append(own)
            if not wanted.inputs[i]:
                continue
            record[start + at["values"]] = own.data_ptr()
            g = x.new_empty(graph.n_in, batch) if i == end else spare[i % len(spare)]
            record[start + at["dx"]] = g.data_ptr()
            if wanted.masks[i]:
                sums[i] = x.new_empty(graph.n_in)
                record[start + at["sums"]] = sums[i].data_ptr()
        kernels.run(record)
    return g if wanted.inputs[0] else None, sums[0], dvalues, sums[1:]


# ---------------------------------------------------------------------------------------------
# Records made once.

Groups = list[tuple[int, Kernels | None]]
"""The first layer of each group, and its kernels; None for one layer that torch computes."""


def _plan(links: Links, batch: int, dtype: torch.dtype, wanted: Wanted | None) -> Groups:
    """Return the kernels of a chain, forward or for the gradients `wanted`; made once."""
    plans, key = links[0].edges.plans, (links, batch, dtype, wanted)
    groups = plans.get(key)
    if groups is None:
        if len(plans) >= MOST_PLANS:
            plans.clear()
        size = torch.finfo(dtype).bits // 8
        make = (
            _forward_groups(links, batch, size)
            if wanted is None
            else (_backward_groups(links, batch, size, wanted))
        )
        groups = plans[key] = make
    return groups


def _forward_groups(links: Links, batch: int, size: int) -> Groups:
    groups: Groups = []
    for dense, numbers in groupby(range(len(links)), lambda i: links[i].dense):
        if dense:
            groups += [(i, None) for i in numbers]
            continue
        own = list(numbers)
        kernels = [forward_kernel(links[i].edges, batch, size, relu=links[i].relu) for i in own]
        groups.append((own[0], Kernels(kernels)))
    return groups


def _backward_groups(links: Links, batch: int, size: int, wanted: Wanted) -> Groups:
    def by_torch(i: int) -> bool:
        return links[i].dense and not (few_outputs(links[i].edges) and wanted.inputs[i])

    groups: Groups = []
    numbers = [i for i in range(len(links)) if wanted.calls[i]][::-1]
    for dense, found in groupby(numbers, by_torch):
        if dense:
            groups += [(i, None) for i in found]
            continue
        own = list(found)
        kernels = [
            backward_kernel(links[i].edges, batch, size, mask=wanted.masks[i])
            if wanted.inputs[i]
            else edge_kernel(links[i].edges, batch, size)
            for i in own
        ]
        groups.append((own[0], Kernels(kernels)))
    return groups
