"""Train sparse networks, record the graph of every layer, and measure how it evolves.

`_HOME` lists the public names by the module that defines each. A name is imported when first used,
so that ``import topokit`` takes a few milliseconds and analysing a finished run never loads torch.
Type checkers and editors read ``__init__.pyi`` instead, which lists the same names.
"""

from importlib import import_module

_HOME = {
    "graph": ("LayerGraph", "EdgeUpdate", "Topology"),
    "graph.convert": (
        "from_scipy",
        "from_networkx",
        "to_networkx",
        "save_topology",
        "load_topology",
    ),
    "graph.exchange": (
        "to_igraph",
        "from_igraph",
        "to_rustworkx",
        "from_rustworkx",
        "to_edge_index",
        "from_edge_index",
        "to_network_index",
        "from_network_index",
    ),
    "graph.networks": ("describe",),
    "generators": ("generate", "GENERATORS", "DENSITIES", "randomized_twin"),
    "measures": (
        "measure",
        "LAYER_MEASURES",
        "NETWORK_MEASURES",
        "CHANGE_MEASURES",
        "fit_power_law",
        "PowerLawFit",
        "degree_report",
        "DegreeReport",
        "topology_distance",
    ),
    "measures.nulls": ("null_scores", "NullScore"),
    "rules": ("RULES", "UpdateRule", "LayerView"),
    "nn.sparsify": ("sparsify",),
    "nn.densify": ("densify",),
    "nn.engine": ("attach", "Engine"),
    "nn.models": ("MODELS",),
    "data": ("DATASETS", "Data", "load_data"),
    "experiments.config": ("RunConfig", "RECIPES", "load_recipe"),
    "experiments.record": ("History", "Recording"),
    "experiments.runs": ("run", "resume", "model_of", "data_of"),
    "experiments.study": ("Study", "load_study"),
    "experiments.sweep": ("sweep", "SweepResult"),
    "experiments.compare": ("compare", "Comparison"),
    "plugins": ("register", "load_plugins"),
    "read": ("topology_of",),
    "estimators": ("SparseMLPClassifier", "SparseMLPRegressor"),
    "plots": ("LAYER_PLOTS", "HISTORY_PLOTS", "ACROSS_PLOTS"),
}

# The subpackages, imported at first use like the names above.
_SUBPACKAGES = (
    "cli",
    "data",
    "experiments",
    "generators",
    "graph",
    "measures",
    "nn",
    "plots",
    "rules",
)

_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [*_MODULE_OF, *_SUBPACKAGES]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        value = getattr(import_module(f"topokit.{_MODULE_OF[name]}"), name)
    elif name in _SUBPACKAGES:
        value = import_module(f"topokit.{name}")
    else:
        raise AttributeError(_unknown_name(name), name=name)
    globals()[name] = value
    return value


def _unknown_name(name: str) -> str:
    """Return the error message for an unknown name, with the most similar public one."""
    from topokit.tables import hint

    near = "" if name.startswith("_") else hint(name, __all__).strip()
    return f"module 'topokit' has no attribute {name!r}" + (f"; {near}" if near else "")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
