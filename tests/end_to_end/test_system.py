"""Terminals that go away, folders that cannot be written to, and readers beside a writer."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import topokit as tk
from topokit.cli import interrupts, main
from topokit.experiments.record import History
from topokit.experiments.verify import _Check, verify
from topokit.graph import files
from topokit.graph.files import check_writable, write_atomic

posix = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")
SMALL = {"model.widths": [64, 9, 10], "batch_size": 900}


def python(code, *words):
    """Run code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=60
    )


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    return tk.run("set_mlp_digits", tmp_path_factory.mktemp("runs") / "a", epochs=1, **SMALL)


# --- terminals that go away -----------------------------------------------------------------------

HANGUP = """
import signal
from topokit.cli import interrupts
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where nohup began the tests
with interrupts.handled(lasting=True):
    try:
        signal.raise_signal(signal.SIGHUP)
    except KeyboardInterrupt as stop:
        print("cleaned up", flush=True)
        raise
"""
TELLING = """
import signal
from topokit.cli import interrupts
with interrupts.handled(lasting=True):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        with interrupts.telling():
            signal.raise_signal(signal.SIGINT)
            print("interrupted", flush=True)
            signal.raise_signal(signal.SIGINT)
            print("not reached", flush=True)
"""
IMPORTING = """
import sys
from pathlib import Path
from topokit.cli import interrupts
from topokit.graph.files import write_atomic
folder = Path(sys.argv[1])
sys.dont_write_bytecode = True
sys.path.insert(0, str(folder))
(folder / "late.py").write_text("import signal; signal.raise_signal(signal.SIGTERM)")
with interrupts.handled(lasting=True), write_atomic(folder / "page.html") as temporary:
    temporary.write_text("a part of it")
    print(temporary.exists(), flush=True)
    import late
"""
TRACKER = """
import multiprocessing.resource_tracker as tracker
from pathlib import Path
from topokit.experiments.executors import local_pool
with local_pool(1):
    pid = tracker._resource_tracker._pid
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("SigBlk")))
"""


@posix
def test_the_end_of_the_terminal_is_an_interrupt():
    done = python(HANGUP)
    assert (done.returncode, done.stdout) == (130, "cleaned up\n")
    assert done.stderr == "topokit: interrupted\n"


def test_a_second_interrupt_does_not_take_the_line_away():
    done = python(TELLING)
    assert (done.returncode, done.stdout, done.stderr) == (130, "interrupted\n", "")


@posix
def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.handled(lasting=False):
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@posix
@pytest.mark.slow
def test_an_interrupt_during_a_late_import_leaves_no_temporary_file(tmp_path):
    done = python(IMPORTING, tmp_path)
    assert (done.returncode, done.stdout) == (130, "True\n"), done.stderr
    assert done.stderr == "topokit: interrupted\n"
    assert os.listdir(tmp_path) == ["late.py"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux: looks into /proc")
def test_what_removes_the_semaphores_of_workers_outlives_the_terminal():
    done = python(TRACKER)
    assert int(done.stdout, 16) >> (signal.SIGHUP - 1) & 1, done.stderr


# --- folders that cannot be written to ------------------------------------------------------------


def test_a_folder_is_writable_if_it_is_or_can_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    check_writable(tmp_path)
    check_writable(tmp_path / "a/b/c", made=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for path, made, number in (
        (tmp_path / "a", False, errno.ENOENT),
        (tmp_path / "file", True, errno.ENOTDIR),
        (tmp_path / "file/a/b", True, errno.ENOTDIR),
    ):
        with pytest.raises(OSError, match=str(path)) as caught:
            check_writable(path, made=made)
        assert (caught.value.errno, caught.value.filename) == (number, str(path))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(PermissionError, match=str(tmp_path / "a")):
        check_writable(tmp_path / "a", made=True)


@pytest.mark.parametrize("command", ["train", "train there", "sweep", "compare", "csv", "plot"])
def test_a_place_without_permission_is_refused_before_the_work(
    tmp_path, monkeypatch, capsys, a_run, command
):
    def work(*_, **__):
        raise AssertionError("this is the work")

    (tmp_path / "there").mkdir()
    (tmp_path / "s.toml").write_text('[study]\nname = "s"\nrecipe = "set_mlp_digits"\n')
    for name in (
        "topokit.experiments.runs.prepare_run", "topokit.experiments.sweep._check",
        "topokit.experiments.compare.compare", "topokit.plots.figure",
    ):  # fmt: skip
        monkeypatch.setattr(name, work)
    monkeypatch.setattr(os, "access", lambda *_: False)
    out = {"train there": "there", "compare": "there/x.png", "plot": "there"}.get(command, "new")
    words = {
        "train": ["train", "--out"], "train there": ["train", "--out"],
        "sweep": ["sweep", tmp_path / "s.toml", "--out"],
        "compare": ["compare", a_run.directory, "--out"],
        "csv": ["compare", a_run.directory, "--csv"],
        "plot": ["plot", a_run.directory, "--out"],
    }[command]  # fmt: skip
    assert main([*map(str, words), str(tmp_path / out)]) == 2
    error = capsys.readouterr().err.replace("\n", " ")
    assert f"Permission denied: {tmp_path / out.partition('/')[0]}" in error
    assert "ask for permission" in error
    assert not (tmp_path / "new").exists()


def test_a_table_is_written_whole_or_not_at_all(tmp_path, monkeypatch, capsys, a_run):
    tables = tmp_path / "tables"
    assert main(["compare", str(a_run.directory), "--csv", str(tables)]) == 0
    before = (tables / "runs.csv").read_text()
    assert before.startswith("run,")

    def full(frame, path, **_):
        Path(path).write_text("ru")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    capsys.readouterr()
    assert main(["compare", str(a_run.directory), "--csv", str(tables)]) == 1
    error = capsys.readouterr().err.replace("\n", " ")
    assert f"{tables}/groups.csv; the disk is full" in error
    assert (tables / "runs.csv").read_text() == before
    assert sorted(os.listdir(tables)) == ["groups.csv", "pairs.csv", "runs.csv"]


def test_a_limit_of_the_size_of_files_is_named(tmp_path, monkeypatch, capsys, a_run):
    def limited(*_):
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), "page")

    monkeypatch.setattr(files, "_created", limited)
    assert main(["report", str(a_run.directory), "--out", str(tmp_path / "page.html")]) == 1
    assert "ulimit -f" in capsys.readouterr().err.replace("\n", " ")


def test_a_working_folder_that_was_removed_is_named(monkeypatch, capsys):
    def gone():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(os, "getcwd", gone)
    assert main(["list", "rules"]) == 2
    assert "the working folder has been removed" in capsys.readouterr().err


def test_a_temporary_file_is_removed_wherever_the_process_is(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    with pytest.raises(FileNotFoundError), write_atomic("notes") as temporary:  # noqa: PT012
        assert temporary.exists()
        os.chdir(tmp_path / "b")
        files.remove_temporaries()
    assert os.listdir(tmp_path / "a") == os.listdir(tmp_path / "b") == []


# --- readers beside a writer ----------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_ends_while_it_is_checked_is_intact(tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    run = tmp_path / "run"
    with pytest.raises(Stop):
        tk.run("set_mlp_digits", run, epochs=2, progress=stop, **SMALL)
    shutil.copytree(run, tmp_path / "ended/run")
    tk.resume(tmp_path / "ended/run")
    check = _Check._topologies

    def late(self, record):
        check(self, record)
        shutil.copytree(tmp_path / "ended/run", run, dirs_exist_ok=True)

    with monkeypatch.context() as patch:
        patch.setattr(_Check, "_topologies", late)
        assert verify(run).findings == ()
    assert verify(run).findings == ()
    assert len(History.load(run).epochs) == 2
