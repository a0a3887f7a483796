"""Commands in odd surroundings: locales, closed outputs, odd paths, full disks, hostile names."""

import errno
import html
import io
import json
import os
import pty
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from topokit.cli import console, main
from topokit.experiments.rundir import RunDirectory
from topokit.foreign import printable
from topokit.graph import LayerGraph
from topokit.graph.convert import as_topology, save_topology
from topokit.plots import HISTORY_PLOTS, save_figures
from topokit.plots.report import write_report

pytestmark = pytest.mark.slow

SMALL = ["epochs=1", "model.widths=[64,9,10]", "batch_size=500", "measures.names=['fan_in']"]
TOPOKIT = [sys.executable, "-m", "topokit"]


def run_command(*words, **options):
    environment = {**os.environ, **options.pop("env", {})}
    environment = {key: value for key, value in environment.items() if value is not None}
    return subprocess.run(
        [*TOPOKIT, *map(str, words)], env=environment, capture_output=True, timeout=120, **options
    )


# --- locales and homes ----------------------------------------------------------------------------

NOWHERE = "/proc/nowhere"  # cannot be made, not even by root
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


@pytest.mark.slow
def test_a_run_ends_well_on_a_terminal_of_ascii_without_home_or_cache(tmp_path):
    env = {**ASCII, "HOME": NOWHERE, "XDG_CACHE_HOME": NOWHERE, "NUMBA_CACHE_DIR": NOWHERE}
    done = run_command("train", "--out", tmp_path / "run", "--set", *SMALL, env=env)
    assert done.returncode == 0, done.stderr
    assert b"results are in" in done.stdout
    assert b"epoch 0 -> 0" in done.stdout
    assert b"Traceback" not in done.stderr
    command = json.loads((tmp_path / "run" / "environment.json").read_text())["command"]
    assert command.startswith("topokit train --out ")  # it was python -m topokit
    done.stdout.decode("ascii")


@pytest.mark.slow
@pytest.mark.parametrize(
    "env",
    [ASCII, {"LC_ALL": "tr_TR.UTF-8", "HOME": None}, {"LC_ALL": "nonsense", "HOME": NOWHERE}],
    ids=["ascii", "turkish without home", "nonsense with a bad home"],
)  # fmt: skip
def test_graphs_are_the_same_in_any_locale_and_home(tmp_path, env):
    words = ["generate", "configuration", "--widths", "12,9", "--density", "0.5"]
    out = tmp_path / "é.npz" if "PYTHONUTF8" not in env else tmp_path / "e.npz"
    done = run_command(*words, "--out", out, env=env)
    assert done.returncode == 0, done.stderr
    assert out.is_file()
    assert b"Traceback" not in done.stderr


def test_characters_that_a_terminal_lacks_are_replaced(monkeypatch):
    for encoding, expected in (("ascii", "0 -> 1, \\u5c64, -"), ("utf-8", "0 → 1, 層, –")):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        console.say("0 → 1, 層, –")
        assert raw.getvalue().decode(encoding) == expected + "\n"


# --- outputs that fail ----------------------------------------------------------------------------


class Failing(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


def a_list(monkeypatch, capsys, out):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        code = main(["list", "rules"])
    return code, capsys.readouterr().err


@pytest.mark.parametrize("words", [["list", "rules"], ["list", "rules", "--json"]])
def test_a_closed_or_failing_output_is_no_traceback(monkeypatch, capsys, words):
    closed = io.StringIO()
    closed.close()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert a_list(monkeypatch, capsys, None) == (0, "")
    assert a_list(monkeypatch, capsys, Failing(BrokenPipeError())) == (0, "")
    code, error = a_list(monkeypatch, capsys, Failing(full))
    assert code == 1
    assert "not all results could be printed: [Errno 28] No space left on device" in error
    assert a_list(monkeypatch, capsys, closed)[0] == 1
    assert main(words) == 0
    assert capsys.readouterr().out


def test_notes_and_errors_that_cannot_be_printed_change_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "stderr", Failing(OSError(errno.EIO, "hung up")))
    assert main(["train", "--out", str(tmp_path / "run"), "--set", *SMALL]) == 0
    assert main(["list", "nonsense"]) == 2
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["list", "rules"]) == 0
    assert "results are in" in capsys.readouterr().out


def test_a_reader_that_leaves_after_one_line():
    process = subprocess.Popen(
        [*TOPOKIT, "list", "measures"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait(60) == 0
    process.stderr.close()
    assert error == b""


@pytest.mark.slow
def test_streams_closed_before_the_start():
    command = shlex.join(
        [*TOPOKIT, "generate", "configuration", "--widths", "6,5", "--density", "0.5"]
    )
    done = subprocess.run(["sh", "-c", f"{command} <&- >&- 2>&-"], timeout=60)
    assert done.returncode == 0


@pytest.mark.slow
def test_a_narrow_terminal():
    ours, theirs = pty.openpty()
    env = {**os.environ, "COLUMNS": "3", "LINES": "2", "TERM": "xterm"}
    process = subprocess.Popen(
        [*TOPOKIT, "generate", "configuration", "--widths", "6,5", "--density", "0.5"],
        stdin=theirs, stdout=theirs, stderr=theirs, env=env,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # the terminal is closed
        pass
    os.close(ours)
    assert process.wait(60) == 0
    assert b"Traceback" not in shown


# --- paths and commands ---------------------------------------------------------------------------

PATHS = [
    "with spaces", "quote's", "$HOME", "*", "ünïcödé-層", "-dash", "--out", "line\nbreak",
    "\x1b[31m", "n" * 200, "../folder/again", "a;b&c", "[bold]", "\udcff",
]  # fmt: skip


@pytest.mark.parametrize("name", PATHS, ids=range(len(PATHS)))
def test_odd_paths_work_and_printed_commands_can_be_copied(tmp_path, monkeypatch, capsys, name):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    out = name + ".npz"
    words = ["generate", "configuration", "--widths", "12,9", "--density", "0.5"]
    assert main([*words, f"--out={out}"]) == 0
    assert Path(out).is_file()
    error = capsys.readouterr().err
    assert "\x1b" not in error
    command = error.replace("\n", "").split("next: ")[1]
    if name.isprintable():
        assert shlex.split(command)[:2] == ["topokit", "analyze"]
        assert Path(shlex.split(command)[2]).is_file()
        assert not shlex.split(command)[2].startswith("-")
    assert main(["analyze", f"./{out}", "--measures", "fan_in"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown


# --- errors of the system -------------------------------------------------------------------------


SYSTEM = {
    errno.ENOSPC: ("the disk is full: free some space", 1),
    errno.EDQUOT: ("your quota of disk space is used up", 1),
    errno.EROFS: ("choose another place", 2),
    errno.EACCES: ("ask for permission", 2),
    errno.EIO: ("the disk or the network to it failed", 1),
}


@pytest.mark.parametrize(
    ("command", "number"),
    [
        *(("generate", number) for number in SYSTEM),
        *((command, errno.ENOSPC) for command in ("plot", "report", "compare", "train", "sweep")),
    ],
)
def test_errors_of_writing_name_the_file_and_what_to_do(
    tmp_path, monkeypatch, capsys, a_run, command, number
):
    advice, code = SYSTEM[number]
    study = tmp_path / "s.toml"
    study.write_text('[study]\nname = "s"\nrecipe = "set_mlp_digits"\nseeds = [0]\n')
    out = str(tmp_path / ("target.npz" if command == "generate" else "target"))
    words = {
        "generate": ["generate", "configuration", "--widths", "6,5", "--density", "0.5"],
        "plot": ["plot", str(a_run)],
        "report": ["report", str(a_run)],
        "compare": ["compare", str(a_run)],
        "train": ["train", "--set", *SMALL],
        "sweep": ["sweep", str(study)],
    }[command]

    def fail(*_):
        raise OSError(number, os.strerror(number), "/tmp/.topokit-tmp-1.tmp")

    monkeypatch.setattr("topokit.graph.files._created", fail)
    monkeypatch.setattr("topokit.plots.report.drawable", lambda history: {})
    assert main([*words, "--out", out]) == code
    error = capsys.readouterr().err.replace("\n", " ")
    assert f"topokit: {os.strerror(number)}: {tmp_path}/target" in error
    assert advice in error
    assert ".topokit-tmp" not in error


def test_a_full_disk_while_training_says_how_to_continue(tmp_path, monkeypatch, capsys):
    replace, saved = os.replace, []

    def full(source, target):
        if target.name == "checkpoint.pt":
            saved.append(target)
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        replace(source, target)

    out = tmp_path / "a run"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert main(["train", "--out", str(out), "--set", *SMALL, "epochs=3"]) == 1
    error = capsys.readouterr().err.replace("\n", " ")
    assert f"No space left on device: {out}/checkpoint.pt; the disk is full" in error
    command = error.split("continue: ")[1]
    assert shlex.split(command)[:2] == ["topokit", "resume"]
    assert main(shlex.split(command)[1:]) == 0


# --- names from strangers -------------------------------------------------------------------------

HOSTILE = [
    "x/../../../victim/holiday", "\x1b[31mred\x1b]0;title\x07", "\r\x08over", "\x9b2J", "[/bold]",
    "[red]", "<script>alert(1)</script>", "--><b>", "&amp;", "a\nb", "\u202ekcab", "é層", "C:\\x",
    "$\\frac{$",
]  # fmt: skip
BAD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def named(*names):
    return {name: LayerGraph.from_edge_ids(range(0, 40, 2), (7, 9)) for name in names}


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "--out", str(folder), "--set", *SMALL]) == 0
    return folder


@pytest.fixture(scope="module")
def hostile_history():
    """A record of a network whose layers have hostile names."""
    from topokit.experiments.record import Recording

    recording = Recording(["fan_in"], name="<i>\x1b[31m run")
    for epoch in range(2):
        recording(epoch, named(*HOSTILE[:2], *HOSTILE[4:8], HOSTILE[-1]))
        recording.note(epoch, test_accuracy=0.5, test_loss=1.0, train_loss=1.0)
    return recording


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_names_reach_the_terminal_without_control_characters(tmp_path, capsys, extra):
    save_topology(tmp_path / "hostile.npz", named(*HOSTILE))
    words = ["analyze", str(tmp_path / "hostile.npz"), "--bootstrap", "0", *extra]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert not BAD.search(printed.out + printed.err)
    if extra == ["--json"]:
        assert {row["layer"] for row in json.loads(printed.out)["measures"]} >= set(
            map(printable, HOSTILE)
        )
    else:
        assert "[/bold]" in printed.out
        assert "\\x1b[31mred" in printed.out


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_names_in_errors_and_progress(tmp_path, capsys, name, monkeypatch):
    path = str(tmp_path / name.replace("/", "|"))
    assert main(["analyze", path]) == 2
    assert main(["plot", path]) == 2
    assert main(["list", name]) == 2
    assert main(["train", "--out", path, f"--{name}"]) == 2
    console.note(name)
    assert not BAD.search(capsys.readouterr().err.replace("\x1b[?25l", ""))


@pytest.mark.slow
def test_figures_of_hostile_names_stay_in_their_folder(tmp_path, hostile_history, monkeypatch):
    kept = ("measure_over_epochs", "verdict_timeline", "network", "degree_multiples")
    few = {name: plot for name, plot in HISTORY_PLOTS.items() if name in kept}
    monkeypatch.setattr("topokit.plots.HISTORY_PLOTS", few)
    folder = tmp_path / "deep/deeper/figures"
    written = save_figures(hostile_history, folder, formats=("svg",))
    assert {path.parent for path in written} == {folder}
    assert len(set(written)) == len(written)
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(found) == sorted(written)
    for path in written:
        tags = {element.tag.rpartition("}")[2] for element in ET.parse(path).iter()}
        assert "script" not in tags, path


@pytest.mark.slow
def test_a_page_shows_hostile_names_as_text(tmp_path, hostile_history, monkeypatch):
    monkeypatch.setattr("topokit.plots.report.drawable", lambda history: {})
    monkeypatch.setattr("topokit.plots.report.DPI", 20)
    page = write_report(hostile_history, tmp_path / "page.html", bootstrap=0).read_text()
    assert "<script>alert(1)" not in page
    assert html.escape("<script>alert(1)</script>") in page
    assert "<i>" not in page
    assert "--><b>" not in page


def test_graphml_of_hostile_names_is_read_again(tmp_path):
    import networkx as nx

    from topokit.graph.convert import to_networkx

    graph = to_networkx(named("fc1")["fc1"])
    names = {node: f'{i}<script>&amp;"é' for i, node in enumerate(graph)}
    nx.write_graphml(nx.relabel_nodes(graph, names), tmp_path / "g.graphml")
    assert "<script>" not in (tmp_path / "g.graphml").read_text(encoding="utf-8")
    again = as_topology(tmp_path / "g.graphml")
    assert [layer.n_edges for layer in again.values()] == [20]


def test_a_linked_figures_folder_in_a_strangers_run_is_not_followed(a_run, tmp_path, capsys):
    victim = tmp_path / "victim"
    victim.mkdir()
    (a_run / "figures").symlink_to(victim)
    assert main(["plot", str(a_run)]) == 2
    assert "is a symbolic link; say where to write with --out FOLDER" in capsys.readouterr().err
    assert not list(victim.iterdir())
    (a_run / "figures").unlink()


# --- small faults of the command line -------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "resume", "analyze", "generate", "list", "sweep"])
def test_help_shows_only_options_that_mean_something(capsys, command):
    assert main([command, "--help"]) == 0
    assert not re.search(r"--(no|empty)-", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["train", "--batch-size", "7"], "--set batch_size=7"),
        (["train", "--lr", "0.1"], "--set optimizer.lr=0.1"),
        (["train", "--nonsense"], "see 'topokit train --help'"),
        (["list", "--epochs", "2"], "see 'topokit list --help'"),
        (["nonsense"], "see 'topokit --help'"),
        (["train", "epochs=2", "seed=1"], "follow --set: --set epochs=2 seed=1"),
        (["info", "b"], "expected no further argument, got b (see 'topokit info --help')"),
    ],
)
def test_a_configuration_key_given_as_an_option(capsys, words, hint):
    assert main(words) == 2
    assert hint in capsys.readouterr().err.replace("\n", " ")


def test_options_without_effect_and_folders_of_runs(tmp_path, capsys, a_run):
    save_topology(tmp_path / "x.npz", named("fc1"))
    assert main(["analyze", str(tmp_path / "x.npz"), "--epoch", "3"]) == 2
    assert "--epoch: expected a run" in capsys.readouterr().err
    assert main(["analyze", str(a_run), "--epoch", "0", "--bootstrap", "0"]) == 0
    capsys.readouterr()
    assert main(["analyze", str(a_run), "--epoch", "0", "--measures", "turnover"]) == 0
    assert "turnover compares with an earlier epoch" in capsys.readouterr().err.replace("\n", " ")
    assert main(["compare", str(a_run.parent)]) == 0
    twins = [str(tmp_path / side / "run") for side in "ab"]
    for twin in twins:
        RunDirectory.create(twin, (a_run / "config.toml").read_text(), {})
    assert main(["plot", *twins, "--out", str(tmp_path / "figures")]) == 2
    assert "got two of 'run' for one --out" in capsys.readouterr().err
