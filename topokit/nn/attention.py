"""Multi-head attention whose projections have weights on the edges of graphs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from topokit.graph import LayerGraph
from topokit.nn.kernels import check_input
from topokit.nn.kinds import OfLayers, check_kind, check_layers, linear_of, matrix_of, weights_of
from topokit.nn.layers import EdgeLayer, sparse_or_dense

__all__ = ["SparseMultiheadAttention", "dense_only"]

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


class SparseMultiheadAttention(OfLayers):
    """Multi-head attention with sparse projections, instead of ``torch.nn.MultiheadAttention``.

    Made by `topokit.sparsify` or `from_dense`. It takes the arguments of torch's module in its
    forward method and returns the same outputs; only dropout draws other numbers. Inside torch's
    transformer layers it is always computed step by step: their fast path for inference reads
    dense weights, so it is switched off (`dense_only`). Nested tensors are refused.

    Parameters
    ----------
    projections : mapping of str to torch.nn.Module
        ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj``, each a `SparseLinear` or, where it
        stays dense, a ``torch.nn.Linear``.
    num_heads : int
        It divides the outputs of `q_proj`.
    dropout : float
        Of the attention weights, in training.
    bias_kv : pair of Parameter, optional
        Key and value appended to each sequence, (1, 1, embed_dim).
    add_zero_attn, batch_first : bool
        As in ``torch.nn.MultiheadAttention``.

    Attributes
    ----------
    q_proj, k_proj, v_proj, out_proj : torch.nn.Module
        The layers' names in `topokit.topology_of` and in the ``state_dict``.

    Examples
    --------
    >>> dense = nn.MultiheadAttention(4, 2)
    >>> graph = LayerGraph.from_edge_ids([0, 5, 10, 15], (4, 4))
    >>> sparse = SparseMultiheadAttention.from_dense(dense, {"q_proj": graph})
    >>> sparse.q_proj.nnz, type(sparse.k_proj).__name__
    (4, 'Linear')
    >>> x = torch.ones(3, 1, 4)
    >>> sparse(x, x, x)[0].shape
    torch.Size([3, 1, 4])
    """

    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    out_proj: nn.Module
    in_proj_weight = in_proj_bias = None  # what torch's transformer layers look at before they
    _qkv_same_embed_dim = False  # take their fast path, which would read dense weights

    def __init__(
        self,
        projections: Mapping[str, Any],
        num_heads: int,
        *,
        dropout: float = 0.0,
        bias_kv: tuple[nn.Parameter, nn.Parameter] | None = None,
        add_zero_attn: bool = False,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        check_layers(projections, PROJECTIONS)
        for name in PROJECTIONS:
            self.add_module(name, projections[name])
        self.embed_dim, self.kdim, self.vdim, heads = (
            int(projections[name].in_features) for name in PROJECTIONS
        )
        q, k, v = (int(projections[name].out_features) for name in PROJECTIONS[:3])
        if q != k or v != heads:
            raise ValueError(
                "expected as many outputs of k_proj as of q_proj, and as many inputs of out_proj "
                f"as outputs of v_proj, got {k} and {q}, {heads} and {v}"
            )
        if num_heads < 1 or q % num_heads or v % num_heads:
            both = f"{q}" if q == v else f"{q} and {v}"
            raise ValueError(f"expected a number of heads that divides {both}, got {num_heads}")
        self.num_heads, self.head_dim = num_heads, q // num_heads
        self.dropout, self.add_zero_attn, self.batch_first = dropout, add_zero_attn, batch_first
        self.bias_k: nn.Parameter | None = None
        self.bias_v: nn.Parameter | None = None
        if bias_kv is not None:
            self.bias_k, self.bias_v = bias_kv

    @classmethod
    def from_dense(
        cls,
        attention: nn.MultiheadAttention,
        graphs: Mapping[str, LayerGraph],
        *,
        kernel: str = "auto",
    ) -> SparseMultiheadAttention:
        """Return a sparse module with the weights and biases of a dense one at some edges.

        Parameters
        ----------
        attention : torch.nn.MultiheadAttention
        graphs : mapping of str to LayerGraph
            For any of ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj``; others stay dense.
        kernel : {"auto", "csr", "dense"}

        Raises
        ------
        ValueError
            If a name is unknown or a shape differs.
        TypeError
            If it is another module.
        """
        check_kind(attention, nn.MultiheadAttention)
        weights = {weight.layer: weight for weight in weights_of(attention) or []}
        packed = attention.in_proj_bias
        pieces: Any = (None,) * 3 if packed is None else packed.chunk(3)
        dense: dict[str, nn.Linear] = {
            name: linear_of(
                matrix_of(weight, getattr(attention, weight.leaf)),
                bias,
                trained=(getattr(attention, weight.leaf).requires_grad, _trained(packed)),
            )
            for (name, weight), bias in zip(weights.items(), pieces, strict=True)
        }
        out: Any = attention.out_proj
        dense["out_proj"] = linear_of(
            out.weight, out.bias, trained=(_trained(out.weight), _trained(out.bias))
        )
        bias_kv: Any = None
        if attention.bias_k is not None and attention.bias_v is not None:
            bias_kv = attention._parameters["bias_k"], attention._parameters["bias_v"]
        made = cls(
            sparse_or_dense(dense, graphs, kernel), attention.num_heads,
            dropout=attention.dropout, bias_kv=bias_kv,
            add_zero_attn=attention.add_zero_attn, batch_first=attention.batch_first,
        )  # fmt: skip
        return made.train(attention.training)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the attention's outputs and, if needed, its weights.

        Arguments and shapes are those of ``torch.nn.MultiheadAttention``. `is_causal` says that
        `attn_mask`, which must be given, is causal.
        """
        if any(getattr(x, "is_nested", False) for x in (query, key, value)):
            raise TypeError(
                "expected padded tensors with a key_padding_mask, got a nested tensor, which "
                "sparse attention does not support"
            )
        for x in (query, key, value):
            check_input(x)
        if is_causal and attn_mask is None:
            raise ValueError("expected attn_mask with is_causal=True, got none")
        batched = query.ndim == 3
        if query.ndim not in (2, 3) or not query.ndim == key.ndim == value.ndim:
            raise ValueError(
                "expected query, key and value of shape (length, units), or of three dimensions "
                f"with a batch, got {tuple(query.shape)}, {tuple(key.shape)} and "
                f"{tuple(value.shape)}"
            )
        if not batched:
            query, key, value = query[None], key[None], value[None]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        if not (query.shape[0] == key.shape[0] and key.shape[:2] == value.shape[:2]):
            raise ValueError(
                "expected a value for each key, and keys for each of the sequences in query, got "
                "query, key and value of (sequences, length) "
                f"{', '.join(str(tuple(x.shape[:2])) for x in (query, key, value))}"
            )
        _check_masks(attn_mask, key_padding_mask, query, key, self.num_heads)
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        mask = _joined_masks(attn_mask, key_padding_mask, q, self.num_heads)
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (
                torch.cat([x, bias.expand(len(x), 1, -1)], 1)
                for x, bias in ((k, self.bias_k), (v, self.bias_v))
            )
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        # As in torch, the hint is believed where no other mask is joined to the causal one.
        causal = is_causal and key_padding_mask is None and not need_weights
        if mask is not None:  # what was appended is open to every query
            mask = F.pad(mask, (0, k.shape[1] - mask.shape[-1]))
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        heads, weights = self._attend(q, k, v, None if causal else mask, need_weights, causal)
        y = self.out_proj(heads.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return y[0], None if weights is None else weights[0]
        return (y if self.batch_first else y.transpose(0, 1)), weights

    def _attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor | None,
        need_weights: bool,
        causal: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal), None
        scores = q @ k.transpose(-2, -1) * math.sqrt(1 / self.head_dim)
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
        weights = F.dropout(weights, dropout) if dropout else weights
        return weights @ v, weights

    def extra_repr(self) -> str:
        """Heads and options."""
        return f"num_heads={self.num_heads}, dropout={self.dropout}, batch_first={self.batch_first}"


def _trained(parameter: torch.Tensor | None) -> bool:
    return parameter is not None and parameter.requires_grad


def _check_masks(
    attention: torch.Tensor | None,
    padding: torch.Tensor | None,
    query: torch.Tensor,
    key: torch.Tensor,
    heads: int,
) -> None:
    """Raise a ValueError if masks do not have one number for each key, or query and key.

    A mask of another shape would broadcast, or be extended like that of appended keys.
    """
    n, pairs = key.shape[0], (query.shape[1], key.shape[1])
    by_query = [pairs, (n * heads, *pairs)]
    if attention is not None and tuple(attention.shape) not in by_query:
        raise ValueError(
            f"expected attn_mask of shape {by_query[0]} (queries, keys) or {by_query[1]}, one for "
            f"each sequence and head, got {tuple(attention.shape)}"
        )
    if padding is not None and tuple(padding.shape) != (n, pairs[1]):
        raise ValueError(
            f"expected key_padding_mask of shape {(n, pairs[1])} (sequences, keys; without a batch "
            f"the keys alone), got {tuple(padding.shape)}"
        )


def _joined_masks(
    attention: torch.Tensor | None, padding: torch.Tensor | None, q: torch.Tensor, heads: int
) -> torch.Tensor | None:
    """Return one mask to add to scores, broadcasting to (batch, heads, queries, keys), or None."""
    masks = []
    for name, mask in (("attn_mask", attention), ("key_padding_mask", padding)):
        if mask is None:
            continue
        if mask.dtype == torch.bool:
            mask = q.new_zeros(mask.shape).masked_fill(mask, -math.inf)
        elif not mask.is_floating_point():
            raise TypeError(f"expected {name} of bool or floating point, got {mask.dtype}")
        if name == "key_padding_mask":
            mask = mask[:, None, None, :]
        elif mask.ndim == 3:
            mask = mask.unflatten(0, (-1, heads))
        masks.append(mask.to(q.dtype))
    return None if not masks else masks[0] if len(masks) == 1 else masks[0] + masks[1]


def dense_only(model: nn.Module) -> None:
    """Switch off the fast path of torch's transformer layers that hold a sparse layer.

    In inference it reads dense weights, or nested tensors, in place of calling the layers.
    """
    for part in model.modules():
        if not any(isinstance(inner, EdgeLayer) for inner in part.modules()):
            continue
        if isinstance(part, nn.TransformerEncoderLayer):
            part.activation_relu_or_gelu = 0
        elif isinstance(part, nn.TransformerEncoder):
            part.use_nested_tensor = False
