"""A small language model whose attention and perceptrons have weights on the edges of graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from topokit.graph import Topology
from topokit.nn.activations import WithDropout
from topokit.nn.attention import PROJECTIONS, SparseMultiheadAttention
from topokit.nn.residual import Layers, check_dense
from topokit.tables import as_generator

__all__ = ["gpt", "gpt_layers"]


class _Block(nn.Module):
    """Causal self-attention and a perceptron, each after a layer norm and beside a shortcut."""

    def __init__(self, layers: Layers, name: str, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        projections = {
            leaf: layers.linear(f"{name}.attention.{leaf}", width, width) for leaf in PROJECTIONS
        }
        self.attention = SparseMultiheadAttention(projections, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = layers.linear(f"{name}.fc1", width, 4 * width)
        self.fc2 = layers.linear(f"{name}.fc2", 4 * width, width)

    def forward(self, x: torch.Tensor, later: torch.Tensor, dropped: Any) -> torch.Tensor:
        h = self.norm1(x)
        h, _ = self.attention(h, h, h, need_weights=False, attn_mask=later, is_causal=True)
        x = x + dropped(h)
        return x + dropped(self.fc2(F.gelu(self.fc1(self.norm2(x)))))


class SparseGPT(WithDropout):
    """Blocks of causal attention over characters and their positions. Made by `gpt`.

    Attributes
    ----------
    cells : int
        Numbers that the largest layer computes for one sample; it limits how many samples are
        evaluated at once.
    """

    later: torch.Tensor

    def __init__(
        self,
        layers: Layers,
        *,
        vocabulary: int,
        context: int,
        width: int,
        blocks: int,
        heads: int,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.cells = context * max(4 * width, vocabulary, heads * context)
        self.characters = nn.Embedding(
            vocabulary, width, _weight=_small(layers.rng, vocabulary, width)
        )
        self.positions = nn.Parameter(_small(layers.rng, context, width))
        self.blocks = blocks
        for at in range(1, blocks + 1):
            self.add_module(f"block{at}", _Block(layers, f"block{at}", width, heads))
        self.norm = nn.LayerNorm(width)
        self.head: Any = layers.linear("head", width, vocabulary, bias=False)
        if isinstance(self.head, nn.Linear):
            self.head.weight = nn.Parameter(_small(layers.rng, vocabulary, width))
        later = torch.ones(context, context, dtype=torch.bool).triu(1)
        self.register_buffer("later", later, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map codes (batch, length) to scores (batch, vocabulary, length) of the next characters.

        The scores at a position depend on the characters up to it. Codes may be of any type; the
        length is at most the context.
        """
        if x.ndim != 2:
            raise ValueError(f"expected codes of shape (batch, length), got {tuple(x.shape)}")
        length = x.shape[1]
        if length > len(self.positions):
            raise ValueError(
                f"expected at most {len(self.positions)} characters, the context, got {length}"
            )
        h = self.dropped(self.characters(x.long()) + self.positions[:length])
        later = self.later[:length, :length]
        for at in range(1, self.blocks + 1):
            h = self.get_submodule(f"block{at}")(h, later, self.dropped)
        return self.head(self.norm(h)).transpose(1, 2)


def _small(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    """Return normal numbers of deviation 0.02, with which GPT-2 starts."""
    return torch.from_numpy(rng.standard_normal(shape) * 0.02).to(torch.get_default_dtype())


def gpt_layers(
    *,
    vocabulary: int = 97,
    context: int = 64,
    width: int = 128,
    blocks: int = 4,
    heads: int = 4,
    dense: Sequence[str] = ("head",),
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the sparse layers of `gpt`, by name, input to output.

    Parameters and errors are those of `gpt`.

    Examples
    --------
    >>> list(gpt_layers(blocks=1, dense=["head", "attention"]).items())
    [('block1.fc1', (512, 128)), ('block1.fc2', (128, 512))]
    """
    if min(vocabulary - 1, context, width, blocks, heads) < 1 or width % heads:
        raise ValueError(
            "model: expected a vocabulary of at least 2, context, blocks and heads of at least 1, "
            f"and a width that {heads} heads divide, got vocabulary {vocabulary}, context "
            f"{context}, blocks {blocks} and width {width}"
        )
    check_dense(dense, ("attention", "mlp", "head"))
    shapes: dict[str, tuple[int, ...]] = {}
    for at in range(1, blocks + 1):
        if "attention" not in dense:
            shapes |= {f"block{at}.attention.{leaf}": (width, width) for leaf in PROJECTIONS}
        if "mlp" not in dense:
            shapes[f"block{at}.fc1"] = (4 * width, width)
            shapes[f"block{at}.fc2"] = (width, 4 * width)
    if "head" not in dense:
        shapes["head"] = (vocabulary, width)
    if not shapes:
        raise ValueError("model.dense: expected at least one kind of layers to be sparse, got none")
    return shapes


def gpt(
    topology: Topology,
    *,
    vocabulary: int = 97,
    context: int = 64,
    width: int = 128,
    blocks: int = 4,
    heads: int = 4,
    dense: Sequence[str] = ("head",),
    dropout: float = 0.0,
    kernel: str = "auto",
    init: str = "glorot",
    rng: np.random.Generator | int,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Build a small GPT, a causal transformer that tells the next character, with sparse layers.

    As in GPT-2, a layer norm precedes attention and perceptron, positions are learned, and GELU is
    the activation. Embeddings, positions and layer norms are dense; scores have weights of their
    own.

    Parameters
    ----------
    topology : dict of LayerGraph
        The layers of `gpt_layers`.
    vocabulary : int
        Number of characters; that of the data set ``text`` is 97.
    context : int
        Characters of a sample.
    width : int
        Units of each character, a multiple of `heads`; four times as many within the perceptrons.
    blocks, heads : int
    dense : sequence of {"attention", "mlp", "head"}
        Layers that stay dense: the projections of the attention, the perceptrons, the scores.
    dropout : float
        Of the embeddings and at the end of attention and perceptron, in [0, 1); attention weights
        are never dropped.
    kernel, init : str
        See `SparseLinear`. Dense layers have He's normal initial weights, embeddings and a dense
        head those of GPT-2, normal of deviation 0.02.
    rng : numpy.random.Generator
        Draws the initial weights, layer by layer.
    generator : torch.Generator, optional
        Draws dropout masks; by default one seeded from `rng`.

    Returns
    -------
    torch.nn.Module
        Maps codes (batch, length) to scores (batch, vocabulary, length), before softmax, as
        ``torch.nn.functional.cross_entropy`` wants them.

    Raises
    ------
    ValueError
        If sizes do not fit together, or the topology has other layers.

    References
    ----------
    .. [1] Radford, Wu, Child, Luan, Amodei, Sutskever, "Language models are unsupervised multitask
       learners", 2019.

    Examples
    --------
    >>> from topokit.generators import generate_layers
    >>> sizes = {"width": 8, "blocks": 1, "heads": 2, "context": 16}
    >>> topology = generate_layers(gpt_layers(**sizes), "erdos_renyi", density=0.3, rng=0)
    >>> gpt(topology, **sizes, rng=0)(torch.zeros(2, 16)).shape
    torch.Size([2, 97, 16])
    """
    sizes = {
        "vocabulary": vocabulary, "context": context, "width": width, "blocks": blocks,
        "heads": heads,
    }  # fmt: skip
    rng = as_generator(rng)
    shapes = gpt_layers(**sizes, dense=dense)
    layers = Layers(shapes, topology, kernel=kernel, init=init, rng=rng)
    return SparseGPT(layers, **sizes, dropout=dropout, generator=generator, rng=rng)
