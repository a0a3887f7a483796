"""What the commands for many runs make of their words."""

import datetime as dt
import json
from pathlib import Path

import pandas as pd
import pytest

from topokit.cli import main
from topokit.cli.studies import _check_figure, _end
from topokit.experiments.sweep import SweepResult


@pytest.mark.parametrize(
    ("text", "day", "hour"),
    [("22:05", 2, 22), ("13:00", 2, 13), ("12:00", 2, 12), ("06:31", 2, 6), ("06:29", 3, 6)],
)
def test_until_a_time_of_day(text, day, hour):
    now = dt.datetime(2026, 3, 2, 12, 30)
    end = _end(text, now)
    assert (end.day, end.hour) == (day, hour)


@pytest.mark.parametrize("kind", ["pgf", "raw", "rgba", "csv", "html"])
def test_files_that_are_no_pictures_are_refused(kind):
    with pytest.raises(ValueError, match="--out: expected a figure"):
        _check_figure(Path(f"compare.{kind}"))
    for good in ("compare.png", "compare.PDF", "compare.svg", "compare"):
        _check_figure(Path(good))


def test_until_after_midnight():
    assert _end("23:50", dt.datetime(2026, 3, 2, 0, 10)) == dt.datetime(2026, 3, 1, 23, 50)
    assert _end("01:00", dt.datetime(2026, 3, 2, 23, 0)) == dt.datetime(2026, 3, 3, 1, 0)
    assert _end(None, dt.datetime(2026, 3, 2)) is None


@pytest.mark.parametrize("text", ["25:00", "soon", "22:05+01:00"])
def test_other_words_are_refused(text):
    with pytest.raises(ValueError, match="expected --until HH:MM, such as 22:05"):
        _end(text, dt.datetime(2026, 3, 2))


def test_chosen_runs_until_a_time(tmp_path, capsys, monkeypatch):
    given = {}

    def sweep(planned, out, **options):
        given.update(options)
        return SweepResult(out, pd.DataFrame({"run": ["a"]}), {}, ("b",))

    monkeypatch.setattr("topokit.experiments.sweep.sweep", sweep)
    words = ["sweep", "madelon", "--out", str(tmp_path / "s"), "--only", "set-*", "rigl-*"]
    assert main([*words, "--until", "22:05"]) == 0  # it was asked to stop
    assert given["only"] == ("set-*", "rigl-*")
    assert given["until"].time() == dt.time(22, 5)
    assert "interrupted: b; the same command continues" in capsys.readouterr().err
    assert main([*words, "--until", "22:05", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unfinished"] == ["b"]
    assert main([*words, "--until", "late"]) == 2
    assert "expected --until HH:MM" in capsys.readouterr().err
    assert main(["sweep", "madelon", "--out", str(tmp_path), "--gather", "--only", "x"]) == 2
    assert "expected --gather alone, which runs nothing, got --only too" in capsys.readouterr().err


HEAD = '[study]\nname = "x"\nrecipe = "set_mlp_digits"\n'


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sweep", "madelon", "--only"], "expected at least one word after --only, got none"),
        (["train", "--set"], "expected at least one word after --set, got none"),
        (["train", "--device", "cpu", "--set", "device=auto"], "device is given with --set too"),
        (["sweep", "madelon", "--gather", "--data-dir", "d"], "got --data-dir too"),
        (["sweep", "arms.toml", "--device", "cpu"], "the study sets the device of single runs"),
        (["sweep", "grid.toml", "--device", "cpu"], "the study sets the device of single runs"),
        (["sweep", "grid.toml", "--quick"], "expected a table [quick] for the small variant"),
    ],
)
def test_words_without_effect_are_refused(words, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.toml").write_text(f'{HEAD}[grid]\ndevice = ["cpu", "auto"]\n')
    arm = '[[arms]]\nname = "a"\nsettings = {device = "auto"}\n'
    (tmp_path / "arms.toml").write_text(HEAD + arm)
    assert main([*words, "--out", "s"]) == 2
    assert expected in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "s").exists()
