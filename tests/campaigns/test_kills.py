"""The campaign of kills and full disks with a small count, and that it notices faults."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import json
from tests.campaigns import kills
from topokit.graph import files

found = [kills.campaign(6, 0, commands=("train", "sweep"))]
files._sweep = lambda folder: None
found.append(kills.campaign(4, 0, commands=("train",)))
print(json.dumps(["\\n".join(lines) for lines in found]))
"""


@pytest.fixture(scope="module")
def campaigns():
    """Texts of two campaigns, in a process of their own, since they fork.

    In the second one nothing removes temporary files.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE], cwd=ROOT, capture_output=True, text=True,
        timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_killed_commands_go_on(campaigns):
    assert "Faults" not in campaigns[0]


@pytest.mark.slow
def test_a_temporary_file_left_behind_is_noticed(campaigns):
    assert "left behind" in campaigns[1]
