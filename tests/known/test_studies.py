"""Committed tables of the studies quote the intervals of `topokit.experiments.statistics`."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

FOLDER = Path(__file__).parents[2] / "figures" / "studies"
MEANS = {
    "er_to_heavy_tails": "dispersion",
    "er_to_heavy_tails_accuracy": "mean",
    "er_to_heavy_tails_epochs": "mean",
    "er_to_heavy_tails_nulls": "mean",
    "heavy_tails_map": "dispersion",
    "tutorial_table": "accuracy",
}
PAIRS = [
    "er_to_heavy_tails_pairs",
    "heavy_tails_map_effects",
    "locality_pairs",
    "spectral_gap_accuracy_pairs",
    "tutorial_table_pairs",
]


@pytest.mark.parametrize("name", MEANS)
def test_intervals_of_means_are_students(name):
    table = pd.read_csv(FOLDER / f"{name}.csv")
    half = stats.t.ppf(0.975, table["n"] - 1) * table["sd"] / np.sqrt(table["n"])
    mean = table[MEANS[name]]
    np.testing.assert_allclose(table["low"], mean - half, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(table["high"], mean + half, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_intervals_of_pairs_agree_with_their_p_values(name):
    table = pd.read_csv(FOLDER / f"{name}.csv").query("t_p < 0.99")
    half = table["high"] - table["difference"]
    np.testing.assert_allclose(half, table["difference"] - table["low"], rtol=1e-3)
    t = stats.t.ppf(0.975, table["n"] - 1) * table["difference"].abs() / half
    np.testing.assert_allclose(2 * stats.t.sf(t, table["n"] - 1), table["t_p"], rtol=1e-3)
    excludes = (table["low"] > 0) | (table["high"] < 0)
    assert (excludes == (table["t_p"] < 0.05)).all()


def test_sides_have_one_name_in_all_tables():
    sides = {path.stem: set(pd.read_csv(path).get("side", [])) for path in FOLDER.glob("*.csv")}
    assert sum(map(bool, sides.values())) >= 9
    assert {name: own for name, own in sides.items() if own - {"fan_in", "fan_out"}} == {}


ROOT = FOLDER.parents[1]
PAGES = [
    "README.md", "figures/STUDIES.md", "figures/studies/madelon.md", "figures/studies/rbm.md",
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "notebooks").glob("*.py"))),
]  # fmt: skip
NUMBER = r"-?\d+(?:\.\d+)?"
QUOTED = re.compile(rf"(?:({NUMBER})(?: points)? )?\[({NUMBER}), ({NUMBER})\]")


def rows_with_intervals():
    """Return (lowest, highest, all numbers) of every interval of every table."""
    found = []
    for path in sorted(FOLDER.glob("*.csv")):
        table = pd.read_csv(path)
        lows = [name for name in table if name.endswith("low")]
        numbers = table.select_dtypes("number").to_numpy(float)
        for low in lows:
            bounds = table[[low, f"{low.removesuffix('low')}high"]].to_numpy(float)
            found += [(*pair, row) for pair, row in zip(bounds, numbers, strict=True)]
    bounds = np.array([(low, high) for low, high, _ in found])
    return bounds, [row for *_, row in found]


@pytest.fixture(scope="module")
def intervals():
    return rows_with_intervals()


def rounds_to(values, text):
    digits = len(text.partition(".")[2])
    return np.abs(values - float(text)) <= 0.5000001 * 10.0**-digits


def is_in_a_table(quoted, bounds, rows):
    """Whether an interval, and the number before it, are in a row: as such, negated, in points."""
    centre, low, high = quoted
    for factor in (1, 100, -1, -100):
        pairs = bounds * factor if factor > 0 else bounds[:, ::-1] * factor
        both = rounds_to(pairs[:, 0], low) & rounds_to(pairs[:, 1], high)
        for k in np.flatnonzero(both):
            if not centre or rounds_to(rows[k] * factor, centre).any():
                return True
    return False


@pytest.mark.parametrize("page", PAGES)
def test_quoted_intervals_are_in_a_table(page, intervals):
    text = (ROOT / page).read_text().replace("−", "-")
    text = re.sub(r"\n#? *", " ", text)  # sentences go on in the next line
    quoted = [match.groups() for match in QUOTED.finditer(text)]
    assert [each for each in quoted if not is_in_a_table(each, *intervals)] == []


def test_other_intervals_are_noticed(intervals):
    assert is_in_a_table(("0.51", "0.50", "0.52"), *intervals)  # the gap under SET, in README
    assert not is_in_a_table(("0.51", "0.50", "0.53"), *intervals)
    assert not is_in_a_table(("0.57", "0.50", "0.52"), *intervals)


def test_the_map_follows_from_its_single_runs():
    cell = ["topology.epsilon", "rule.drop_fraction", "optimizer.weight_decay", "rule.init"]
    cell += ["layer", "side"]
    runs = pd.read_csv(FOLDER / "heavy_tails_map_runs.csv").groupby(cell)
    table = pd.read_csv(FOLDER / "heavy_tails_map.csv").set_index(cell)
    np.testing.assert_allclose(table["dispersion"], runs["dispersion"].mean()[table.index], 1e-4)
    assert table["n"].eq(runs["seed"].nunique()[table.index]).all()
    for name in ("random", "broad", "heavy-tailed", "power law"):
        counts = runs["verdict"].agg(lambda verdicts, name=name: (verdicts == name).sum())
        assert table[name].eq(counts[table.index]).all()


FEWER = {  # of a study: columns that name a condition, an outcome, and which column counts its runs
    "ctre_question": (["data", "epsilon", "init", "arm"], "E95", "E95_n"),
    "rbm_degrees": (["data", "hidden", "cd_steps", "arm"], "log_likelihood", "usable"),
}


@pytest.mark.parametrize("study", FEWER)
def test_means_over_fewer_runs_say_over_how_many(study):
    keys, outcome, count = FEWER[study]
    runs = pd.read_csv(FOLDER / f"{study}_runs.csv")
    if study == "rbm_degrees":  # an estimate that one chain decides is not used
        runs[outcome] = runs[outcome].where(runs["largest_share"] <= 0.5)
    table = pd.read_csv(FOLDER / f"{study}_conditions.csv").set_index(keys)
    found = runs.groupby(keys)[outcome].count()
    assert table[count].eq(found[table.index]).all()
    assert (table[count] < table["n"]).any()
