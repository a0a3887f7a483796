"""Studies as TOML: a base recipe, conditions, cases, a grid over configuration keys, and seeds.

Also whether a folder holds a sweep of a study, and which of its runs.
"""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from topokit.experiments.config import WITHOUT_BUDGET, RunConfig, load_recipe
from topokit.experiments.rundir import RunDirectory
from topokit.foreign import first_few
from topokit.graph.files import is_temporary
from topokit.tables import Table, choose, unknown_key
from topokit.toml import flattened, read_toml, to_toml

__all__ = [
    "STUDIES", "PlannedRun", "Study", "check_folder", "check_name", "in_order",
    "load_study", "same_run", "study_from",
]  # fmt: skip

_log = logging.getLogger("topokit.experiments")

_UNREADABLE = "unreadable"

STUDIES: dict[str, Path] = {
    path.stem: path
    for path in sorted((Path(__file__).parent.parent / "recipes/studies").glob("*.toml"))
}
"""The shipped studies: name and TOML file."""
STUDIES = Table("study", STUDIES)

_TABLES = ("study", "base", "settings", "cases", "grid", "arms", "quick")
_STUDY = ("name", "title", "description", "recipe", "seeds", "measures")
_KEY = re.compile(r"[\w-]+(\.[\w-]+)*")  # of a configuration, as settings and grids name it
MOST_RUNS = 100_000
"""Runs of a study: each has a folder, and a plan of more would fill the memory."""
_BUDGETS = ("topology.epsilon", "topology.density", "topology.densities")


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: its name, condition, cell of the grid and complete configuration.

    `cell` begins with ``"case"`` in a study that has cases. `after` is the name of the run of the
    same study, if any, that must have finished before this one, which starts from it.
    """

    name: str
    arm: str
    cell: Mapping[str, Any]
    config: RunConfig
    after: str = ""


@dataclass(frozen=True, repr=False)
class Study:
    """A set of runs: every condition in every case and cell of a grid, with every seed.

    Parameters
    ----------
    name, title, description : str
    base : RunConfig
        The configuration that the settings below change.
    settings : mapping
        Values of configuration keys (``"rule.drop_fraction"``) for all runs.
    grid : mapping
        Configuration keys and the values each takes; all combinations are run.
    arms : mapping
        Name of each condition and its settings, which may change several keys together.
    seeds : tuple of int
    cases : mapping
        Name of each case and its settings, such as a data set with the widths of its networks. All
        conditions are run in every case; their settings come after those of the case.
    after : mapping
        Conditions that start from the finished runs of another one, and that one: their
        ``topology.run`` is its run with the same case, cell and seed.
    only : mapping
        Conditions that are run in some cases alone, and the names of these.

    Examples
    --------
    >>> study = load_study("madelon")
    >>> len(study.runs()), study.runs()[0].name
    (60, 'ctre_sim-init=he_dense_uniform-seed0')
    """

    name: str
    base: RunConfig
    title: str = ""
    description: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    arms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    cases: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __repr__(self) -> str:
        sizes = {"conditions": len(self.arms), "cases": len(self.cases), "seeds": len(self.seeds)}
        sizes |= {f"values of {key}": len(values) for key, values in self.grid.items()}
        words = ", ".join(f"{n} {what}" for what, n in sizes.items() if n)
        return f"Study({self.name!r}, {words})"

    def runs(self) -> list[PlannedRun]:
        """Return all runs with their configurations, ordered by condition, case, cell and seed.

        Raises
        ------
        ValueError
            If a key or value is invalid, two runs would have the same name, or there are more than
            `MOST_RUNS`.
        """
        pairs = sum(len(self.only.get(arm, self.cases)) or 1 for arm in self.arms or ("",))
        number = pairs * math.prod(map(len, self.grid.values())) * len(self.seeds)
        if number > MOST_RUNS:
            raise ValueError(f"expected at most {MOST_RUNS:,} runs of a study, got {number:,}")
        planned: list[PlannedRun] = []
        for arm in self.arms or ("",):
            for case in self.cases or ("",):
                if case not in self.only.get(arm, (case,)):
                    continue
                for values in itertools.product(*self.grid.values()):
                    cell = dict(zip(self.grid, values, strict=True))
                    planned += self._planned(arm, case, cell)
        seen = set()
        for run in planned:
            if run.name in seen:
                raise ValueError(f"two runs of the study would be named {run.name}")
            seen.add(run.name)
        return planned

    def _planned(self, arm: str, case: str, cell: Mapping[str, Any]) -> Iterator[PlannedRun]:
        """Yield one run for each seed."""
        own = self.arms.get(arm, {})
        changes = {**self.settings, **self.cases.get(case, {})}
        if own.get("topology.generator") in WITHOUT_BUDGET:  # the edges are those of the source
            changes = {key: value for key, value in changes.items() if key not in _BUDGETS}
        changes |= {**own, **cell}
        source = self.after.get(arm)
        _check_settings(changes, source)
        where = {"case": case, **cell} if case else cell
        config = None
        for seed in self.seeds:
            name = self._name(arm, case, cell, seed)
            after = "" if source is None else self._name(source, case, cell, seed)
            try:
                if config is None or after:
                    started = {"topology.run": after} if after else {}
                    config = self._config({**changes, "seed": seed, **started})
                else:  # the runs differ in nothing else
                    config = replace(config, seed=seed)
            except ValueError as error:
                raise ValueError(f"run {name}: {error}") from None
            yield PlannedRun(name, arm, where, config, after)

    def _name(self, arm: str, case: str, cell: Mapping[str, Any], seed: int) -> str:
        """Return the name of a run, which is that of its folder."""
        names = _short_names(tuple(self.grid))
        label = [word for word in (arm, case) if word]
        label += [f"{names[key]}={_word(value)}" for key, value in cell.items()]
        return _slug("-".join([*label, f"seed{seed}"]))

    def _config(self, changes: Mapping[str, Any]) -> RunConfig:
        config = self.base.override([f"{k}={_toml(v)}" for k, v in changes.items()])
        return config if config.threads else replace(config, threads=1)

    def to_toml(self) -> str:
        """Return the study as TOML text, with its complete base, that `study_from` can read."""
        about = {"name": self.name, "title": self.title, "description": self.description}
        text = to_toml({"study": {**about, "seeds": list(self.seeds)}})
        for table in ("settings", "grid"):
            if values := getattr(self, table):
                text += "\n" + to_toml({table: {k: _listed(v) for k, v in values.items()}})
        for table, named in (("cases", self.cases), ("arms", self.arms)):
            for name, settings in named.items():
                entry: dict[str, Any] = {"name": name}
                if table == "arms" and name in self.after:
                    entry["after"] = self.after[name]
                if table == "arms" and name in self.only:
                    entry["cases"] = list(self.only[name])
                entry["settings"] = dict(settings)
                text += f"\n[[{table}]]\n" + to_toml({"one": entry}).partition("\n")[2]
        base = self.base.to_dict()
        flat = {key: value for key, value in base.items() if not isinstance(value, Mapping)}
        text += "\n" + to_toml({"base": flat})
        for key, value in base.items():
            if isinstance(value, Mapping):
                text += f"\n[base.{key}]\n" + to_toml({key: value}).partition("\n")[2]
        return text


def load_study(name_or_path: str | PathLike[str], *, quick: bool = False) -> Study:
    """Return a shipped study, by name, or that of a TOML file, by path.

    Parameters
    ----------
    name_or_path : str or path
    quick : bool
        Apply the study's ``[quick]`` table, which makes a small variant for a first look; a study
        without one has no such variant.

    Returns
    -------
    Study

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If no study has that name, or the file is not a valid study.
    FileNotFoundError
        If a path ending in ``.toml`` does not exist.

    Examples
    --------
    >>> load_study("tutorial_table").seeds
    (0, 1, 2, 3, 4)
    """
    if not isinstance(name_or_path, str | PathLike):
        raise TypeError(
            "expected a Study, the name of a study or the path of a TOML file, got "
            f"{type(name_or_path).__name__}"
        )
    path = Path(name_or_path)
    if path.suffix != ".toml" and (str(name_or_path) in STUDIES or not path.is_file()):
        path = choose("study", str(name_or_path), STUDIES)
    values = read_toml(path)
    try:
        return study_from(values, quick=quick)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def study_from(values: Mapping[str, Any], *, quick: bool = False) -> Study:
    """Build a study from the dictionaries of its TOML file.

    ``[study]`` has ``name``, optionally ``title``, ``description``, ``seeds`` and ``measures``,
    and ``recipe``, unless the whole configuration is in ``[base]``. ``[settings]`` holds
    configuration keys for all runs, ``[grid]`` keys with lists of values, ``[[arms]]`` the
    conditions, each with a name and settings. ``[quick]`` may replace ``seeds`` and single keys of
    ``grid`` and ``settings``, and select ``arms`` and ``cases`` by name. Keys may be written with
    dots or as nested tables.

    ``[[cases]]`` have a name and settings too: what differs between data sets, for example. A
    condition with ``after = "NAME"`` starts from the finished run of the condition of that name
    with the same case, cell and seed; its ``topology.generator`` is ``"run"``. One with a list
    ``cases`` of names is run in these alone.

    Parameters
    ----------
    values : mapping
        The content of the file.
    quick : bool
        Apply the ``[quick]`` table.

    Returns
    -------
    Study

    Raises
    ------
    ValueError
        If a key is missing or unknown, or a value has the wrong type.

    Examples
    --------
    >>> study = study_from({
    ...     "study": {"name": "zeta", "recipe": "set_mlp_digits", "seeds": [0, 1]},
    ...     "grid": {"rule.drop_fraction": [0.1, 0.3]},
    ... })
    >>> [run.name for run in study.runs()]
    ['drop_fraction=0.1-seed0', 'drop_fraction=0.1-seed1', 'drop_fraction=0.3-seed0',
    'drop_fraction=0.3-seed1']
    """
    about = _about(values)
    base = RunConfig.from_dict(values["base"]) if "base" in values else load_recipe(about["recipe"])
    arms, after = _named(values, "arms", "condition", ("name", "settings", "after", "cases"))
    cases, _ = _named(values, "cases", "case", ("name", "settings"))
    settings = flattened(values.get("settings", {}))
    if "measures" in about:
        if "measures.names" in settings:
            raise ValueError("settings.measures.names: study.measures sets this too; set it once")
        settings["measures.names"] = _list(about, "measures", "study.")
    study = Study(  # its grid and seeds are as in the file until they are checked below
        name=about["name"],
        title=about.get("title", ""),
        description=about.get("description", ""),
        base=base,
        settings=settings,
        grid=flattened(values.get("grid", {})),
        arms=arms,
        cases=cases,
        after=after,
        only=_only(values, cases),
        seeds=about.get("seeds", [0]),
    )
    if quick:
        study = _quick(study, values)
    _check_sources(study)
    _check_grid(study)
    good = isinstance(study.seeds, list) and study.seeds
    if not (good and all(type(seed) is int for seed in study.seeds)):
        raise ValueError(f"study.seeds: expected a list of integers, got {study.seeds!r}")
    grid = {key: tuple(choices) for key, choices in study.grid.items()}
    return replace(study, grid=grid, seeds=tuple(study.seeds))


def in_order(root: Path, found: Sequence[Path]) -> list[Path]:
    """Return finished runs of a sweep in the order of its study, and say which others it has.

    Raises
    ------
    ValueError
        If a folder holds the run that the study has under another name.
    """
    try:
        study = load_study(root / "study.toml").runs()
    except (ValueError, TypeError, FileNotFoundError):  # of another version, or edited
        return sorted(found)
    planned = {run.name: _essence(run.config, loosely=True) for run in study}
    others = []
    for path in found:
        own, there = planned.get(path.name), _config_of(path, loosely=True)
        if own is not None and there in (own, _UNREADABLE):
            continue
        others.append(path.name)
        name = next((name for name, config in planned.items() if there == config), None)
        if own is not None and name is not None:
            raise ValueError(
                f"expected run {path.name} of the study in {path}, found its run {name}: was the "
                "folder renamed or copied? give it back its name"
            )
    names = {path.name for path in found}
    if missing := [name for name in planned if name not in names]:
        words = "%d of %d runs of the sweep %s have finished; left out: %s"
        _log.warning(words, len(planned) - len(missing), len(planned), root, first_few(missing, 3))
    if others:
        words = "the sweep %s holds runs that differ from its study.toml: %s"
        _log.warning(words, root, first_few(sorted(others), 3))
    order = {name: i for i, name in enumerate(planned)}
    return sorted(found, key=lambda run: (order.get(run.name, len(order)), run.name))


def same_run(path: Path, config: RunConfig, *, loosely: bool = False) -> bool:
    """Return whether a run has a configuration, apart from its texts, which may change.

    With `loosely`, also apart from what has no influence on its values: device, threads and the
    measures that plugins added. A damaged one is not another one: the run itself reports it.
    """
    return _config_of(path, loosely) in (_essence(config, loosely), _UNREADABLE)


def _config_of(path: Path, loosely: bool) -> RunConfig | str | None:
    """Return what `same_run` compares of a run; None if it is no configuration of this version."""
    try:
        there = RunDirectory(path).config()
    except ValueError:
        return _UNREADABLE
    try:
        return _essence(RunConfig.from_dict(there), loosely)
    except (ValueError, TypeError):
        return None


def _essence(config: RunConfig, loosely: bool) -> RunConfig:
    config = replace(config, about={})
    if loosely:
        measures = replace(config.measures, also=None)
        config = replace(config, device="cpu", threads=None, measures=measures)
    return config


def check_folder(root: Path, name: str) -> None:
    """Raise an error unless a folder is free for a sweep of the study of that name, or holds it."""
    if not root.exists():
        return
    if (root / ".lock").is_file() and not (root / "config.toml").exists():
        check_name(root, name)
        return
    if not root.is_dir():
        raise ValueError(f"expected a folder, {root} is a file; choose another --out")
    others = [path.name for path in root.iterdir() if path.name != "runs"]
    others = sorted(name for name in others if not is_temporary(name))
    if others:
        raise ValueError(
            f"expected a new folder or that of a sweep, {root} holds other files "
            f"({first_few(others, 3)}); choose another --out"
        )


def check_name(root: Path, name: str) -> None:
    """Raise an error if a folder holds a sweep of a study of another name."""
    there = _name_in(root / "study.toml")
    if there not in (None, name):
        raise ValueError(
            f"expected a new folder or that of a sweep of study {name}, {root} holds one of study "
            f"{there}; choose another --out"
        )


def _name_in(path: Path) -> str | None:
    """Return the name of the study in a file, None if there is none."""
    try:
        found = read_toml(path)["study"]["name"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # a sweep writes it again
        return None
    return str(found)


def _about(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the table ``[study]`` of a file; checks it, and which tables the file has."""
    _known(values, _TABLES, "")
    about = values.get("study", {})
    _known(about, _STUDY, "study")
    if "name" not in about:
        raise ValueError("missing key 'study.name': a study needs a name")
    for key in ("name", "title", "description"):
        if not isinstance(about.get(key, ""), str):
            raise ValueError(f"study.{key}: expected a text, got {about[key]!r}")
    if ("recipe" in about) == ("base" in values):
        raise ValueError("expected exactly one of study.recipe and a table [base]")
    if not isinstance(about.get("recipe", ""), str):
        raise ValueError(f"study.recipe: expected a name or a path, got {about['recipe']!r}")
    if not isinstance(values.get("base", {}), Mapping):
        raise ValueError(f"base: expected a table, got {values['base']!r}")
    return about


def _quick(study: Study, values: Mapping[str, Any]) -> Study:
    """Return the small variant of a study that the table ``[quick]`` of its file makes."""
    if "quick" not in values:
        raise ValueError("expected a table [quick] for the small variant, the study has none")
    less = values["quick"]
    _known(less, ("seeds", "settings", "grid", "arms", "cases"), "quick")
    fixed = flattened(less.get("settings", {}))
    grid = {**study.grid, **flattened(less.get("grid", {}))}
    for key in fixed.keys() & grid.keys():
        raise ValueError(f"quick.settings.{key}: the grid has this key; set quick.grid.{key}")
    arms = _selected(less, "arms", "condition", study.arms)
    cases = _selected(less, "cases", "case", study.cases)
    return replace(
        study,
        settings={**study.settings, **fixed},
        grid=grid,
        arms=arms,
        cases=cases,
        after={name: source for name, source in study.after.items() if name in arms},
        only={
            name: tuple(case for case in own if case in cases)
            for name, own in study.only.items()
            if name in arms
        },
        seeds=less.get("seeds", study.seeds),
    )


def _selected(
    less: Mapping[str, Any], table: str, kind: str, named: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the conditions or cases that ``[quick]`` lists, all if it has no such list."""
    if table not in less:
        return named
    names = _list(less, table, "quick.")
    if not names:
        raise ValueError(f"quick.{table}: expected at least one name, got []")
    return {name: choose(kind, name, named) for name in names}


def _check_sources(study: Study) -> None:
    """Raise an error if a condition cannot start from the runs of the one that it names."""
    for name, source in study.after.items():
        choose("condition", source, study.arms)
        if source in study.after:
            raise ValueError(
                f"arms: condition {name!r} is to start from {source!r}, which itself starts from "
                f"{study.after[source]!r}; expected one that starts from none"
            )
        missing = {*study.only.get(name, study.cases)} - {*study.only.get(source, study.cases)}
        if missing:
            raise ValueError(
                f"arms: condition {name!r} is to start from {source!r}, which is not run in case "
                f"{min(missing)!r}; expected cases of both"
            )


def _check_grid(study: Study) -> None:
    """Raise an error if a key of the grid has no list of values, or is set elsewhere too."""
    for key, choices in study.grid.items():
        if not isinstance(choices, list) or not choices:
            raise ValueError(f"grid.{key}: expected a list of values, got {choices!r}")
        for kind, named in (("condition", study.arms), ("case", study.cases)):
            for name, own in named.items():
                if key in own:
                    raise ValueError(f"grid.{key}: {kind} {name!r} sets this key too; set it once")


def _only(values: Mapping[str, Any], cases: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the cases of each condition that names some."""
    found = {}
    for entry in values.get("arms", []):
        if "cases" not in entry:
            continue
        own = entry["cases"]
        if not isinstance(own, list) or not own or not all(isinstance(c, str) for c in own):
            raise ValueError(f"arms.cases: expected a list of names of cases, got {own!r}")
        for case in own:
            choose("case", case, cases)
        found[entry["name"]] = tuple(own)
    return found


def _named(
    values: Mapping[str, Any], table: str, kind: str, keys: tuple[str, ...]
) -> tuple[dict[str, Mapping[str, Any]], dict[str, str]]:
    """Return the settings of each entry of a list of tables, and from which each starts."""
    found: dict[str, Mapping[str, Any]] = {}
    after: dict[str, str] = {}
    for entry in _list(values, table):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise ValueError(f"{table}: expected tables with a name and settings, got {entry!r}")
        _known(entry, keys, table)
        name = entry["name"]
        if name in found:
            raise ValueError(f"{table}: two {kind}s are named {name!r}")
        found[name] = flattened(entry.get("settings", {}))
        if "after" in entry:
            if not isinstance(entry["after"], str):
                raise ValueError(f"{table}.after: expected a name, got {entry['after']!r}")
            after[name] = entry["after"]
    return found, after


def _list(values: Mapping[str, Any], key: str, where: str = "") -> list[Any]:
    """Return the list that a table has at a key, an empty one if it has none."""
    found = values.get(key, [])
    if not isinstance(found, list | tuple):
        raise ValueError(f"{where}{key}: expected a list, got {found!r}")
    return list(found)


def _known(values: Any, keys: tuple[str, ...], table: str) -> None:
    """Raise an error if `values` is not a table or has other keys than the given ones."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{table}: expected a table, got {values!r}")
    for key in values:
        if key not in keys:
            raise unknown_key(key, keys, section=table)


def _short_names(keys: tuple[str, ...]) -> dict[str, str]:
    """Return the last part of each key, or the whole key if several have the same last part."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: key if last.count(end) > 1 else end for key, end in zip(keys, last, strict=True)}


def _word(value: Any) -> str:
    """Return a value as part of a directory name."""
    return "x".join(map(_word, value)) if isinstance(value, list | tuple) else str(value)


def _check_settings(changes: Mapping[str, Any], source: str | None) -> None:
    """Raise an error about keys that are none, or that the study itself sets in every run.

    Parameters
    ----------
    changes : mapping
        All settings of a run.
    source : str or None
        The condition that the run's condition starts from.
    """
    for key in changes:
        if not _KEY.fullmatch(key):
            raise ValueError(
                f"expected a configuration key such as rule.drop_fraction, got {key!r}"
            )
    if "seed" in changes:
        raise ValueError(f"seed: seeds are listed in study.seeds, got {changes['seed']!r} as well")
    if source is not None and "topology.run" in changes:
        raise ValueError(
            f"topology.run: a condition with after = {source!r} starts from the runs of that one, "
            f"got {changes['topology.run']!r} as well"
        )


def _slug(text: str) -> str:
    """Return a text with characters that are unsafe in a directory name replaced."""
    return re.sub(r"[^A-Za-z0-9._=+-]+", "_", text)


def _toml(value: Any) -> str:
    """Return a value as TOML."""
    return to_toml({"value": value}).removeprefix("value = ").rstrip("\n")


def _listed(value: Any) -> Any:
    """Return a tuple as a list, anything else as it is."""
    return list(value) if isinstance(value, tuple) else value
