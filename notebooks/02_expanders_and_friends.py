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
# # Expanders and other families
#
# Does it matter *where* the edges of a sparse network are, if their number is the same? An expander
# distributes them as evenly as possible; in a band they are local; blocks separate the units. Here
# all families have the same number of edges, seeds and training, without rewiring.
#
# The data are scikit-learn's digits, so that everything runs in a minute or two on a laptop. This is
# an illustration; a study with more data and densities is in
# [figures/STUDIES.md](../figures/STUDIES.md).

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import topokit as tk

QUICK = "TOPOKIT_QUICK" in os.environ  # tiny settings, for the tests
EPOCHS, SEEDS, WIDTH = (1, 1, 60) if QUICK else (15, 5, 300)
runs = Path(tempfile.mkdtemp())
WIDTHS, DENSITY = [64, WIDTH, WIDTH, 10], 0.03 if not QUICK else 0.1
FAMILIES = {
    "expander": [],
    "biregular": [],
    "erdos_renyi": [],
    "small_world": [],
    "receptive_field": [],
    "band": [],
    "block": [],
    "hub": [],
}

# %% [markdown]
# ## The graphs
#
# All have the same number of edges between the two hidden layers. They differ in the second singular
# value: the smaller it is, the better a signal mixes. `expander` is a lift of a small complete graph,
# cropped to this size (`topokit generate` reports which); its second value is below that of
# `biregular`, the random graph with the same degrees.

# %%
fig, axes = plt.subplots(2, 4, figsize=(10, 5.2), layout="constrained")
for ax, family in zip(axes.flat, FAMILIES):
    graph = tk.generate([WIDTH, WIDTH], family, density=DENSITY, rng=np.random.default_rng(0))["fc1"]
    values = np.linalg.svd(graph.to_csr().toarray(), compute_uv=False)
    ax.plot(graph.indices, graph.rows, ".", ms=0.8, color="C0")
    ax.set(xticks=[], yticks=[], title=f"{family}\nσ₁ {values[0]:.2f}, σ₂ {values[1]:.2f}")

# %% [markdown]
# ## Training them
#
# With `rule.name=static` there is no rewiring; only the generator differs.

# %%
base = tk.load_recipe("static_mlp_digits").override(
    [f"epochs={EPOCHS}", f"model.widths={WIDTHS}", f"topology.density={DENSITY}"]
)
rows, curves = [], []
for family, settings in FAMILIES.items():
    for seed in range(SEEDS):
        config = base.override([f"topology.generator={family}", f"seed={seed}", *settings])
        history = tk.run(config, runs / f"{family}-{seed}")
        last = history.measures[history.measures["epoch"] == 0].set_index(["layer", "measure"])
        rows.append(
            {
                "family": family,
                "seed": seed,
                "edges": sum(graph.n_edges for graph in history.topology(0).values()),
                "test_accuracy": history.epochs["test_accuracy"].iloc[-1],
                "normalized_spectral_gap": last["value"]["fc2", "normalized_spectral_gap"],
                "algebraic_connectivity": last["value"]["fc2", "algebraic_connectivity"],
                "components": last["value"]["fc2", "components"],
            }
        )
        curves.append(history.epochs.assign(family=family, seed=seed))
table = pd.DataFrame(rows)
table.groupby("family", sort=False).mean(numeric_only=True).drop(columns="seed").round(3)

# %%
fig, ax = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
tk.plots.arms_side_by_side(table, arm="family", ax=ax)
ax.set_title(f"{SEEDS} seeds each, mean and 95 % interval");

# %% [markdown]
# ## Gap against accuracy
#
# Each point is a run. Look at the interval before the line, and at *which* families cause the
# correlation: if it is due to families with disconnected parts, it shows that disconnected units
# cannot learn, and not that a larger gap helps among well-connected graphs.

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
tk.plots.accuracy_against(table, "normalized_spectral_gap", arm="family", ax=axes[0])
connected = table[table["normalized_spectral_gap"] > 0.1]
tk.plots.accuracy_against(connected, "normalized_spectral_gap", arm="family", ax=axes[1])
axes[0].title.set_fontsize(9)
correlation = axes[1].get_title().partition("\n")[2]
axes[1].set_title(f"without the slowly mixing\n{correlation}", fontsize=9);

# %% [markdown]
# ## Speed of learning

# %%
fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
some = ["expander", "erdos_renyi", "band", "block"]
lines = pd.concat(curves)
tk.plots.mean_over_seeds(lines[lines["family"].isin(some)], arm="family", ax=ax);

# %% [markdown]
# The same question over ten families, three densities, two data sets and five seeds, with density
# held fixed in the correlations: `topokit sweep spectral_gap_accuracy --out DIR --data-dir DIR`.
# There a larger gap does not help: within a density, rho between gap and accuracy is -0.82 [-0.92, -0.47] on
# MNIST and -0.42 [-0.73, 0.01] on Fashion-MNIST (ten families). On MNIST that is mostly because band,
# receptive-field and other local layers connect neighbouring pixels, which suits images: with shuffled
# pixels (study `locality`, ten seeds) rho is -0.28 [-0.62, 0.12], and the local families are no longer
# ahead. Expanders are not told apart from near-biregular random graphs: differences are within 0.008 in
# all six panels, with intervals that contain 0 ([STUDIES.md](../figures/STUDIES.md)).

# %%
families = pd.read_csv("../figures/studies/spectral_gap_accuracy_families.csv")
fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for ax, (data, part) in zip(axes, families[families["density"] == 0.06].groupby("data.name")):
    tk.plots.accuracy_against(part, "normalized_spectral_gap", outcome="accuracy", ax=ax)
    correlation = ax.get_title().partition("\n")[2]
    ax.set_title(f"{data}, density 0.06\n{correlation}", fontsize=9)
