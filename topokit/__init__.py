"""Train sparse networks, record the graph of every layer, and measure how it evolves.

The public names. Each is imported when first used, so ``import topokit`` costs a few
milliseconds and analysing a finished run never loads torch.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "LayerGraph": "graph",
    "EdgeUpdate": "graph",
    "Topology": "graph",
    "from_scipy": "graph.convert",
    "from_networkx": "graph.convert",
    "to_networkx": "graph.convert",
    "save_topology": "graph.convert",
    "load_topology": "graph.convert",
    "generate": "generators",
    "GENERATORS": "generators",
    "DENSITIES": "generators",
    "randomized_twin": "generators",
    "measure": "measures",
    "LAYER_MEASURES": "measures",
    "NETWORK_MEASURES": "measures",
    "CHANGE_MEASURES": "measures",
    "fit_power_law": "measures",
    "degree_report": "measures",
    "null_scores": "measures.nulls",
    "topology_distance": "measures",
    "RULES": "rules",
    "topology_of": "nn.extract",
    "sparsify": "nn.sparsify",
    "attach": "nn.engine",
    "MODELS": "nn.models",
    "Recording": "experiments.record",
    "SparseMLPClassifier": "classifier",
    "DATASETS": "data",
    "RECIPES": "experiments.config",
    "load_recipe": "experiments.config",
    "History": "experiments.record",
    "run": "experiments.runs",
    "resume": "experiments.runs",
    "LAYER_PLOTS": "plots",
    "HISTORY_PLOTS": "plots",
    "ACROSS_PLOTS": "plots",
}

_MODULES = {"nn", "plots"}

__all__ = [*_HOME, *_MODULES]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"topokit.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"topokit.{name}")
    else:
        raise AttributeError(f"module 'topokit' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
