"""The choices a run is made of: frozen dataclasses whose leaves are TOML values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from topokit.tables import choose

__all__ = ["MeasuresSpec", "ModelSpec", "OptimizerSpec", "RuleSpec", "Spec", "TopologySpec"]

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "linear")
WITHOUT_BUDGET = ("file",)


def need(condition: bool, key: str, expected: str, got: Any) -> None:
    """Raise the one message every bad value of a key is answered with."""
    if not condition:
        raise ValueError(f"{key}: expected {expected}, got {got!r}")


def is_integer(value: Any, least: int) -> bool:
    """Tell whether a value is an int (no bool) of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_share(value: Any) -> bool:
    """Tell whether a value is a density of a layer that has edges."""
    return is_number(value) and 0 < value <= 1


def assign(instance: Any, **values: Any) -> None:
    """Assign fields of a frozen instance while it is being made."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)


@dataclass(frozen=True)
class Spec:
    """A choice from a table, with the parameters given to what is chosen.

    Examples
    --------
    >>> Spec("mnist", {"scale": "unit"}).params
    {'scale': 'unit'}
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        need(isinstance(self.name, str) and self.name != "", "name", "a name", self.name)
        assign(self, params=dict(self.params))


@dataclass(frozen=True)
class ModelSpec(Spec):
    """A model of `MODELS` and the widths of all its layers, input and output included."""

    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        Spec.__post_init__(self)
        good = isinstance(self.widths, Sequence) and not isinstance(self.widths, str)
        need(
            good and len(self.widths) >= 2 and all(is_integer(w, 1) for w in self.widths),
            "model.widths",
            "at least two positive integers such as [784, 1000, 10]",
            list(self.widths) if good else self.widths,
        )
        assign(self, widths=tuple(self.widths))


@dataclass(frozen=True)
class TopologySpec:
    """A generator (or start) of the first topology, and its budget.

    The budget is one of `epsilon`, `density` and, for each layer its own, a list of `densities`.
    Beside `epsilon` or `density`, `densities` names their allocation to layers, from `DENSITIES`.
    Only the start ``"file"`` takes no budget.
    """

    generator: str
    epsilon: float | None = None
    density: float | None = None
    densities: str | tuple[float, ...] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        eps, density, shares = self.epsilon, self.density, self.densities
        need(isinstance(self.generator, str), "topology.generator", "a name", self.generator)
        each = isinstance(shares, list | tuple)
        given = {
            key: value
            for key, value in (("epsilon", eps), ("density", density), ("densities", shares))
            if value is not None and (key != "densities" or each)
        }
        if len(given) != (self.generator not in WITHOUT_BUDGET):
            words = " and ".join(f"{key} {value!r}" for key, value in given.items())
            raise ValueError(
                f"topology: a start from a file has the file's edges, got {words} with it"
                if self.generator in WITHOUT_BUDGET
                else "topology: expected exactly one of epsilon and density, "
                f"got {words or 'neither (nor a list of densities)'}"
            )
        if eps is not None:
            need(is_number(eps) and eps > 0, "topology.epsilon", "a number above 0", eps)
            assign(self, epsilon=float(eps))
        if density is not None:
            need(_is_share(density), "topology.density", "a number above 0 and at most 1", density)
            assign(self, density=float(density))
        good = shares is None or isinstance(shares, str) or (each and all(map(_is_share, shares)))
        words = "a name, or a list of numbers above 0 and at most 1"
        need(good, "topology.densities", words, shares)
        if each:
            assign(self, densities=tuple(float(share) for share in shares or ()))
        assign(self, params=dict(self.params))


@dataclass(frozen=True)
class OptimizerSpec:
    """The optimizer of weights; `momentum` and `nesterov` are for "sgd" alone.

    `weight_decay` is torch's: added to the gradient by "sgd" and "adam", decoupled and
    multiplied by `lr` in "adamw". `lr_schedule` is "constant", or takes `lr` to zero over the run
    ("cosine", "linear").
    """

    name: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    lr_schedule: str = "constant"

    def __post_init__(self) -> None:
        choose("optimizer", self.name, dict.fromkeys(OPTIMIZERS))
        choose("learning-rate schedule", self.lr_schedule, dict.fromkeys(SCHEDULES))
        need(is_number(self.lr) and self.lr > 0, "optimizer.lr", "a number above 0", self.lr)
        good = is_number(self.momentum) and 0 <= self.momentum < 1
        need(good, "optimizer.momentum", "a number from 0 to below 1", self.momentum)
        good = is_number(self.weight_decay) and self.weight_decay >= 0
        need(good, "optimizer.weight_decay", "a number of at least 0", self.weight_decay)
        good = isinstance(self.nesterov, bool)
        need(good, "optimizer.nesterov", "true or false", self.nesterov)
        if self.name != "sgd" and (self.momentum or self.nesterov):
            raise ValueError(
                f"optimizer: momentum and nesterov belong to 'sgd', got them with {self.name!r}"
            )
        if self.nesterov and not self.momentum:
            raise ValueError("optimizer.nesterov: expected a momentum above 0, got 0")
        floats = {key: float(getattr(self, key)) for key in ("lr", "momentum", "weight_decay")}
        assign(self, **floats)


@dataclass(frozen=True)
class RuleSpec(Spec):
    """A rule of `RULES`, and how many edges it replaces, when, and in which layers.

    Parameters
    ----------
    name, params
        The rule and its own parameters.
    drop_fraction : float
        Share of a layer's edges replaced at one update, 0 to 1.
    schedule : str
        How `drop_fraction` moves over the run, or until `stop`: "constant", "cosine" or "linear"
        (to zero), epoch by epoch, or step by step where `every` counts steps.
    every : "epoch" or int
        Rewire after each epoch but the last, or at each so many optimizer steps but the last.
    stop : int, optional
        The first epoch (counted from 0) without rewiring.
    skip : tuple of str
        Names of layers that keep their graph.
    final : str
        What follows the last epoch: "keep" nothing, "drop" a last removal without growing.
    """

    drop_fraction: float = 0.3
    schedule: str = "constant"
    every: str | int = "epoch"
    stop: int | None = None
    skip: tuple[str, ...] = ()
    final: str = "keep"

    def __post_init__(self) -> None:
        Spec.__post_init__(self)
        zeta = self.drop_fraction
        good = is_number(zeta) and 0 <= zeta <= 1
        need(good, "rule.drop_fraction", "a number from 0 to 1", zeta)
        choose("drop-fraction schedule", self.schedule, dict.fromkeys(SCHEDULES))
        need(self.final in ("keep", "drop"), "rule.final", '"keep" or "drop"', self.final)
        good = self.every == "epoch" or is_integer(self.every, 1)
        need(good, "rule.every", '"epoch" or a positive number of steps', self.every)
        good = self.stop is None or is_integer(self.stop, 0)
        need(good, "rule.stop", "an epoch (an integer of at least 0)", self.stop)
        assign(self, drop_fraction=float(zeta), skip=_names("rule.skip", self.skip))


@dataclass(frozen=True)
class MeasuresSpec:
    """Which measures are taken, and at which epochs.

    Parameters
    ----------
    names : tuple of str, optional
        Taken at each so many epochs (`every`) and the last; `None`: the core measures.
    every : int
    chosen : tuple of str
        Costlier ones, taken also at the first and the last epoch, and at each so many
        (`chosen_every`) if that is given.
    chosen_every : int, optional
    """

    names: tuple[str, ...] | None = None
    every: int = 1
    chosen: tuple[str, ...] = ()
    chosen_every: int | None = None

    def __post_init__(self) -> None:
        if self.names is not None:
            assign(self, names=_names("measures.names", self.names))
        need(is_integer(self.every, 1), "measures.every", "a positive integer", self.every)
        assign(self, chosen=_names("measures.chosen", self.chosen))
        good = self.chosen_every is None or is_integer(self.chosen_every, 1)
        need(good, "measures.chosen_every", "a positive integer", self.chosen_every)

    def at(self, epoch: int, epochs: int, core: tuple[str, ...]) -> list[str]:
        """Names taken at one epoch of so many; `core` stands for `names` where these are None."""
        ends = epoch == epochs - 1
        due = list(core if self.names is None else self.names)
        if epoch % self.every and not ends:
            due = []
        if epoch == 0 or ends or (self.chosen_every and epoch % self.chosen_every == 0):
            due += self.chosen
        return list(dict.fromkeys(due))


def _names(key: str, value: Any) -> tuple[str, ...]:
    """Check a list of strings and return it as a tuple."""
    good = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    need(good, key, "a list of names", value)
    return tuple(value)
