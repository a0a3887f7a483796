"""Tables and figures of studies with rows of single runs, from very small sweeps of them."""

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pandas as pd
import pytest

from topokit.data import features, images
from topokit.experiments.study import load_study
from topokit.experiments.sweep import sweep

FOLDER = Path(__file__).parents[2] / "figures" / "studies"
LESS = {"epochs": 2, "data.n_train": 150, "data.n_test": 60, "batch_size": 50}
STUDIES = {  # settings that make them small, and the tables that are made
    "mask_or_weights": (
        {"topology.densities": [0.05, 0.2, 0.2, 1.0], "model.widths": [784, 20, 20, 20, 10]},
        ("epochs", "graphs", "conditions", "pairs"),
    ),
    "gap_over_training": (
        {"topology.densities": [0.05, 0.2, 0.2, 1.0], "model.widths": [784, 20, 20, 20, 10]}
        | {"epochs": 4},
        ("scores", "accuracy", "means", "tests", "last"),
    ),
    "ctre_question": (
        {"model.widths": [500, 20, 20, 20, 2], "batch_size": 500},
        ("runs", "conditions", "pairs"),
    ),
    "tutorial_loss": (
        {"model.widths": [784, 20, 20, 20, 10]},
        ("runs", "epochs", "pairs", "conditions"),
    ),
    "structure_convergence": (
        {"data.name": "digits", "model.widths": [64, 20, 20, 20, 10], "epochs": 4}
        | {"topology.epsilon": 4, "batch_size": 500},
        ("layers", "accuracy", "overlap", "pairs", "rules"),
    ),
    "rbm_degrees": ({"model.widths": [784, 30]}, ("runs", "pairs", "conditions")),
    "as_published": (
        {"topology.densities": [0.05, 0.2, 0.2, 1.0], "model.widths": [784, 20, 20, 20, 10]},
        ("runs", "degrees", "accuracy", "pairs", "last", "conditions"),
    ),
}
CASE = {"structure_convergence": "mlp"}  # the first one unless said here
ARMS = {  # all unless said here
    "structure_convergence": ("set", "rigl", "path_weight"),
    "as_published": ("set-coupled", "static-coupled"),
}
OTHER_SAMPLES = ("ctre_question", "structure_convergence")  # without a number of samples to choose
NEED_SAMPLES = ("ctre_question", "rbm_degrees", "as_published")
READERS = (  # of the files of MNIST and Madelon, which every run and some rows read
    (images, "read_idx", cache(images.read_idx)),
    (features, "_read_mat", cache(features._read_mat)),
)


def coarse(save, ax, path, **options):
    """Save a figure of few pixels."""
    save(ax, path, **options | {"dpi": 20})


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", STUDIES)
def test_tables_are_made_and_completed(name, data_dir, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    for module in (name, "rows", "rbm", "madelon"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    script = importlib.import_module(name)
    monkeypatch.setattr(script, "HERE", tmp_path)
    monkeypatch.setattr(sys.modules["rows"], "HERE", tmp_path)
    # How good the estimates are is tested elsewhere.
    if "rbm" in sys.modules:
        monkeypatch.setitem(sys.modules["rbm"].AIS, "betas", 200)
    if hasattr(script, "NULL_SAMPLES"):
        monkeypatch.setattr(script, "NULL_SAMPLES", 3)
    monkeypatch.setattr(script, "save", partial(coarse, script.save))
    for reader in READERS:
        monkeypatch.setattr(*reader)
    settings, tables = STUDIES[name]
    less = LESS | settings
    if name in OTHER_SAMPLES:
        less = {key: value for key, value in less.items() if not key.startswith("data.n_")}
    study = load_study(name)
    own = {key: value for key, value in less.items() if key not in study.grid}
    chosen = CASE.get(name, next(iter(study.cases), None))
    first = {case: values for case, values in study.cases.items() if case == chosen}
    small = replace(
        study,
        settings=study.settings | own | {"measures.every": 1},
        cases={
            case: {
                key: own.get(key, value)
                for key, value in values.items()
                if key in own or not (key.startswith("data.") and "data.name" in own)
            }
            for case, values in first.items()
        },
        arms={
            arm: {key: value for key, value in values.items() if key != "epochs"}
            for arm, values in study.arms.items()
            if arm in ARMS.get(name, study.arms)
        },
        grid={key: values[:: len(values) - 1] for key, values in study.grid.items()},
        seeds=(0, 1),
    )
    monkeypatch.setattr(script, "load_study", lambda _: small)
    more = {"data_dir": data_dir} if name in NEED_SAMPLES else {}
    with ThreadPoolExecutor(1) as executor:
        only = ["*-seed0", "*-seed1"]
        options = {"executor": executor, "data_dir": data_dir, "only": only[:1]}
        with pytest.raises(SystemExit, match="expected finished runs in the folders"):
            script.make([tmp_path / "sweep"], **more)
        assert sweep(small, tmp_path / "sweep", **options).failures == {}
        script.make([tmp_path / "sweep"], **more)
        one = {table: (tmp_path / f"{name}_{table}.csv").read_text() for table in tables}
        options["only"] = only[1:]
        sweep(small, tmp_path / "sweep", **options)
    (tmp_path / f"{name}.png").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(script, "draw", lambda *_: None)  # the same as below
        script.make([tmp_path / "sweep"], **more)
    two = {table: (tmp_path / f"{name}_{table}.csv").read_text() for table in tables}
    for table in tables:
        assert len(two[table]) > len(one[table]), table
    last = pd.read_csv(tmp_path / f"{name}_{tables[-1]}.csv")
    assert set(last["n"].dropna()) == {2}
    script.make([], **more)  # without the folders of runs: from the rows that are there
    assert {t: (tmp_path / f"{name}_{t}.csv").read_text() for t in tables} == two
    assert (tmp_path / f"{name}.png").is_file()
