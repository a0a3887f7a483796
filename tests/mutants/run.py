"""Break the code on purpose, one small fault at a time, and see which faults the tests notice.

    python tests/mutants/run.py --seed 0 --count 160 --jobs 2
    python tests/mutants/run.py --seed 0 --count 160 --retry       # survivors once more
    python tests/mutants/run.py --only measures/change             # part of the sample
    python tests/mutants/run.py --list                             # without running anything

Every fault is written into a copy of the package and the tests in a temporary folder; the working
tree is not touched. One process loads the libraries and forks for each fault, so a fault costs
little more than the tests it takes to notice it: first the module's own tests and examples, then
those of its room, then the slow ones; the first failure ends it. Results are kept in a journal
beside the copies: an interrupted run goes on where it was, and a fault is tried anew only if the
function it is in has changed or with ``--retry``; another ``--folder`` begins anew.
`tests/MUTANTS.md` holds the table and says how to read it.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from tests.mutants.explained import EXPLAINED  # noqa: E402
from tests.mutants.mutations import Mutation, line_of, mutations, sample, text_of  # noqa: E402
from tests.mutants.planted import PLANTED, locate  # noqa: E402

FILES = [
    "topokit/measures/*.py",
    "topokit/rules/*.py",
    "topokit/graph/*.py",
    "topokit/nn/captures.py",
    "topokit/nn/engine.py",
    "topokit/nn/layers.py",
    "topokit/nn/optimizer_state.py",
    "topokit/nn/rule_data.py",
    "topokit/experiments/record.py",
    "topokit/experiments/loop.py",
    "topokit/experiments/statistics.py",
]
FUNCTIONS = {"topokit/nn/layers.py": "replace_graph|_exchange|_stamp"}  # of a file, if few
LEAST = 3  # faults in each file, if it has as many

# Tests nearest to a module beyond those named like it, and those of its room.
NEAR = {
    "measures/change": ["contract/test_measures.py"],
    "measures/__init__": ["unit/test_measures.py", "contract/test_measures.py"],
    "measures/degree": ["known/test_measures.py", "known/test_measures_graphs.py"],
    "measures/kernels": ["known/test_measures_powerlaw.py", "unit/test_measures_expansion.py",
                         "unit/test_measures_connectivity.py", "unit/test_measures_structure.py",
                         "unit/test_measures_powerlaw.py", "unit/test_measures_scalefree.py"],
    "measures/powerlaw": ["unit/test_measures_scalefree.py", "known/test_measures_graphs.py"],
    "measures/spectral": ["known/test_measures.py", "known/test_measures_graphs.py"],
    "graph/cache": ["unit/test_measures.py"],
    "graph/kernels": ["unit/test_graph_layergraph*.py"],
    "graph/lanczos": ["known/test_graph_spectra.py", "unit/test_measures_spectral*.py",
                      "known/test_measures_graphs.py"],
    "graph/spectra": ["known/test_graph_lanczos.py", "unit/test_measures_spectral*.py",
                      "known/test_measures_graphs.py"],
    "graph/snapshots": ["unit/test_experiments_record*.py"],
    "graph/files": ["unit/test_experiments_record*.py"],
    "graph/convert": ["unit/test_read.py"],
    "rules/grow": ["known/test_rules_dst.py"],
    "rules/drop": ["known/test_rules_dst.py"],
    "rules/budget": ["known/test_rules_dst.py"],
    "rules/topological": ["known/test_rules_dst.py"],
    "rules/memory": ["known/test_nn_engine.py"],
    "rules/published": ["known/test_rules_dst.py"],
    "generators/sampling": ["unit/test_generators*.py", "known/test_generators_random.py"],
    "generators/random": ["known/test_generators_random.py", "known/test_generators_sides.py"],
    "generators/degrees": ["known/test_generators_sides.py"],
    "experiments/loop": ["known/test_rules_set.py"],
    "nn/attention": ["contract/test_module_kinds.py"],
    "nn/conv": ["contract/test_module_kinds.py"],
    "nn/extract": ["unit/test_nn_extract_modules.py"],
    "nn/kinds": ["unit/test_nn_extract_modules.py", "contract/test_module_kinds.py"],
    "nn/recurrent": ["contract/test_module_kinds.py"],
    "nn/sparsify": ["unit/test_nn_sparsify.py", "contract/test_module_kinds.py"],
    "nn/sparsity": ["unit/test_nn_sparsify.py"],
}  # fmt: skip
ROOM = {
    "measures": ["contract/test_measures.py", "known/test_measures*.py", "unit/test_measures.py",
                 "parity/test_measures.py", "golden/test_golden.py"],
    "rules": ["unit/test_rules*.py", "known/test_rules_dst.py", "known/test_rules_set.py",
              "unit/test_nn_engine.py", "contract/test_rules.py"],
    "graph": ["unit/test_graph*.py", "unit/test_rules_rewire.py", "unit/test_nn_extract.py",
              "unit/test_measures_change*.py", "end_to_end/test_resume.py"],
    "nn": ["unit/test_nn_engine.py", "unit/test_nn_layers.py", "unit/test_nn_lightning.py",
           "parity/test_nn_training.py", "unit/test_experiments_loop.py"],
    "experiments": ["unit/test_experiments_loop.py", "unit/test_experiments_record*.py",
                    "unit/test_experiments_statistics.py", "end_to_end/test_resume.py",
                    "golden/test_golden.py"],
    "generators": ["unit/test_generators*.py", "known/test_generators_random.py",
                   "contract/test_generators.py"],
}  # fmt: skip
LIBRARIES = [
    "numpy", "scipy.sparse.linalg", "scipy.optimize", "scipy.stats", "scipy.special", "pandas",
    "pyarrow.parquet", "networkx", "torch", "numba", "matplotlib.pyplot", "hypothesis", "pytest",
    "_pytest.doctest", "jinja2", "numpy.testing", "sklearn.datasets",
]  # fmt: skip
MARK = "<!-- What follows is written by tests/mutants/run.py --table. -->\n\n"
DESELECTED: list[str] = []  # tests that fail on the code as it is: set by --deselect
LIMIT = 240.0  # seconds for one stage of tests


def stages(path: str, root: Path) -> list[tuple[str, list[str]]]:
    """Which tests to run for a module, in order: (name, arguments of pytest)."""
    room, module = path.removesuffix(".py").split("/")[-2:]
    own = [f"known/test_{room}_{module}*.py", f"unit/test_{room}_{module}*.py"]
    near = _existing([*own, *NEAR.get(f"{room}/{module}", [])], root)
    rest = [test for test in _existing(ROOM[room], root) if test not in near]
    both = [*near, *rest]
    return [
        ("near", [path, *near, "-m", "not slow"]),
        ("room", [*rest, "-m", "not slow"]),
        ("slow", [*both, "-m", "slow and not data and not gpu"]),
    ]


def _existing(patterns: list[str], root: Path) -> list[str]:
    found = [p for pattern in patterns for p in sorted((root / "tests").glob(pattern))]
    return list(dict.fromkeys(str(p.relative_to(root)) for p in found))


def chosen(root: Path, count: int, seed: int) -> list[tuple[str, Mutation]]:
    """Return the planted faults and a sample of all others: (name or "", mutation)."""
    paths = [str(p.relative_to(root)) for pattern in FILES for p in sorted(root.glob(pattern))]
    every = {p: mutations(p, (root / p).read_bytes(), FUNCTIONS.get(p)) for p in paths}
    every = {path: found for path, found in every.items() if found}
    total = sum(len(found) for found in every.values())
    result = [(planted.name, locate(planted, root)) for planted in PLANTED]
    for path, found in every.items():
        share = max(min(LEAST, len(found)), round(count * len(found) / total))
        drawn = sample(found, (root / path).read_bytes(), share, f"{seed}:{path}")
        result += [("", mutation) for mutation in drawn]
    return result


def key_of(mutation: Mutation, root: Path) -> str:
    """What identifies a fault: the function or class it is in, texts aside, with it in place."""
    tree = ast.parse(mutation.apply((root / mutation.path).read_bytes()))
    body = [n for n in tree.body if getattr(n, "name", "") == mutation.where] or tree.body
    code = ast.dump(_Bare().visit(ast.Module(body, [])))
    return hashlib.sha1(f"{mutation.path} {code}".encode()).hexdigest()[:16]


class _Bare(ast.NodeTransformer):
    """Leaves docstrings and messages of errors out."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return ast.Raise(None, None)


def copy_tree(folder: Path) -> None:
    """Bring a worker's copy of the package and the tests up to date; caches stay."""
    for name in ("topokit", "tests"):
        wanted = {
            p.relative_to(ROOT)
            for p in (ROOT / name).rglob("*")
            if p.is_file() and not p.name.endswith(".pyc")
        }
        for path in wanted:
            source, target = ROOT / path, folder / path
            if not target.exists() or (
                "__pycache__" not in path.parts
                and (source.stat().st_mtime_ns, source.stat().st_size)
                != (target.stat().st_mtime_ns, target.stat().st_size)
            ):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        for target in list((folder / name).rglob("*")):
            kept = "__pycache__" in target.parts or target.is_dir()
            if not kept and target.relative_to(folder) not in wanted:
                target.unlink()
    for name in ("pyproject.toml", "conftest.py"):
        shutil.copy2(ROOT / name, folder / name)


class Watcher:
    """A pytest plugin: notes the first test that fails and how many passed."""

    def __init__(self) -> None:
        self.failed, self.passed = "", 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid
        self.passed += report.passed and report.when == "call"

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = f"{report.nodeid} (import)"


def run_tests(folder: Path, arguments: list[str], limit: float) -> dict[str, Any]:
    """Run pytest in a forked process; return ``{"failed", "passed", "seconds"}``."""
    begun = time.monotonic()
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    shutil.rmtree(folder / ".hypothesis", ignore_errors=True)
    child = os.fork()
    if child == 0:
        _in_child(folder, arguments, answer)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() - begun > limit:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return {"failed": "timeout", "passed": 0, "seconds": time.monotonic() - begun}
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # what a test may have left running
    if answer.exists():
        return {**json.loads(answer.read_text()), "seconds": time.monotonic() - begun}
    return {"failed": f"crash (status {status})", "passed": 0, "seconds": time.monotonic() - begun}


def _in_child(folder: Path, arguments: list[str], answer: Path) -> None:
    import pytest

    os.setsid()
    os.chdir(folder)
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for name in [n for n in sys.modules if n == "tests" or n.startswith("tests.")]:
        del sys.modules[name]
    sys.path[0] = str(folder)
    os.environ["PYTHONPATH"] = str(folder)
    watcher = Watcher()
    fixed = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0"]
    fixed += [part for test in DESELECTED for part in ("--deselect", test)]
    fixed += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what is loaded already
    code = 2
    try:
        code = pytest.main([*fixed, "--rootdir", str(folder), *arguments], plugins=[watcher])
        if code not in (0, 5) and not watcher.failed:
            watcher.failed = f"pytest ended with {int(code)}"
        answer.write_text(json.dumps({"failed": watcher.failed, "passed": watcher.passed}))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code))


def try_mutation(folder: Path, mutation: Mutation, names: list[str]) -> dict[str, Any]:
    """Write one fault into a worker's copy, run the tests, and put the file back."""
    path = folder / mutation.path
    good, times = path.read_bytes(), path.stat()
    caches, aside = path.parent / "__pycache__", folder / "aside"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for file in caches.glob(f"{path.stem}.*"):  # compiled code of the module as it is
        file.rename(aside / file.name)
    seconds, where = 0.0, ""
    try:
        path.write_bytes(mutation.apply(good))
        for name, arguments in stages(mutation.path, folder):
            if name not in names or not arguments[0].startswith(("tests", "topokit")):
                continue
            result = run_tests(folder, arguments, LIMIT)
            seconds += result["seconds"]
            if result["failed"]:
                where = result["failed"]
                return {"result": "killed", "by": where, "stage": name, "seconds": seconds}
    finally:
        path.write_bytes(good)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        for file in caches.glob(f"{path.stem}.*"):
            file.unlink()
        for file in aside.iterdir():
            file.rename(caches / file.name)
    return {"result": "survived", "by": "", "stage": "", "seconds": seconds}


def read_journal(path: Path) -> dict[str, dict[str, Any]]:
    """Return the newest result of each fault."""
    if not path.exists():
        return {}
    lines = path.read_text().splitlines()
    return {entry["key"]: entry for entry in map(json.loads, lines)}


def check_unbroken(folder: Path, paths: list[str], names: list[str]) -> None:
    """Raise SystemExit unless all tests that will be used pass on the code as it is."""
    seen: set[str] = set()
    for path in paths:
        for name, arguments in stages(path, folder):
            marks = arguments[-2:]
            tests = [a for a in arguments[:-2] if f"{a} {marks}" not in seen]
            seen.update(f"{test} {marks}" for test in tests)
            if name not in names or not tests:
                continue
            result = run_tests(folder, [*tests, *marks], 4 * LIMIT)
            print(f"unbroken: {path} {name}: {result}", flush=True)
            if result["failed"]:
                raise SystemExit(
                    f"expected tests that pass on the code as it is, {result['failed']} fails; "
                    f"see {folder / 'log.txt'}"
                )


def work(
    folder: Path, todo: list[tuple[dict[str, Any], Mutation]], journal: Path, names: list[str]
) -> None:
    """Try faults one after another and note each result."""
    for about, mutation in todo:
        entry = about | try_mutation(folder, mutation, names)
        with journal.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        print(
            f"{entry['result']:8} {entry['seconds']:6.1f} s {entry['path']}:{entry['line']} "
            f"{mutation.before!r} -> {mutation.after!r} {entry['by']}",
            flush=True,
        )


def about(name: str, mutation: Mutation) -> dict[str, Any]:
    """What the journal says of a fault beside its result."""
    line = line_of((ROOT / mutation.path).read_bytes(), mutation.start)
    entry = {"key": key_of(mutation, ROOT), "name": name, "line": line, "path": mutation.path}
    return entry | {"kind": mutation.kind, "before": mutation.before, "after": mutation.after}


def table(todo: list[tuple[str, Mutation]], results: dict[str, dict[str, Any]]) -> str:
    """Return the results as Markdown: counts by module and kind, survivors, one row a fault."""
    rows, survivors, modules, kinds = [], [], Counter(), Counter()
    for number, (name, mutation) in enumerate(todo, 1):
        entry = results.get(key_of(mutation, ROOT), {"result": "not run", "by": "", "seconds": 0})
        source = (ROOT / mutation.path).read_bytes()
        place = f"{mutation.path.removeprefix('topokit/')}:{line_of(source, mutation.start)}"
        fault = f"{_cell(mutation.before)} → {_cell(mutation.after)}"
        kind = f"planted: {name}" if name else mutation.kind
        by = entry["by"].split("/")[-1].replace("|", "\\|")
        seconds = f"{entry['seconds']:.0f}"
        rows.append(
            f"| {number} | {place} | {kind} | {fault} | {entry['result']} | {by} | {seconds} |"
        )
        modules[mutation.path.removeprefix("topokit/"), entry["result"]] += 1
        kinds[mutation.kind, entry["result"]] += 1
        if entry["result"] == "survived":
            line = text_of(source, mutation.start)
            seen = (mutation.where, line, mutation.before, mutation.after)
            why = next((e.why for e in EXPLAINED if seen == e[:4]), "**not explained**")
            survivors.append(f"- {number}, `{place}`, {fault} in `{line}`: {why}")
    lines = []
    for title, counter in (("module", modules), ("kind", kinds)):
        lines += [f"| {title} | tried | killed | survived |", "|---|---|---|---|"]
        for group in sorted({group for group, _ in counter}):
            killed, lived = counter[group, "killed"], counter[group, "survived"]
            lines.append(f"| {group} | {killed + lived} | {killed} | {lived} |")
        killed = sum(n for (_, result), n in counter.items() if result == "killed")
        lived = sum(n for (_, result), n in counter.items() if result == "survived")
        lines += [f"| **all** | {killed + lived} | {killed} | {lived} |", ""]
    lines += ["Survivors:", "", *(survivors or ["none"]), ""]
    lines += ["| | place | kind | fault | result | noticed by | seconds |", "|---" * 7 + "|"]
    return "\n".join([*lines, *rows]) + "\n"


def _cell(text: str) -> str:
    short = " ".join(text.split())
    short = short if len(short) <= 60 else short[:57] + "..."
    return f"`` {short.replace('|', chr(92) + '|')} ``" if short else "(nothing)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=160, help="faults beside the planted ones")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="", help="part of a path: only faults in such files")
    parser.add_argument("--retry", action="store_true", help="try survivors of the journal again")
    parser.add_argument("--stages", default="near,room,slow", help="which tests may notice a fault")
    parser.add_argument("--list", action="store_true", help="print the faults and stop")
    parser.add_argument("--check", action="store_true", help="first run all tests on the good code")
    parser.add_argument("--deselect", action="append", default=[], help="a test to leave out")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "mutants")
    parser.add_argument("--table", type=Path, help="put the table at the end of this file")
    given = parser.parse_args()
    DESELECTED.extend(given.deselect)

    todo = [(n, m) for n, m in chosen(ROOT, given.count, given.seed) if given.only in m.path]
    journal = given.folder / "journal.jsonl"
    known = read_journal(journal)
    if not given.list:
        given.folder.mkdir(parents=True, exist_ok=True)
        again = {k for k, e in known.items() if given.retry and e["result"] == "survived"}
        left = [(n, m) for n, m in todo if (k := key_of(m, ROOT)) not in known or k in again]
        left.sort(key=lambda fault: "kernels" in fault[1].path)  # compiled code takes longest
        print(f"{len(todo)} faults, {len(left)} to try, in {given.folder}", flush=True)
        if left:
            execute(given, left, journal)
        known = read_journal(journal)
    text = table(todo, known)
    if given.table:
        old = given.table.read_text(encoding="utf-8") if given.table.exists() else MARK
        given.table.write_text(old.split(MARK)[0] + MARK + text, encoding="utf-8")
    else:
        print(text)


def execute(given: argparse.Namespace, left: list[tuple[str, Mutation]], journal: Path) -> None:
    """Load the libraries once, then fork one worker for each job."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert not any(name.split(".")[0] == "topokit" for name in sys.modules)
    folders = [given.folder / f"copy{i}" for i in range(given.jobs)]
    for folder in folders:
        if folders[0].exists() and not folder.exists():
            shutil.copytree(folders[0], folder)  # with what is compiled already
        copy_tree(folder)
    if given.check:
        paths = list(dict.fromkeys(m.path for _, m in left))
        check_unbroken(folders[0], paths, given.stages.split(","))
    todo = [(about(name, mutation), mutation) for name, mutation in left]
    children = []
    for i, folder in enumerate(folders):
        child = os.fork()
        if child == 0:
            work(folder, todo[i :: given.jobs], journal, given.stages.split(","))
            sys.stdout.flush()
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
