"""The runs a study plans, and the errors it reports before any of them."""

import tomllib

import pytest

from topokit.experiments.config import RECIPES
from topokit.experiments.study import STUDIES, load_study, study_from

BASE = {"name": "small", "recipe": "set_mlp_digits", "seeds": [0, 1]}


def made(**tables):
    return study_from({"study": BASE, **tables})


def test_runs_are_conditions_times_cells_times_seeds():
    study = made(
        settings={"epochs": 2},
        grid={"rule": {"drop_fraction": [0.1, 0.3]}, "model.widths": [[64, 20, 10]]},
        arms=[
            {"name": "set"},
            {"name": "static", "settings": {"rule.name": "static"}},
        ],
    )
    runs = study.runs()
    assert [run.name for run in runs][:3] == [
        "set-drop_fraction=0.1-widths=64x20x10-seed0",
        "set-drop_fraction=0.1-widths=64x20x10-seed1",
        "set-drop_fraction=0.3-widths=64x20x10-seed0",
    ]
    assert len({run.name for run in runs}) == len(runs) == 8
    last = runs[-1].config
    assert (last.rule.name, last.rule.drop_fraction, last.seed) == ("static", 0.3, 1)
    assert (last.epochs, last.model.widths, last.threads) == (2, (64, 20, 10), 1)
    assert runs[-1].cell == {"rule.drop_fraction": 0.3, "model.widths": [64, 20, 10]}


def test_keys_that_end_alike_keep_their_sections():
    study = made(grid={"rule.name": ["set"], "data.name": ["digits"]})
    assert study.runs()[0].name == "rule.name=set-data.name=digits-seed0"


def test_measures_to_keep():
    study = study_from({"study": {**BASE, "measures": ["fan_in", "turnover"]}})
    assert study.runs()[0].config.measures.names == ("fan_in", "turnover")


def test_threads_are_those_of_the_configuration_or_one():
    assert made().runs()[0].config.threads == 1
    assert made(settings={"threads": 3}).runs()[0].config.threads == 3


def test_quick_replaces_what_it_names():
    tables = {
        "settings": {"epochs": 50, "batch_size": 20},
        "grid": {"rule.drop_fraction": [0.1, 0.2, 0.3]},
        "arms": [{"name": "a"}, {"name": "b", "settings": {"rule.name": "static"}}],
        "quick": {
            "seeds": [5], "arms": ["b"],
            "settings": {"epochs": 2}, "grid": {"rule.drop_fraction": [0.2]},
        },
    }  # fmt: skip
    whole, quick = made(**tables), study_from({"study": BASE, **tables}, quick=True)
    assert len(whole.runs()) == 12
    (run,) = quick.runs()
    assert run.name == "b-drop_fraction=0.2-seed5"
    assert (run.config.epochs, run.config.batch_size, run.config.rule.name) == (2, 20, "static")


def test_a_study_survives_being_written():
    study = made(
        settings={"epochs": 2},
        grid={"rule.drop_fraction": [0.1, 0.3]},
        arms=[{"name": "set"}, {"name": "static", "settings": {"rule.name": "static"}}],
    )
    again = study_from(tomllib.loads(study.to_toml()))
    assert [(run.name, run.config) for run in again.runs()] == [
        (run.name, run.config) for run in study.runs()
    ]


def test_a_study_with_its_own_base():
    base = made().base.to_dict()
    study = study_from({"study": {"name": "own"}, "base": base})
    assert study.base == made().base
    assert [run.name for run in study.runs()] == ["seed0"]


CASES = {
    "settings": {"epochs": 2},
    "cases": [
        {"name": "narrow", "settings": {"model.widths": [64, 20, 10], "topology.density": 0.3}},
        {"name": "wide", "settings": {"model": {"widths": [64, 90, 10]}, "epochs": 4}},
    ],
    "arms": [
        {"name": "set", "settings": {"epochs": 9}},
        {"name": "again", "after": "set", "settings": {"topology.generator": "run"}},
        {"name": "static", "settings": {"rule.name": "static"}},
    ],
    "grid": {"batch_size": [10, 20]},
}


def test_conditions_are_run_in_every_case():
    study = made(**CASES)
    runs = {run.name: run for run in study.runs()}
    assert len(runs) == 3 * 2 * 2 * 2
    assert list(runs)[:3] == [
        "set-narrow-batch_size=10-seed0", "set-narrow-batch_size=10-seed1",
        "set-narrow-batch_size=20-seed0",
    ]  # fmt: skip
    run = runs["static-wide-batch_size=20-seed1"]
    assert run.cell == {"case": "wide", "batch_size": 20}
    assert (run.config.epochs, run.config.model.widths) == (4, (64, 90, 10))
    assert runs["static-narrow-batch_size=20-seed1"].config.epochs == 2
    assert runs["set-wide-batch_size=20-seed1"].config.epochs == 9  # conditions come after cases


def test_a_condition_starts_from_the_run_of_another_one():
    runs = {run.name: run for run in made(**CASES).runs()}
    run = runs["again-narrow-batch_size=20-seed1"]
    assert run.after == run.config.topology.params["run"] == "set-narrow-batch_size=20-seed1"
    assert run.config.topology.density is None  # the edges are those of that run
    assert runs["static-narrow-batch_size=20-seed1"].after == ""
    quick = study_from({"study": BASE, **CASES, "quick": {"cases": ["wide"]}}, quick=True)
    assert {run.cell["case"] for run in quick.runs()} == {"wide"}


def some_cases(**cases):
    """The tables with conditions that are run in some cases alone."""
    return CASES | {"arms": [arm | cases.get(arm["name"], {}) for arm in CASES["arms"]]}


def test_a_condition_is_run_in_the_cases_that_it_names():
    tables = some_cases(static={"cases": ["wide"]}, again={"cases": ["narrow"]})
    study = made(**tables)
    found = {(run.arm, run.cell["case"]) for run in study.runs()}
    everywhere = {("set", "narrow"), ("set", "wide")}
    assert found == everywhere | {("static", "wide"), ("again", "narrow")}
    assert study_from(tomllib.loads(study.to_toml())).runs() == study.runs()
    quick = study_from({"study": BASE, **tables, "quick": {"cases": ["narrow"]}}, quick=True)
    assert {run.arm for run in quick.runs()} == {"set", "again"}


def test_cases_survive_being_written():
    study = made(**CASES)
    again = study_from(tomllib.loads(study.to_toml()))
    assert again.runs() == study.runs()
    assert "2 cases" in repr(study)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"gird": {}}, "unknown key 'gird'; did you mean 'grid'"),
        ({"study": {"recipe": "set_mlp_digits"}}, "missing key 'study.name'"),
        ({"study": {"name": "x"}}, "exactly one of study.recipe and a table"),
        ({"study": {**BASE, "sedes": [1]}}, "unknown key 'study.sedes'; did you mean 'seeds'"),
        ({"study": {**BASE, "seeds": [0.5]}}, "study.seeds: expected a list of integers"),
        ({"study": {**BASE, "seeds": [0, 0]}}, "two runs of the study would be named seed0"),
        ({"study": {**BASE, "recipe": "set_mlp_digit"}}, "did you mean 'set_mlp_digits'"),
        ({"grid": {"epochs": 3}}, "grid.epochs: expected a list of values, got 3"),
        ({"grid": {"rule.drop_fraction": [2.0]}}, "rule.drop_fraction: expected a number from 0"),
        ({"grid": {"rule.dorp_fraction": []}}, "expected a list of values"),
        ({"settings": 3}, "expected a table of configuration keys, got 3"),
        ({"arms": 3}, "arms: expected a list, got 3"),
        ({"study": {"name": "x"}, "base": 3}, "base: expected a table, got 3"),
        ({"study": {**BASE, "recipe": 3}}, "study.recipe: expected a name or a path, got 3"),
        ({"study": {**BASE, "measures": 3}}, "study.measures: expected a list, got 3"),
        ({"arms": [{"title": "a"}]}, "arms: expected tables with a name and settings"),
        ({"arms": [{"name": "a"}, {"name": "a"}]}, "two conditions are named 'a'"),
        ({"cases": [{"name": "a"}, {"name": "a"}]}, "two cases are named 'a'"),
        ({"cases": [{"name": "a", "after": "b"}]}, "unknown key 'cases.after'"),
        ({"arms": [{"name": "a", "after": "b"}]}, "unknown condition 'b'"),
        ({"arms": [{"name": "a", "after": 3}]}, "arms.after: expected a name, got 3"),
        (some_cases(static={"cases": ["wid"]}), "unknown case 'wid'; did you mean 'wide'"),
        (some_cases(static={"cases": "wide"}), "arms.cases: expected a list of names of cases"),
        (some_cases(static={"cases": []}), "arms.cases: expected a list of names of cases"),
        (
            some_cases(set={"cases": ["wide"]}),
            "'again' is to start from 'set', which is not run in case 'narrow'",
        ),
        ({"arms": [{"name": "a", "after": "a"}]}, "'a' is to start from 'a', which itself starts"),
        (
            {"grid": {"epochs": [1]}, "cases": [{"name": "a", "settings": {"epochs": 2}}]},
            "grid.epochs: case 'a' sets this key too; set it once",
        ),
        (
            {"grid": {"epochs": [1]}, "arms": [{"name": "a", "settings": {"epochs": 2}}]},
            "grid.epochs: condition 'a' sets this key too; set it once",
        ),
        ({"settings": {"seed": 5}}, "seed: seeds are listed in study.seeds, got 5 as well"),
        ({"grid": {"seed": [5, 6]}}, "seed: seeds are listed in study.seeds, got 5 as well"),
        ({"arms": [{"name": "a", "settings": {"seed": 5}}]}, "listed in study.seeds, got 5"),
        ({"cases": [{"name": "a", "settings": {"seed": 5}}]}, "listed in study.seeds, got 5"),
        ({"settings": {" seed ": 5}}, "expected a configuration key .*, got ' seed '"),
        ({"settings": {"rule.every=5 #": 3}}, "expected a configuration key .*, got 'rule.every="),
        (
            {"settings": {"rule.drop_fraction": 0.1, "rule": {"drop_fraction": 0.2}}},
            "the key 'rule.drop_fraction' is given twice",
        ),
        (
            {"grid": {"rule": {"drop_fraction": [0.2]}, "rule.drop_fraction": [0.1]}},
            "the key 'rule.drop_fraction' is given twice",
        ),
        (
            {"study": {**BASE, "measures": ["fan_in"]}, "settings": {"measures.names": []}},
            "settings.measures.names: study.measures sets this too",
        ),
        (
            some_cases(again={"settings": {"topology.run": "x"}}),
            "condition with after = 'set' starts from the runs of that one, got 'x' as well",
        ),
        ({"study": {**BASE, "title": 3}}, "study.title: expected a text, got 3"),
        ({"study": {**BASE, "name": 3}}, "study.name: expected a text, got 3"),
        ({"study": {**BASE, "seeds": [2**63]}}, "seed: expected at most 9,223,372"),
        (
            {"grid": {f"rule.p{i}": [*range(10)] for i in range(99)}},
            "expected at most 100,000 runs of a study, got 2,0",
        ),
    ],
)
def test_errors_say_what_is_wrong(tables, words):
    with pytest.raises(ValueError, match=words):
        study_from({"study": BASE, **tables}).runs()


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({}, r"expected a table \[quick\] for the small variant, the study has none"),
        ({"arms": [{"name": "a"}], "quick": {"arms": []}}, "quick.arms: expected at least one"),
        ({"cases": [{"name": "a"}], "quick": {"cases": []}}, "quick.cases: expected at least one"),
        (
            {"grid": {"epochs": [1]}, "quick": {"settings": {"epochs": 1}}},
            "quick.settings.epochs: the grid has this key; set quick.grid.epochs",
        ),
    ],
)
def test_a_quick_variant_that_is_none(tables, words):
    with pytest.raises(ValueError, match=words):
        study_from({"study": BASE, **tables}, quick=True)


def test_a_file_does_not_hide_a_shipped_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "madelon").write_text("1 2 3\n")
    assert load_study("madelon").name == "madelon"


def test_an_unknown_condition_in_quick():
    tables = {"study": BASE, "arms": [{"name": "set"}], "quick": {"arms": ["sets"]}}
    with pytest.raises(ValueError, match="unknown condition 'sets'; did you mean 'set'"):
        study_from(tables, quick=True)
    with pytest.raises(ValueError, match=r"quick.cases: expected a list, got 3"):
        study_from({"study": BASE, "quick": {"cases": 3}}, quick=True)


def test_quick_keeps_what_a_condition_starts_from():
    tables = {"study": BASE, **CASES, "quick": {"arms": ["again"]}}
    with pytest.raises(ValueError, match="unknown condition 'set'"):
        study_from(tables, quick=True)


def test_files(tmp_path):
    with pytest.raises(ValueError, match="unknown study 'tutorial_tabel'; did you mean"):
        load_study("tutorial_tabel")
    with pytest.raises(TypeError, match=r"expected a Study, the name of a study .* got dict"):
        load_study({})
    with pytest.raises(FileNotFoundError, match="expected a TOML file, found none"):
        load_study(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[study", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad.toml is not valid TOML"):
        load_study(tmp_path / "bad.toml")
    (tmp_path / "empty.toml").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"empty.toml: missing key 'study.name'"):
        load_study(tmp_path / "empty.toml")


@pytest.mark.parametrize("name", STUDIES)
class TestShipped:
    def test_every_configuration_is_right(self, name):
        from topokit.experiments.runs import check

        for quick in (False, True):
            study = load_study(name, quick=quick)
            assert study.name == name
            assert len(study.title) > 10
            assert len(study.description) > 10
            runs = study.runs()
            for run in runs:
                check(run.config, load=False)
            assert quick or len(study.seeds) >= 3

    def test_is_not_mistaken_for_a_recipe(self, name):
        assert name not in RECIPES
        assert STUDIES[name].read_text(encoding="utf-8").startswith("# ")
