"""The limits of the layout, and ARCHITECTURE.md's drawing of it.

``python tests/contract/test_architecture.py`` updates the drawing.
"""

import ast
import io
import textwrap
import tokenize
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "topokit"
PAGE = ROOT / "ARCHITECTURE.md"
MODULES = sorted(PACKAGE.rglob("*.py"))
SUBPACKAGES = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
LIMIT_ROOT, LIMIT_ALL, LIMIT_LINES = 8, 170, 400
NO_NAMES = {"origin", "memo", "cover", "team", "passes", "starts", "observe", "controls"}
BEGIN, END = "<!-- drawing: tests/contract/test_architecture.py -->\n```\n", "```\n<!-- end -->"


def dotted(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layers():
    """Rows of the first contract of import-linter, from the top."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    first = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return [[name.strip().removeprefix("topokit.") for name in row.split("|")] for row in first]


def inside(folder):
    """Names of the modules of a package; a folder in it has the names of its own in brackets."""
    names = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
        names.append(f"{inner.name} ({', '.join(inside(inner))})")
    return names


def drawing():
    lines = []
    for row in layers():
        for name in row:
            package = PACKAGE / name
            lines += textwrap.wrap(
                ", ".join(inside(package)) if package.is_dir() else "(one module)",
                width=96,
                initial_indent=f"{name:<13}",
                subsequent_indent=" " * 13,
            )
        lines.append("-" * 13)
    return "\n".join(lines[:-1]) + "\n"


def code_lines(path):
    """Number of lines with code: no docstrings, comments or blank lines."""
    text = path.read_text(encoding="utf-8")
    strings, code = set(), set()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for part in body:  # a string that stands alone documents what is before it
            value = part.value if isinstance(part, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                strings.update(range(part.lineno, part.end_lineno + 1))
    layout = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (*layout, tokenize.COMMENT):
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - strings)


def imports_of(path, names):
    """Modules of the package that a module imports when it is itself imported."""
    found, waiting = set(), list(ast.parse(path.read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in names else node.module)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return (found & names) - {dotted(path)}


def cycle_in(graph):
    """Some modules that import each other in a circle, or none."""
    done = set()

    def visit(name, above):
        if name in above:
            return [*above[above.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph[name]):
            found = visit(other, [*above, name])
            if found:
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


def test_the_drawing_shows_the_subpackages_and_modules_that_exist():
    page = PAGE.read_text(encoding="utf-8")
    shown = page.split(BEGIN)[1].split(END)[0]
    assert shown == drawing(), "python tests/contract/test_architecture.py updates it"


def test_every_subpackage_and_module_has_a_layer():
    placed = [name for row in layers() for name in row]
    loose = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert sorted(placed) == sorted([*SUBPACKAGES, *loose])


def test_the_page_describes_each_subpackage():
    page = PAGE.read_text(encoding="utf-8")
    for package in SUBPACKAGES:
        assert f"| `{package}` |" in page


def test_few_modules_lie_in_the_root_and_in_all():
    loose = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert len(loose) <= LIMIT_ROOT
    assert len(MODULES) <= LIMIT_ALL


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_no_module_is_long_or_vaguely_named(path):
    assert code_lines(path) <= LIMIT_LINES
    assert path.stem not in NO_NAMES


@pytest.mark.parametrize("package", SUBPACKAGES)
def test_a_subpackages_docstring_says_its_content_and_what_it_may_import(package):
    text = (PACKAGE / package / "__init__.py").read_text(encoding="utf-8")
    opening = ast.get_docstring(ast.parse(text))
    assert any(words in opening for words in ("Here belong", "This package holds")), opening
    assert any(words in opening for words in ("Imports", "May import")), opening


def test_there_are_no_import_cycles():
    names = {dotted(path) for path in MODULES}
    graph = {dotted(path): imports_of(path, names) for path in MODULES}
    assert not cycle_in(graph), " -> ".join(cycle_in(graph))


def test_import_cycles_are_found():
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_lines_of_code_are_counted_without_documentation(tmp_path):
    path = tmp_path / "m.py"
    path.write_text('"""One.\n\nTwo."""\n\n# three\nX = 1\n"""About X."""\nY = """\n\n"""\n')
    assert code_lines(path) == 4


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    start, rest = page.split(BEGIN)
    PAGE.write_text(start + BEGIN + drawing() + END + rest.split(END)[1], encoding="utf-8")
