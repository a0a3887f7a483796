"""What ``topokit generate`` and ``topokit list generators`` report on the families."""

import json

import pytest

from topokit.cli import main
from topokit.generators import DENSITIES, GENERATORS


def prints(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_generate_reports_requested_and_obtained_edges_guarantee_and_repairs(capsys):
    command = ("generate", "lps", "--widths", "500,600", "--density", 0.01)
    text = prints(capsys, *command)
    assert "3,000" in text
    guarantee = "exact number of edges; before cutting and merging, sigma_2 <= 2 sqrt(p)."
    assert f"guarantee: {guarantee}" in text
    assert "fc1 repairs: cropped from 660 -> 660 units; 200 edges added" in text
    layer = json.loads(prints(capsys, *command, "--json"))["layers"][0]
    assert layer["requested_edges"] == layer["n_edges"] == 3000
    assert layer["family"] == "lps"
    assert layer["params"] == {"p": None, "q": None, "shuffle": "none"}
    assert layer["components"] == 1
    assert 0 < layer["sigma_2"] < layer["bound"]
    assert layer["fan_in"][0] >= 1


def test_generate_divides_the_edges_among_layers(capsys):
    for name in DENSITIES:
        command = ("--widths", "300,100,10", "--density", 0.1, "--densities", name, "--json")
        layers = json.loads(prints(capsys, "generate", "erdos_renyi", *command))["layers"]
        assert sum(layer["n_edges"] for layer in layers) == pytest.approx(3100, abs=1)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("projective_plane", "q=30", "q must be a prime power; 29 and 31 are the nearest to 30"),
        ("clash_free", "z=7", "z must divide n_in; 5 and 6 are the nearest to 7"),
        ("peg", "deep=2", "unknown parameter 'deep' of generator 'peg'; did you mean 'depth'?"),
        ("radix", "order=7", "order must divide 60 and 80; 5 and 10 are the nearest to 7"),
    ],
)
def test_the_error_for_an_impossible_size_gives_the_nearest(name, settings, message, capsys):
    code = main(["generate", name, "--widths", "60,80", "--density", "0.1", "--set", settings])
    assert code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_list_has_parameters_guarantee_cost_and_paper(capsys):
    rows = {row["name"]: row for row in json.loads(prints(capsys, "list", "generators", "--json"))}
    assert list(rows) == list(GENERATORS)
    for row in rows.values():
        assert row["guarantee"].endswith(".")
        assert row["cost"].endswith(".")
        assert row["paper"].endswith(".")
    assert rows["peg"]["parameters"] == "depth=None"
    assert all(name in rows["cyclic_lift"]["paper"] for name in ("Fossorier", "Fan")), "every paper"
    assert rows["two_lift"]["guarantee"].endswith("unless every try of a doubling fails.")
    text = prints(capsys, "list", "generators")
    for name in GENERATORS:
        assert name in text, "names are never broken over two lines"
