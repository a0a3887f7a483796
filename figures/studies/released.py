"""The verdict on the evolved networks that the group of SET's authors has released.

    python figures/studies/released.py DIR

DIR has the folders ``w0``, ``w1``, ... with ``epoch_000``, ``epoch_050``, ... and in each the files
``weight_l0.npz``, ... of github.com/Shiweiliuiiiiiii/Sparse_Topology_Distance, folder ``topo``:
weights of 784-784-784-784-10 as (inputs, outputs), with a last row of biases. Writes
``released.csv`` beside itself and prints it. The complete output layer is left out. ``log_p`` is
the one-tailed p of the correlation of logarithms, which is below 0.05 before training already.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from rows import degree_row, write
from scipy.stats import pearsonr

import topokit as tk


def layer_of(path):
    """Return the graph of a file of weights, without the biases in its last row."""
    return tk.from_scipy(sp.load_npz(path).tocsr()[:-1].T)


def log_p(degrees):
    """Return the one-tailed p of the correlation of the histogram and the degree, in logarithms."""
    values, counts = np.unique(degrees[degrees > 0], return_counts=True)
    return pearsonr(-np.log(values), np.log(counts), alternative="greater").pvalue


def main():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    rows = []
    for path in sorted(folder.glob("w*/epoch_*/weight_l[0-2].npz")):
        graph = layer_of(path)
        name = {
            "network": path.parts[-3],
            "epoch": int(path.parts[-2].removeprefix("epoch_")),
            "layer": f"fc{int(path.stem[-1]) + 1}",
            "edges": graph.n_edges,
        }
        for side, degrees in (("fan_in", graph.fan_in), ("fan_out", graph.fan_out)):
            row = {"side": side, **degree_row(graph, side), "log_p": log_p(degrees)}
            rows.append(name | row)
    write("released", pd.DataFrame(rows))


if __name__ == "__main__":
    main()
