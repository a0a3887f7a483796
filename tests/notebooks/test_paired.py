"""Each notebook is one text in two files; `make test` also executes them on small settings."""

from pathlib import Path

import jupytext
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_five_in_two_forms():
    assert len(NOTEBOOKS) == 5
    assert [path.stem for path in NOTEBOOKS] == sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_both_forms_say_the_same(path):
    both = (jupytext.read(p) for p in (path, path.with_suffix(".py")))
    one, other = ([(cell.cell_type, cell.source) for cell in book.cells] for book in both)
    assert one == other


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_there_and_small(path):
    book = jupytext.read(path)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert any(cell.outputs for cell in code)
    assert all(out.output_type != "error" for cell in code for out in cell.outputs)
    assert path.stat().st_size < 600_000


def test_the_first_notebook_needs_five_names():
    import re

    text = (FOLDER / "01_from_erdos_renyi_to_heavy_tails.py").read_text(encoding="utf-8")
    assert set(re.findall(r"\btk\.(\w+)", text)) <= {
        "load_recipe", "run", "fit_power_law", "plots", "History",
    }  # fmt: skip
