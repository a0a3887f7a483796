"""Kill runs and sweeps at every file operation and at random times, and fill their disk.

Afterwards the same command is given again. It must go on and end with the result of an
uninterrupted run, bit for bit; no temporary file may be left.

Commands run in forks of this process, which has imported everything, so that an attempt takes a
fraction of a second. A sweep runs in one process there: a kill ends it and its worker at once. A
few sweeps run with their pool of workers, of which one is killed: the sweep itself has to go on.
"""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import Executor, Future
from contextlib import nullcontext, suppress
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.campaigns.common import main, table
from tests.campaigns.damages import content_of
from topokit.cli import main as topokit
from topokit.experiments.loop import read_checkpoint
from topokit.experiments.record import History
from topokit.graph.files import is_temporary

TITLE = "Killed runs and full disks"
TINY = {
    "data.n_train": 60, "data.n_test": 30, "model.widths": [64, 14, 12, 10], "topology.epsilon": 3,
    "batch_size": 30, "threads": 1, "measures.names": ["fan_in", "turnover"], "epochs": 2,
}  # fmt: skip
STUDY = """
[study]
name = "tiny"
recipe = "set_mlp_digits"
seeds = [0, 1]

[settings]
"""
KILLED = 137
SECONDS = 5.0  # about those from the start of a worker to its first run
OTHERS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}  # and open


class Here(Executor):
    """Runs each call at once, in this process."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


# --- what happens at a file operation -------------------------------------------------------------


class Hook:
    """Counts the operations that change files below a folder, and acts at the n-th.

    Operations: to open for writing, to write, to flush, to rename, to remove and to make a folder.
    """

    def __init__(self, folder, at, act, *, later):
        self.folder, self.at, self.act, self.later = str(folder), at, act, later
        self.count = 0
        self.busy = False
        sys.addaudithook(self.audit)
        for name in ("write", "fsync"):
            setattr(os, name, self.wrapped(name, getattr(os, name)))

    def audit(self, event, args):
        if event == "open":
            path, _, flags = args
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if changes and isinstance(path, str | bytes | os.PathLike):
                self.step(event, os.fsdecode(path))
        elif event in OTHERS and isinstance(args[0], str | bytes | os.PathLike):
            self.step(event, os.fsdecode(args[0]))

    def wrapped(self, name, original):
        def call(descriptor, *args):
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            half = [bytes(args[0])[: len(args[0]) // 2]] if name == "write" else None
            self.step(name, path, lambda: half and original(descriptor, *half))
            # A kill loses nothing that was written, flushed or not: flushing is only counted.
            return None if name == "fsync" else original(descriptor, *args)

        return call

    def step(self, event, path, before=lambda: None):
        if self.busy or not os.path.abspath(path).startswith(self.folder):
            return
        self.count += 1
        if self.count == self.at or (self.later and self.at and self.count > self.at):
            self.busy = True
            before()
            self.act(event, path)
            self.busy = False


def kill(event, path):
    os.kill(os.getpid(), signal.SIGKILL)


def full(event, path):
    if event not in ("os.remove", "os.rmdir", "fsync"):  # these need no space
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


# --- attempts -------------------------------------------------------------------------------------


def attempt(words, folder, *, at=0, act=kill, later=False, seconds=None):
    """Run a command in a fork; return its exit code, what it printed, and the operations seen."""
    log, counted = folder.parent / "log", folder.parent / "count"
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            sys.stdout = os.fdopen(1, "w", closefd=False, encoding="utf-8")
            sys.stderr = os.fdopen(2, "w", closefd=False, encoding="utf-8")
            from topokit.experiments import executors

            executors.local_pool = lambda *_, **__: nullcontext(Here())
            hook = Hook(folder, at, act, later=later)
            code = topokit(words)
            hook.busy = True
            counted.write_text(str(hook.count))
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    code = KILLED if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return code, log.read_text(errors="replace"), counted


def workers_of(pid):
    """Return the processes of a pool that a process has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


def worker_killed(words, folder, seconds, rng):
    """Run a sweep with two workers and kill one; return the sweep's exit code and what it said.

    Half of the time while the workers import, half of the time after a run has begun.
    """
    begun = rng.random() < 0.5
    command = [sys.executable, "-W", "ignore", "-m", "topokit", *words, "--workers", "2"]
    with (folder.parent / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        found = []
        while process.poll() is None and not found:
            time.sleep(0.01)
            with suppress(OSError):
                found = workers_of(process.pid)
        while process.poll() is None and begun and not any(folder.glob("runs/*/record.jsonl")):
            time.sleep(0.002)
        time.sleep(seconds / 20 if begun else seconds)
        with suppress(OSError):
            found = workers_of(process.pid) or found
            os.kill(rng.choice(found), signal.SIGKILL)
        code = process.wait()
    return code, (folder.parent / "log").read_text(errors="replace")


def train_command(folder):
    settings = [f"{key}={value}" for key, value in TINY.items()]
    return ["train", "set_mlp_digits", "--out", str(folder), "--json", "--set", *settings]


def sweep_command(folder):
    study = folder.parent / "study.toml"
    study.write_text(STUDY + "".join(f"{key} = {value!r}\n" for key, value in TINY.items()))
    return ["sweep", str(study), "--out", str(folder), "--json"]


COMMANDS = {"train": train_command, "sweep": sweep_command}


def result_of(folder):
    """Everything that the runs in a folder say, and their weights."""
    runs = sorted(folder.glob("runs/*")) or [folder]
    found = []
    for path in runs:
        model = read_checkpoint(path / "checkpoint.pt")["model"]
        weights = {
            name: value.to_dense().numpy().tobytes() if isinstance(value, torch.Tensor) else value
            for name, value in model.items()
        }
        found.append((path.name if len(runs) > 1 else "", content_of(History.load(path)), weights))
    return found


def gone_on(words, folder, expected):
    """Give the command again; return the outcome and what is wrong."""
    code, said, _ = attempt(words, folder)
    if "Traceback" in said:
        return "traceback", said
    if code != 0:
        return "refused", said
    left = [path for path in folder.rglob("*") if is_temporary(path.name)]
    if left:
        return "left behind", str(left)
    if result_of(folder) != expected:
        return "different", said
    return "same", ""


def campaign(count, seed, commands=tuple(COMMANDS)):
    """Kill at up to `count` operations of each command, and `count` / 4 times at random."""
    rng = random.Random(seed)
    rows, faults = [], []
    root = Path(tempfile.mkdtemp(prefix="topokit-kills-"))
    torch.set_num_threads(1)
    try:
        for command in commands:
            whole = root / command / "whole" / "out"
            whole.parent.mkdir(parents=True)
            topokit(train_command(whole))  # imports and compiles what the forks then have
            shutil.rmtree(whole)
            start = time.perf_counter()
            code, said, counted = attempt(COMMANDS[command](whole), whole)
            seconds = time.perf_counter() - start
            assert code == 0, said
            n_operations, expected = int(counted.read_text()), result_of(whole)
            every = sorted(rng.sample(range(1, n_operations + 1), min(count, n_operations)))
            plans = {
                "killed at an operation": [{"at": at} for at in every],
                "killed at random times": [
                    {"seconds": rng.uniform(0, seconds)} for _ in range(count // 4)
                ],
                "disk full from an operation on": [
                    {"at": at, "act": full, "later": True} for at in every
                ],
                "disk full for one operation": [{"at": at, "act": full} for at in every[::4]],
            }
            if command == "sweep":
                plans["a worker killed"] = [
                    {"worker": rng.uniform(0, SECONDS)} for _ in range(count // 10)
                ]
            for kind, attempts in plans.items():
                seen = Counter()
                for number, plan in enumerate(attempts):
                    folder = root / command / f"{kind[:9].replace(' ', '-')}-{number}" / "out"
                    folder.parent.mkdir(exist_ok=True)
                    words = COMMANDS[command](folder)
                    if "worker" in plan:
                        code, said = worker_killed(words, folder, plan["worker"], rng)
                    else:
                        code, said, _ = attempt(words, folder, **plan)
                    outcome, why = gone_on(words, folder, expected)
                    if "act" in plan and code not in (0, KILLED):
                        good = code == 1 and "No space left on device" in said
                        if "Traceback" in said or not good:
                            outcome, why = "bad message", said
                    if "worker" in plan and code != 0:
                        outcome, why = "the sweep ended", said
                    seen[outcome] += 1
                    if outcome != "same":
                        faults.append(f"{command}, {kind}, {plan.get('at', '')}: {outcome}: {why}")
                    shutil.rmtree(folder.parent)
                bad = sum(seen.values()) - seen["same"]
                rows.append([command, kind, n_operations, len(attempts), seen["same"], bad])
    finally:
        shutil.rmtree(root)
    head = ["command", "attack", "operations", "attempts", "same result", "faults"]
    lines = [
        "After each attack the same command is given again. It went on, and the result was that of "
        "an uninterrupted run, bit for bit, with no temporary file left.",
        "",
        *table(head, rows),
    ]
    if faults:
        lines += ["", "Faults:", "", *(f"- {' '.join(fault.split())[:600]}" for fault in faults)]
    return lines


if __name__ == "__main__":
    sys.exit(main("kills", TITLE, campaign, count=200))
