"""The public names: lazy at run time, real to type checkers, the same to both."""

import ast
import importlib
import importlib.util
import inspect
import os
import pkgutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import topokit

ROOT = Path(topokit.__file__).parent.parent
STUB = ast.parse((ROOT / "topokit" / "__init__.pyi").read_text(encoding="utf-8"))
USER = ROOT / "tests" / "typing" / "user.py"


@pytest.mark.parametrize("package", ["measures", "plots"])
def test_functions_of_the_tables_are_exported(package):
    module = importlib.import_module(f"topokit.{package}")
    functions = {
        inspect.unwrap(entry).__name__
        for name, table in vars(module).items()
        if name.endswith(("_MEASURES", "_PLOTS"))
        for entry in table.values()
    }
    assert functions <= set(module.__all__)


def names_in_the_stub():
    return {
        name.asname: node.module.removeprefix("topokit").lstrip(".")
        for node in STUB.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
        if name.asname == name.name
    }


def test_type_checkers_see_the_names_that_exist():
    lazy = {name: module for module, names in topokit._HOME.items() for name in names}
    assert names_in_the_stub() == {**lazy, **dict.fromkeys(topokit._SUBPACKAGES, "")}
    assert sorted(topokit.__all__) == sorted(names_in_the_stub())


@pytest.mark.parametrize("name", topokit.__all__)
def test_every_name_is_what_its_module_holds(name):
    home = names_in_the_stub()[name]
    module = importlib.import_module(f"topokit.{home}".rstrip("."))
    assert getattr(topokit, name) is getattr(module, name)


def test_every_room_is_an_attribute():
    found = {info.name for info in pkgutil.iter_modules(topokit.__path__) if info.ispkg}
    assert found == set(topokit._SUBPACKAGES)


def test_users_find_what_they_need():
    needed = {
        "Comparison", "Engine", "History", "PowerLawFit", "Recording", "RunConfig",
        "UpdateRule", "compare", "load_data", "sweep",
    }  # fmt: skip
    assert needed <= set(topokit.__all__)


def run_alone(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_topokit_loads_nothing_but_itself():
    code = "import sys, topokit; print(*sorted(m.split('.')[0] for m in sys.modules))"
    loaded = set(run_alone(code))
    assert not loaded & {"numpy", "torch", "scipy", "numba", "pandas", "matplotlib", "networkx"}
    inside = "import sys, topokit; print(*[m for m in sys.modules if m.startswith('topokit.')])"
    assert run_alone(inside) == []


@pytest.mark.slow
def test_rooms_exist_whatever_was_imported_before():
    code = "import topokit as tk; print(*[getattr(tk, name).__name__ for name in tk._SUBPACKAGES])"
    assert run_alone(code) == [f"topokit.{name}" for name in topokit._SUBPACKAGES]


def test_the_error_for_an_unknown_name_gives_the_nearest():
    with pytest.raises(AttributeError) as caught:
        _ = topokit.mesure
    assert (
        str(caught.value) == "module 'topokit' has no attribute 'mesure'; did you mean 'measure'?"
    )


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(request, tmp_path_factory):
    """A Python that has topokit in one of the two ways, and what is installed here besides."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the package, is not installed")
    folder = tmp_path_factory.mktemp(request.param)
    site, built = folder / "site", folder / "built"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation"]
    if request.param == "wheel":
        subprocess.run([*pip, "wheel", *options, "--wheel-dir", built, ROOT], check=True)
        (wheel,) = built.iterdir()
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    else:
        subprocess.run(
            [*pip, "install", *options, "--target", site, "--editable", ROOT], check=True
        )
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    found = [site, *(line for pth in site.glob("*.pth") for line in pth.read_text().splitlines())]
    others = [path for path in sys.path if path.endswith("site-packages")]
    (own,) = (folder / "venv").glob("lib/python*/site-packages")
    (own / "user.pth").write_text("".join(f"{path}\n" for path in [*found, *others]))
    return request.param, python, site


@pytest.mark.slow
def test_the_installed_package_is_complete(installed):
    how, _, site = installed
    if how == "editable":
        (path,) = site.glob("*.pth")
        assert path.read_text().splitlines() == [str(ROOT)], "a plain path, no import hook"
        return
    there = {path.relative_to(ROOT) for path in (ROOT / "topokit").rglob("*") if path.is_file()}
    wanted = {path for path in there if "__pycache__" not in path.parts}
    found = {path.relative_to(site) for path in (site / "topokit").rglob("*") if path.is_file()}
    assert found == wanted
    assert Path("topokit/py.typed") in found


CHECKERS = {
    "mypy": (
        *("--strict", "--config-file", USER.with_name("mypy.ini")),
        *("--cache-dir", ROOT / ".mypy_cache" / "user", "--python-executable"),
    ),
    "pyright": ("--pythonpath",),
}


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_a_users_file_passes_and_a_misspelt_function_is_reported(installed, checker, tmp_path):
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    _, python, _ = installed
    text = USER.read_text(encoding="utf-8")
    (tmp_path / "right.py").write_text(text, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(text.replace("tk.measure(", "tk.mesure("), encoding="utf-8")
    command = [sys.executable, "-m", checker, *CHECKERS[checker], python, "right.py", "wrong.py"]
    environment = {**os.environ, "MYPYPATH": ""}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    errors = [line for line in done.stdout.splitlines() if "error:" in line or " - error" in line]
    assert len(errors) == 1, done.stdout + done.stderr
    assert "wrong.py" in errors[0]
    assert "mesure" in errors[0]


@pytest.mark.slow
def test_a_users_file_runs(tmp_path):
    spec = importlib.util.spec_from_file_location("user", USER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    history = module.trained(tmp_path)
    assert history.recorded == [0, 1]
