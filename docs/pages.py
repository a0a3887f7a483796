"""Write the pages of the site that follow from the code or are kept elsewhere.

`write` fills the folders named in `FOLDERS`, which git ignores: the gallery (every entry of the
tables of plots, see `gallery`), the topologies (every generator, drawn and measured), the API, the
tables, recipes and commands, and copies of the studies, benchmarks, notebooks and other documents,
with their pictures and with links that hold on the site. The text of the pages is in
``_templates/pages``.
"""

from __future__ import annotations

import importlib
import inspect
import io
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gallery
import jinja2
import matplotlib.pyplot as plt
import nbformat
from rich.console import Console
from sphinx.ext.autodoc.mock import mock

import topokit as tk
from topokit.cli.catalogue import TABLES, rows_of
from topokit.cli.commands import app
from topokit.experiments.study import STUDIES

ROOT = Path(tk.__file__).resolve().parent.parent
FOLDERS = ("api", "gallery", "topologies", "recipes", "documents", "notebooks")
Pages = Iterable[tuple[str, str | bytes]]

SUMMARISED: set[str] = set()
"""Names whose pages Sphinx writes into ``api/generated``."""


def write(docs: Path) -> None:
    """Write all generated pages into the folder of the sources; a page that is equal is left."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(docs / "_templates" / "pages"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    templates.filters |= {"cell": cell, "plain": plain}
    templates.globals["summary"] = summary

    def fill(template: str, **values: Any) -> str:
        return templates.get_template(template).render(**values)

    written = set()
    for made in (api, topologies, recipes, documents, notebooks):
        written |= {save(docs / name, content) for name, content in made(fill)}
    written |= {save(docs / name, content) for name, content in gallery.pages(docs, fill, plain)}
    for name in FOLDERS:  # what an earlier build wrote and this one does not
        for path in (docs / name).rglob("*"):
            kept = path in written or (path.parent.name == "generated" and path.stem in SUMMARISED)
            if path.is_file() and not kept:
                path.unlink()


def save(path: Path, content: str | bytes) -> Path:
    """Write a file unless it is there already with this content, and return its path."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_bytes() != data:
        path.write_bytes(data)
    return path


def plain(text: str) -> str:
    """Return text of a docstring as Markdown, without the numbers of its references."""
    text = re.sub(r"\s*\[\d+\]_", "", text.replace("``", "`"))
    return re.sub(r":math:`([^`]*)`", r"$\1$", text)


def cell(text: str) -> str:
    """Return text of a docstring as a cell of a Markdown table."""
    return plain(text).replace("|", "\\|").replace("\n", " ")


def first_line(entry: Any) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(entry) or "").partition("\n")[0]


# --- The API -------------------------------------------------------------------------------------

SUBPACKAGES = ("graph", "generators", "measures", "rules", "nn", "data", "experiments", "plots")
GROUPS = {
    "Graphs and topologies": (
        *("LayerGraph", "Topology", "EdgeUpdate"),
        *("topology_of", "load_topology", "save_topology"),
    ),
    "Making graphs": ("generate", "describe", "randomized_twin"),
    "Measuring": (
        *("measure", "degree_report", "DegreeReport", "fit_power_law", "PowerLawFit"),
        *("null_scores", "NullScore", "topology_distance"),
    ),
    "Training in your own loop": ("sparsify", "densify", "attach", "Engine", "UpdateRule"),
    "Runs": (
        "run",
        "resume",
        "model_of",
        "data_of",
        "RunConfig",
        "load_recipe",
        "History",
        "Recording",
    ),
    "Studies": ("Study", "load_study", "sweep", "SweepResult", "compare", "Comparison"),
    "Estimators of scikit-learn": ("SparseMLPClassifier", "SparseMLPRegressor"),
    "Data": ("load_data", "Data"),
    "Other libraries of graphs": (
        *("from_scipy", "from_networkx", "to_networkx", "from_igraph", "to_igraph"),
        *("from_rustworkx", "to_rustworkx", "from_edge_index", "to_edge_index"),
        *("from_network_index", "to_network_index"),
    ),
}
"""Public names by what they are for; names of no group come last, under "Further names"."""

MODULES = {
    "experiments": ("config", "record", "statistics", "study", "verify", "compare", "tracking")
}
"""Modules of a subpackage that exports no names itself."""

OPTIONAL = {"nn": ("lightning", "skorch", "transformers")}
"""Modules for a library of the same name, which topokit does not require."""
LIBRARIES = [name for modules in OPTIONAL.values() for name in modules]


class Entry(NamedTuple):
    """A line of a table: its name, the page it links to ('' for none), and what it is."""

    name: str
    home: str
    what: str


def home(entry: Any) -> str:
    """Return the full name under which a function or class is documented, or ''."""
    entry = inspect.unwrap(entry)
    name, module = getattr(entry, "__name__", ""), getattr(entry, "__module__", "") or ""
    if not module.startswith("topokit") or not is_at(module, name, entry):
        return ""
    if name in tk._MODULE_OF and is_at("topokit", name, entry):
        return f"topokit.{name}"
    package = ".".join(module.split(".")[:2])
    here = name in getattr(importlib.import_module(package), "__all__", ())
    return f"{package if here and is_at(package, name, entry) else module}.{name}"


def is_at(module: str, name: str, entry: Any) -> bool:
    """Return whether a module has an object, or a wrapper of it, under a name."""
    return inspect.unwrap(getattr(sys.modules.get(module), name, None)) is entry


def summary(names: Iterable[str]) -> str:
    """Return a list of objects with their first lines; Sphinx writes a page for each."""
    wanted = [name for name in dict.fromkeys(names) if name != "topokit.Topology"]
    SUMMARISED.update(wanted)
    lines = ["```{eval-rst}", ".. autosummary::", "   :toctree: generated", "   :nosignatures:", ""]
    return "\n".join([*lines, *(f"   {name}" for name in wanted), "```", ""])


def api(fill: Any) -> Pages:
    """Yield the index of public names, and a page for each subpackage with its tables."""
    values = {name: getattr(tk, name) for name in tk.__all__}
    tables = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    names = [n for n, value in values.items() if n not in tables and not inspect.ismodule(value)]
    objects = [name for name in names if not callable(values[name])]
    grouped = {name for group in GROUPS.values() for name in group}
    groups = {**GROUPS, "Further names": [name for name in names if name not in grouped]}
    places = {}
    for name, table in tables.items():
        package = tk._MODULE_OF[name].split(".")[0]
        places[name] = (table, f"topokit.{package}", f"#table-{name.lower()}")
        if name == "RECIPES":
            places[name] = (table, "Recipes", "../recipes/index.md")
    yield (
        "api/index.md",
        fill(
            "api-index.md",
            groups={
                title: [
                    f"topokit.{name}" for name in group if name in names and name not in objects
                ]
                for title, group in groups.items()
            },
            objects={name: first_line(values[name]) for name in objects},
            tables=places,
            subpackages=SUBPACKAGES,
        ),
    )
    yield "api/topology.md", fill("api-topology.md")
    for name in objects:
        kind = type(values[name])
        yield f"api/{name}.md", fill("api-object.md", name=name, kind=kind)
    yield "api/cli.md", fill("api-cli.md", about=inspect.getdoc(tk.cli))
    for name in SUBPACKAGES:
        yield f"api/{name}.md", subpackage(name, fill)


def tables_of(module: Any) -> dict[str, Mapping[str, Any]]:
    """Return the tables of a subpackage by name, the public ones first and in their order."""
    names = [name for name in getattr(module, "__all__", ()) if name.isupper()]
    if module is tk.nn:
        names.append("MODELS")
    public = [name for name in tk.__all__ if name in names]
    found = {n: getattr(module, n, None) or getattr(tk, n) for n in dict.fromkeys(public + names)}
    return {name: table for name, table in found.items() if isinstance(table, Mapping)}


def subpackage(name: str, fill: Any) -> str:
    """Return the page of a subpackage: what it holds, its tables, and pages of all entries."""
    package = importlib.import_module(f"topokit.{name}")
    modules = [importlib.import_module(f"topokit.{name}.{part}") for part in MODULES.get(name, ())]
    values = [getattr(module, one) for module in (package, *modules) for one in exported(module)]
    tables = {}
    for table, entries in tables_of(package).items():
        called = {key: entry if callable(entry) else None for key, entry in entries.items()}
        values += [entry for entry in called.values() if entry is not None]
        tables[table] = [
            Entry(str(key), home(entry) if entry else "", first_line(entry) if entry else "")
            for key, entry in called.items()
        ]
    optional = {}
    with mock(LIBRARIES):  # their pages are the same whether the libraries are installed or not
        for part in OPTIONAL.get(name, ()):
            module = importlib.import_module(f"topokit.{name}.{part}")
            found = [getattr(module, one) for one in exported(module)]
            optional[module.__name__] = (first_line(module), [home(value) for value in found])
            values += found
    homes = sorted({full for value in values if callable(value) and (full := home(value))})
    return fill(
        "api-subpackage.md",
        name=name,
        about=plain(inspect.getdoc(package) or ""),
        tables=tables,
        optional=optional,
        listed=[full for full in homes if full.count(".") > 1],
        elsewhere=[full for full in homes if full.count(".") == 1],
    )


def exported(module: Any) -> list[str]:
    """Return the names that a module says it exports."""
    return list(getattr(module, "__all__", ()))


# --- Topologies ----------------------------------------------------------------------------------


def topologies(fill: Any) -> Pages:
    """Yield a page with every family: its picture, what is measured and what it promises."""
    sys.path.append(str(ROOT / "figures"))
    import make_topologies as shown

    families = []
    for name, graph, facts, _ in shown.measured(0):
        yield f"topologies/{name}.png", portrait(graph)
        text = plain(inspect.getdoc(tk.GENERATORS[name]) or "")
        about = text.partition("\n\nParameters\n")[0]
        entry = {"name": name, "facts": facts, "about": without_directives(about)}
        families.append({**entry, "home": home(tk.GENERATORS[name])})
    yield (
        "topologies/index.md",
        fill(
            "topologies.md",
            families=families,
            n_in=shown.N_IN,
            n_out=shown.N_OUT,
            density=shown.DENSITY,
            bound=families[0]["facts"].bound,
        ),
    )
    table = (ROOT / "figures/TOPOLOGIES.md").read_text(encoding="utf-8")
    yield "topologies/table.md", table.replace("![every family](topologies.png)", "")


def without_directives(text: str) -> str:
    """Return the paragraphs of a docstring, with displayed formulas in Markdown.

    References to papers are left out, as the list of papers is.
    """
    parts = [
        re.sub(r"^\.\. math:: *(.*)$", lambda m: f"$$\n{m.group(1)}\n$$", part, flags=re.S)
        for part in text.split("\n\n")
    ]
    return re.sub(r" ?\[\d+\]_", "", "\n\n".join(parts))


def portrait(graph: tk.LayerGraph) -> bytes:
    """Return a picture of a biadjacency matrix: a dot for each edge."""
    figure, axis = plt.subplots(figsize=(3, 3.75), dpi=100)
    axis.plot(graph.indices, graph.rows, ",", color="#1f4e79")
    axis.set(xlim=(0, graph.n_in), ylim=(graph.n_out, 0), xticks=[], yticks=[])
    figure.tight_layout(pad=0.3)
    file = io.BytesIO()
    figure.savefig(file, metadata={"Software": "topokit"})
    plt.close(figure)
    return file.getvalue()


# --- Recipes, studies, tables and commands -------------------------------------------------------


COLUMNS = ("name", "scope", "what", "parameters", "size")
"""Of ``topokit list``; what else it prints is on the pages of the functions."""


def recipes(fill: Any) -> Pages:
    """Yield the page of recipes and studies with their files, all tables, and the commands."""
    shipped = {name: (tk.load_recipe(name).about, path) for name, path in tk.RECIPES.items()}
    studies = {name: (tk.load_study(name), path) for name, path in STUDIES.items()}
    yield "recipes/index.md", fill("recipes.md", recipes=shipped, studies=studies)
    names = ["", *sorted(name for name in app if not name.startswith("-"))]
    yield "recipes/commands.md", fill("commands.md", commands={n: help_of(n) for n in names})
    tables = {}
    for table in TABLES:
        rows = rows_of(table)
        columns = [key for key in COLUMNS if any(row.get(key) for row in rows)]
        tables[table] = (columns, [{key: row.get(key, "") for key in columns} for row in rows])
    yield "recipes/tables.md", fill("tables.md", tables=tables)


def help_of(command: str) -> str:
    """Return the help of a command as the command line prints it."""
    said = io.StringIO()
    console = Console(file=said, width=78, color_system=None, legacy_windows=False)
    app.help_print([command] if command else [], console=console)
    return "\n".join(line.rstrip() for line in said.getvalue().strip().splitlines())


# --- Documents that are kept elsewhere -----------------------------------------------------------

DOCUMENTS = {
    "CHANGELOG.md": "changelog.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "figures/README.md": "figures.md",
    "figures/STUDIES.md": "studies.md",
    "figures/studies/PLAN.md": "plan.md",
    "figures/studies/madelon.md": "madelon.md",
    "figures/studies/rbm.md": "rbm.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
    "benchmarks/RESULTS-generators.md": "benchmarks-generators.md",
    "benchmarks/RESULTS-verdicts.md": "benchmarks-verdicts.md",
    "tests/CAMPAIGNS.md": "campaigns.md",
    "tests/MUTANTS.md": "mutants.md",
}
"""Documents kept elsewhere in the repository, and their names in ``documents/``."""

BELOW = {
    "studies.md": ("plan", "madelon", "rbm"),
    "benchmarks.md": ("benchmarks-generators", "benchmarks-verdicts"),
}
"""Pages that stand below another one in the navigation."""

PLACES = {
    **{source: f"documents/{name}" for source, name in DOCUMENTS.items()},
    "figures/TOPOLOGIES.md": "topologies/table.md",
    "docs/trust.md": "trust.md",
    "README.md": "index.md",
    "notebooks": "notebooks/index.md",
}
"""Where a link to a document or folder of the repository leads on the site."""


def documents(fill: Any) -> Pages:
    """Yield the documents, with their pictures and tables beside them."""
    for source, name in DOCUMENTS.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text, files = adapted(text, Path(source))
        if name in BELOW:
            text += "\n".join(["", "```{toctree}", ":maxdepth: 1", "", *BELOW[name], "```", ""])
        yield f"documents/{name}", text
        for file in files:
            yield f"documents/{file.name}", file.read_bytes()


def notebooks(fill: Any) -> Pages:
    """Yield the notebooks, without the commands to Jupyter, and their index."""
    books = sorted((ROOT / "notebooks").glob("*.ipynb"))
    yield "notebooks/index.md", fill("notebooks.md", books=[path.stem for path in books])
    for path in books:
        book = nbformat.read(path, as_version=4)
        for part in book.cells:
            if part.cell_type == "markdown":
                part.source, _ = adapted(part.source, Path("notebooks") / path.name)
            else:
                part.source = re.sub(r"^%.*\n?", "", part.source, flags=re.M)
        yield f"notebooks/{path.name}", nbformat.writes(book) + "\n"


def adapted(text: str, source: Path) -> tuple[str, list[Path]]:
    """Return text whose links hold on the site, and the files to copy beside the page.

    Links to documents lead to their pages; pictures and tables are copied; of a link to anything
    else the words are kept. Code is left as it is.
    """
    files: list[Path] = []

    def link(match: re.Match[str]) -> str:
        mark, words, target = match.groups()
        if re.match(r"https?:|#|mailto:", target):
            return match.group(0)
        place, _, anchor = target.partition("#")
        found = (ROOT / source.parent / place).resolve()
        inside = found.relative_to(ROOT).as_posix() if found.is_relative_to(ROOT) else ""
        if inside in PLACES:
            return f"{mark}[{words}](../{PLACES[inside]}{'#' + anchor if anchor else ''})"
        if found.is_file() and found.suffix in (".png", ".gif", ".csv"):
            files.append(found)
            return f"{mark}[{words}]({found.name})"
        return words

    pattern = r"(!?)\[([^\]\n]+)\]\(([^)\s]+)\)"
    parts = re.split(r"(^```.*?^```\s*?$|`[^`\n]+`)", text, flags=re.M | re.S)
    return "".join(p if i % 2 else re.sub(pattern, link, p) for i, p in enumerate(parts)), files
