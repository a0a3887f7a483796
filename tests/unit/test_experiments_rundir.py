import io
import os
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.unit.test_experiments_record import evolving, measures
from topokit.experiments.record import History
from topokit.experiments.recorder import Recorder
from topokit.experiments.rundir import RunDirectory, changed_keys, readable_lines
from topokit.experiments.verify import verify
from topokit.graph.checksums import seal, seal_in, stamp, stamped

CONFIG = "epochs = 12\nseed = 0\n"


def new_run(path, epochs=12, finish=True):
    """A run with a file in place of a checkpoint, one epoch behind if it is not finished."""
    run = RunDirectory.create(path, CONFIG, {"seed": 0}, data="d")
    identity = run.read().run
    recorder = Recorder(run)
    buffer = io.BytesIO()
    np.savez(buffer, weights=np.ones(3))
    for epoch, topology in enumerate(evolving(np.random.default_rng(0), epochs)):
        saved = seal(buffer.getvalue(), run=identity, epoch=epoch + 1)
        metrics = {"train_loss": 0.1 * epoch}
        check = seal_in(saved)["digest"]
        recorder.write(epoch, metrics, topology, measures(epoch), checkpoint=check, seconds=0.5)
        if finish or epoch < epochs - 1:
            run.write("checkpoint.pt", saved)
    if finish:
        run.finish()
    return run


def test_a_finished_run_has_its_frames_for_other_tools_too(tmp_path):
    run = new_run(tmp_path / "run")
    history = History.load(run.path)
    for name in ("epochs", "measures"):
        frame = pd.read_parquet(run.path / f"{name}.parquet")
        pd.testing.assert_frame_equal(frame, getattr(history, name))
    assert history.timing == {"epochs": 12, "training_seconds": 0.0, "measuring_seconds": 6.0}
    assert run.done
    assert verify(run.path).intact


def test_a_copy_under_another_name_is_a_run_of_that_name(tmp_path):
    run = new_run(tmp_path / "run")
    shutil.copytree(run.path, tmp_path / "copy")
    history = History.load(tmp_path / "copy")
    assert set(history.epochs["run"]) == {"copy"}
    assert history.topology(11)
    assert verify(tmp_path / "copy").intact


def test_a_part_of_a_line_is_not_read_and_is_cut_off(tmp_path):
    run = new_run(tmp_path / "run", 5, finish=False)
    record = run.path / "record.jsonl"
    whole = record.read_bytes()
    for cut in (1, 7, 200):
        record.write_bytes(whole[:-cut])
        assert History.load(run.path).recorded == [0, 1, 2, 3]
        assert [f.state for f in verify(run.path).findings] == ["can be recovered"]
    recorder = Recorder(run, upto=3)
    assert record.read_bytes() == b"".join(whole.splitlines(keepends=True)[:5])
    assert recorder.previous == History.load(run.path).topology(3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: lines.pop(3), "line 4: it does not follow the line before"),
        (lambda lines: lines.insert(3, lines[3]), "line 5: it does not follow the line before"),
        (lambda lines: lines.append(lines.pop(2)), "line 3: it does not follow the line before"),
        (lambda lines: lines.clear(), "it is empty"),
        (lambda lines: lines.pop(0), "line 1: it does not follow"),
    ],
)
def test_lines_that_were_moved_or_left_out_are_named(tmp_path, change, words):
    run = new_run(tmp_path / "run", 5, finish=False)
    lines = (run.path / "record.jsonl").read_bytes().splitlines(keepends=True)
    change(lines)
    (run.path / "record.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match=f"record.jsonl of run .* is damaged: {words}"):
        History.load(run.path)
    assert not verify(run.path).intact


@pytest.mark.parametrize(
    ("at", "changes", "words"),
    [
        (0, {"environment": ["x"]}, "line 1: its environment is of type list"),
        (0, {"config": 3}, "line 1: its config is of type int"),
        (1, {"metrics": []}, "line 2: its metrics is of type list"),
        (1, {"measures": "x"}, "line 2: its measures is of type str"),
        (1, {"kind": "accepted", "what": "lines", "now": []}, "line 2: unknown change 'lines'"),
        (1, {"kind": "accepted", "what": "config", "now": 3}, "line 2: its now is of type int"),
    ],
)
def test_lines_that_somebody_made_up_are_named(tmp_path, at, changes, words):
    run = new_run(tmp_path / "run", 2, finish=False)
    lines = (run.path / "record.jsonl").read_bytes().splitlines(keepends=True)
    values = stamped(lines[at].rstrip())
    del values["digest"]
    lines[at] = stamp(values | changes).encode() + b"\n"
    (run.path / "record.jsonl").write_bytes(b"".join(lines[: at + 1]))
    (run.path / "checkpoint.pt").unlink()
    with pytest.raises(ValueError, match=f"record.jsonl of run .* is damaged: {words}"):
        History.load(run.path)
    assert not verify(run.path).intact


@pytest.mark.parametrize("accepted", [(), ("device",), ("device", "data")])
@pytest.mark.parametrize("epochs", [1, 2, 4])
def test_what_is_readable_ends_where_the_record_says(tmp_path, accepted, epochs):
    run = new_run(tmp_path / "run", epochs, finish=False)
    for what in accepted:
        known = run.read()
        line = {"kind": "accepted", "run": known.run, "epoch": epochs, "what": what, "now": "new"}
        run.add_line(line, known.last)
    content = (run.path / "record.jsonl").read_bytes()
    strange = stamp({"kind": "epoch", "run": "another", "before": "another", "epoch": epochs})
    found, problem = readable_lines(content + strange.encode() + b"\n", run.path)
    assert problem == f"line {2 + epochs + len(accepted)}: it does not follow the line before"
    if found is None:
        assert (epochs, accepted) == (1, ())  # nothing but the first line is certain
        return
    assert len(found.lines) == len(found.starts) == epochs - (not accepted)
    assert [getattr(found, what) for what in accepted[:-1]] == ["new"] * len(accepted[:-1])
    again, problem = readable_lines(content[: found.size], run.path)
    assert problem == ""
    assert replace(again, torn=False) == replace(found, torn=False)


@pytest.mark.parametrize("changes", [{"files": []}, {"epochs": "12"}, {"files": None}])
@pytest.mark.parametrize("damage", [False, True])
def test_a_mark_of_the_end_that_somebody_made_up_is_named(tmp_path, changes, damage):
    run = new_run(tmp_path / "run", 12)
    values = stamped((run.path / "DONE").read_bytes().rstrip())
    del values["digest"]
    (run.path / "DONE").write_text(stamp(values | changes) + "\n")
    if damage:
        lines = (run.path / "record.jsonl").read_bytes().splitlines(keepends=True)
        (run.path / "record.jsonl").write_bytes(b"".join([*lines[:5], b"{}\n", *lines[6:]]))
    assert not verify(run.path).intact
    assert damage or verify(run.path, recover=True).intact


def test_a_seal_without_a_checksum_of_the_content_is_damage(tmp_path):
    run = new_run(tmp_path / "run", 2, finish=False)
    content = run.checkpoint.read_bytes()
    seal_of = {key: value for key, value in seal_in(content).items() if key == "epoch"}
    comment = stamp(seal_of).encode()
    at = content.rfind(b"PK\x05\x06")
    length = len(comment).to_bytes(2, "little")
    run.checkpoint.write_bytes(content[: at + 20] + length + comment)
    assert not verify(run.path).intact


def test_a_run_of_a_newer_version_names_the_remedy(tmp_path):
    run = new_run(tmp_path / "run", 2, finish=False)
    lines = (run.path / "record.jsonl").read_bytes().splitlines(keepends=True)
    values = stamped(lines[0].rstrip())
    del values["digest"]
    lines[0] = stamp(values | {"schema": 3, "something": "new"}).encode() + b"\n"
    (run.path / "record.jsonl").write_bytes(b"".join(lines))
    for use in (History.load, verify):
        with pytest.raises(ValueError, match=r"newer topokit .*: pip install -U topokit-nn"):
            use(run.path)


@pytest.mark.parametrize("content", [b"", b"done", None])
def test_a_mark_of_the_end_counts_only_if_it_is_right(tmp_path, content):
    run = new_run(tmp_path / "run", 6, finish=False)
    if content is None:
        other = new_run(tmp_path / "other")
        content = (other.path / "DONE").read_bytes()
    (run.path / "DONE").write_bytes(content)
    for use in (lambda: run.done, lambda: History.load(run.path)):
        with pytest.raises(ValueError, match=r"DONE of run .* 6 of 12 epochs were recorded"):
            use()
    assert not verify(run.path, recover=True).finished
    assert not run.done
    assert History.load(run.path).recorded == list(range(6))
    assert (run.path / "damaged" / "DONE").read_bytes() == content


def test_what_a_run_can_start_in(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.check_free(CONFIG)
    RunDirectory.create(run.path, CONFIG, {})
    for last in ("record.jsonl", "environment.json"):  # killed before these were written
        run.check_free(CONFIG)
        with pytest.raises(ValueError, match="a run with another configuration"):
            run.check_free("epochs = 3\n")
        (run.path / last).unlink()
    (run.path / ".lock").touch()
    run.check_free(CONFIG)
    (run.path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="choose another --out"):
        run.check_free(CONFIG)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.toml").write_text(CONFIG)  # no run began here
    for name in ("file", "link", "mine"):
        with pytest.raises(ValueError, match="choose another --out"):
            RunDirectory(tmp_path / name).check_free(CONFIG)
    with pytest.raises(ValueError, match="is none"):
        RunDirectory.open(tmp_path / "mine")


def test_differences_of_configurations():
    assert changed_keys("a = 1\n[b]\nc = 2", "a = 1\n[b]\nd = 2") == [
        "b.c is not set and was 2",
        "b.d is 2 and was not set",
    ]
    assert changed_keys("a = 1", "a = ")[0].startswith("it is not valid TOML")
    assert changed_keys(f'a = "{"x" * 99}"', 'a = "y"') == ["a was changed"]


def test_an_epoch_writes_as_much_late_as_early(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "epochs = 100\n", {})
    recorder = Recorder(run)
    for epoch, topology in enumerate(evolving(np.random.default_rng(0), 90)):
        recorder.write(epoch, {"loss": 1 / 3}, topology, measures(epoch / 7))
    lines = [len(line) for line in (run.path / "record.jsonl").read_bytes().splitlines()[1:]]
    files = [path.stat().st_size for path in sorted((run.path / "topology").iterdir())]
    blocks = (np.array(lines) + files).reshape(9, 10).sum(axis=1)
    assert blocks[1:].max() < 1.1 * blocks[1:].min()


# --- verifying and recovering -------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["config.toml", "environment.json", "epochs.parquet", "measures.parquet",
             "timing.json", "DONE"]
)  # fmt: skip
@pytest.mark.parametrize("how", ["deleted", "changed", "a link", "a pipe"])
def test_what_the_record_says_is_put_back(tmp_path, name, how):
    run = new_run(tmp_path / "run")
    before = History.load(run.path)
    file, content = run.path / name, (run.path / name).read_bytes()
    file.unlink()
    if how == "changed":
        file.write_bytes(content[:-3])
    elif how == "a link":
        file.symlink_to("/dev/zero")
    elif how == "a pipe":
        os.mkfifo(file)
    if (name, how) == ("DONE", "deleted"):
        assert verify(run.path).intact  # as one that is about to end
        return
    verdict = verify(run.path)
    assert [(f.file, f.state) for f in verdict.findings] == [(name, "can be recovered")]
    assert name in verdict.sentence()
    verdict = verify(run.path, recover=True)
    assert [(f.file, f.state) for f in verdict.findings] == [(name, "was recovered")]
    assert file.read_bytes() == content
    assert (how == "deleted") == (not (run.path / "damaged").exists())
    pd.testing.assert_frame_equal(History.load(run.path).measures, before.measures)


@pytest.mark.parametrize("line", [1, 5, 12])
def test_lines_of_a_finished_run_are_rebuilt_from_its_frames(tmp_path, line):
    run = new_run(tmp_path / "run")
    before = History.load(run.path)
    record = run.path / "record.jsonl"
    lines = record.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b"train_loss", b"train_lost")
    record.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match=f"line {line + 1}: its content does not match"):
        History.load(run.path)
    verdict = verify(run.path, recover=True)
    assert verdict.intact
    assert (run.path / "damaged" / "record.jsonl").read_bytes() == b"".join(lines)
    after = History.load(run.path)
    pd.testing.assert_frame_equal(after.epochs, before.epochs)
    pd.testing.assert_frame_equal(after.measures, before.measures)
    assert all(after.topology(e) == before.topology(e) for e in before.recorded)


def forged(run, at, **metrics):
    """Write other numbers into a line of the record, with all checksums right."""
    record = run.path / "record.jsonl"
    lines, last = record.read_bytes().splitlines(), ""
    for i, line in enumerate(lines):
        values = {k: v for k, v in stamped(line).items() if k not in ("digest", "before")}
        if i == at:
            values["metrics"] |= metrics
        lines[i] = stamp(values | ({"before": last} if i else {})).encode()
        last = stamped(lines[i])["digest"]
    record.write_bytes(b"\n".join(lines) + b"\n")


@pytest.mark.parametrize("line", [1, 6, 12])
def test_a_finished_record_with_other_numbers_is_put_back_and_not_confirmed(tmp_path, line):
    run = new_run(tmp_path / "run")
    before = History.load(run.path)
    forged(run, line, train_loss=9.0)
    changed = (run.path / "record.jsonl").read_bytes()
    (finding,) = verify(run.path).findings
    assert finding.file == "record.jsonl"
    assert f"the values of epoch {line - 1} differ" in finding.problem
    verify(run.path, recover=True)
    assert verify(run.path).intact
    pd.testing.assert_frame_equal(History.load(run.path).epochs, before.epochs)
    assert (run.path / "damaged" / "record.jsonl").read_bytes() == changed


def test_a_finished_record_with_other_numbers_and_no_frames_is_not_confirmed(tmp_path):
    run = new_run(tmp_path / "run")
    forged(run, 3, train_loss=9.0)
    (run.path / "epochs.parquet").unlink()
    (finding,) = verify(run.path, recover=True).findings
    assert (finding.file, finding.state) == ("record.jsonl", "cannot be recovered")
    with pytest.raises(ValueError, match="not the one that the run ended with"):
        History.load(run.path)


def test_a_record_that_differs_in_times_only_gets_its_mark_again(tmp_path):
    run = new_run(tmp_path / "run")
    before = History.load(run.path)
    forged(run, 3, seconds=9.0)
    assert verify(run.path, recover=True).intact
    pd.testing.assert_series_equal(
        History.load(run.path).epochs["train_loss"], before.epochs["train_loss"]
    )


def test_lines_with_an_accepted_change_are_not_rebuilt_without_it(tmp_path):
    run = new_run(tmp_path / "run", finish=False)
    record = run.read()
    line = {"kind": "accepted", "run": record.run, "epoch": 12, "what": "data", "now": "e"}
    run.add_line(line, record.last)
    run.finish()
    file = run.path / "record.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"epoch": 5', b'"epoch": 6', 1))
    verdict = verify(run.path, recover=True)
    assert {f.state for f in verdict.findings} == {"cannot be recovered"}


@pytest.mark.parametrize("finish", [True, False])
def test_a_conversion_of_line_ends_is_undone_at_once(tmp_path, finish):
    run = new_run(tmp_path / "run", finish=finish)
    before = History.load(run.path).epochs
    for name in ("record.jsonl", "config.toml", "environment.json", "DONE"):
        file = run.path / name
        if file.exists():
            file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert verify(run.path, recover=True).intact
    assert verify(run.path).findings == ()
    pd.testing.assert_frame_equal(History.load(run.path).epochs, before)


@pytest.mark.parametrize("finish", [True, False])
@pytest.mark.parametrize("lines", [[-1], [0], [5], [0, 3, 3, -1]], ids=str)
def test_lines_that_came_twice_are_deleted_without_loss(tmp_path, finish, lines):
    run = new_run(tmp_path / "run", finish=finish)
    before = History.load(run.path).epochs
    file = run.path / "record.jsonl"
    content = file.read_bytes().splitlines(keepends=True)
    for at in lines:
        content.insert(content.index(content[at]), content[at])
    file.write_bytes(b"".join(content))
    with pytest.raises(ValueError, match=r"topokit verify .* says what can be recovered"):
        History.load(run.path)
    (finding,) = verify(run.path, recover=True).findings
    assert finding.problem == "it has lines twice, as after an append that was repeated"
    assert verify(run.path).findings == ()
    pd.testing.assert_frame_equal(History.load(run.path).epochs, before)


@pytest.mark.parametrize("name", ["DONE", "record.jsonl", "config.toml", "checkpoint.pt"])
def test_a_finding_names_its_file_once_and_is_short(tmp_path, name):
    run = new_run(tmp_path / "run")
    (run.path / name).write_bytes(b"")
    (finding,) = verify(run.path).findings
    assert finding.problem in ("it is empty", "it has no checksum")
    (run.path / "config.toml").write_text("\n".join(f"key{i} = {i}" for i in range(90)))
    for finding in verify(run.path).findings:
        assert len(finding.problem) < 200


def test_what_is_lost_is_said(tmp_path):
    run = new_run(tmp_path / "run")
    (run.path / "topology" / "000004.npz").unlink()
    verdict = verify(run.path, recover=True)
    (finding,) = verdict.findings
    assert (finding.file, finding.state) == ("topology/000004.npz", "cannot be recovered")
    assert History.load(run.path).topology(3)
    with pytest.raises(ValueError, match="topology of epoch 4 is missing"):
        History.load(run.path).topology(7)
    run = new_run(tmp_path / "two", 6, finish=False)
    (run.path / "record.jsonl").write_bytes(b"x" * 100 + b"\n")
    verdict = verify(run.path, recover=True)
    assert [f.state for f in verdict.findings] == ["cannot be recovered"]
    assert "started again" in verdict.sentence()
