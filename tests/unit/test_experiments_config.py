import dataclasses
import subprocess
import sys
from typing import Literal

import numpy as np
import pytest

from topokit.experiments.config import (
    RECIPES,
    MeasuresSpec,
    ModelSpec,
    OptimizerSpec,
    RuleSpec,
    RunConfig,
    Spec,
    TopologySpec,
    load_recipe,
)
from topokit.experiments.preparation import check_widths, resolve
from topokit.rules import Rewiring

MINIMAL = {
    "epochs": 2,
    "data": {"name": "digits"},
    "model": {"name": "set_mlp", "widths": [64, 20, 10]},
    "topology": {"generator": "erdos_renyi", "epsilon": 3},
    "rule": {"name": "set"},
}


def merged(**changes):
    values = {k: dict(v) if isinstance(v, dict) else v for k, v in MINIMAL.items()}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            values.setdefault(section, {})[name] = value
        else:
            values[section] = value
    return values


def test_defaults():
    config = RunConfig.from_dict(MINIMAL)
    assert (config.seed, config.batch_size, config.threads) == (0, 100, None)
    assert config.optimizer == OptimizerSpec("sgd", 0.01, 0.0, False, 0.0)
    assert (config.rule.drop_fraction, config.rule.schedule) == (0.3, "constant")
    assert (config.rule.every, config.rule.stop, config.rule.skip) == ("epoch", None, ())
    assert (config.measures.names, config.measures.every) == (None, 1)
    assert config.topology == TopologySpec("erdos_renyi", epsilon=3.0)
    assert isinstance(config.topology.epsilon, float)
    assert config.model == ModelSpec("set_mlp", {}, (64, 20, 10))


def test_unknown_section_keys_become_parameters():
    config = RunConfig.from_dict(merged(rule__init="zeros", data__scale="unit", topology__p=0.5))
    assert config.rule.params == {"init": "zeros"}
    assert config.data == Spec("digits", {"scale": "unit"})
    assert config.topology.params == {"p": 0.5}


def test_configurations_cannot_be_changed():
    config = RunConfig.from_dict(MINIMAL)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs: expected a positive integer, got 0"),
        ({"epochs": True}, "epochs: expected a positive integer, got True"),
        ({"epochs": 1.5}, "epochs: expected a positive integer, got 1.5"),
        ({"epochs": 10**6 + 1}, "epochs: expected at most 1,000,000, as each adds files"),
        ({"epochs": 10**11}, "epochs: expected at most 1,000,000, as each adds files"),
        ({"seed": -1}, "seed: expected an integer of at least 0, got -1"),
        ({"batch_size": 0}, "batch_size: expected a positive integer, got 0"),
        ({"threads": 0}, "threads: expected a positive integer, got 0"),
        ({"threads": 10**20}, "threads: expected at most 4,096, got 1000"),
        ({"seed": 2**63}, "seed: expected at most 9,223,372,036,854,775,807, got"),
        ({"batch_size": 10**30}, "batch_size: expected at most 9,223,372"),
        ({"model__widths": [64]}, "model.widths: expected at least two positive integers"),
        ({"model__widths": [64, 0, 10]}, "such as [784, 1000, 10], got [64, 0, 10]"),
        ({"model__widths": "64,10"}, "got '64,10'"),
        ({"topology__density": 0.1}, "exactly one of epsilon and density, got epsilon 3"),
        ({"topology": {"generator": "x"}}, "exactly one of epsilon and density, got neither"),
        ({"topology": {"generator": "x", "density": 0}}, "topology.density: expected a number"),
        ({"topology": {"generator": "x", "density": 1.1}}, "at most 1, got 1.1"),
        ({"topology__epsilon": -3}, "topology.epsilon: expected a number above 0, got -3"),
        ({"topology__epsilon": float("nan")}, "topology.epsilon: expected a number above 0"),
        ({"topology__densities": 3}, "topology.densities: expected a name, or a list"),
        ({"rule__drop_fraction": 1.2}, "rule.drop_fraction: expected a number from 0 to 1"),
        ({"rule__drop_fraction": "a"}, "rule.drop_fraction: expected a number from 0 to 1"),
        ({"rule__schedule": "cosin"}, "unknown drop-fraction schedule 'cosin'; did you mean 'co"),
        ({"rule__every": 0}, 'rule.every: expected "epoch" or a positive number of steps, got 0'),
        ({"rule__every": "step"}, "rule.every: expected"),
        ({"rule__stop": -1}, "rule.stop: expected an epoch"),
        ({"rule__skip": "fc1"}, "rule.skip: expected a list of names, got 'fc1'"),
        ({"rule__final": "grow"}, 'rule.final: expected "keep" or "drop", got'),
        ({"rule__grown_state": "mean"}, 'rule.grown_state: expected "neutral", "zero" or the'),
        ({"rule__grown_state": {"sum": "mean"}}, 'rule.grown_state: expected "neutral" or "zero"'),
        ({"optimizer": {"lr": 0}}, "optimizer.lr: expected a number above 0, got 0"),
        ({"optimizer": {"momentum": 1}}, "optimizer.momentum: expected a number from 0 to below 1"),
        ({"optimizer": {"weight_decay": -1}}, "optimizer.weight_decay: expected"),
        ({"optimizer": {"decay_per_step": 1}}, "optimizer.decay_per_step: expected"),
        (
            {"optimizer": {"decay_per_step": 0.1, "weight_decay": 0.2}},
            "expected at most one of weight_decay and decay_per_step above 0, got 0.2 and 0.1",
        ),
        ({"measures": {"every": "logs"}}, 'measures.every: expected a positive integer or "log"'),
        ({"optimizer": {"nesterov": 1}}, "optimizer.nesterov: expected true or false, got 1"),
        ({"optimizer": {"nesterov": True}}, "optimizer.nesterov: expected a momentum above 0"),
        (
            {"optimizer": {"name": "adm"}},
            "unknown optimizer 'adm'; did you mean 'adam'? optimizers",
        ),
        ({"optimizer": {"name": "adam", "momentum": 0.9}}, "belong to 'sgd'"),
        ({"optimizer": {"lr_schedule": "step"}}, "unknown learning-rate schedule 'step'"),
        ({"optimizer": {"learning_rate": 1}}, "unknown key 'optimizer.learning_rate'"),
        ({"measures": {"every": 0}}, "measures.every: expected a positive integer"),
        ({"measures": {"names": "gini"}}, "measures.names: expected a list of names"),
        ({"measures": {"chosen": "gini"}}, "measures.chosen: expected a list of names"),
        ({"measures": {"chosen_every": 0}}, "measures.chosen_every: expected a positive integer"),
        ({"epoch": 3}, "unknown key 'epoch'; did you mean 'epochs'? keys: about, batch_size"),
        ({"rule": "set"}, "rule: expected a table [rule], got 'set'"),
        ({"rule": {"drop_fraction": 0.3}}, "missing key 'rule.name'"),
        ({"model": {"name": "set_mlp"}}, "missing key 'model.widths'"),
        ({"data": {"name": 3}}, "expected a name, got 3"),
        ({"about": {"title": 3}}, "about: expected a table of strings"),
    ],
)
def test_bad_values(changes, message):
    with pytest.raises(ValueError) as caught:
        RunConfig.from_dict(merged(**changes))
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["epochs", "data", "model", "topology", "rule"])
def test_missing_keys(key):
    values = merged()
    del values[key]
    with pytest.raises(ValueError, match=f"missing key '{key}'"):
        RunConfig.from_dict(values)


# --- TOML --------------------------------------------------------------------------------------


def test_toml_round_trip_of_everything():
    config = RunConfig(
        epochs=3,
        seed=7,
        batch_size=5,
        threads=2,
        data=Spec("csv", {"path": 'a "quoted" \\ path\n', "columns": ["a", "b"], "own": {"x": 1}}),
        model=ModelSpec("set_mlp", {"dropout": 0.25}, (4, 5, 6)),
        topology=TopologySpec("block", density=1e-7, densities="erk", params={"sizes": [[1], [2]]}),
        optimizer=OptimizerSpec("sgd", 1e-4, 0.9, True, 1e-16),
        rule=RuleSpec(
            "set",
            {"a-b c": True},
            drop_fraction=0.25,
            schedule="cosine",
            every=30,
            stop=2,
            skip=("fc1",),
            final="drop",
        ),
        about={"title": "Erdős–Rényi \x7f"},
    )
    assert RunConfig.from_toml(config.to_toml()) == config
    assert RunConfig.from_dict(config.to_dict()) == config
    nothing = dataclasses.replace(config, measures=MeasuresSpec(names=()))
    assert RunConfig.from_toml(nothing.to_toml()).measures.names == ()


def test_from_toml_file_and_errors(tmp_path):
    path = tmp_path / "run.toml"
    config = RunConfig.from_dict(MINIMAL)
    path.write_text(config.to_toml(), encoding="utf-8")
    assert (
        RunConfig.from_toml(path) == RunConfig.from_toml(str(path)) == load_recipe(path) == config
    )
    with pytest.raises(FileNotFoundError, match=r"expected a TOML file, found none at .*no\.toml"):
        RunConfig.from_toml(tmp_path / "no.toml")
    path.write_text("epochs = \n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"run\.toml is not valid TOML: Invalid value \(at line 1"):
        RunConfig.from_toml(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"run\.toml is not valid TOML"):
        RunConfig.from_toml(path)
    path.write_text("epochs = -1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"run\.toml: missing key 'data'"):
        RunConfig.from_toml(path)


# --- overriding --------------------------------------------------------------------------------


def test_override_values():
    config = RunConfig.from_dict(MINIMAL).override(
        [
            "epochs=7",
            "rule.drop_fraction = 0.5",
            "model.widths=[64, 30, 10]",
            "optimizer.momentum=0.9",
            'data.scale="standard"',
            "measures.names=['fan_in']",
            "threads=1",
        ]
    )
    assert (config.epochs, config.threads) == (7, 1)
    assert config.rule.drop_fraction == 0.5
    assert config.model.widths == (64, 30, 10)
    assert config.optimizer.momentum == 0.9
    assert config.data.params == {"scale": "standard"}
    assert config.measures.names == ("fan_in",)


def test_override_bare_words_and_budgets():
    config = RunConfig.from_dict(MINIMAL).override(["data.name=mnist", "topology.density=0.1"])
    assert config.data.name == "mnist"
    assert (config.topology.epsilon, config.topology.density) == (None, 0.1)
    assert config.override(["topology.epsilon=2"]).topology.density is None
    with pytest.raises(ValueError, match="exactly one of epsilon and density"):
        config.override(["topology.epsilon=2", "topology.density=0.1"])


def test_a_new_choice_leaves_the_old_parameters_behind():
    config = RunConfig.from_dict(merged(rule__init="zeros", rule__drop_fraction=0.1))
    new = config.override(["rule.name=rigl"])
    assert (new.rule.name, new.rule.params, new.rule.drop_fraction) == ("rigl", {}, 0.1)
    assert config.override(["rule.name=set"]).rule.params == {"init": "zeros"}
    both = config.override(["rule.mode=soft", "rule.name=cht"])
    assert both.rule.params == {"mode": "soft"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rule.drop_fraction", "expected key=value such as rule.drop_fraction=0.2, got"),
        ("rule.=3", "expected key=value"),
        ("=3", "expected key=value"),
        ("epochs.a=3", "epochs.a: expected a table at 'epochs', got a value"),
        ("epocs=3", "unknown key 'epocs'; did you mean 'epochs'?"),
        ("epochs=many", "epochs: expected a positive integer, got 'many'"),
        ("epochs=3\nseed=4", "epochs: expected a positive integer, got '3\\nseed=4'"),
        ("optimizer.lrr=3", "unknown key 'optimizer.lrr'; did you mean 'lr'?"),
    ],
)
def test_bad_overrides(text, message):
    with pytest.raises(ValueError) as caught:
        RunConfig.from_dict(MINIMAL).override([text])
    assert message in str(caught.value)


# --- tables ------------------------------------------------------------------------------------


def katz(
    *, n_paths: int = 3, mode: Literal["hard", "soft"] = "hard", hubs: list[int] | None = None
):
    return n_paths, mode, hubs


def dataset(*, data_dir, rng, path: str, scale: float = 1.0, header: bool = True):
    return path, scale, header


TABLES = {
    "data": {"csv": dataset, "digits": lambda *, data_dir, rng: None},
    "rule": {"katz": katz, "set": lambda **anything: None},
    "topology": {"erdos_renyi": lambda n_in, n_out, *, density, rng: None},
    "model": {"set_mlp": lambda topology, *, rng, dropout=0.0: None},
    "densities": {"uniform": None, "erk": None},
    "measures": {"fan_in": None},
}


def test_resolve_accepts_what_fits():
    config = RunConfig.from_dict(
        merged(
            data={"name": "csv", "path": "x.csv", "scale": 2},
            rule={"name": "katz", "n_paths": 2, "mode": "soft", "hubs": [1, 2]},
            model__dropout=0.2,
            topology__densities="erk",
            measures={"names": ["fan_in.mean"]},
        )
    )
    assert resolve(config, TABLES) is config
    resolve(RunConfig.from_dict(merged(rule__anything=3)), TABLES)
    resolve(RunConfig.from_dict(merged(rule__name="unchecked")), {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule__name": "katzz"}, "unknown rule 'katzz'; did you mean 'katz'? rules: katz, set"),
        ({"rule__name": "zzzzzz"}, "unknown rule 'zzzzzz'; rules: katz, set"),
        (
            {"data__name": "digit"},
            "unknown data set 'digit'; did you mean 'digits'? data sets: csv",
        ),
        ({"model__name": "mlp"}, "unknown model 'mlp'; did you mean 'set_mlp'? models: set_mlp"),
        ({"topology__generator": "er"}, "unknown generator 'er'"),
        ({"topology__densities": "ERK"}, "unknown density allocation 'ERK'; did you mean 'erk'?"),
        ({"measures": {"names": ["fanin"]}}, "unknown measure 'fanin'; did you mean 'fan_in'?"),
        (
            {"rule": {"name": "katz", "n_path": 2}},
            "unknown key 'rule.n_path'; did you mean 'n_paths'? parameters of rule 'katz': "
            "hubs (list of int), mode ('hard' or 'soft'), n_paths (int)".replace("list", "a list"),
        ),
        (
            {"rule": {"name": "katz", "drop_fracton": 2}},
            "unknown key 'rule.drop_fracton'; did you mean 'drop_fraction'?",
        ),
        ({"topology__rng": 3}, "unknown key 'topology.rng'; parameters of generator 'erdos_renyi'"),
        ({"rule": {"name": "katz", "n_paths": 2.5}}, "rule.n_paths: expected int, got 2.5"),
        ({"rule": {"name": "katz", "n_paths": True}}, "rule.n_paths: expected int, got True"),
        ({"rule": {"name": "katz", "mode": "x"}}, "rule.mode: expected 'hard' or 'soft', got 'x'"),
        ({"rule": {"name": "katz", "hubs": ["a"]}}, "rule.hubs: expected a list of int, got ['a']"),
        ({"data": {"name": "csv"}}, "missing key 'data.path' (str): data set 'csv' needs it"),
        ({"data": {"name": "csv", "path": 3}}, "data.path: expected str, got 3"),
        ({"data": {"name": "csv", "path": "a", "header": 1}}, "data.header: expected bool, got 1"),
    ],
)
def test_resolve_refuses_unknown_names_and_parameters(changes, message):
    with pytest.raises(ValueError) as caught:
        resolve(RunConfig.from_dict(merged(**changes)), TABLES)
    assert message in str(caught.value)


def test_check_widths():
    config = RunConfig.from_dict(MINIMAL)
    check_widths(config, n_features=64, n_classes=10)
    check_widths(config, n_features=64, n_classes=0)
    for features, classes, message in (
        (
            784,
            10,
            r"784 features and 10 classes, got widths from 64 to 10; use --set model\.widths=",
        ),
        (64, 2, r"model\.widths=\[64,20,2\]$"),
        (3, 0, r"3 features and no classes, .* model\.widths=\[3,20,10\]$"),
    ):
        with pytest.raises(ValueError, match=message):
            check_widths(config, n_features=features, n_classes=classes)


def test_load_recipe_refuses_unknown_names(tmp_path):
    with pytest.raises(ValueError, match="unknown recipe 'set_mlp_digit'; did you mean 'set_mlp_d"):
        load_recipe("set_mlp_digit")
    with pytest.raises(FileNotFoundError, match="expected a TOML file"):
        load_recipe(str(tmp_path / "none.toml"))
    (tmp_path / "config.toml").touch()
    with pytest.raises(ValueError, match=r"is a run: 'topokit resume' continues it, config\.toml"):
        load_recipe(tmp_path)
    with pytest.raises(TypeError, match=r"name of a recipe or .* got dict; RunConfig.from_dict"):
        load_recipe({"epochs": 2})
    assert load_recipe("set_mlp_digits") == RunConfig.from_toml(RECIPES["set_mlp_digits"])


def test_integers_of_numpy_are_integers():
    config = load_recipe("set_mlp_digits")
    other = dataclasses.replace(
        config,
        seed=np.int64(3),
        model=dataclasses.replace(config.model, widths=list(np.array([64, 10]))),
    )
    assert RunConfig.from_toml(other.to_toml()) == other
    assert (other.seed, other.model.widths) == (3, (64, 10))


def test_the_options_of_a_rule_are_those_of_every_rewiring():
    spec = load_recipe("set_mlp_digits").rule
    assert list(spec_fields(spec)) == ["name", "params", *spec_fields(Rewiring())]
    assert {
        field.name: getattr(spec, field.name) for field in dataclasses.fields(Rewiring)
    } == vars(Rewiring(drop_fraction=spec.drop_fraction))


def spec_fields(instance):
    return [field.name for field in dataclasses.fields(instance)]


def test_config_imports_neither_torch_nor_pandas():
    code = (
        "import sys, topokit.experiments.config as c; c.load_recipe('set_mlp_digits');"
        "assert not {'torch', 'pandas', 'numba', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
