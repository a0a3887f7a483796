"""The campaign of kills and full disks with a small count, and that it notices faults."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHORT = """
import sys
from tests.campaigns import kills
print("\\n".join(kills.campaign({count}, {seed}, commands={commands!r})))
"""
LEFT = "from topokit.graph import files\nfiles._sweep = lambda folder: None\n"


def short(commands, count, seed=0, fault=""):
    """Run the campaign in a process of its own, since it forks."""
    code = fault + SHORT.format(commands=commands, count=count, seed=seed)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True,
        timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_killed_commands_go_on():
    assert "Faults" not in short(("train", "sweep"), 6)


@pytest.mark.slow
def test_a_temporary_file_left_behind_is_noticed():
    assert "left behind" in short(("train",), 6, fault=LEFT)
