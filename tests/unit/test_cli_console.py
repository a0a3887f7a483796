"""Tables of results: no number is cut and no text is lost, however narrow the terminal is."""

import re

import pytest

from topokit.cli import console


@pytest.fixture
def printed(monkeypatch, capsys):
    def printed(rows, width):
        monkeypatch.setattr(console.OUT, "width", width)
        console.print_rows(rows, title="title")
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= width
        return text

    return printed


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("n_layers", [1, 3, 14, 60])
def test_no_number_is_cut_in_a_table_of_many_layers(printed, width, n_layers):
    values = {f"layer{i}": i + 1.2345 for i in range(n_layers)}
    text = printed([{"measure": "fan_in.dispersion", **values}], width)
    words = text.split()
    assert {console.number(value) for value in values.values()} <= {*words}
    rows = [line for line in text.splitlines() if "layer" not in line and "." in line]
    assert all(line.split()[0] == "fan_in.dispersion" for line in rows)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_text_is_lost_in_a_table_of_long_texts(printed, width):
    letters = "abcdef"
    row = {f"{c}{c}": " ".join(f"{c}{i}" for i in range(30)) for c in letters}
    words = printed([{"name": "erdos_renyi_bernoulli", "parameters": "fan_in=3", **row}], width)
    assert {f"{c}{i}" for c in letters for i in range(30)} <= {*words.split()}


def test_a_table_that_fits_is_one(printed):
    rows = [{"layer": "fc1", "edges": 12, "normalized_spectral_gap": 0.25}]
    text = printed(rows, 60)
    assert text.count("layer") == 1
    assert "normalized_spectral_gap" in text


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_heads_are_folded_where_a_word_ends(printed, width):
    names = ("test_accuracy", "fc1/fan_in.dispersion", "permutation_p", "normalized_spectral_gap")
    text = printed([{"group": "a" * 24, **dict.fromkeys(names, 0.123456)}], width)
    heads = [line for line in text.splitlines() if "0.1235" not in line and "─" not in line]
    words = {word for name in names for word in re.split("[/._]", name)}
    assert words <= {*re.split(r"[/._\s]", " ".join(heads))}
