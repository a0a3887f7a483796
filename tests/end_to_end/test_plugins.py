"""One's own measure, rule, generator and plot, from a file and from a notebook, everywhere."""

import json
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

import topokit as tk
from topokit import plugins
from topokit.cli import main
from topokit.experiments.record import History
from topokit.experiments.study import study_from
from topokit.generators import GENERATORS
from topokit.measures import CHANGE_MEASURES, CORE, LAYER_MEASURES, NETWORK_MEASURES, measure
from topokit.plots import ACROSS_PLOTS, HISTORY_PLOTS, LAYER_PLOTS
from topokit.rules import RULES

CODE = '''
    import topokit as tk
    from topokit.rules.drop import smallest_magnitude
    from topokit.rules.grow import uniform

    LIMIT = 10**9

    @tk.register.measure
    def edges_squared(graph):
        """Square of the number of edges."""
        if graph.n_edges > LIMIT:
            raise ZeroDivisionError("too many edges")
        return graph.n_edges**2

    @tk.register.rule
    def mine(*, shy: bool = False):
        """Drop small, grow at random."""
        return tk.UpdateRule(drop=smallest_magnitude, grow=uniform)

    @tk.register.generator
    def first_edges(n_in, n_out, *, density, rng, reverse: bool = False):
        """The edges of the smallest numbers."""
        n = round(density * n_in * n_out)
        return tk.LayerGraph.from_edge_ids(range(n), (n_out, n_in))

    @tk.register.plot
    def edges_of_run(history, *, ax=None):
        """Number of edges at each epoch."""
        ax.plot([len(history.topology(epoch)) for epoch in history.recorded])
        return ax
'''
TINY = ("epochs=2", "model.widths=[64,20,10]", "rule.name=mine", "topology.generator=first_edges")
TABLES = (
    LAYER_MEASURES, NETWORK_MEASURES, CHANGE_MEASURES, RULES, GENERATORS, LAYER_PLOTS,
    HISTORY_PLOTS, ACROSS_PLOTS,
)  # fmt: skip


@pytest.fixture(autouse=True)
def clean():
    """Nothing is registered or loaded before and after a test."""
    tables = [dict(table) for table in TABLES]
    path, modules = list(sys.path), set(sys.modules)
    for state in (plugins._LOADED, plugins._HOW, plugins._REGISTERED, plugins._CORE):
        state.clear()  # of other tests in this process
    yield
    for table, before in zip(TABLES, tables, strict=True):
        table.clear()
        table.update(before)
    for state in (plugins._LOADED, plugins._HOW, plugins._REGISTERED, plugins._CORE):
        state.clear()
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("mine", "kept", "bad", "topokit_plugin")):
            del sys.modules[name]


def write(folder, code=CODE, name="mine.py"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    return path


def topokit(*words):
    return main([str(word) for word in words])


def forget():
    """Do what the end of the process does."""
    for entry in list(plugins._REGISTERED.values()):
        plugins.register.remove(entry)
    plugins._LOADED.clear()
    sys.modules.pop("mine", None)


def train(folder, *settings, plugin="./mine.py", out="run"):
    return topokit("train", "--plugin", plugin, "--out", folder / out, "--set", *TINY, *settings)


@pytest.fixture
def stopped(tmp_path, monkeypatch, capsys):
    """A run of the plugin that was interrupted after its first epoch of two."""
    from topokit.experiments import runs

    monkeypatch.chdir(tmp_path)
    write(tmp_path)

    class Stop(BaseException):
        pass

    def stop(epoch, frame):
        raise Stop

    tk.load_plugins("./mine.py")
    with pytest.raises(Stop):
        runs.run("set_mlp_digits", "run", progress=stop, **settings())
    capsys.readouterr()
    return tmp_path / "run"


def settings():
    return {
        "epochs": 2, "rule": "mine", "topology": "first_edges", "model.widths": [64, 20, 10],
    }  # fmt: skip


def test_a_plugin_works_in_every_command(stopped, tmp_path, capsys):
    """One file with one of each, as the command line sees it: train, resume, sweep and the rest."""
    plugin = ("--plugin", "./mine.py")
    assert topokit("resume", "run", *plugin, "--json") == 0
    assert topokit("train", "--out", "whole", *plugin, "--json", "--set", *TINY) == 0
    capsys.readouterr()
    whole = History.load("whole")
    assert (
        History.load("run").measures.drop(columns="run").equals(whole.measures.drop(columns="run"))
    )
    names = set(whole.measures["measure"].str.partition(".")[0])
    assert names >= {*CORE, "edges_squared"}, "a measure is added to the core ones"
    edges = whole.topology(0)["fc1"].n_edges
    rows = whole.measures.query("measure == 'edges_squared' and layer == 'fc1' and epoch == 0")
    assert rows["value"].tolist() == [edges**2]
    first = whole.topology(0)["fc1"]
    assert np.array_equal(first.edge_ids, np.arange(edges)), "the generator of the plugin"
    assert whole.environment["plugins"][0]["path"] == str(tmp_path / "mine.py")
    assert len(whole.environment["plugins"][0]["sha256"]) == 64
    assert whole.config["measures"]["also"] == ["edges_squared"]

    assert topokit("analyze", "whole", *plugin, "--bootstrap", 0, "--json") == 0
    found = {row["measure"] for row in json.loads(capsys.readouterr().out)["measures"]}
    assert "edges_squared" in found
    assert topokit("analyze", "whole", *plugin, "--measures", "edges_squared", "--json") == 0
    found = {row["measure"] for row in json.loads(capsys.readouterr().out)["measures"]}
    assert found == {"edges_squared"}
    assert topokit("compare", "whole", *plugin, "--measures", "fc1/edges_squared") == 0
    assert "edges_squared" in capsys.readouterr().out


@pytest.mark.slow
def test_a_plugin_works_in_plots_reports_and_sweeps_with_workers(stopped, tmp_path, capsys):
    plugin = ("--plugin", "./mine.py")
    assert topokit("resume", "run", *plugin) == 0
    for name in set(HISTORY_PLOTS) - {"edges_of_run", "accuracy_over_epochs"}:
        del HISTORY_PLOTS[name]  # the others take long
    assert topokit("plot", "run", *plugin, "--out", "figures") == 0
    assert (tmp_path / "figures" / "edges_of_run.png").is_file()
    assert topokit("report", "run", *plugin, "--out", "report.html") == 0
    assert "Number of edges at each epoch" in (tmp_path / "report.html").read_text("utf-8")
    study = """
        [study]
        name = "tiny"
        recipe = "set_mlp_digits"
        seeds = [0, 1]
        [settings]
        epochs = 1
        "model.widths" = [64, 20, 10]
        "rule.name" = "mine"
        "topology.generator" = "first_edges"
    """
    write(tmp_path, study, "study.toml")
    words = ("sweep", "study.toml", "--out", "swept", *plugin, "--workers", "1", "--json")
    capsys.readouterr()
    assert topokit(*words) == 0
    assert json.loads(capsys.readouterr().out)["failures"] == {}
    history = History.load("swept/runs/seed1")
    assert "edges_squared" in set(history.measures["measure"])
    assert history.environment["plugins"][0]["path"] == str(tmp_path / "mine.py")
    assert topokit("compare", "swept", "--measures", "edges_squared") == 0


@pytest.mark.parametrize("name", ["./mine.py", "mine.py", "mine", "{folder}/mine.py", "kept/mine"])
def test_a_file_and_a_module_here_are_found(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "import beside\n" + textwrap.dedent(CODE)
    write(tmp_path, code, "kept/mine/__init__.py" if name == "kept/mine" else "mine.py")
    write(tmp_path, "X = 1", "kept/beside.py" if name == "kept/mine" else "beside.py")
    (how,) = tk.load_plugins(name.format(folder=tmp_path))
    assert how.startswith(str(tmp_path)), "other processes find it from anywhere"
    assert "edges_squared" in LAYER_MEASURES
    assert "mine" in RULES
    sys.modules.pop("beside")


@pytest.mark.slow
def test_the_installed_command_finds_a_module_here(tmp_path):
    """Without the current directory on Python's path, as for the command `topokit`."""
    write(tmp_path)
    code = "import sys; from topokit.cli import main; "
    code += "sys.exit(main(['list', 'measures', '--plugin', 'mine', '--json']))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(tk.__file__).parent.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "edges_squared" in done.stdout


def test_a_module_is_not_hidden_by_a_plugin_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, CODE, "colorsys.py")
    sys.modules.pop("colorsys", None)
    tk.load_plugins("./colorsys.py")
    import colorsys

    assert colorsys.rgb_to_hsv(0, 0, 0) == (0, 0, 0)
    assert "mine" in RULES


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("X = 1\nY = Z\n", "plugin ./mine.py, line 2: NameError: name 'Z' is not defined"),
        ("X = 1\n\ndef f(:\n", "plugin ./mine.py, line 3: SyntaxError: "),
        ("import nowhere_at_all\n", "line 1: ModuleNotFoundError: No module named 'nowhere_at_"),
        ("import sys\nsys.exit(3)\n", "plugin ./mine.py, line 2: SystemExit: 3"),
        (
            "import topokit as tk\n@tk.register.measure\ndef fan_in(graph): return 1.0\n",
            "line 2: ValueError: measure 'fan_in' is in topokit already; register yours under "
            'another name: @register.measure(name="my_fan_in")',
        ),
        (
            "import topokit as tk\n@tk.register.generator\ndef g(n): return 1.0\n",
            "generator 'g' (mine.py, line 2): expected a function that can be called as "
            "f(n_in, n_out, *, density, rng)",
        ),
        (
            "import topokit as tk\n@tk.register.plot\ndef p(graph): return 1.0\n",
            "plot 'p' (mine.py, line 2): expected a function that can be called as",
        ),
        (
            "import topokit as tk\n@tk.register.plot\ndef p(x, *, ax=None): return 1.0\n",
            "plot 'p' (mine.py, line 2): say what it draws",
        ),
        (
            "import topokit as tk\ntk.register.measure(lambda graph: 1.0)\n",
            "got '<lambda>'; give one with name=",
        ),
    ],
)
def test_a_plugin_that_cannot_be_loaded_says_where(code, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, code)
    assert topokit("list", "rules", "--plugin", "./mine.py") == 2
    told = capsys.readouterr().err
    assert words in " ".join(told.split())
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("measures.names=[wrong]", "measure 'wrong' (bad.py, line 3): expected a number or a named "
         "tuple of numbers, got list"),
        ("measures.names=[breaks]", "plugin bad.py, line 8, in breaks: KeyError: 'x'"),
        ("rule.name=no_rule", "rule 'no_rule' (bad.py, line 9): expected it to return an "
         "UpdateRule, got str"),
        ("topology.generator=other", "generator 'other' (bad.py, line 12): expected a graph from "
         "64 to 20 units, got one from 2 to 2"),
        ("topology.generator=array", "generator 'array' (bad.py, line 15): expected it to return "
         "a LayerGraph, got list"),
        ("topology.generator=few", "generator 'few' (bad.py, line 18): expected round(density * "
         "n_in * n_out) = "),
    ],
)  # fmt: skip
def test_a_wrong_function_is_one_sentence_before_anything_is_written(
    settings, words, tmp_path, monkeypatch, capsys
):
    code = """
        import topokit as tk
        @tk.register.measure(core=False)
        def wrong(graph):
            return [1.0]
        @tk.register.measure(core=False)
        def breaks(graph):
            return {}["x"]
        @tk.register.rule
        def no_rule():
            return "set"
        @tk.register.generator
        def other(n_in, n_out, *, density, rng):
            return tk.LayerGraph.from_edge_ids([0], (2, 2))
        @tk.register.generator
        def array(n_in, n_out, *, density, rng):
            return [1]
        @tk.register.generator
        def few(n_in, n_out, *, density, rng):
            return tk.LayerGraph.from_edge_ids([0], (n_out, n_in))
    """
    monkeypatch.chdir(tmp_path)
    write(tmp_path, code, "bad.py")
    words_given = ("model.widths=[64,20,10]", settings)
    assert topokit("train", "--plugin", "bad.py", "--out", "run", "--set", *words_given) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert words in told
    assert "Traceback" not in told
    assert not (tmp_path / "run").exists()


def test_an_error_of_a_plugin_during_a_run_names_its_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, CODE.replace("10**9", "500"))
    assert train(tmp_path) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "plugin mine.py, line 12, in edges_squared: ZeroDivisionError: too many edges" in told
    assert "Traceback" not in told


# --- resuming ------------------------------------------------------------------------------------


def test_a_run_never_loads_its_plugin_by_itself(stopped, tmp_path, capsys):
    """Whoever made the folder could have named any file: only what the user names is loaded."""
    forget()
    trap = write(tmp_path, "open('sprung', 'w').close()\n" + textwrap.dedent(CODE))
    assert topokit("resume", "run") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "mine.py is not loaded" in told
    assert "A run never loads code by itself: name the plugins that you trust with --plugin" in told
    for words in (("analyze", "run"), ("compare", "run"), ("verify", "run"), ("list", "rules")):
        assert topokit(*words) in (0, 1)
    with pytest.raises(ValueError, match=r"mine\.py is not loaded"):
        tk.resume("run")
    History.load("run").topology(0)
    assert not (tmp_path / "sprung").exists()
    assert trap.exists()


def test_a_changed_plugin_is_refused_or_accepted_and_recorded(stopped, tmp_path, capsys):
    forget()
    write(tmp_path, textwrap.dedent(CODE) + "\n# changed\n")
    assert topokit("resume", "run", "--plugin", "./mine.py") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "mine.py has changed (its checksum is " in told
    assert "--accept plugins" in told
    assert topokit("resume", "run", "--plugin", "./mine.py", "--accept", "plugins") == 0
    record = (stopped / "record.jsonl").read_text("utf-8")
    assert '"what": "plugins"' in record
    assert tk.History.load("run").recorded == [0, 1]


def test_a_plugin_may_lie_elsewhere_when_a_run_goes_on(stopped, tmp_path):
    forget()
    (tmp_path / "kept").mkdir()
    (tmp_path / "mine.py").rename(tmp_path / "kept" / "mine.py")
    tk.load_plugins("kept/mine.py")
    assert tk.resume("run").recorded == [0, 1]


def test_the_record_of_a_stranger_cannot_break_the_message(capsys):
    strange = [None, 3, {"path": 7}, {"sha256": []}, {"path": "\x1b[2J", "sha256": "x"}]
    assert all(isinstance(line, str) for line in plugins.unlike(strange))
    assert plugins.unlike({"a": 1}) == plugins.unlike(None) == []


@pytest.mark.slow
def test_a_plot_that_draws_elsewhere_is_refused_and_not_an_empty_picture(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    code = """
        import matplotlib.pyplot as plt
        import topokit as tk
        @tk.register.plot
        def elsewhere(history, *, ax=None):
            return plt.figure().add_subplot()
    """
    write(tmp_path, code, "bad.py")
    tk.run("set_mlp_digits", "run", epochs=1, **{"model.widths": [64, 20, 10]})
    for name in set(HISTORY_PLOTS) - {"turnover"}:
        monkeypatch.delitem(HISTORY_PLOTS, name)  # they take long
    for words in (("plot", "run", "--only", "elsewhere"), ("report", "run", "--out", "x.html")):
        assert topokit(*words, "--plugin", "bad.py") == 2
        told = " ".join(capsys.readouterr().err.split())
        assert "plot 'elsewhere' (bad.py, line 4): expected it to draw in the axes" in told
    plt.close("all")


# --- in a notebook -------------------------------------------------------------------------------


def test_functions_are_accepted_where_names_are(tmp_path):
    def edges(graph):
        return graph.n_edges

    def layers(topology):
        return len(topology)

    def grown(update: tk.EdgeUpdate) -> float:
        return float(update.grown.sum())

    def own(n_in, n_out, *, density, rng, shift: int = 0):
        chosen = range(shift, shift + round(density * n_in * n_out))
        return tk.LayerGraph.from_edge_ids(chosen, (n_out, n_in))

    def rule(*, every_other: bool = False):
        return RULES["set"]()

    topology = tk.generate([4, 3, 2], own, density=0.5, shift=1, rng=0)
    assert topology["fc1"].edge_ids.tolist() == [1, 2, 3, 4, 5, 6]
    frame = measure(topology, [edges, layers, grown, "components"], previous=topology)
    assert frame.query("measure == 'edges'")["value"].tolist() == [6.0, 3.0]
    assert frame.query("measure == 'layers'")[["layer", "value"]].values.tolist() == [
        ["network", 2.0]
    ]
    assert frame.query("measure == 'grown'")["value"].tolist() == [0.0, 0.0]
    assert measure(topology, edges)["value"].tolist() == [6.0, 3.0]
    assert len(measure(topology, ["core", edges])) == len(measure(topology)) + 2
    with pytest.raises(ValueError, match="unknown parameter 'shif' of generator 'own'"):
        tk.generate([4, 3], own, density=0.5, shif=1, rng=0)
    widths = {"model.widths": [64, 20, 10]}
    history = tk.run(
        "set_mlp_digits", tmp_path / "run", epochs=1, rule=rule, topology=own,
        measures=["core", edges], **widths,
    )  # fmt: skip
    assert history.config["rule"]["name"] == "rule"
    assert history.config["topology"]["generator"] == "own"
    assert {"edges", "power_law.alpha"} <= set(history.measures["measure"])


def test_a_name_is_registered_once_and_may_be_registered_anew():
    def first(graph):
        return 1.0

    tk.register.measure(first, name="mine_own")

    def second(topology):
        return 2.0

    tk.register.measure(second, name="mine_own")
    assert "mine_own" not in LAYER_MEASURES
    assert NETWORK_MEASURES["mine_own"] is second
    assert plugins.core_measures() == ("mine_own",)
    tk.register.remove(second)
    assert "mine_own" not in NETWORK_MEASURES
    assert plugins.core_measures() == ()
    with pytest.raises(ValueError, match="expected a registered function"):
        tk.register.remove(second)


def test_measures_that_are_named_are_the_only_ones(tmp_path):
    @tk.register.measure
    def mine_edges(graph):
        return 1.0

    config = tk.load_recipe("set_mlp_digits").override(
        ["epochs=1", "model.widths=[64,20,10]", "measures.names=[components]"]
    )
    history = tk.run(config, tmp_path / "run")
    assert set(history.measures["measure"]) == {"components"}


def test_workers_cannot_see_what_a_notebook_registers(tmp_path, monkeypatch):
    def mine():
        return RULES["set"]()

    mine.__module__ = "__main__"
    tk.register.rule(mine)
    study = study_from({
        "study": {"name": "tiny", "recipe": "set_mlp_digits"},
        "settings": {"epochs": 1, "model.widths": [64, 20, 10], "rule.name": "mine"},
    })  # fmt: skip
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    with pytest.raises(ValueError, match="rule 'mine' of this notebook or shell cannot be seen"):
        tk.sweep(study, tmp_path / "swept")
    assert not (tmp_path / "swept").exists()
    done = tk.sweep(study, tmp_path / "swept", executor=ThreadPoolExecutor(1))
    assert done.failures == {}


def test_plugins_of_installed_packages_are_offered_by_name(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    write(folder, CODE, "mine_package/plugin.py")
    write(folder, "", "mine_package/__init__.py")
    points = "[topokit.plugins]\nbetter = mine_package.plugin\n"
    write(folder, points, "mine_package-1.0.dist-info/entry_points.txt")
    write(folder, "Metadata-Version: 2.1\nName: mine-package\nVersion: 1.0\n",
          "mine_package-1.0.dist-info/METADATA")  # fmt: skip
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(ValueError, match=r"did you mean 'better'\? installed plugins: better"):
        tk.load_plugins("beter")
    assert "mine" not in RULES
    assert tk.load_plugins("better") == ("better",)
    assert "mine" in RULES
    assert plugins.loaded()[0]["path"].endswith("plugin.py")
    assert plugins.for_workers() == ("better",)


def test_a_function_is_a_rule_of_attach():
    import torch

    def own(*, shy: bool = False):
        return RULES["set"]()

    model = tk.sparsify(torch.nn.Sequential(torch.nn.Linear(20, 20)), density=0.3, rng=0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert "own every 2 steps" in repr(tk.attach(model, optimizer, own, every=2, shy=True, rng=0))
    other = tk.sparsify(torch.nn.Sequential(torch.nn.Linear(20, 20)), density=0.3, rng=0)
    optimizer = torch.optim.SGD(other.parameters(), 0.1)
    with pytest.raises(TypeError, match=r"rule '<lambda>'.*: expected it to return an UpdateRule"):
        tk.attach(other, optimizer, lambda: 3, every=2, rng=0)
    with pytest.raises(ValueError, match="unknown rule 'sett'; did you mean 'set'"):
        tk.attach(other, optimizer, "sett", every=2, rng=0)


REGISTERS = {
    "a function": ("def mine(graph):\n    return 1.0\n", False),
    "nothing": ("LIMIT = 3\n", False),
    "a measure": ("import topokit as tk\n@tk.register.measure\ndef m(graph): return 1.0\n", True),
    "an entry of a table": (
        "from topokit.rules import RULES\ndef other(): return RULES['set']()\n"
        "RULES['other'] = other\n",
        True,
    ),
    "a table, read": ("from topokit.plots import LAYER_PLOTS\nprint(len(LAYER_PLOTS))\n", False),
}


@pytest.mark.parametrize("kind", REGISTERS)
def test_a_plugin_that_registers_nothing_is_noted(kind, tmp_path, caplog):
    code, something = REGISTERS[kind]
    path = tmp_path / "mine_or_not.py"
    path.write_text(code)
    for _ in range(2):  # said once: a file that has not changed is loaded once
        plugins.load_plugins(str(path))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (not something)
    assert all("mine_or_not.py: loaded, but it registers nothing" in words for words in said)


UNKNOWN = (
    ["analyze", "x.npz", "--measures", "qwerty"],
    ["generate", "qwerty", "--widths", "4,4", "--density", "0.5"],
    ["train", "set_mlp_digits", "--rule", "qwerty", "--out", "never"],
    ["sweep", "study.toml", "--out", "never"],
)


@pytest.mark.parametrize("command", UNKNOWN, ids=lambda words: words[0])
def test_an_unknown_name_hints_at_plugins(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tk.save_topology("x.npz", {"fc1": tk.LayerGraph.from_edge_ids([0, 1], (2, 2))})
    (tmp_path / "mine.py").write_text(textwrap.dedent(CODE))
    study = '[study]\nname = "s"\nrecipe = "set_mlp_digits"\n[settings]\nrule.name = "qwerty"\n'
    (tmp_path / "study.toml").write_text(study)
    assert main(command) == 2
    assert "; one of your own is loaded with --plugin FILE.py" in capsys.readouterr().err
    assert main([*command, "--plugin", "mine.py"]) == 2
    said = capsys.readouterr().err
    assert "unknown" in said
    assert "--plugin FILE.py" not in said


def test_what_was_registered_is_shown():
    assert repr(tk.register) == "register: nothing registered yet"

    @tk.register.measure
    def mine(graph):
        return 1.0

    assert repr(tk.register) == "register: measure 'mine'"
    tk.register.remove(mine)


def test_an_installed_plugin_that_fails_or_is_there_twice(tmp_path, monkeypatch):
    write(tmp_path, "import sys\nsys.exit(0)\n", "ends_at_once.py")
    write(tmp_path, "1 / 0\n", "fails_first/__init__.py")
    write(tmp_path, "", "fails_first/plugin.py")
    write(tmp_path, "import not_there_at_all\n", "lacks_another/__init__.py")
    write(tmp_path, "", "lacks_another/plugin.py")
    monkeypatch.syspath_prepend(tmp_path)
    for name, words in {
        "ends_at_once": "plugin ends_at_once: SystemExit: 0",
        "fails_first.plugin": "plugin fails_first.plugin: ZeroDivisionError",
        "lacks_another.plugin": "ModuleNotFoundError: No module named 'not_there_at_all'",
        "fails_first_.plugin": "expected a Python file, a module here or an installed one",
    }.items():
        with pytest.raises(ValueError, match=words):
            tk.load_plugins(name)
    for package in ("one", "two"):
        write(tmp_path, "", f"{package}_package.py")
        points = f"[topokit.plugins]\nshared = {package}_package\n"
        write(tmp_path, points, f"{package}-1.0.dist-info/entry_points.txt")
        about = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        write(tmp_path, about, f"{package}-1.0.dist-info/METADATA")
    with pytest.raises(ValueError, match=r"several packages offer it \(one_package, two_package\)"):
        tk.load_plugins("shared")


def test_a_plugin_that_calls_exit_ends_a_run_with_words(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, CODE.replace('raise ZeroDivisionError("too many edges")', "raise SystemExit(0)")
          .replace("10**9", "500"))  # fmt: skip
    assert train(tmp_path) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "plugin mine.py, line 12, in edges_squared: SystemExit: 0" in told
