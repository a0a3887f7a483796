"""Draw every family at one size and budget, and write a table of its measures.

Command: ``python figures/make_topologies.py [--seed 0] [--out figures]``.
"""

import argparse
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np

from topokit.generators import GENERATORS, describe
from topokit.measures import LAYER_MEASURES

mpl.use("Agg")
import matplotlib.pyplot as plt

N_IN, N_OUT, DENSITY = 800, 1000, 0.01


def butterflies(graph):
    """Number of 4-cycles."""
    shared = (graph.to_csr() @ graph.to_csr().T).tocoo()
    pairs = shared.data[shared.row < shared.col]
    return int((pairs * (pairs - 1) / 2).sum())


def measured(seed):
    """Graph, facts and seconds of each family."""
    for name, family in GENERATORS.items():
        start = time.perf_counter()
        graph = family(N_IN, N_OUT, density=DENSITY, rng=np.random.default_rng(seed))
        seconds = time.perf_counter() - start
        yield name, graph, describe(graph), seconds


def table(rows, seed):
    """Markdown table, the lowest second singular value first."""
    lines = [
        "# The catalogue at one size and budget",
        "",
        f"{N_IN} input and {N_OUT} output units, density {DENSITY} "
        f"({round(N_IN * N_OUT * DENSITY)} edges); the bound of the mean degrees is "
        f"{rows[0][2].bound:.4f}. Every number is measured on the graph that was generated, with",
        f"default parameters: `python figures/make_topologies.py --seed {seed}`.",
        "",
        "The second singular value is of the whole graph: equal to the first one where the graph",
        "falls apart into like components. Families that mix across layers (butterfly, benes,",
        "radix, de_bruijn, kautz, monarch, group_shuffle) are judged by the product of several",
        "layers, not by one. Algebraic families are cropped and thinned here; at their own sizes",
        "they have the spectra that the tests check. s₂ is one minus the measure",
        "`normalized_spectral_gap`, λ₂ the algebraic connectivity of the giant component.",
        "",
        "| family | edges | fan-out | fan-in | components | σ₁ | σ₂ | margin "
        "| s₂ | λ₂ | 4-cycles |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, graph, f, _ in sorted(rows, key=lambda row: row[2].sigma_2):
        lines.append(
            f"| {name} | {f.n_edges} | {f.fan_out[0]}-{f.fan_out[1]} | {f.fan_in[0]}-{f.fan_in[1]} "
            f"| {f.components} | {f.sigma_1:.3f} | {f.sigma_2:.3f} | {f.margin:.3f} "
            f"| {1 - LAYER_MEASURES['normalized_spectral_gap'](graph):.3f} "
            f"| {LAYER_MEASURES['algebraic_connectivity_giant'](graph):.3f} "
            f"| {butterflies(graph)} |"
        )
    lines += ["", "What each family promises, and what it took to meet this size and budget:", ""]
    lines += ["| family | guarantee | repairs here |", "|---|---|---|"]
    for name, _, f, _ in rows:
        lines.append(f"| {name} | {f.guarantee} | {'; '.join(f.repairs) or 'none'} |")
    return "\n".join([*lines, "", "![every family](topologies.png)", ""])


def gallery(rows, seed):
    """Draw a panel for each family: its adjacency matrix, with the main measures above it."""
    columns = 6
    lines = -(-len(rows) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(2.6 * columns, 2.75 * lines))
    for axis, (name, graph, f, _) in zip(axes.flat, rows, strict=False):
        axis.plot(graph.indices, graph.rows, ",", color="#1f4e79", alpha=0.8)
        axis.set(xlim=(0, N_IN), ylim=(N_OUT, 0), xticks=[], yticks=[])
        parts = "1 component" if f.components == 1 else f"{f.components} components"
        low, high = f.fan_in
        degrees = str(low) if low == high else f"{low}–{high}"
        axis.set_title(f"{name}\nσ₂ {f.sigma_2:.2f}, {parts}\nfan-in {degrees}", fontsize=8.5)
    for axis in list(axes.flat)[len(rows) :]:
        axis.axis("off")
    figure.suptitle(
        f"Every family: {N_IN} inputs (across), {N_OUT} outputs (down), density {DENSITY}, "
        f"seed {seed}; σ₂ bound of the mean degrees {rows[0][2].bound:.2f}",
        fontsize=13,
    )
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    return figure


def main():
    """Write topologies.png and TOPOLOGIES.md."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    rows = list(measured(given.seed))
    (given.out / "TOPOLOGIES.md").write_text(table(rows, given.seed), encoding="utf-8")
    figure = gallery(rows, given.seed)
    figure.savefig(given.out / "topologies.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
