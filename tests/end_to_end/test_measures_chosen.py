"""Costly measures are taken at chosen epochs of a run, the core ones at every one."""

import pytest

from topokit.experiments.config import MeasuresSpec, load_recipe
from topokit.experiments.runs import run

pytestmark = pytest.mark.filterwarnings("ignore:Sparse")

SMALL = ["epochs=5", "model.widths=[64,30,10]"]


def recorded(folder, *settings):
    config = load_recipe("set_mlp_digits").override([*SMALL, *settings])
    frame = run(config, folder / "run").measures
    return {name: sorted(set(rows["epoch"])) for name, rows in frame.groupby("measure")}


def test_chosen_measures_come_first_last_and_every_few(tmp_path):
    found = recorded(
        tmp_path, 'measures.names=["components"]', 'measures.chosen=["butterflies","distances"]',
        "measures.chosen_every=3",
    )  # fmt: skip
    assert found["components"] == [0, 1, 2, 3, 4]
    assert found["butterflies"] == found["distances.mean"] == [0, 3, 4]
    assert set(found) == {"components", "butterflies", "distances.mean", "distances.diameter"}


def test_the_core_stays_and_rare_epochs_keep_what_is_due(tmp_path):
    found = recorded(tmp_path, "measures.every=2", 'measures.chosen=["nestedness"]')
    assert found["components"] == found["explored_fraction"] == [0, 2, 4]
    assert found["nestedness"] == [0, 4]


def test_a_chosen_measure_must_exist(tmp_path):
    with pytest.raises(ValueError, match="unknown measure 'butterfly'; did you mean"):
        recorded(tmp_path, 'measures.chosen=["butterfly"]')


def test_log_spaced_epochs_have_even_steps_on_a_logarithmic_axis():
    spec = MeasuresSpec(every="log", chosen=("b",), chosen_every="log")
    due = [epoch for epoch in range(1201) if spec.at(epoch, 1201, ("a",))]
    assert due == [0, *sorted({round(10 ** (k / 10)) for k in range(31)}), 1200]
    assert [e for e in range(1201) if spec.at(e, 1201, ()) == ["b"]] == due


@pytest.mark.parametrize(
    ("spec", "due"),
    [
        (MeasuresSpec(), [["a"]] * 4),
        (MeasuresSpec(every=3), [["a"], [], [], ["a"]]),
        (MeasuresSpec(chosen=("b", "a")), [["a", "b"], ["a"], ["a"], ["a", "b"]]),
        (MeasuresSpec((), chosen=("b",), chosen_every=2), [["b"], [], ["b"], ["b"]]),
    ],
)
def test_what_is_due(spec, due):
    assert [spec.at(epoch, 4, ("a",)) for epoch in range(4)] == due
