"""Commands in forks of one process that has imported everything, so that each starts at once.

For tests that start several commands to stop, kill or compare them. Where the start itself is the
subject, a test starts ``python -m topokit``.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 120  # seconds
# It only imports, and computes nothing: a fork would lose the threads that arithmetic starts.
SERVER = """
import json, os, sys
from concurrent.futures import ThreadPoolExecutor
import topokit.experiments.runs, topokit.experiments.sweep
from topokit.cli import commands, main
from topokit.experiments import executors

for line in sys.stdin:
    what, *rest = json.loads(line)
    if what == "wait":
        pid, status = os.waitpid(*rest)
        print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
        continue
    words, said, in_process = rest
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(said + name, os.O_WRONLY | os.O_CREAT), number)
        if in_process:
            executors.local_pool = lambda *_, **__: ThreadPoolExecutor(1)
        sys.argv = ["topokit", *words]
        sys.exit(main())
    print(pid, flush=True)
"""


class Command:
    """A command that runs, or has run, in a fork."""

    def __init__(self, ask, pid, said):
        self.ask, self.pid, self.said, self.returncode = ask, pid, said, None

    def poll(self):
        """Return the exit code, None while it runs."""
        if self.returncode is None:
            self.returncode = self.ask("wait", self.pid, os.WNOHANG)
        return self.returncode

    def wait_for(self, path):
        """Wait until the command has made a file."""
        end = time.monotonic() + PATIENCE
        while not path.exists():
            assert self.poll() is None, self.told()
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.002)

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def told(self):
        """Return what it has written to its two streams."""
        return [Path(self.said + name).read_text(encoding="utf-8") for name in ("out", "err")]

    def ended(self):
        """Wait for the end; return the exit code and what it wrote to its two streams."""
        end = time.monotonic() + PATIENCE
        while self.poll() is None:
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.005)
        return self.returncode, *self.told()


@contextmanager
def forks(folder):
    """Provide a function that starts a command; what commands write is kept in a folder.

    With ``in_process=True`` a sweep has its runs in its own process instead of in workers.
    """
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    commands = []

    def ask(*words):
        print(json.dumps(words), file=server.stdin, flush=True)
        return json.loads(server.stdout.readline())

    def start(*words, in_process=False):
        said = f"{folder}/{len(commands)}-"
        pid = ask("start", [str(word) for word in words], said, in_process)
        commands.append(Command(ask, pid, said))
        return commands[-1]

    try:
        with server:
            yield start
            for command in commands:
                command.send_signal(signal.SIGKILL)
    finally:
        server.kill()
