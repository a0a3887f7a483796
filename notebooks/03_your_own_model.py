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
# # Your own model
#
# Three ways to use topokit with your own model: analyse a checkpoint, make a torch model sparse, and
# rewire it in your own training loop.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.utils import prune

import topokit as tk

QUICK = "TOPOKIT_QUICK" in os.environ  # tiny settings, for the tests
EPOCHS = 2 if QUICK else 60
rng = np.random.default_rng(0)
torch.manual_seed(0)
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1. Analyse a checkpoint
#
# Given the weights of a network that was pruned with `torch.nn.utils.prune`, topokit reads the
# topology (also from masks, zeroed weights, sparse tensors and safetensors) without executing code
# from the file, and measures it:

# %%
theirs = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 10))
prune.l1_unstructured(theirs[0], "weight", amount=0.9)
torch.save(theirs.state_dict(), folder / "theirs.pt")

topology = tk.topology_of(folder / "theirs.pt")
frame = tk.measure(topology)
frame[frame["measure"].str.startswith(("fan_in", "normalized", "components"))].pivot(
    index="measure", columns="layer", values="value"
).round(3)

# %%
first = next(iter(topology.values()))
fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.3), layout="constrained")
tk.plots.degree_distribution(first, ax=axes[0])
tk.plots.spectrum(first, ax=axes[1]);

# %% [markdown]
# At the command line: `topokit analyze theirs.pt`.
#
# ## 2. Make a model sparse
#
# In any module, linear layers, convolutions, attention and recurrent layers are replaced by sparse ones
# that store their biases and one parameter for each edge. Layers named in `skip` stay dense.

# %%
model = nn.Sequential(
    nn.Linear(64, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU(), nn.Linear(500, 10)
)
dense = sum(p.numel() for p in model.parameters())
tk.sparsify(model, epsilon=5, skip=["4"], rng=rng)
dense, sum(p.numel() for p in model.parameters())

# %% [markdown]
# ## 3. Rewire it in your own loop
#
# `attach` adds a hook to the optimizer, so the loop below needs no changes; weights and the state of
# Adam are carried over with their edges.

# %%
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-4)
digits = load_digits()
order = rng.permutation(len(digits.target))
x = torch.tensor(digits.data[order] / 16, dtype=torch.float32)
y = torch.tensor(digits.target[order])
train, test = slice(0, 1400), slice(1400, None)
engine = tk.attach(model, optimizer, "set", every=14, rng=np.random.default_rng(1))

accuracy, dispersion = [], []
for _ in range(EPOCHS):
    for batch in torch.randperm(1400).split(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[train][batch]), y[train][batch]).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy.append((model(x[test]).argmax(1) == y[test]).float().mean().item())
    now = tk.measure(tk.topology_of(model), ["fan_in"]).set_index(["layer", "measure"])["value"]
    dispersion.append([now["0", "fan_in.dispersion"], now["2", "fan_in.dispersion"]])
f"accuracy {accuracy[-1]:.3f} with {sum(p.numel() for p in model.parameters()):,} parameters"

# %%
fig, axes = plt.subplots(1, 2, figsize=(8.5, 3), layout="constrained")
axes[0].plot(accuracy)
axes[0].set(xlabel="epoch", ylabel="test accuracy", title="Learning")
axes[1].plot(dispersion, label=["first layer", "second layer"])
axes[1].axhline(1, color="0.5", ls=":", label="random graph")
axes[1].set(xlabel="epoch", ylabel="fan-in variance / mean", title="Topology")
axes[1].legend();

# %% [markdown]
# `engine.detach()` ends the rewiring. To compare rules, replace `"set"` by `"rigl"`, `"ctre_sim"`,
# `"random"` or any other of `topokit list rules`.
