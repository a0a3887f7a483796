import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import topokit
from topokit.generators import GENERATORS, randomized_twin
from topokit.graph.kernels import compiled, compiled_seed

PACKAGE = Path(topokit.__file__).parent
SOURCES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path.read_text()
    for path in PACKAGE.rglob("*.py")
}
COMPILED = sorted(name for name, text in SOURCES.items() if "\n@compiled" in text)

READ_ONLY = """
import importlib, sys, tempfile

def refuse(*args, **kwargs):
    raise OSError(30, "Read-only file system")

tempfile.TemporaryFile = refuse  # with it numba tries whether it can write to a folder
for name in sys.argv[1:]:
    importlib.import_module(name)
import numpy as np
from topokit.generators import GENERATORS, randomized_twin

for family in ("biregular", "expander", "peg"):
    graph = GENERATORS[family](20, 16, density=0.2, rng=0)
    print(family, *graph.indices)
print("null", *randomized_twin(graph, rng=0).indices)
"""


@pytest.mark.slow
def test_everything_runs_where_no_cache_can_be_written(tmp_path):
    assert len(COMPILED) >= 4
    environment = {"PYTHONPATH": str(PACKAGE.parent), "HOME": str(tmp_path)}
    environment["NUMBA_CACHE_DIR"] = str(tmp_path / "cache")
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, *COMPILED],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*.nb[ci]"))
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    for family in ("biregular", "expander", "peg"):
        graph = GENERATORS[family](20, 16, density=0.2, rng=0)
        assert lines[family] == " ".join(map(str, graph.indices))
    assert lines["null"] == " ".join(map(str, randomized_twin(graph, rng=0).indices))


def test_one_decorator_compiles_everything_but_the_products_of_layers():
    for name, text in SOURCES.items():
        if not name.startswith(("topokit.graph.kernels", "topokit.nn.kernels")):
            assert "njit" not in text, name


def test_subpackages_are_imported_without_numba():
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n"
    code += "    importlib.import_module(name)\n    assert 'numba' not in sys.modules, name"
    names = [f"topokit.{package}" for package in ("graph", "generators", "rules", "measures")]
    environment = {"PYTHONPATH": str(PACKAGE.parent)}
    subprocess.run([sys.executable, "-c", code, *names], check=True, env=environment)


def test_options_reach_the_compiler():
    @compiled(fastmath=True)
    def twice(x):
        return 2 * x

    assert twice.targetoptions["fastmath"] is True
    assert twice.targetoptions["nogil"] is True
    assert twice(3.0) == 6.0


def test_a_seed_for_compiled_code_is_one_draw():
    state = compiled_seed(np.random.default_rng(4))
    assert (state.dtype, state.shape) == (np.uint64, (1,))
    expected = np.random.default_rng(4).integers(0, 2**64, 1, dtype=np.uint64)
    assert state[0] == expected[0]
