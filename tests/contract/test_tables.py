"""The tables are complete: what is public is in one, and everything in one is documented."""

import importlib
import inspect
import pkgutil

import pytest

import topokit
from topokit.cli.catalogue import TABLES, rows_of
from topokit.experiments.config import RECIPES, load_recipe
from topokit.graph import LayerGraph

FUNCTIONS = [
    (table, name, entry)
    for table in TABLES
    if table != "recipes"
    for name, entry in TABLES[table]().items()
    if callable(entry)
]


@pytest.mark.parametrize(
    ("table", "name", "entry"), FUNCTIONS, ids=[f"{t}-{n}" for t, n, _ in FUNCTIONS]
)
def test_every_entry_is_documented_with_an_example(table, name, entry):
    doc = inspect.getdoc(entry) or ""
    first = doc.split("\n", 1)[0]
    assert 10 < len(first) <= 120, first
    if table not in ("datasets", "plots"):
        assert ">>>" in doc, "an example that runs"
    if table in ("generators", "rules"):
        assert "References" in doc or name == "random", "a paper"


@pytest.mark.parametrize("table", list(TABLES))
def test_rows_have_a_name_and_say_what_it_is(table):
    for row in rows_of(table):
        assert row["name"]
        assert row["what"]


def test_public_names_exist_and_are_what_they_say():
    for name in topokit.__all__:
        assert getattr(topokit, name) is not None
    assert callable(topokit.run)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = topokit.nothing


def test_every_public_generator_is_in_the_table():
    package = importlib.import_module("topokit.generators")
    listed = {inspect.unwrap(function) for function in TABLES["generators"]().values()}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"topokit.generators.{info.name}")
        for name, function in vars(module).items():
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            parameters = inspect.signature(function).parameters
            if function.__module__ == module.__name__ and list(parameters)[:2] == ["n_in", "n_out"]:
                returns = inspect.signature(function).return_annotation
                if returns in ("LayerGraph", LayerGraph) and "density" in parameters:
                    assert function in listed, f"{module.__name__}.{name}"


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipes_are_complete_and_name_their_source(name):
    about = load_recipe(name).about
    assert {"title", "description", "paper", "differences"} <= set(about)


def test_importing_topokit_loads_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys, topokit; topokit.LayerGraph; topokit.from_scipy; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'numba', 'pandas', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
