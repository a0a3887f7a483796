"""One's own measures, rules, generators, plots and more: registering them, and files that do.

A plugin is a Python file or module that adds to the tables, with `register` or by assigning to a
table. `load_plugins` loads those that the user names; nothing is ever loaded because a run, a
study or another file says so. A run records which plugins were loaded, with checksums.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from topokit.tables import hint, listed

__all__ = [
    "Plugin",
    "core_measures",
    "for_workers",
    "load_plugins",
    "loaded",
    "name_of",
    "only_here",
    "place_of",
    "register",
    "table_for",
    "told",
    "unlike",
]

GROUP = "topokit.plugins"
"""Group of the entry points by which installed packages offer plugins."""

F = TypeVar("F", bound=Callable[..., Any])

# Where the tables are. They are imported when something is registered: a plugin of measures
# does not load torch.
TABLES: dict[str, dict[str, tuple[str, str]]] = {
    "measure": {
        "layer": ("topokit.measures", "LAYER_MEASURES"),
        "network": ("topokit.measures", "NETWORK_MEASURES"),
        "change": ("topokit.measures", "CHANGE_MEASURES"),
    },
    "rule": {"": ("topokit.rules", "RULES")},
    "generator": {"": ("topokit.generators", "GENERATORS")},
    "density allocation": {"": ("topokit.generators", "DENSITIES")},
    "plot": {
        "layer": ("topokit.plots", "LAYER_PLOTS"),
        "history": ("topokit.plots", "HISTORY_PLOTS"),
        "across": ("topokit.plots", "ACROSS_PLOTS"),
    },
    "data set": {"": ("topokit.data", "DATASETS")},
    "model": {"": ("topokit.nn.models", "MODELS")},
    "initial topology": {"": ("topokit.nn.initial_topology", "INITIAL_TOPOLOGIES")},
}
SIGNATURES: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "generator": ("f(n_in, n_out, *, density, rng)", (1, 1), {"density": 0.5, "rng": 0}),
    "plot": ("f(graph_or_history, *, ax=None)", (None,), {"ax": None}),
    "measure": ("f(graph)", (None,), {}),
    "data set": ("f(*, data_dir, rng)", (), {"data_dir": None, "rng": 0}),
}
"""How functions of some tables are called, in words and as arguments."""

# What the first parameter's annotation or name says about the table a function belongs to.
WORDS = {
    "layer": {"LayerGraph", "GraphLike", "graph", "layer"},
    "network": {"Topology", "topology", "network"},
    "change": {"EdgeUpdate", "update", "change"},
    "history": {"History", "Recording", "RunLike", "history", "run", "recording"},
    "across": {"DataFrame", "frame", "rows", "table"},
}


@dataclass(frozen=True)
class Plugin:
    """A plugin that was loaded.

    Parameters
    ----------
    name : str
        As the user named it.
    path : str
        Its file; of a package, the file that is imported first.
    sha256 : str
        Checksum of the file; of a package, of all its Python files.
    """

    name: str
    path: str
    sha256: str


_LOADED: dict[str, Plugin] = {}  # by path
_HOW: dict[str, str] = {}  # how other processes load the plugin of a path
_REGISTERED: dict[tuple[str, str], Callable[..., Any]] = {}  # by kind and name
_CORE: list[str] = []  # registered measures that are taken by default


# --- registering ---------------------------------------------------------------------------------


class Register:
    """Adds functions to the tables; each method is a decorator, ``tk.register``.

    Used plainly (``@tk.register.rule``) the function's own name is the name in the table; with
    ``name=`` it is another. The function itself is returned unchanged. A name of topokit's own, or
    of another file's, is refused; registering the same again replaces it, as when a cell of a
    notebook is run twice. From then on the name is known to every function and command that takes
    one, and is listed by ``topokit list``.

    Examples
    --------
    >>> import topokit as tk
    >>> @tk.register.measure
    ... def edges_per_unit(graph):
    ...     '''Edges per output unit.'''
    ...     return graph.n_edges / graph.n_out
    >>> topology = tk.generate([8, 4], "erdos_renyi", density=0.5, rng=0)
    >>> tk.measure(topology, ["edges_per_unit"])["value"].tolist()
    [4.0]
    >>> tk.register.remove(edges_per_unit)
    """

    def __repr__(self) -> str:
        names = ", ".join(f"{kind} {name!r}" for kind, name in _REGISTERED)
        return f"register: {names or 'nothing registered yet'}"

    def measure(
        self,
        function: F | None = None,
        *,
        name: str | None = None,
        of: str | None = None,
        core: bool = True,
    ) -> Any:
        """Add a measure, ``f(graph) -> float`` or a named tuple of floats.

        Parameters
        ----------
        name : str, optional
        of : {"layer", "network", "change"}, optional
            What it is given: a `LayerGraph`, a topology or an `EdgeUpdate`. By default what the
            annotation or the name of its parameter says, such as ``topology`` or ``update``, else
            a layer.
        core : bool
            Whether it is taken wherever no measures are named, in addition to the core measures.
        """
        return self._add("measure", function, name, of, core=core)

    def rule(self, function: F | None = None, *, name: str | None = None) -> Any:
        """Add an update rule, ``f(**params) -> UpdateRule``."""
        return self._add("rule", function, name)

    def generator(self, function: F | None = None, *, name: str | None = None) -> Any:
        """Add a generator, ``f(n_in, n_out, *, density, rng, **params) -> LayerGraph``."""
        return self._add("generator", function, name)

    def densities(self, function: F | None = None, *, name: str | None = None) -> Any:
        """Add a division of edges among layers, ``f(shapes, budget) -> densities``."""
        return self._add("density allocation", function, name)

    def plot(
        self, function: F | None = None, *, name: str | None = None, of: str | None = None
    ) -> Any:
        """Add a plot, ``f(graph_or_history, *, ax=None) -> Axes``.

        Parameters
        ----------
        name : str, optional
        of : {"layer", "history", "across"}, optional
            What it draws: a `LayerGraph`, a run, or the frame of many runs. By default what the
            annotation or the name of its first parameter says: ``graph``, ``history``, ``frame``.
        """
        return self._add("plot", function, name, of)

    def dataset(self, function: F | None = None, *, name: str | None = None) -> Any:
        """Add a data set, ``f(*, data_dir, rng, **params) -> Data``."""
        return self._add("data set", function, name)

    def model(self, function: F | None = None, *, name: str | None = None) -> Any:
        """Add a model, ``f(topology, *, rng, generator, **params) -> torch.nn.Module``."""
        return self._add("model", function, name)

    def start(self, function: F | None = None, *, name: str | None = None) -> Any:
        """Add a source of initial topologies; see `topokit.nn.initial_topology`."""
        return self._add("initial topology", function, name)

    def remove(self, function: Callable[..., Any]) -> None:
        """Remove a registered function from the tables.

        Raises
        ------
        ValueError
            If it was not registered.
        """
        found = [key for key, entry in _REGISTERED.items() if entry is function]
        if not found:
            raise ValueError(f"expected a registered function, got {function!r}")
        for kind, name in found:
            for table in _tables(kind).values():
                if table.get(name) is function:
                    del table[name]
            del _REGISTERED[kind, name]
            if kind == "measure" and name in _CORE:
                _CORE.remove(name)

    def _add(
        self,
        kind: str,
        function: F | None,
        name: str | None,
        of: str | None = None,
        *,
        core: bool = False,
    ) -> Any:
        if function is None:
            return lambda given: self._add(kind, given, name, of, core=core)
        if not callable(function):
            raise TypeError(f"expected a function to register as {kind}, got {function!r}")
        name = getattr(function, "__name__", "") if name is None else name
        if not (isinstance(name, str) and name.isidentifier()):
            raise ValueError(
                f"expected a name for the {kind} of letters, digits and underscores, got {name!r}; "
                'give one with name="..."'
            )
        _check_call(kind, name, function)
        tables = _tables(kind)
        table = tables[table_for(kind, name, function, of)]
        _check_free(kind, name, function, tables)
        for other in tables.values():  # the table may be another one than before
            other.pop(name, None)
        table[name] = function
        _REGISTERED[kind, name] = function
        if name in _CORE and kind == "measure":
            _CORE.remove(name)
        if core:
            _CORE.append(name)
        return function


register = Register()


def _tables(kind: str) -> dict[str, dict[str, Any]]:
    """Return the tables of a kind of entries."""
    return {
        of: getattr(importlib.import_module(module), name)
        for of, (module, name) in TABLES[kind].items()
    }


def _check_call(kind: str, name: str, function: Callable[..., Any]) -> None:
    """Raise a TypeError if a function cannot be called as those of its table are."""
    if kind not in SIGNATURES:
        return
    words, arguments, keywords = SIGNATURES[kind]
    try:
        signature = inspect.signature(function)
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        raise TypeError(
            f"{kind} {name!r}{place_of(function)}: expected a function that can be called as "
            f"{words}: {error}"
        ) from None
    except ValueError:  # a built-in function without a signature
        return


def table_for(kind: str, name: str, function: Callable[..., Any], of: str | None = None) -> str:
    """Return the key of the table to which a function is added."""
    keys = list(TABLES[kind])
    if len(keys) == 1:
        return keys[0]
    if of is not None:
        if of not in keys:
            raise ValueError(f"{kind} {name!r}: expected of one of {', '.join(keys)}, got {of!r}")
        return of
    try:
        first = next(iter(inspect.signature(function).parameters.values()))
    except (ValueError, StopIteration):
        return keys[0]
    annotation = getattr(first.annotation, "__name__", str(first.annotation))
    if str(annotation).startswith("dict["):  # the annotation `Topology`
        annotation = "Topology"
    for word in (str(annotation).rpartition(".")[2].strip("'\""), first.name):
        for key in keys:
            if word in WORDS[key]:
                return key
    if kind == "measure":
        return "layer"
    raise ValueError(
        f"{kind} {name!r}{place_of(function)}: say what it draws: @register.plot(of=...) with "
        '"layer" (a graph), "history" (a run) or "across" (a frame of many runs)'
    )


def _check_free(
    kind: str, name: str, function: Callable[..., Any], tables: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise a ValueError if a name is that of an entry from elsewhere."""
    entry = next((table[name] for table in tables.values() if name in table), None)
    if entry is None or entry is function:
        return
    mine = _REGISTERED.get((kind, name))
    if mine is None and _origin(entry) != _origin(function):
        raise ValueError(
            f"{kind} {name!r} is in topokit already; register yours under another name: "
            f'@register.{kind.split()[0]}(name="my_{name}")'
        )
    if mine is not None and _origin(mine) != _origin(function):
        raise ValueError(f"{kind} {name!r} is registered already{place_of(mine)}; choose another")


def _origin(function: Callable[..., Any]) -> str:
    """Return the file of a function; "__main__" in a notebook, where each cell has a file."""
    module = getattr(function, "__module__", None)
    code = getattr(inspect.unwrap(function), "__code__", None)
    return "__main__" if module == "__main__" or code is None else str(code.co_filename)


def place_of(function: Callable[..., Any]) -> str:
    """Return " (FILE, line N)" for a function that is not topokit's, else an empty string."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or str(getattr(function, "__module__", "")).startswith("topokit."):
        return ""
    return f" ({Path(code.co_filename).name}, line {code.co_firstlineno})"


def core_measures() -> tuple[str, ...]:
    """Return the registered measures that are taken where no measures are named."""
    return tuple(_CORE)


def name_of(kind: str, value: Any) -> Any:
    """Return the name of a function in the tables, registering it if it is new; others unchanged.

    Parameters
    ----------
    kind : str
        A key of `TABLES`.
    value : object
        A function, or anything else, which is returned.

    Examples
    --------
    >>> from topokit.rules import RULES
    >>> name_of("rule", RULES["set"]), name_of("rule", "set")
    ('set', 'set')
    """
    if not callable(value):
        return value
    for table in _tables(kind).values():
        for name, entry in table.items():
            if entry is value:
                return name
    register._add(kind, value, None)
    return value.__name__


def only_here(names: Mapping[str, Iterable[str]]) -> str:
    """Return the names, by kind, that are registered in a notebook or shell, for a message.

    Processes started from there do not have them; those of a script or a file do.
    """
    if getattr(sys.modules["__main__"], "__file__", None):
        return ""
    here = [
        f"{kind} {name!r}"
        for kind, wanted in names.items()
        for name in dict.fromkeys(wanted)
        if (kind, name) in _REGISTERED and _origin(_REGISTERED[kind, name]) == "__main__"
    ]
    return " and ".join(here)


# --- loading -------------------------------------------------------------------------------------


def load_plugins(names: str | Iterable[str]) -> tuple[str, ...]:
    """Load files and modules that add one's own variants to the tables.

    Loading a plugin runs its code, which can do anything that you can.

    Parameters
    ----------
    names : str or iterable of str
        The path of a Python file (with ``.py`` or a slash), the name of a module or package in the
        current directory or where Python finds it, or the name under which an installed package
        offers a plugin (an entry point of the group ``topokit.plugins``).

    Returns
    -------
    tuple of str
        Names by which other processes on this machine load the same: absolute paths, or the names
        of installed modules.

    Raises
    ------
    ValueError
        If there is no such file or module, or it raises an error; with its file and line.

    Notes
    -----
    A file that has not changed is loaded once in a process. One that registers nothing is
    noted in the log (of the command line: printed). Modules beside it can be imported by
    it. A name in the current directory comes before an installed one, as with ``python -m``.

    Examples
    --------
    >>> load_plugins("no_such_module")
    Traceback (most recent call last):
    ValueError: plugin no_such_module: expected a Python file, a module here or an installed one,
    found none
    """
    names = [names] if isinstance(names, str) else list(names)
    return tuple(_load(str(name)) for name in names)


def _load(name: str) -> str:
    path = _file_of(name)
    if path is None:
        return _load_installed(name)
    checksum = _checksum(path)
    found = _LOADED.get(str(path))
    if found is None or found.sha256 != checksum:
        for entry in [f for f in _REGISTERED.values() if _origin(f) == str(path)]:
            register.remove(entry)  # what it registered before it was changed
        before = _added()
        if _execute(name, path) and _added() == before:
            _note_nothing(name)
        _LOADED[str(path)] = Plugin(name, str(path), checksum)
        _HOW[str(path)] = str(path)
    return str(path)


def _added() -> list[Any]:
    """Return the entries of all tables that are not topokit's own."""
    places = [place for tables in TABLES.values() for place in tables.values()]
    tables = [getattr(sys.modules.get(module), name, {}) for module, name in places]
    entries = [entry for table in tables for entry in table.values()]
    return [e for e in entries if not str(getattr(e, "__module__", "")).startswith("topokit.")]


def _note_nothing(name: str) -> None:
    """Say that a plugin was loaded and registered nothing."""
    logging.getLogger("topokit").warning(
        "plugin %s: loaded, but it registers nothing; write @tk.register.measure (or rule, "
        "generator, plot, ...) above a function of its own",
        name,
    )


def _file_of(name: str) -> Path | None:
    """Return the file of a plugin named by its path or found in the current directory."""
    path = Path(name).expanduser()
    if name.endswith(".py") or "/" in name or "\\" in name:
        if path.is_dir() and (path / "__init__.py").is_file():
            path = path / "__init__.py"
        if not path.is_file():
            what = "it is a folder" if path.is_dir() else "found none"
            raise ValueError(f"plugin {name}: expected a Python file, {what}")
        if path.suffix != ".py":
            raise ValueError(f"plugin {name}: expected a Python file, whose name ends in .py")
        return path.resolve()
    here = Path(*name.split("."))
    for candidate in (here.with_name(f"{here.name}.py"), here / "__init__.py"):
        if name and candidate.is_file():
            return candidate.resolve()
    return None


def _load_installed(name: str) -> str:
    """Import a plugin from an installed package, by entry point or module name."""
    from importlib.metadata import entry_points

    offered = {point.name: point for point in entry_points(group=GROUP)}
    values = {point.value for point in entry_points(group=GROUP, name=name)}
    if len(values) > 1:
        raise ValueError(f"plugin {name}: several packages offer it ({listed(values)}); name one")
    target = offered[name].module if name in offered else name
    before, new = _added(), target not in sys.modules
    try:
        if not all(part.isidentifier() for part in target.split(".")):
            raise ModuleNotFoundError(name=target)
        module = importlib.import_module(target)
        if name in offered and offered[name].attr:
            offered[name].load()()
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is None or not f"{target}.".startswith(f"{missing}."):
            raise _failed(name, Path(target), error) from error
        near = hint(name, offered)
        more = f"; {near}installed plugins: {listed(offered)}" if offered else ""
        raise ValueError(
            f"plugin {name}: expected a Python file, a module here or an installed one, "
            f"found none{more}"
        ) from None
    if new and _added() == before:
        _note_nothing(name)
    path = getattr(module, "__file__", None)
    checksum = _checksum(Path(path)) if path else ""
    _LOADED[str(path or target)] = Plugin(name, str(path or target), checksum)
    _HOW[str(path or target)] = name
    return name


def _execute(name: str, path: Path) -> bool:
    """Execute the file of a plugin as a module, unless the user has imported it already."""
    package = path.name == "__init__.py"
    stem, folder = (path.parent.name, path.parent.parent) if package else (path.stem, path.parent)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # at the end, where it hides no installed module
    module_name = _module_name(stem, path)
    if module_name in sys.modules and str(path) not in _LOADED:
        return False
    places = [str(path.parent)] if package else None
    spec = importlib.util.spec_from_file_location(
        module_name, path, submodule_search_locations=places
    )
    if spec is None or spec.loader is None:
        raise ValueError(f"plugin {name}: expected a Python file, got {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise _failed(name, path, error) from error
    return True


def _module_name(stem: str, path: Path) -> str:
    """Return the name of a plugin's module: that of its file, unless that is another module's."""
    found = None
    if stem.isidentifier():
        with suppress(ValueError, ImportError):
            found = importlib.util.find_spec(stem)
        if found is None or (found.origin and Path(found.origin).resolve() == path):
            return stem
    return f"topokit_plugin_{sha256(str(path).encode()).hexdigest()[:12]}"


def _checksum(path: Path) -> str:
    """Return the SHA-256 of a file, or of all Python files of a package."""
    if path.name != "__init__.py":
        return sha256(path.read_bytes()).hexdigest()
    files = sorted(path.parent.rglob("*.py"))
    parts = [f"{file.relative_to(path.parent).as_posix()} ".encode() for file in files]
    content = [part + file.read_bytes() for part, file in zip(parts, files, strict=True)]
    return sha256(b"\0".join(content)).hexdigest()


def _failed(name: str, path: Path, error: BaseException) -> ValueError:
    """Return the error about a plugin that cannot be loaded."""
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    for frame in traceback.extract_tb(error.__traceback__):
        if line is None or Path(frame.filename) == path:
            line = frame.lineno if Path(frame.filename) == path else line
    at = f", line {line}" if line else ""
    words = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    return ValueError(f"plugin {name}{at}: {type(error).__name__}: {words}")


# --- what a run records of them, and their errors ------------------------------------------------


def loaded() -> list[dict[str, str]]:
    """Return the plugins of this process as a run records them: name, path and sha256.

    They are those that were loaded, and the modules whose functions were registered. What was
    registered in a notebook or script is not among them.
    """
    found = dict(_LOADED)
    for entry in _REGISTERED.values():
        module = sys.modules.get(str(getattr(entry, "__module__", "")))
        file = getattr(module, "__file__", None)
        if module is None or not file or module.__name__ in ("__main__", "__mp_main__"):
            continue
        path = str(Path(file).resolve())
        if path not in found and Path(path).is_file():
            found[path] = Plugin(module.__name__, path, _checksum(Path(path)))
    return [asdict(plugin) for plugin in found.values()]


def for_workers() -> tuple[str, ...]:
    """Return the names by which other processes load the plugins of this one."""
    names = {path: _HOW[path] for path in _LOADED}
    for plugin in loaded():
        name, path = plugin["name"], plugin["path"]
        names.setdefault(path, name if "." in name else path)  # a part of a package, or a file
    return tuple(names.values())


def unlike(recorded: Any) -> list[str]:
    """Return how the plugins of this process differ from those that a run recorded, in words.

    Nothing is loaded, and no path of the record is looked at: who made the record is not known.

    Parameters
    ----------
    recorded : list of dict
        As `loaded` returned it.

    Returns
    -------
    list of str
        One for each recorded plugin that is not loaded, or not as it was.
    """
    mine = loaded()
    checksums = {plugin["sha256"] for plugin in mine}
    files = {_short(plugin["path"]): plugin["sha256"] for plugin in mine}
    found = []
    for each in recorded if isinstance(recorded, list) else []:
        plugin = each if isinstance(each, dict) else {}
        checksum, path = str(plugin.get("sha256")), str(plugin.get("path"))
        if checksum in checksums:
            continue
        if _short(path) in files:
            now = files[_short(path)][:8]
            found.append(f"{_short(path)} has changed (its checksum is {now}, was {checksum[:8]})")
        else:
            found.append(f"{_short(path)} is not loaded (it was {path})")
    return found


def _short(path: str) -> str:
    """Return the file name of a plugin; of a package its folder's."""
    parts = path.replace("\\", "/").rstrip("/").split("/")
    return parts[-2] if parts[-1] == "__init__.py" and len(parts) > 1 else parts[-1]


def told(error: BaseException) -> str:
    """Return a sentence about an error raised within a plugin, with file and line; else "".

    Notes of the error follow, separated by semicolons.
    """
    places = {Path(plugin["path"]) for plugin in loaded()}
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        path = Path(frame.filename)
        inside = any(p.name == "__init__.py" and p.parent in path.parents for p in places)
        if path in places or inside:
            text = " ".join(str(error).split())
            notes = "".join(f"; {line}" for line in getattr(error, "__notes__", []))
            where = f"{path.name}, line {frame.lineno}, in {frame.name}"
            return f"plugin {where}: {type(error).__name__}: {text}{notes}"
    return ""
