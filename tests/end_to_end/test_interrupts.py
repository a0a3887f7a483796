"""Ctrl-C and SIGTERM at any time, once and twice: one line, exit code 130, no traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from topokit.cli import interrupts, main

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="Linux: looks into /proc"
)
STUDY = """
[study]
name = "long"
recipe = "set_mlp_digits"
seeds = [0, 1]

[settings]
epochs = 5000
"""


def start(*words):
    """Start a command and wait until it handles signals, before its imports."""
    process = subprocess.Popen(
        [sys.executable, "-m", "topokit", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while not _catches(process.pid, signal.SIGTERM):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)
    return process


def _catches(pid, number):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next((line.split()[1] for line in lines if line.startswith("SigCgt")), "0")
    return int(mask, 16) >> (number - 1) & 1


def ended(process):
    _, error = process.communicate(timeout=100)
    assert process.returncode == 130, error
    lines = [line for line in error.splitlines() if not line.startswith("runs ")]  # the progress
    assert len(lines) == 1, error
    assert lines[0].startswith("topokit: interrupted"), error
    return error


@pytest.mark.parametrize("delay", [0, 0.1, 0.4, 1.0])
def test_an_interrupt_during_the_imports(tmp_path, delay):
    process = start("train", "--out", tmp_path / "run", "--set", "epochs=5000")
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    ended(process)


@pytest.mark.parametrize("words", [["report", "none", "--out", "page"], ["plot", "none"]])
def test_sigterm_and_other_commands(words):
    process = start(*words)
    process.send_signal(signal.SIGTERM)
    ended(process)


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0, 0.05])
def test_twice_in_a_row_while_training(tmp_path, pause):
    out = tmp_path / "run"
    process = start("train", "--out", out, "--set", "epochs=5000", "model.widths=[64,9,10]")
    while not (out / "checkpoint.pt").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    for _ in range(2):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        time.sleep(pause)
    assert f"topokit resume {out}" in ended(process).replace("\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0, 1.0])
@pytest.mark.parametrize("times", [1, 2])
def test_a_whole_process_group_while_workers_start(tmp_path, delay, times):
    (tmp_path / "long.toml").write_text(STUDY)
    process = start("sweep", tmp_path / "long.toml", "--out", tmp_path / "out", "--workers", 2)
    while not (tmp_path / "out/study.toml").exists():  # the workers are started now
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)
    time.sleep(delay)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.02)
    assert "Continue with the same command" in ended(process).replace("\n", " ")


def test_the_handlers_of_a_caller_are_given_back(capsys):
    before = [signal.getsignal(number) for number in interrupts.SIGNALS], sys.unraisablehook
    assert main(["list", "rules"]) == 0
    assert (
        [signal.getsignal(number) for number in interrupts.SIGNALS],
        sys.unraisablehook,
    ) == before


LOST = """
import signal, sys
from topokit.cli import interrupts

class Cleanup:
    def __del__(self):  # where Python can only print an exception
        signal.raise_signal(signal.SIGINT)

with interrupts.handled(lasting=True), interrupts.saying(lambda: "interrupted; go on"):
    Cleanup()
    print("not reached", flush=True)
"""
LATE = """
import atexit, signal, sys
from topokit.cli import main
atexit.register(signal.raise_signal, signal.SIGINT)
sys.argv = ["topokit", "nonsense"]
sys.exit(main())
"""


def test_an_interrupt_where_python_would_lose_it():
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "topokit: interrupted; go on\n")


def test_an_interrupt_after_the_end_is_silent():
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert "interrupted" not in done.stderr
