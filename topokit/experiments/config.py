"""The configuration of a run: frozen dataclasses whose leaves are TOML values."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from topokit.plugins import core_measures, name_of
from topokit.rules.rewire import SCHEDULES, Rewiring
from topokit.tables import (
    Table,
    as_html,
    choose,
    is_integer,
    is_number,
    need,
    parameters_of,
    unknown_key,
)
from topokit.toml import (
    flattened,
    parse_assignment,
    parse_settings,
    parse_toml,
    read_toml,
    table_at,
    to_toml,
)

__all__ = [
    "MeasuresSpec",
    "ModelSpec",
    "OptimizerSpec",
    "RECIPES",
    "RuleSpec",
    "RunConfig",
    "Spec",
    "TopologySpec",
    "choose",
    "is_log_spaced",
    "load_recipe",
    "parameters_of",
    "parse_settings",
    "to_toml",
    "with_registered",
]

OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}
"""Optimizers by name, and their classes in `torch.optim`."""

DEVICES = ("cpu", "cuda", "auto")
"""Where a run can be computed: see `topokit.experiments.preparation.choose_device`."""

LOSSES = ("cross_entropy", "squared_error", "squared_error_output_slope")
"""What the scores of classes are trained by; see `topokit.experiments.samples.OBJECTIVES`."""

DECAYS = ("weight_decay", "decay_per_step")
"""The two ways in which weights decay; an optimizer has at most one."""

WITHOUT_BUDGET = ("file", "run")
"""Initial topologies that have the edges of a file or of another run."""

WITHOUT_WIDTHS = ("resnet", "wide_resnet", "gpt")
"""Models whose layers follow from other parameters; those of `topokit.nn.models.LAYERS`."""


def _is_share(value: Any) -> bool:
    """Return whether a value is a density above 0."""
    return is_number(value) and 0 < value <= 1


def assign(instance: Any, **values: Any) -> None:
    """Assign fields of a frozen dataclass, for use in its ``__post_init__``."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)


@dataclass(frozen=True)
class Spec:
    """The name of an entry in a table, with the parameters that are passed to it.

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
    """A model of `topokit.MODELS` and the widths of all its layers, input and output included.

    Models of `WITHOUT_WIDTHS` have none: their layers follow from their parameters. `loss` is one
    of `LOSSES`, by which scores of classes are trained and evaluated: softmax with cross-entropy,
    or a sigmoid of each score with a squared error (`topokit.experiments.samples.Classes`).
    """

    widths: tuple[int, ...] = ()
    loss: str = LOSSES[0]

    def __post_init__(self) -> None:
        Spec.__post_init__(self)
        choose("loss function", self.loss, dict.fromkeys(LOSSES))
        if self.name in WITHOUT_WIDTHS:
            if len(self.widths):
                raise ValueError(
                    f"model.widths: the layers of {self.name!r} follow from its other parameters, "
                    f"got widths {list(self.widths)}"
                )
            assign(self, widths=())
            return
        good = isinstance(self.widths, Sequence) and not isinstance(self.widths, str)
        need(
            good and len(self.widths) >= 2 and all(is_integer(w, 1) for w in self.widths),
            "model.widths",
            "at least two positive integers such as [784, 1000, 10]",
            list(self.widths) if good else self.widths,
        )
        assign(self, widths=tuple(int(width) for width in self.widths))


@dataclass(frozen=True)
class TopologySpec:
    """A generator (or another source) of the initial topology, and its edge budget.

    The budget is one of `epsilon`, `density` and a list of `densities`, one for each layer. With
    `epsilon` or `density`, `densities` names how the budget is divided among layers, from
    `DENSITIES`. Only ``"file"`` and ``"run"`` take no budget.
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
                f"topology: a topology from a {self.generator} has the {self.generator}'s edges, "
                f"got {words} with it"
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

    Weights decay in one of two ways. `weight_decay` is torch's: added to the gradient by "sgd" and
    "adam", decoupled and multiplied by `lr` in "adamw". `decay_per_step` takes this share of every
    weight at each step, whatever `lr` and momentum are, as in the sparse code of SET's authors:
    ``w <- w - decay_per_step * w + v`` with ``v`` the optimizer's own change. `decay_over` compares
    them. All parameters decay, the values of edges and biases among them; a loop of your own leaves
    out biases with `topokit.nn.decay_groups`. `lr_schedule` is "constant", or takes `lr` to zero
    over the run ("cosine", "linear").
    """

    name: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_per_step: float = 0.0
    lr_schedule: str = "constant"

    def __post_init__(self) -> None:
        choose("optimizer", self.name, OPTIMIZERS)
        choose("learning-rate schedule", self.lr_schedule, SCHEDULES)
        need(is_number(self.lr) and self.lr > 0, "optimizer.lr", "a number above 0", self.lr)
        good = is_number(self.momentum) and 0 <= self.momentum < 1
        need(good, "optimizer.momentum", "a number from 0 to below 1", self.momentum)
        good = is_number(self.weight_decay) and self.weight_decay >= 0
        need(good, "optimizer.weight_decay", "a number of at least 0", self.weight_decay)
        good = is_number(self.decay_per_step) and 0 <= self.decay_per_step < 1
        need(good, "optimizer.decay_per_step", "a number from 0 to below 1", self.decay_per_step)
        if self.weight_decay and self.decay_per_step:
            raise ValueError(
                "optimizer: expected at most one of weight_decay and decay_per_step above 0, got "
                f"{self.weight_decay:g} and {self.decay_per_step:g}"
            )
        good = isinstance(self.nesterov, bool)
        need(good, "optimizer.nesterov", "true or false", self.nesterov)
        if self.name != "sgd" and (self.momentum or self.nesterov):
            raise ValueError(
                f"optimizer: momentum and nesterov belong to 'sgd', got them with {self.name!r}"
            )
        if self.nesterov and not self.momentum:
            raise ValueError("optimizer.nesterov: expected a momentum above 0, got 0")
        numbers = ("lr", "momentum", *DECAYS)
        assign(self, **{key: float(getattr(self, key)) for key in numbers})

    def decay_over(self, steps: int) -> float:
        r"""Return by how much weights decay in a number of steps, in units of e.

        A weight without gradient is multiplied by about :math:`e^{-\Lambda}` with

        .. math:: \Lambda = \begin{cases}
            s \cdot \mathrm{lr} \cdot \mathrm{weight\_decay} / (1 - \mathrm{momentum})
                & \text{"sgd"} \\
            s \cdot \mathrm{lr} \cdot \mathrm{weight\_decay} & \text{"adamw"} \\
            s \cdot \mathrm{decay\_per\_step} & \text{any}
            \end{cases}

        for s `steps`, at the constant learning rate `lr`. Between two rewirings it decides how far
        weights that the loss does not hold up have come towards 0.

        Parameters
        ----------
        steps : int

        Returns
        -------
        float
            At least 0; ``nan`` for the `weight_decay` of "adam", which is divided by the size of
            the gradient.

        Examples
        --------
        >>> coupled = OptimizerSpec("sgd", lr=0.01, momentum=0.9, weight_decay=2e-4)
        >>> per_step = OptimizerSpec("sgd", lr=0.01, momentum=0.9, decay_per_step=2e-4)
        >>> round(coupled.decay_over(600), 6), round(per_step.decay_over(600), 6)
        (0.012, 0.12)
        """
        if not self.weight_decay:
            return steps * self.decay_per_step
        if self.name == "adam":
            return float("nan")
        return steps * self.lr * self.weight_decay / (1 - self.momentum)


@dataclass(frozen=True)
class RuleSpec(Rewiring, Spec):
    """A rule of `topokit.RULES`, its parameters, and the options of `topokit.rules.Rewiring`.

    Parameters
    ----------
    name, params
        The rule and its own parameters.
    drop_fraction, schedule, every, stop, skip, final, grown_state
        As in `topokit.rules.Rewiring`; `schedule` and `grown_state` are names here.
    """

    section: ClassVar[str] = "rule."

    def __post_init__(self) -> None:
        Spec.__post_init__(self)
        Rewiring.__post_init__(self)
        choose("drop-fraction schedule", self.schedule, SCHEDULES)
        good = isinstance(self.grown_state, str)  # a run's optimizers are all known
        need(good, "rule.grown_state", '"neutral" or "zero"', self.grown_state)


@dataclass(frozen=True)
class MeasuresSpec:
    """The measures of a run, and the epochs at which they are taken.

    Parameters
    ----------
    names : tuple of str, optional
        Taken every `every` epochs and at the last; by default the core measures.
    every : int or "log"
        With ``"log"`` at about ten epochs in each factor of ten, evenly on a logarithmic axis:
        see `is_log_spaced`.
    also : tuple of str, optional
        Taken in addition to `names`, at the same epochs. Measures registered by a plugin or a
        script are entered here when a run begins, unless `names` or `also` is given.
    chosen : tuple of str
        Further, costlier measures, taken at the first and the last epoch, and every
        `chosen_every` epochs if that is given.
    chosen_every : int or "log", optional
    """

    names: tuple[str, ...] | None = None
    every: int | str = 1
    chosen: tuple[str, ...] = ()
    chosen_every: int | str | None = None
    also: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for key in ("names", "also"):
            if getattr(self, key) is not None:
                assign(self, **{key: _names(f"measures.{key}", getattr(self, key))})
        words = f'a positive integer or "{LOG}"'
        good = self.every == LOG or is_integer(self.every, 1)
        need(good, "measures.every", words, self.every)
        assign(self, chosen=_names("measures.chosen", self.chosen))
        good = self.chosen_every in (None, LOG) or is_integer(self.chosen_every, 1)
        need(good, "measures.chosen_every", words, self.chosen_every)

    def at(self, epoch: int, epochs: int, core: tuple[str, ...]) -> list[str]:
        """Return the names taken at `epoch` of `epochs`; `core` is used where `names` is None."""
        ends = epoch == epochs - 1
        wanted = (*(("core",) if self.names is None else self.names), *(self.also or ()))
        due = [each for name in wanted for each in (core if name == "core" else (name,))]
        if not (ends or _is_due(epoch, self.every)):
            due = []
        if epoch == 0 or ends or (self.chosen_every and _is_due(epoch, self.chosen_every)):
            due += self.chosen
        return list(dict.fromkeys(due))


MOST_EPOCHS = 1_000_000
"""Epochs of a run: each has a file of its topology, numbered by six digits, and a line."""

LARGEST = {"seed": 2**63 - 1, "batch_size": 2**63 - 1, "threads": 4096}
"""Larger whole numbers do not fit into the tables of results, or into torch."""

LOG = "log"


def _is_due(epoch: int, every: int | str) -> bool:
    return epoch % every == 0 if isinstance(every, int) else is_log_spaced(epoch)


def is_log_spaced(epoch: int) -> bool:
    """Return whether an epoch is 0 or a power of ``10 ** 0.1`` rounded to a whole number.

    Examples
    --------
    >>> [epoch for epoch in range(101) if is_log_spaced(epoch)]
    [0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 63, 79, 100]
    """
    if epoch < 1:
        return epoch == 0
    nearest = round(10 * math.log10(epoch))
    return any(round(10 ** (k / 10)) == epoch for k in (nearest - 1, nearest, nearest + 1))


def _names(key: str, value: Any) -> tuple[str, ...]:
    """Check a list of strings and return it as a tuple."""
    good = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    need(good, key, "a list of names", value)
    return tuple(value)


RECIPES: dict[str, Path] = {
    path.stem: path for path in sorted((Path(__file__).parent.parent / "recipes").glob("*.toml"))
}
"""Name of each shipped recipe and its TOML file."""
RECIPES = Table("recipe", RECIPES)

SECTIONS: dict[str, type] = {
    "data": Spec, "model": ModelSpec, "topology": TopologySpec, "optimizer": OptimizerSpec,
    "rule": RuleSpec, "measures": MeasuresSpec,
}  # fmt: skip
_CHOICES = {"data": "name", "model": "name", "topology": "generator", "rule": "name"}


@dataclass(frozen=True, kw_only=True, repr=False)
class RunConfig:
    """Everything that decides the result of a run; equal configurations give equal runs.

    Parameters
    ----------
    epochs : int
        From 1 to `MOST_EPOCHS`.
    batch_size : int
        At least 1.
    seed : int
        From 0 to 2^63 - 1; every random stream of the run is derived from it.
    threads : int, optional
        Number of threads of a run; by default torch decides.
    device : {"cpu", "cuda", "auto"}
        Where the model is trained. A seed gives other sums in the last digits on another device.
    data, model, topology, optimizer, rule, measures
        The sections of the configuration; see `Spec` and the other dataclasses here.
    about : dict of str
        Title, description, paper and known differences from it; without effect on the run.

    Raises
    ------
    ValueError
        If a value is of the wrong kind or out of range.

    Examples
    --------
    >>> config = load_recipe("set_mlp_digits").override(["rule.drop_fraction=0.2", "epochs=3"])
    >>> config.epochs, config.rule.name, config.rule.drop_fraction
    (3, 'set', 0.2)
    >>> RunConfig.from_toml(config.to_toml()) == config
    True
    """

    epochs: int
    data: Spec
    model: ModelSpec
    topology: TopologySpec
    rule: RuleSpec
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    measures: MeasuresSpec = field(default_factory=MeasuresSpec)
    seed: int = 0
    batch_size: int = 100
    threads: int | None = None
    device: str = "cpu"
    about: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        need(is_integer(self.epochs, 1), "epochs", "a positive integer", self.epochs)
        most = f"at most {MOST_EPOCHS:,}, as each adds files to the run directory"
        need(self.epochs <= MOST_EPOCHS, "epochs", most, self.epochs)
        need(is_integer(self.seed, 0), "seed", "an integer of at least 0", self.seed)
        need(is_integer(self.batch_size, 1), "batch_size", "a positive integer", self.batch_size)
        for key in ("epochs", "seed", "batch_size"):
            assign(self, **{key: int(getattr(self, key))})
        good = self.threads is None or is_integer(self.threads, 1)
        need(good, "threads", "a positive integer", self.threads)
        for key, largest in LARGEST.items():
            value = getattr(self, key) or 0
            need(value <= largest, key, f"at most {largest:,}", value)
        need(self.device in DEVICES, "device", '"cpu", "cuda" or "auto"', self.device)
        good = all(isinstance(text, str) for text in self.about.values())
        need(good, "about", "a table of strings", self.about)
        assign(self, about=dict(self.about))

    def __repr__(self) -> str:
        widths = "-".join(map(str, self.model.widths))
        model = f"{self.model.name} {widths}".rstrip()
        budgets = (f" {key}={getattr(self.topology, key)}" for key in ("epsilon", "density"))
        budget = "".join(words for words in budgets if not words.endswith("None"))
        return (
            f"RunConfig({self.rule.name} on {self.data.name}, {model}, "
            f"{self.topology.generator}{budget}, {self.epochs} epochs, seed {self.seed})"
        )

    def _repr_html_(self) -> str:
        return as_html(repr(self), flattened(self.to_dict()))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Build a configuration from nested dictionaries, as TOML gives them."""
        known = [item.name for item in fields(cls)]
        made: dict[str, Any] = {}
        for key, value in values.items():
            if key not in known:
                raise unknown_key(key, known)
            if key in SECTIONS or key == "about":
                need(isinstance(value, Mapping), key, f"a table [{key}]", value)
            made[key] = _section(key, value) if key in SECTIONS else value
        for key in ("epochs", "data", "model", "topology", "rule"):
            if key not in made:
                raise ValueError(f"missing key {key!r}: a configuration needs it")
        return cls(**made)

    @classmethod
    def from_toml(cls, source: str | Path) -> RunConfig:
        """Read TOML: a path (a `Path`, or one line ending in ``.toml``), or the text itself."""
        is_file = isinstance(source, Path) or ("\n" not in source and source.endswith(".toml"))
        origin = str(source) if is_file else "the configuration"
        values = read_toml(source) if is_file else parse_toml(str(source))
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{origin}: {error}" if is_file else str(error)) from None

    def to_dict(self) -> dict[str, Any]:
        """Return nested dictionaries of TOML values.

        What is `None` is left out, as are the device and the loss where they are the usual ones.
        """
        plain: dict[str, Any] = {}
        for key in ("epochs", "seed", "batch_size", "threads", "device", "about", *SECTIONS):
            value: Any = getattr(self, key)
            if (key, value) == ("device", "cpu"):
                continue
            if key in SECTIONS:
                table = {f.name: getattr(value, f.name) for f in fields(value)}
                params = dict(table.pop("params", {}))
                table = {k: list(v) if isinstance(v, tuple) else v for k, v in table.items()}
                usual = {"loss": LOSSES[0], "widths": []}
                table = {k: v for k, v in table.items() if k not in usual or v != usual[k]}
                value = {k: v for k, v in table.items() if v is not None} | params
            if value is not None and value != {}:
                plain[key] = dict(value) if isinstance(value, Mapping) else value
        return plain

    def to_toml(self) -> str:
        """Return the configuration as TOML text that `from_toml` reads back equal."""
        return to_toml(self.to_dict())

    def override(
        self, assignments: str | Iterable[str] | Mapping[str, Any] = (), /, **values: Any
    ) -> RunConfig:
        """Return a configuration with other values.

        A new choice (another rule, generator, data set or model) starts with its own defaults:
        parameters of the old one are dropped. Setting one of `epsilon` and `density` replaces the
        other, as does setting one of `weight_decay` and `decay_per_step` above 0.

        Parameters
        ----------
        assignments : iterable of str, or mapping
            ``section.key=value`` texts, whose values are TOML; what is not valid TOML is taken as a
            string, so ``rule.name=rigl`` needs no quotes. Or a mapping of such keys to values.
        **values
            Keys without a section, such as ``epochs=3``, and sections: the name of another choice
            (``rule="rigl"``), or a mapping of keys. A function of one's own in place of the name
            of a rule, generator, data set, model or measure is registered under its own name.

        Raises
        ------
        ValueError
            If a key is unknown or a value does not fit.

        Examples
        --------
        >>> config = load_recipe("set_mlp_digits")
        >>> config = config.override({"rule.drop_fraction": 0.2}, epochs=3, topology="biregular")
        >>> config.epochs, config.rule.drop_fraction, config.topology.generator
        (3, 0.2, 'biregular')
        """
        if isinstance(assignments, Mapping):
            values = {**assignments, **values}
            assignments = ()
        texts = [assignments] if isinstance(assignments, str) else assignments
        pairs = [parse_assignment(text) for text in texts] + list(_pairs(values))
        pairs.sort(key=lambda pair: _CHOICES.get(pair[0][0]) != ".".join(pair[0][1:]))
        tables = self.to_dict()
        given = {path for path, _ in pairs}
        for path, value in pairs:
            table = table_at(tables, path)
            section, last = path[0], path[-1]
            if _CHOICES.get(section) == last and table.get(last) != value:
                own = {item.name for item in fields(SECTIONS[section])}
                if value in WITHOUT_WIDTHS:
                    own -= {"widths"}
                tables[section] = table = {k: v for k, v in table.items() if k in own}
            if section == "topology":
                _one_budget(
                    table, last, value, {where[-1] for where in given if where[0] == section}
                )
            if section == "optimizer" and last in DECAYS and value:
                for other in set(DECAYS) - {last}:
                    if (section, other) not in given:
                        table.pop(other, None)
            table[last] = value
        return RunConfig.from_dict(tables)


_KINDS = {
    "data.name": "data set", "model.name": "model", "topology.generator": "generator",
    "topology.densities": "density allocation", "rule.name": "rule",
}  # fmt: skip
"""Keys whose value is a name in a table, and what the table holds."""


def _pairs(values: Mapping[str, Any]) -> Iterable[tuple[tuple[str, ...], Any]]:
    """Yield path and value of each key of a mapping; see `RunConfig.override`."""
    for key, value in values.items():
        if key in SECTIONS and isinstance(value, Mapping):
            yield from _pairs({f"{key}.{inner}": each for inner, each in value.items()})
            continue
        if key in SECTIONS:  # the choice of the section
            key = f"{key}.{_CHOICES.get(key, 'names' if key == 'measures' else 'name')}"
        elif "." not in key and key not in (keys := [item.name for item in fields(RunConfig)]):
            near = [
                f"{section}.{item.name}"
                for section, kind in SECTIONS.items()
                for item in fields(kind)
                if item.name == key
            ]
            raise unknown_key(key, keys, near=next(iter(near), ""))
        if key in _KINDS:
            value = name_of(_KINDS[key], value)
        elif key.startswith("measures.") and (callable(value) or isinstance(value, list | tuple)):
            each = [value] if callable(value) else value
            value = [name_of("measure", name) for name in each]
        elif callable(value):
            raise ValueError(f"{key}: expected a value, got a function")
        yield tuple(key.split(".")), list(value) if isinstance(value, tuple) else value


def with_registered(config: RunConfig) -> RunConfig:
    """Return a configuration that takes the registered measures too, unless it names measures."""
    measures, registered = config.measures, core_measures()
    if not registered or measures.names is not None or measures.also is not None:
        return config
    return replace(config, measures=replace(measures, also=registered))


def _one_budget(table: dict[str, Any], key: str, value: Any, given: set[str]) -> None:
    """Remove from a topology's table the budgets that a newly set value replaces."""
    fixed = key == "generator" and value in WITHOUT_BUDGET
    if not fixed and key not in ("epsilon", "density") and not isinstance(value, list):
        return
    for other in {"epsilon", "density", "densities"} - {key} - given:
        if other != "densities" or fixed or isinstance(table.get(other), list):
            table.pop(other, None)


def _section(key: str, values: Mapping[str, Any]) -> Any:
    """Build the dataclass of one section; keys it does not know become parameters."""
    kind = SECTIONS[key]
    own = {item.name for item in fields(kind)} - {"params"}
    others = {name: value for name, value in values.items() if name not in own}
    choice = _CHOICES.get(key)
    if choice is None:
        for name in others:
            raise unknown_key(name, own, section=key)
    elif choice not in values:
        raise ValueError(f"missing key '{key}.{choice}': a configuration needs it")
    if key == "model" and "widths" not in values and values["name"] not in WITHOUT_WIDTHS:
        raise ValueError("missing key 'model.widths': a configuration needs it")
    made = {name: value for name, value in values.items() if name in own}
    return kind(**made, **({"params": others} if choice else {}))


def load_recipe(name_or_path: str | os.PathLike[str]) -> RunConfig:
    """Return the configuration of a shipped recipe, by name, or of a TOML file, by path.

    Parameters
    ----------
    name_or_path : str or path
        A key of `RECIPES`, or a file.

    Returns
    -------
    RunConfig

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If no recipe has that name, or the file is not a valid configuration.
    FileNotFoundError
        If a path ending in ``.toml`` does not exist.

    Examples
    --------
    >>> load_recipe("set_mlp_mnist").model.widths
    (784, 1000, 1000, 1000, 10)
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(
            "expected a RunConfig, the name of a recipe or the path of a TOML file, got "
            f"{type(name_or_path).__name__}; RunConfig.from_dict reads a dict"
        )
    path = Path(name_or_path)
    if path.suffix == ".toml" or (path.is_file() and str(name_or_path) not in RECIPES):
        return RunConfig.from_toml(path)
    if (path / "config.toml").is_file() and str(name_or_path) not in RECIPES:
        raise ValueError(f"{path} is a run: 'topokit resume' continues it, config.toml begins anew")
    return RunConfig.from_toml(choose("recipe", str(name_or_path), RECIPES))
