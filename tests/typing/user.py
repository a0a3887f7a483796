"""What a user may write: type checkers must find nothing wrong with it, and it must run."""

from pathlib import Path

import numpy as np
import torch

import topokit as tk
from topokit.nn import SparseLinear


def generated() -> tk.LayerGraph:
    topology: tk.Topology = tk.generate([64, 100, 10], "erdos_renyi", epsilon=5, rng=0)
    graph = topology["fc1"]
    twin = tk.randomized_twin(graph, rng=np.random.default_rng(1))
    gap: float = tk.LAYER_MEASURES["spectral_gap"](twin)
    fit: tk.PowerLawFit = tk.fit_power_law(graph.fan_in)
    score = tk.null_scores(graph, {"gap": tk.LAYER_MEASURES["spectral_gap"]}, twins=2, rng=2)["gap"]
    print(f"{gap:.2f} {fit.alpha:.2f} {fit.verdict} {score.z:.2f} {graph.fan_out.max()}")
    return graph


def trained(directory: Path) -> tk.History:
    dense = torch.nn.Sequential(torch.nn.Linear(64, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10))
    model = tk.sparsify(dense, density=0.2, rng=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    engine: tk.Engine = tk.attach(model, optimizer, "set", every=100, rng=4)
    engine.detach()
    distance: float = tk.topology_distance(model, engine.topology)
    assert distance == 0
    tk.save_topology(directory / "model.npz", model)
    layer = SparseLinear(generated(), rng=5)
    config = tk.load_recipe("set_mlp_digits").override(["epochs=2", "model.widths=[64, 20, 10]"])
    history = tk.run(config, directory / "run")
    last = tk.measure(history, ["fan_in", "turnover"])
    print(len(last), history.epochs["test_accuracy"].max(), layer.values.shape)
    axes = tk.plots.degree_distribution(history.topology(-1)["fc1"], side="fan_out")
    print(axes.get_title(), tk.to_networkx(layer).number_of_nodes())
    return history
