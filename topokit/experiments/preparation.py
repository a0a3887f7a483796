"""What a run needs before it trains: device, checked names, data, streams, graphs, optimizer."""

from __future__ import annotations

import inspect
import logging
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache, cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from topokit.data import DATASETS, Data, load_data
from topokit.experiments.config import (
    DEVICES,
    LOSSES,
    OPTIMIZERS,
    SECTIONS,
    WITHOUT_BUDGET,
    OptimizerSpec,
    RunConfig,
)
from topokit.experiments.loop import read_checkpoint
from topokit.experiments.record import EXPLORED
from topokit.experiments.rundir import writable
from topokit.generators import DENSITIES, GENERATORS, generate, generate_layers, layer_densities
from topokit.generators.density import shapes_of
from topokit.graph import Topology
from topokit.measures import CHANGE_MEASURES, LAYER_MEASURES, NETWORK_MEASURES, prepare
from topokit.nn.initial_topology import INITIAL_TOPOLOGIES, WEIGHTS, check_start
from topokit.nn.layers import sparse_layers
from topokit.nn.models import LAYERS, MODELS, SEQUENCES, UNSUPERVISED, inputs_of, layers_for
from topokit.nn.optimizers import SGD
from topokit.plugins import loaded, place_of
from topokit.rules import RULES, make_rule
from topokit.rules.stream import GROWTH
from topokit.tables import check_parameters, choose

__all__ = [
    "STREAMS", "Parts", "check_widths", "choose_device", "environment_of", "first_topology",
    "information", "make_optimizer", "prepare_run", "resolve", "resolve_names", "source_run",
    "take_over",
]  # fmt: skip

PACKAGES = ("topokit-nn", "torch", "numpy", "scipy", "numba", "pandas", "networkx")
OPTIONAL = ("scikit-learn", "triton", "igraph", "rustworkx", "dask", "lightning", "skorch")

_log = logging.getLogger("topokit.experiments")

STREAMS = ("topology", "weights", "order", "rule", "dropout", "data")


@dataclass(frozen=True)
class Parts:
    """Data and random streams, from which new and resumed runs are built."""

    data: Data
    rngs: dict[str, np.random.Generator]
    known: str = ""

    @cached_property
    def checksum(self) -> str:
        """That of the data, computed once."""
        return self.known or self.data.checksum()


def resolve_names(config: RunConfig) -> None:
    """Check the names and parameters of a configuration against all tables.

    Measures that are not topokit's own are tried on a small network.
    """
    measures = {**LAYER_MEASURES, **NETWORK_MEASURES, **CHANGE_MEASURES}
    resolve(
        config,
        tables={
            "data": DATASETS,
            "model": MODELS,
            "topology": {**GENERATORS, **INITIAL_TOPOLOGIES},
            "densities": DENSITIES,
            "rule": RULES,
            "measures": {**measures, EXPLORED: len, "core": len},
        },
    )
    _check_loss(config)
    if config.topology.generator == "run":
        check_start(**config.topology.params)
    wanted = [name for name in config.measures.at(0, 1, ()) if name.partition(".")[0] in measures]
    own = [name for name in wanted if place_of(measures[name.partition(".")[0]])]
    if own:
        prepare(own)


def _check_loss(config: RunConfig) -> None:
    """Raise a ValueError if a loss is not for the model, or something else assumes another one."""
    loss, rule = config.model.loss, config.rule
    if loss == LOSSES[0]:
        return
    if config.model.name in UNSUPERVISED:
        raise ValueError(
            f"model.loss: model {config.model.name!r} has a loss of its own, since it learns "
            f"without labels: leave model.loss out, got {loss!r}"
        )
    if config.topology.generator == "snip":
        raise ValueError(
            "topology.generator: 'snip' chooses edges by the gradient of the cross-entropy: "
            f"expected another generator or model.loss {LOSSES[0]!r}, got {loss!r}"
        )
    if "activations" in make_rule(rule.name, **rule.params).needs:
        raise ValueError(
            f"rule.name: {rule.name!r} looks at the softmax of the last layer: expected another "
            f"rule or model.loss {LOSSES[0]!r}, got {loss!r}"
        )


def prepare_run(
    config: RunConfig,
    data_dir: str | os.PathLike[str] | None,
    known: dict[str, Data] | None = None,
) -> Parts:
    """Check the configuration, then load the data and check that the widths match.

    Data that are in `known`, by their checksum, are taken from there, so that several runs have
    them once in memory; others are added.
    """
    resolve_names(config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    rngs = {
        name: np.random.Generator(
            np.random.PCG64(np.random.SeedSequence(config.seed, spawn_key=(i,)))
        )
        for i, name in enumerate(STREAMS)
    }
    folder = None if data_dir is None else Path(data_dir)
    data = load_data(config.data.name, data_dir=folder, rng=rngs["data"], **config.data.params)
    n_classes = 0 if config.model.name in UNSUPERVISED else data.n_classes
    if not n_classes and config.model.name not in UNSUPERVISED:
        raise ValueError(
            f"data.name: model {config.model.name!r} expected a data set with labels, got "
            f"{data.name!r}, which has none; {', '.join(sorted(UNSUPERVISED))} learns without"
        )
    if (data.y_train.ndim == 2) != (config.model.name in SEQUENCES):
        kind = "one class for each sample" if data.y_train.ndim == 1 else "a class for each feature"
        raise ValueError(
            f"data.name: {data.name!r} has {kind}, which is not what model {config.model.name!r} "
            f"learns; a class for each feature, as in 'text', is for {', '.join(SEQUENCES)} alone"
        )
    if config.model.name in LAYERS:
        _layers(config, data)
    else:
        n_inputs = inputs_of(config.model.name, data.n_features, **config.model.params)
        check_widths(config, n_features=data.n_features, n_classes=n_classes, n_inputs=n_inputs)
    if config.model.name in UNSUPERVISED:
        options = inspect.signature(MODELS[config.model.name]).parameters
        usual = options["threshold"].default if "threshold" in options else None
        _note_one_sided(data, config.model.params.get("threshold", usual))
    if known is None:
        return Parts(data, rngs)
    checksum = data.checksum()
    return Parts(known.setdefault(checksum, data), rngs, checksum)


ONE_SIDED = 0.02  # share of values on one side of a threshold from which that is said


def _note_one_sided(data: Data, threshold: float | None) -> None:
    """Log if nearly all numbers of the samples are on one side of a machine's threshold.

    Zeros are left out where the others are above it, since binary data are mostly zeros.
    """
    if threshold is None:
        return
    x = data.x_train if isinstance(data.x_train, np.ndarray) else data.x_train.data
    number = math.prod(data.x_train.shape)
    above = int(np.count_nonzero(x > threshold)) + (number - x.size) * (threshold < 0)
    given = int(np.count_nonzero(x))
    if above < ONE_SIDED * given or number - above < ONE_SIDED * number:
        share, word = above / number, "1" if 2 * above > number else "0"
        _log.warning(
            "%.3g %% of the values of data set %r are above the threshold %g of the machine, to "
            "which nearly all are %s; set model.threshold or data.scale",
            100 * share, data.name, threshold, word,
        )  # fmt: skip


def _layers(config: RunConfig, data: Data) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the sparse layers of a model of `LAYERS`; checks data and budget."""
    spec = config.topology
    shapes = layers_for(
        config.model.name,
        n_features=data.n_features,
        n_classes=data.n_classes,
        image_shape=data.image_shape,
        **config.model.params,
    )
    if spec.generator in INITIAL_TOPOLOGIES:
        raise ValueError(
            f"topology.generator: expected a generator for model {config.model.name!r}, got "
            f"{spec.generator!r}, which needs a model with widths"
        )
    layer_densities(list(shapes.values()), **_budget(config))
    return shapes


def _budget(config: RunConfig) -> dict[str, Any]:
    spec = config.topology
    return {"epsilon": spec.epsilon, "density": spec.density, "densities": spec.densities}


def source_run(config: RunConfig, folder: Path) -> Path | None:
    """Return the run that a run in a folder starts from, if any: beside it, or anywhere."""
    if config.topology.generator != "run":
        return None
    return folder / Path(str(config.topology.params["run"])).expanduser()


def first_topology(config: RunConfig, parts: Parts, folder: Path | None = None) -> Topology:
    """Return the initial topology of a new run, whose directory is in `folder`."""
    spec, widths, rng = config.topology, config.model.widths, parts.rngs["topology"]
    budget = _budget(config)
    if config.model.name in LAYERS:
        shapes = _layers(config, parts.data)
        return generate_layers(shapes, spec.generator, **budget, rng=rng, **spec.params)
    if spec.generator in INITIAL_TOPOLOGIES:
        shares = None
        if spec.generator not in WITHOUT_BUDGET:
            shares = layer_densities(shapes_of(widths), **budget)
        data, params = parts.data, dict(spec.params)
        if source := source_run(config, folder or Path()):
            params["run"] = str(source)
        return INITIAL_TOPOLOGIES[spec.generator](
            data.x_train, data.y_train, widths=widths, density=shares, rng=rng, **params
        )
    return generate(widths, spec.generator, **budget, rng=rng, **spec.params)


@torch.no_grad()
def take_over(model: nn.Module, source: str | os.PathLike[str], weights: str) -> None:
    """Set the weights of a new model from those that a finished run has at its end.

    Parameters
    ----------
    model : torch.nn.Module
        With the graphs that the run has at its end.
    source : path
        The directory of the run.
    weights : {"fresh", "signs", "values"}
        Nothing; the signs of its edges' weights, with the absolute values of the model (an edge of
        weight 0 keeps the model's sign); or all its parameters.

    Raises
    ------
    FileNotFoundError, ValueError
        If the checkpoint of the run is missing, damaged or of another model.

    Examples
    --------
    >>> import tempfile
    >>> from topokit.experiments.runs import run
    >>> widths, folder = {"model.widths": [64, 20, 10]}, Path(tempfile.mkdtemp())
    >>> first = run("set_mlp_digits", folder / "first", epochs=2, **widths)
    >>> start = {"topology.generator": "run", "topology.run": "first"}
    >>> again = run("static_mlp_digits", folder / "again", epochs=1, **widths, **start)
    >>> again.topology(0)["fc1"] == first.topology(-1)["fc1"]
    True
    """
    if choose("choice of weights", weights, {name: name for name in WEIGHTS}) == "fresh":
        return
    found: dict[str, Any] = read_checkpoint(Path(source) / "checkpoint.pt")["model"]
    try:
        if weights == "values":
            model.load_state_dict(found)
            return
        for name, layer in sparse_layers(model).items():
            theirs = found[f"{name}.values"].to(layer.values.device)
            if any(
                not torch.equal(found[f"{name}.{key}"], value.cpu()) for key, value in _edges(layer)
            ):
                raise ValueError(f"layer {name} has other edges")
            ours = layer.values
            ours.copy_(torch.where(theirs == 0, ours, torch.copysign(ours, theirs)))
    except (KeyError, RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(
            f"the checkpoint of run {source}, whose weights are to be taken over, is of another "
            f"model: {first}"
        ) from None


def _edges(layer: Any) -> list[tuple[str, torch.Tensor]]:
    return [(name, getattr(layer, name)) for name in ("indptr", "indices")]


def make_optimizer(
    spec: OptimizerSpec, parameters: Iterable[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """Return the torch optimizer that a configuration's ``[optimizer]`` describes.

    Parameters
    ----------
    spec : OptimizerSpec
    parameters : iterable of torch.nn.Parameter

    Returns
    -------
    torch.optim.Optimizer

    Examples
    --------
    >>> spec = OptimizerSpec("adam", lr=0.001)
    >>> type(make_optimizer(spec, [torch.nn.Parameter(torch.ones(2))])).__name__
    'Adam'
    """
    options: dict[str, Any] = {"lr": spec.lr, "weight_decay": spec.weight_decay}
    if spec.name == "sgd":
        options |= {"momentum": spec.momentum, "nesterov": spec.nesterov}
    kind: Callable[..., torch.optim.Optimizer]
    kind = SGD if spec.name == "sgd" else getattr(torch.optim, OPTIMIZERS[spec.name])
    held = list(parameters)
    options |= _options_on(held[0].device.type, spec.name)
    optimizer = kind(held, **options)
    if spec.decay_per_step:
        shrink: Any = partial(_shrink, 1 - spec.decay_per_step)
        shrink.recorded = True  # all its work is on the device: see topokit.experiments.captured
        optimizer.register_step_pre_hook(shrink)
    return optimizer


def _options_on(device: str, optimizer: str) -> dict[str, bool]:
    """Return how an optimizer computes on a type of device.

    On a graphics card all parameters are changed by one kernel, and Adam's count of steps is there,
    so that steps can be recorded.
    """
    if device != "cuda":
        return {}
    return {"fused": True} if optimizer == "sgd" else {"fused": True, "capturable": True}


@torch.no_grad()
def _shrink(factor: float, optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Multiply all weights that a step will change by a factor.

    Before the step, so that ``w (1 - decay) + v`` results: gradients are those of the weights
    before, and `v` does not depend on weights, as torch's own decay is 0.
    """
    every = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if every:
        torch._foreach_mul_(every, factor)


def resolve(config: RunConfig, tables: Mapping[str, Mapping[str, Callable[..., Any]]]) -> RunConfig:
    """Check the names and parameters of a configuration against the tables, before any work.

    Parameters
    ----------
    config : RunConfig
    tables : mapping
        ``{"data": DATASETS, "model": MODELS, "topology": GENERATORS, "densities": DENSITIES,
        "rule": RULES, "measures": ...}``; sections without a table are not checked.

    Returns
    -------
    RunConfig
        `config` itself.

    Raises
    ------
    ValueError
        If a name is in no table, or a parameter is unknown, missing or of the wrong type.

    Examples
    --------
    >>> def katz(*, n_paths: int = 3): ...
    >>> from topokit.experiments.config import load_recipe
    >>> config = load_recipe("static_mlp_digits").override(["rule.name=katzz"])
    >>> resolve(config, {"rule": {"katz": katz}})
    Traceback (most recent call last):
    ValueError: unknown rule 'katzz'; did you mean 'katz'? rules: katz
    """
    choices = (
        ("data", "data set", config.data.name, config.data.params),
        ("model", "model", config.model.name, config.model.params),
        ("topology", "generator", config.topology.generator, config.topology.params),
        ("rule", "rule", config.rule.name, config.rule.params),
    )
    for section, kind, name, params in choices:
        if section in tables:
            reserved = {item.name for item in fields(SECTIONS[section])} - {"params"}
            chosen = choose(kind, name, tables[section])
            check_parameters(kind, name, chosen, params, section=section, reserved=reserved)
    shares, n_layers = config.topology.densities, len(config.model.widths) - 1
    if isinstance(shares, str) and "densities" in tables:
        choose("density allocation", shares, tables["densities"])
    elif isinstance(shares, tuple) and config.model.widths and len(shares) != n_layers:
        raise ValueError(
            f"topology.densities: expected one for each of {n_layers} layers, got {len(shares)}"
        )
    if "measures" in tables:
        spec = config.measures
        for name in (spec.names or ()) + (spec.also or ()) + spec.chosen:
            choose("measure", name.partition(".")[0], tables["measures"])
    return config


def check_widths(
    config: RunConfig, *, n_features: int, n_classes: int, n_inputs: int | None = None
) -> None:
    """Check that the first and the last width fit the data.

    Parameters
    ----------
    config : RunConfig
    n_features : int
        Number of features of the data.
    n_classes : int
        0 for data without labels; the last width is then not checked.
    n_inputs : int, optional
        Number of inputs of the first sparse layer if it differs from `n_features`, as after
        convolutions.

    Raises
    ------
    ValueError
        If they do not fit; the message contains a setting that does.

    Examples
    --------
    >>> from topokit.experiments.config import load_recipe
    >>> check_widths(load_recipe("set_mlp_digits"), n_features=784, n_classes=10)
    Traceback (most recent call last):
    ValueError: model.widths: data set 'digits' has 784 features and 10 classes, got widths from 64
    to 10; use --set model.widths=[784,1000,1000,1000,10]
    """
    widths = config.model.widths
    right = (n_inputs or n_features, *widths[1:-1], n_classes or widths[-1])
    if widths != right:
        listed_widths = ",".join(map(str, right))
        behind = "" if n_inputs in (None, n_features) else f" ({n_inputs} behind the convolutions)"
        raise ValueError(
            f"model.widths: data set {config.data.name!r} has {n_features} features{behind} and "
            f"{n_classes or 'no'} classes, got widths from {widths[0]} to {widths[-1]}; "
            f"use --set model.widths=[{listed_widths}]"
        )


def choose_device(setting: str) -> torch.device:
    """Return the device that a setting means on this machine.

    Parameters
    ----------
    setting : {"cpu", "cuda", "auto"}
        ``"cuda"`` is the first GPU that torch finds (``CUDA_VISIBLE_DEVICES`` chooses among
        several); ``"auto"`` is that, if there is one, else the CPU, and is said in the log.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If the setting is another one, or ``"cuda"`` and torch finds no GPU.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    choose("device", setting, dict.fromkeys(DEVICES))
    why = _without_cuda()
    if setting == "cuda" and why:
        raise ValueError(
            f"device: expected a GPU for 'cuda', got none: {why}; use device 'cpu', or 'auto' for "
            "whatever there is"
        )
    if setting == "auto":
        chosen, reason = ("cpu", why) if why else ("cuda", torch.cuda.get_device_name(0))
        _log.info("device auto: %s (%s)", chosen, reason)
        return torch.device(chosen)
    return torch.device(setting)


def _without_cuda() -> str:
    """Return why there is no GPU to use; "" if there is one."""
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} was built without CUDA"
    return f"torch {torch.__version__} finds no CUDA device"


def environment_of(config: RunConfig, nproc: int, device: torch.device) -> dict[str, Any]:
    """Return versions, machine, device, seed and command: what is needed to repeat the run.

    Parameters
    ----------
    config : RunConfig
    nproc : int
        Number of processes that train together.
    device : torch.device
    """
    plugins = loaded()
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {
        "seed": config.seed,
        "command": writable(shlex.join([_program(Path(sys.argv[0])), *sys.argv[1:]])),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device.type,
        "growth": GROWTH,
        **gpu,
        "nproc": nproc,
        "threads": torch.get_num_threads(),
        "packages": _versions(PACKAGES),
        **({"plugins": plugins} if plugins else {}),
    }


def _program(path: Path) -> str:
    """Return the name of the program as it is typed; ``python -m topokit`` is the command, too."""
    return "topokit" if path.parts[-2:] == ("topokit", "__main__.py") else path.name


def information() -> dict[str, Any]:
    """Return what is on this machine, and what runs would use.

    Returns
    -------
    dict
        ``python``, ``platform``, ``packages`` (versions; of optional ones only those that are
        there), ``cores``, ``threads`` (of a run, unless it sets them), ``gpus`` (names and
        memory), ``auto`` (the device that the setting ``"auto"`` means here) and ``why``.

    Examples
    --------
    >>> found = information()
    >>> found["auto"] in ("cpu", "cuda"), "torch" in found["packages"]
    (True, True)
    """
    why = _without_cuda()
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    there = getattr(os, "sched_getaffinity", None)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _versions((*PACKAGES, *OPTIONAL)),
        "cores": len(there(0)) if there else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [f"{card.name}, {card.total_memory / 2**30:.0f} GiB" for card in cards],
        "auto": "cpu" if why else "cuda",
        "why": why or cards[0].name,
        "data": os.environ.get("TOPOKIT_DATA", ""),
    }


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {name: _version(name) for name in names}
    return {name: known for name, known in found.items() if known}


@cache  # reading it takes a fifth of the time of a run of a few small epochs
def _version(name: str) -> str:
    """Return the version of a package, "" if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
