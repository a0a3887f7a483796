"""What the commands for many runs make of their words."""

import datetime as dt
import json

import pandas as pd
import pytest

from topokit.cli import main
from topokit.cli.studies import _end
from topokit.experiments.sweep import SweepResult


@pytest.mark.parametrize(
    ("text", "day", "hour"),
    [("22:05", 2, 22), ("13:00", 2, 13), ("12:00", 2, 12), ("06:31", 2, 6), ("06:29", 3, 6)],
)
def test_until_a_time_of_day(text, day, hour):
    now = dt.datetime(2026, 3, 2, 12, 30)
    end = _end(text, now)
    assert (end.day, end.hour) == (day, hour)


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
