"""What README and the pages of docs/ show: Python runs, commands parse, files are read."""

import contextlib
import doctest
import importlib
import io
import re
import shlex
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

import topokit as tk
from topokit import plugins
from topokit.cli.commands import app
from topokit.experiments.config import RunConfig
from topokit.experiments.study import study_from
from topokit.toml import parse_toml

ROOT = Path(tk.__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "docs/guides").glob("*.md"))
FENCE = re.compile(r"^```(\S*)(?: (\w+))?\n(.*?)^```$", re.M | re.S)
SMALL = ["epochs=3", "model.widths=[64,40,10]", "topology.epsilon=4"]
SLOW = ("README", "checkpoints", "studies", "theory", "trainers")


def blocks(page, *languages):
    """The code of a page in these languages."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [
        code
        for first, second, code in found
        if (second if first == "{code-block}" else first) in languages
    ]


def named(pages):
    return [
        pytest.param(page, id=page.stem, marks=[pytest.mark.slow] * (page.stem in SLOW))
        for page in pages
    ]


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What pages may use without saying so: a model of the reader's; recipes are run small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: None)
    run = tk.run

    def small(config, directory, **options):
        if isinstance(config, str):
            config = tk.load_recipe(config).override(SMALL)
        return run(config, directory, **options)

    monkeypatch.setattr(tk, "run", small)
    model = nn.Sequential()
    model.add_module("fc1", nn.Linear(64, 50))
    model.add_module("relu", nn.ReLU())
    model.add_module("fc2", nn.Linear(50, 10))
    with torch.no_grad():
        model.fc1.weight *= torch.rand(50, 64) < 0.2
    before = list(plugins._REGISTERED.values())
    yield {"tk": tk, "torch": torch, "nn": nn, "my_model": model, "model": model}
    for function in [f for f in plugins._REGISTERED.values() if f not in before]:
        tk.register.remove(function)
    plt.close("all")


@pytest.mark.parametrize("page", named(page for page in PAGES if blocks(page, "python")))
def test_python_runs(page, names):
    """Blocks run one after the other; answers behind ``>>>`` are compared."""
    if page.stem == "trainers":
        pytest.importorskip("skorch")
    for code in blocks(page, "python"):
        if ":class: no-test" in code:
            compile(code.partition("\n\n")[2], str(page), "exec")
            continue
        if code.startswith(">>>"):
            options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            test = doctest.DocTestParser().get_doctest(code, names, page.name, str(page), 0)
            said = []
            doctest.DocTestRunner(optionflags=options).run(test, out=said.append, clear_globs=False)
            assert not said, "".join(said)
            names.update(test.globs)
        else:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(code, str(page), "exec"), names)


def commands(page):
    """The commands of a page: blocks of shell, and `topokit ...` within lines."""
    text = page.read_text(encoding="utf-8")
    shown = [line for code in blocks(page, "shell", "") for line in code.splitlines()]
    shown += re.findall(r"`(topokit [a-z][^`]*)`", FENCE.sub("", text))
    return [" ".join(shlex.split(line, comments=True)) for line in shown if line.strip()]


@pytest.mark.parametrize("page", [pytest.param(p, id=p.stem) for p in PAGES if commands(p)])
def test_commands_parse(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    for command in commands(page):
        program, *words = command.split()
        if program == "make":
            assert words[0] in targets, command
        elif program == "topokit" and words and words[0] in app and len(words) > 1:
            function, bound, _ = app.parse_args(words, print_error=False, exit_on_error=False)
            check(function.__name__, bound.arguments, command)
        elif program == "topokit":
            assert not words or words[0] in app or words[0] == "--version", command
        else:
            assert program in ("pip", "python"), command


def check(function, given, command):
    """Names and keys that a command gives exist; files and placeholders may be anything."""
    if given.get("plugin"):
        return  # names of the reader's own
    if function == "train":
        recipe = given.get("recipe", "set_mlp_digits")
        base = tk.load_recipe(recipe if recipe in tk.RECIPES else "set_mlp_digits")
        assert recipe in tk.RECIPES or recipe.endswith(".toml") or recipe.isupper(), command
        changes = list(given.get("settings") or ())
        if rule := given.get("rule"):
            changes.insert(0, f'rule.name="{rule}"')
        if "KEY=VALUE" not in command and not any(word.isupper() for word in changes):
            config = base.override(changes)
            tk.RULES[config.rule.name]
    elif function == "sweep":
        study = given["study"]
        known = study in importlib.import_module("topokit.experiments.study").STUDIES
        assert known or study.endswith(".toml") or study.isupper(), command
    elif function == "generate":
        assert given["generator"] in tk.GENERATORS or given["generator"].isupper(), command
    elif function == "analyze":
        for name in (given.get("measures") or "all").split(","):
            tables = (tk.LAYER_MEASURES, tk.NETWORK_MEASURES, tk.CHANGE_MEASURES)
            assert name == "all" or any(name in table for table in tables), command


MADE = re.compile(r'tk\.(?:run|sweep)\((?:tk\.load_recipe\()?([^,()]+)\)?, "([^"]+)"([^\n]*?)\)')


def folders_made(page):
    """Yield the folders that the code and the commands of a page make, and from what."""
    for code in blocks(page, "python"):
        for source, folder, options in MADE.findall(code):
            own = source.strip('"') if source.startswith('"') else f"{source} of {page.name}"
            yield folder, own + options
    for command in commands(page):
        words = command.split()
        if words[:2] in (["topokit", "train"], ["topokit", "sweep"]) and "--out" in words:
            at = words.index("--out")
            settings = [*words[2:at], *words[at + 2 :]] if words[1] == "train" else words[2:3]
            yield words[at + 1], " ".join(settings)


def test_pages_can_be_followed_in_one_folder():
    """What one page makes is not in the way of what another one, or the same, makes."""
    made = {}
    for page in PAGES:
        for folder, source in folders_made(page):
            made.setdefault(folder, set()).add(source)
    assert len(made) > 15
    twice = {folder: sources for folder, sources in made.items() if len(sources) > 1}
    assert {folder: sources for folder, sources in twice.items() if not folder.isupper()} == {}


@pytest.mark.parametrize("page", [pytest.param(p, id=p.stem) for p in PAGES if blocks(p, "toml")])
def test_files_are_read(page):
    for code in blocks(page, "toml"):
        values = parse_toml(code)
        if "study" in values:
            assert study_from(values).runs()
            if "quick" in values:
                assert study_from(values, quick=True).runs()
        elif "epochs" in values:
            RunConfig.from_dict(values)
        else:  # a part of a configuration
            base = tk.load_recipe("set_mlp_digits").to_dict()
            RunConfig.from_dict({**base, **values})


def test_blocks_are_marked():
    """A block in another language than these would be checked by nothing."""
    known = {"python", "shell", "toml", "text", "", "{code-block}", "{toctree}"}
    for page in PAGES:
        for language, _, _ in FENCE.findall(page.read_text(encoding="utf-8")):
            assert language in known, f"{page}: {language}"
