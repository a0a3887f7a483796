# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A tour of topologies
#
# Every family of topologies in topokit, at the same size and density: 200 input units, 256 output
# units, one in twenty of the possible edges.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import topokit as tk

QUICK = "TOPOKIT_QUICK" in os.environ  # tiny settings, for the tests
N_IN, N_OUT, DENSITY = (40, 48, 0.1) if QUICK else (200, 256, 0.05)
graphs = {
    name: family(N_IN, N_OUT, density=DENSITY, rng=np.random.default_rng(0))
    for name, family in tk.GENERATORS.items()
}
len(graphs)

# %%
ORDER = sorted(graphs)
COLUMNS = 6
lines = -(-len(ORDER) // COLUMNS)
fig, axes = plt.subplots(lines, COLUMNS, figsize=(2.1 * COLUMNS, 2.4 * lines), layout="constrained")
for ax in axes.flat:
    ax.axis("off")
for ax, name in zip(axes.flat, ORDER):
    graph = graphs[name]
    ax.plot(graph.indices, graph.rows, ",", color="C0")
    ax.set(xlim=(-1, N_IN), ylim=(N_OUT, -1), title=name)
    ax.title.set_fontsize(9)
fig.suptitle(f"Adjacency matrices: {N_IN} inputs across, {N_OUT} outputs down");

# %% [markdown]
# ## Measures
#
# The normalised spectral gap is large if a signal mixes well. If the edges form several components it
# is 0, however even the degrees.

# %%
wanted = ["fan_in", "normalized_spectral_gap", "algebraic_connectivity", "components", "butterflies"]
frame = pd.concat(
    tk.measure({name: graph}, wanted).query("layer == @name") for name, graph in graphs.items()
)
table = frame.pivot(index="layer", columns="measure", values="value")[
    ["fan_in.dispersion", "normalized_spectral_gap", "algebraic_connectivity", "components", "butterflies"]
]
table.sort_values("normalized_spectral_gap", ascending=False).round(3)

# %% [markdown]
# ## Spectra
#
# The singular values of a random graph form a bulk; those of a good expander end at its boundary;
# blocks and bands have many values near the first one.

# %%
chosen = ["erdos_renyi", "biregular", "expander", "band", "block", "chung_lu"]
fig, axes = plt.subplots(2, 3, figsize=(10, 5.6), layout="constrained")
for ax, name in zip(axes.flat, chosen):
    tk.plots.spectrum(graphs[name], ax=ax)
    ax.set_title(name)
    handles, labels = ax.get_legend_handles_labels()
    ax.get_legend().remove()  # one for all, below
fig.legend(handles, labels, loc="outside lower center", ncols=3);

# %% [markdown]
# ## Degree-preserving randomisation
#
# A null sample has the degrees of the original graph and is random otherwise. Measures that differ
# between the two depend on where the edges are; measures that agree are explained by the degrees:

# %%
rows = {}
for name in ("expander", "band", "block", "hub"):
    null = tk.randomized_twin(graphs[name], rng=np.random.default_rng(1))
    for label, graph in ((name, graphs[name]), (f"{name}, null sample", null)):
        values = tk.measure({"fc1": graph}, wanted).query("layer == 'fc1'")
        values = values.set_index("measure")["value"]
        rows[label] = values[["fan_in.dispersion", "normalized_spectral_gap", "butterflies"]]
pd.DataFrame(rows).T.round(3)
