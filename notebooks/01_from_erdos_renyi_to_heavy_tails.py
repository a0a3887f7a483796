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
# # From Erdős–Rényi to heavy tails
#
# The initial topology of a sparse network is a random graph: here about 1 % of all possible
# edges, placed uniformly at random. After every epoch SET (sparse evolutionary training) drops the
# 30 % of edges with weights closest to zero and grows as many at random. Does the graph stay random?
# Its *fan-in* says: the number of edges into each unit of a layer (*fan-out*: out of each unit before it).
# The layers are called fc1, fc2, ... from the input on.
#
# This notebook uses five names of topokit: `load_recipe`, `run`, `fit_power_law`, `plots` and the
# `History` that a run returns. The data are the 8 × 8 digits of scikit-learn; nothing is downloaded.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import topokit as tk

QUICK = "TOPOKIT_QUICK" in os.environ  # tiny settings, for the tests
EPOCHS, SEEDS, BOOTSTRAP = (2, 1, 10) if QUICK else (150, 3, 100)
runs = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Two runs that differ in one setting
#
# Data, initial topology, initial weights and order of samples are the same: with the same seed the
# two runs are identical until the first rewiring.

# %%
recipe = tk.load_recipe("set_mlp_digits").override([f"epochs={EPOCHS}"])
moving = tk.run(recipe, runs / "set-0")
still = tk.run(recipe.override(["rule.name=static"]), runs / "static-0")
moving.epochs.tail(3)

# %% [markdown]
# The graph of every epoch is available:

# %%
moving.topology(0)["fc1"], moving.topology(-1)["fc1"]

# %% [markdown]
# ## The degrees
#
# The dotted line is the degree distribution of a random graph with the same number of edges. Without
# rewiring the degrees stay on it. With SET, edges accumulate at some units and many others have hardly
# any.

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharex=True, sharey=True, layout="constrained")
tk.plots.degree_evolution(moving, ax=axes[0])
tk.plots.degree_evolution(still, ax=axes[1])
axes[0].set_title("SET")
axes[1].set_title("static");

# %% [markdown]
# The variance-to-mean ratio of the fan-in is about 1 for a random graph. It rises epoch by epoch,
# fastest in the first layer:

# %%
fig, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
tk.plots.measure_over_epochs(moving, ax=ax);

# %% [markdown]
# Which pixels does the network use? The fan-out of the input units as an image:

# %%
fig, axes = plt.subplots(1, 2, figsize=(6.5, 3), layout="constrained")
first, last = (moving.topology(epoch)["fc1"] for epoch in (0, -1))
tk.plots.input_map(first, compared_with=last, ax=axes[0])  # one scale of colours
tk.plots.input_map(last, compared_with=first, ax=axes[1])
axes[0].set_title("at the start")
axes[1].set_title("at the end");

# %% [markdown]
# ## One run is not evidence
#
# The same with other seeds. Each row is a run and a layer at the last epoch.

# %%
rows = []
for seed in range(SEEDS):
    for rule in ("set", "static"):
        folder = runs / f"{rule}-{seed}"
        settings = [f"seed={seed}", f"rule.name={rule}"]
        history = (
            {"set": moving, "static": still}[rule]
            if seed == 0
            else tk.run(recipe.override(settings), folder)
        )
        for layer in ("fc1", "fc2", "fc3"):
            graph = history.topology(-1)[layer]
            fit = tk.fit_power_law(
                graph.fan_in, n_other=graph.n_in, bootstrap=BOOTSTRAP, rng=np.random.default_rng(seed)
            )
            rows.append(
                {
                    "rule": rule,
                    "seed": seed,
                    "layer": layer,
                    "accuracy": history.epochs["test_accuracy"].iloc[-1],
                    "var/mean": graph.fan_in.var() / graph.fan_in.mean(),
                    "verdict": fit.verdict,
                    "alpha": fit.alpha,
                    "bootstrap": fit.p_text,
                }
            )
table = pd.DataFrame(rows).set_index(["rule", "layer", "seed"]).sort_index()
table.round(3)

# %% [markdown]
# ## Is it scale-free?
#
# The verdict is the result of several tests. If a random graph is not rejected, it is *random*. If it
# is rejected without a heavy tail, *broad*. If a power law describes the tail better than laws with
# exponential tails do (exponential, negative binomial, a bulk with hubs), *heavy-tailed*. Only if in
# addition a bootstrap test does not reject the power law, the tail is long enough, and neither a
# lognormal nor a stretched exponential law nor a power law with an exponential cut-off is better,
# *power law*. The notebook *How (not) to call a network scale-free* explains why all of these are
# needed.

# %%
verdicts = table.reset_index().groupby(["rule", "layer"])["verdict"]
verdicts.agg(lambda column: ", ".join(f"{v}: {n}" for v, n in column.value_counts().items()))

# %%
fig, ax = plt.subplots(figsize=(6, 2.6), layout="constrained")
tk.plots.verdict_timeline(moving, ax=ax);

# %% [markdown]
# ## On MNIST
#
# The same question on MNIST and Fashion-MNIST, with five seeds and a second control, random rewiring:
# as many edges are replaced, but they are dropped at random. The data are from the study
# `topokit sweep er_to_heavy_tails` (784-300-300-300-10 on 2,000 images, 80 epochs;
# [results](../figures/STUDIES.md)). Lines are means, bands 95 % intervals.

# %%
study = pd.read_csv("../figures/studies/er_to_heavy_tails_epochs.csv")
first = study[(study["layer"] == "fc1") & (study["side"] == "fan_in")]
fig, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
for ax, (data, part) in zip(axes, first.groupby("data", sort=False)):
    for look, (arm, line) in zip(("C0-", "C1--", "C2-."), part.groupby("arm", sort=False)):
        ax.plot(line["epoch"], line["mean"], look, label=f"{arm} (n = {line['n'].max()})")
        ax.fill_between(line["epoch"], line["low"], line["high"], color=look[:2], alpha=0.15, lw=0)
    ax.axhline(1, color="0.5", ls=":")
    ax.set(xlabel="epoch", ylabel="fan-in variance / mean", title=data)
axes[0].legend();

# %%
last = pd.read_csv("../figures/studies/er_to_heavy_tails.csv")
last[(last["layer"] == "fc1") & (last["side"] == "fan_in")][
    ["data.name", "arm", "n", "dispersion", "low", "high", "random", "broad", "heavy-tailed"]
].round(2)

# %% [markdown]
# SET makes the degrees more uneven on both data sets (1.24 [1.09, 1.39] and 1.33 [1.16, 1.49] against 0.95 without
# rewiring, five seeds), and in none of the 30 runs is a layer heavy-tailed after 80 epochs.
#
# What this shows, and what it does not:
#
# - The degrees depart from those of a random graph under SET, which selects edges by magnitude, and not
#   where they are dropped at random; in the static control they do not change.
# - The effect is strongest in the first layer: variance over mean of 25 and more, rounded, and a heavy
#   tail with each of the three seeds. Still it is no power law, which the bootstrap rejects. A broad distribution
#   need not be heavy-tailed, and a heavy-tailed one need not be a power law.
# - The size of the effect depends on weight decay, on the number of steps and on the value of grown
#   edges; the digits recipe was chosen because it shows the effect in a minute. The study
#   `heavy_tails_map` compares sixteen settings.
# - Heavy-tailed does not mean scale-free: see the column `bootstrap`, the p-value of the power law.

# %% [markdown]
# ## At full size
#
# The study `full_size` trains the network of the published claim, 784-1000-1000-1000-10, on all of MNIST for
# 1,000 epochs with two kinds of weight decay: one by which weights decay by 0.012 between two rewirings, one by
# which they decay by 0.12. Left: how many edges the units of the first hidden layer have, in one run. Right: the
# spread of these numbers, means over seeds.

# %%
histograms = pd.read_csv("../figures/studies/full_size_histograms.csv").query("data == 'mnist'")
degrees = pd.read_csv("../figures/studies/full_size_degrees.csv").query("data == 'mnist'")
fig, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
one = histograms[(histograms["arm"] == "coupled-0") & (histograms["seed"] == 0)]
for epoch, dashes in ((0, ":"), (100, "--"), (999, "-")):
    part = one[one["epoch"] == epoch]
    axes[0].hist(
        part["fan_in"],
        weights=part["units"],
        bins=range(0, 300, 10),
        histtype="step",
        ls=dashes,
        label=f"epoch {epoch}",
    )
axes[0].set(xlabel="fan-in", ylabel="units", yscale="log", title="SET, decay of 0.012")
axes[0].legend()
fc1 = degrees[(degrees["layer"] == "fc1") & (degrees["side"] == "fan_in")]
for arm, dashes, label in (
    ("per-step-0", "-", "SET, decay of 0.12"),
    ("coupled-0", "--", "SET, decay of 0.012"),
    ("static", ":", "static"),
):
    part = fc1[fc1["arm"] == arm]
    mean = np.exp(np.log(part["dispersion"]).groupby(part["epoch"]).mean())
    axes[1].plot(mean.index + 1, mean, dashes, label=f"{label} (n = {part['seed'].nunique()})")
axes[1].set(xscale="log", yscale="log", xlabel="epoch + 1", ylabel="fan-in variance / mean")
fig.legend(*axes[1].get_legend_handles_labels(), loc="outside lower right", ncols=3);

# %% [markdown]
# In five sentences, from three seeds of each, so preliminary by our own plan ([all of it](../figures/STUDIES.md)):
#
# 1. The degrees leave those of a random graph within 5 to 16 epochs, and after 1,000 their variance over mean is
#    120 [104, 139] with the smaller decay and 147 [137, 158] with the larger one, where a random graph has 0.96.
# 2. More decay between two rewirings is faster: with ten times as much, a variance over mean of 10 and of 40 is
#    reached nine times as early.
# 3. The layer ends as two groups of units, not as a power law: none of 1,044 verdicts (all layers, both sides, 29
#    epochs) is *power law*, and 85 % of its units, those with fewest edges, can be removed from the trained network
#    without any change of its accuracy.
# 4. In each of the six runs degrees of the second or third layer end *heavy-tailed*, in nine of ten cases told from
#    a power law by the bootstrap only; the statistic that was published with SET, as far as can be told which it is,
#    finds the second layer scale-free in all six.
# 5. Rewiring at the larger decay is worth 1.7 points of accuracy [1.5, 1.9], as much as that decay costs: SET ends
#    at 0.981 and 0.979, networks that are never rewired at 0.979 without decay and at 0.962 with the larger one.
#
# Much of the third is decay: with the larger one 80 % of the units can be removed at a loss of less than half a
# point where nothing is rewired, too; but there the number of edges is not shown to tell which (exploratory). With
# 300 units a layer, and on Fashion-MNIST, it is alike in part.
