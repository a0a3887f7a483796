"""Run the fast tests with the oldest or the newest versions that pyproject.toml allows.

``python tests/versions.py oldest`` (or ``make test-oldest``) installs each dependency at its lower
bound into .venv-oldest; ``newest`` installs the latest releases, pre-releases excluded, into
.venv-newest. Both then run the tests that are not marked slow. ``--python`` chooses the
interpreter; arguments after ``--`` go to pytest.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
TOOLS = (
    "pytest", "pytest-xdist", "hypothesis", "pytest-benchmark", "igraph", "rustworkx", "powerlaw",
    "distributed", "jupytext",
)  # fmt: skip
TESTS = ("-m", "not slow", "-n", "2", "--dist", "loadfile", "-q")
# Old releases use what their own, newer, dependencies deprecate.
OLD = (
    "-W", "ignore::DeprecationWarning", "-W", "ignore::PendingDeprecationWarning",
    "-W", "ignore:Please use `torch.vmap`:FutureWarning",
)  # fmt: skip
# torch says so of Python 3.13.0 wherever it compiles.
NEW = ("-W", "ignore:Guards may run slower:RuntimeWarning")


def requirements(end: str) -> list[str]:
    """Return what to install: the package's dependencies, at their lower bounds for "oldest"."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = []
    for line in settings["project"]["dependencies"]:
        need = Requirement(line)
        if end == "oldest":
            (low,) = [clause.version for clause in need.specifier if clause.operator == ">="]
            wanted.append(f"{need.name}=={low}")
        else:
            wanted.append(need.name)
    return wanted


def main() -> int:
    arguments = sys.argv[1:]
    at = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("end", choices=("oldest", "newest"))
    parser.add_argument("--python", default=sys.executable, help="interpreter to test with")
    options = parser.parse_args(arguments[:at])
    folder = ROOT / f".venv-{options.end}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    wanted = requirements(options.end)
    note = folder / "installed.txt"
    text = "\n".join([options.python, *wanted])
    if not note.is_file() or note.read_text(encoding="utf-8") != text:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([options.python, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *wanted, *TOOLS], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "-e", ROOT], check=True)
        note.write_text(text, encoding="utf-8")
    subprocess.run([python, "-m", "pip", "list", "--format=freeze"], check=True)
    quiet = OLD if options.end == "oldest" else NEW
    command = [python, "-m", "pytest", *quiet, *(arguments[at + 1 :] or TESTS)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode


if __name__ == "__main__":
    sys.exit(main())
