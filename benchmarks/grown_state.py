"""How far the training loss rises at a rewiring, by what the optimizer keeps for grown edges.

A sparse network is trained on scikit-learn's digits under SET. The rise at a rewiring is the
largest loss on all training samples within the first steps after it, minus the loss before it.
Printed are means over seeds of the mean rise in the second half of the training, with 95 %
intervals (Student's t over seeds; differences are paired by seed). Without rewiring the same
number is the spread of the loss from step to step.

    python benchmarks/grown_state.py
    python benchmarks/grown_state.py --seeds 8 --optimizers Adam RMSprop Adagrad
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import torch
from scipy import stats
from sklearn.datasets import load_digits
from torch import nn

from topokit.nn.engine import attach, sparsify

WIDTHS, DENSITY, BATCH, EPOCHS, AFTER = (64, 100, 100, 10), 0.1, 32, 30, 5
LR = {"Adam": 1e-3, "AdamW": 1e-3, "NAdam": 1e-3, "RMSprop": 1e-3, "Adagrad": 1e-2, "Adadelta": 1.0,
      "Adamax": 2e-3, "SGD": 0.05}  # fmt: skip


def mean_rise(kind: str, start: str, seed: int) -> float:
    """Train once and return the mean rise of the loss at the rewirings of the second half.

    `start` is that of grown edges, or "none": no edge is replaced.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    data = load_digits()
    x, y = torch.from_numpy(data.data / 16).float(), torch.from_numpy(data.target)
    parts: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(WIDTHS):
        parts += [nn.Linear(n_in, n_out), nn.ReLU()]
    model = sparsify(nn.Sequential(*parts[:-1]), density=DENSITY, init="he", rng=rng)
    options = {"momentum": 0.9} if kind == "SGD" else {}
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=LR[kind], **options)
    kept = start == "none"
    engine = attach(
        model, optimizer, "set", every="epoch", total=EPOCHS, rng=seed,
        drop_fraction=0.0 if kept else 0.3, grown_state="zero" if kept else start,
    )  # fmt: skip
    rises, before = [], 0.0
    for epoch in range(EPOCHS):
        for step, batch in enumerate(torch.from_numpy(rng.permutation(len(x))).split(BATCH)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            if epoch > EPOCHS // 2 and step < AFTER:
                rises[-1] = max(rises[-1], _loss(model, x, y) - before)
        before = _loss(model, x, y)
        engine.end_epoch()
        if epoch >= EPOCHS // 2:
            rises.append(-np.inf)
    return float(np.mean(rises[:-1]))


@torch.no_grad()
def _loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    return float(nn.functional.cross_entropy(model(x), y))


def interval(numbers: list[float]) -> str:
    """Return a mean and its 95 % interval in words."""
    half = stats.t.ppf(0.975, len(numbers) - 1) * stats.sem(numbers)
    return f"{np.mean(numbers):+.4f} +- {half:.4f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--optimizers", nargs="+", default=["Adam", "RMSprop", "SGD"])
    arguments = parser.parse_args()
    print(f"{'optimizer':10} {'zero':20} {'neutral':20} {'zero - neutral':20} no rewiring")
    for kind in arguments.optimizers:
        rises = {
            start: [mean_rise(kind, start, seed) for seed in range(arguments.seeds)]
            for start in ("zero", "neutral", "none")
        }
        paired = [a - b for a, b in zip(rises["zero"], rises["neutral"], strict=True)]
        columns = (rises["zero"], rises["neutral"], paired, rises["none"])
        print(f"{kind:10}", *(f"{interval(numbers):20}" for numbers in columns), flush=True)


if __name__ == "__main__":
    main()
