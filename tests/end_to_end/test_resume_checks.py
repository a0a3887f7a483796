"""Going on checks what it goes on with; nothing ends in a dead end."""

import io
import os
import shutil
import threading

import pytest
import torch

from tests.end_to_end.test_resume import Stop, assert_same_run, stop_after
from topokit.cli import main
from topokit.experiments import preparation
from topokit.experiments.config import load_recipe
from topokit.experiments.record import History
from topokit.experiments.rundir import RunDirectory
from topokit.experiments.runs import resume, run
from topokit.experiments.verify import verify
from topokit.graph.checksums import seal
from topokit.rules import RULES
from topokit.rules.stream import GROWTH

pytestmark = pytest.mark.slow

TINY = ["data.n_train=60", "data.n_test=30", "model.widths=[64,14,10]", "epochs=4",
        "batch_size=30", "threads=1", 'measures.names=["fan_in"]']  # fmt: skip


@pytest.fixture(autouse=True)
def _threads_as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def config(*more):
    return load_recipe("set_mlp_digits").override([*TINY, *more])


def stopped(path, *more, after=1):
    with pytest.raises(Stop):
        run(config(*more), path, progress=stop_after(after))
    return path


@pytest.fixture
def whole(tmp_path):
    run(config(), tmp_path / "whole")
    return tmp_path / "whole"


@pytest.mark.parametrize(
    ("recipe", "more"),
    [("set_rbm_mnist", ["model.widths=[64,20]"]),
     ("set_cnn_cifar10", ["model.image=[1,8,8]", "model.widths=[128,20,10]"])],
)  # fmt: skip
def test_models_of_every_kind_go_on(tmp_path, recipe, more):
    settings = [*TINY[:2], "data.name=digits", *TINY[3:], "epochs=2", *more]
    tiny = load_recipe(recipe).override(settings)
    run(tiny, tmp_path / "whole")
    with pytest.raises(Stop):
        run(tiny, tmp_path / "run", progress=stop_after(0))
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def edit(path, old, new):
    file = path / "config.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_an_edited_configuration_is_shown_or_accepted_and_recorded(tmp_path, capsys):
    path = stopped(tmp_path / "run")
    edit(path, "lr = 0.05", "lr = 0.01")
    words = r"config\.toml .* not the one it was made with \(optimizer\.lr is 0\.01 and was 0\.05\)"
    for use in (History.load, resume):
        with pytest.raises(ValueError, match=words):
            use(path)
    assert main(["resume", str(path)]) == 2
    assert "--accept config" in capsys.readouterr().err
    assert main(["resume", str(path), "--accept", "config"]) == 0
    history = History.load(path)
    assert history.config["optimizer"]["lr"] == 0.01
    assert history.recorded == [0, 1, 2, 3]
    lines = (path / "record.jsonl").read_text().splitlines()
    assert '"kind": "accepted"' in lines[3]
    assert '"epoch": 2, "what": "config"' in lines[3]
    assert verify(path).intact


@pytest.mark.parametrize("text", ["", "epochs = 0", "epochs = [", "surprise = 1"])
def test_a_configuration_that_is_none_is_named_before_it_is_used(tmp_path, capsys, text):
    path = stopped(tmp_path / "run")
    (path / "config.toml").write_text(text)
    assert main(["resume", str(path)]) == 2
    words = capsys.readouterr().err.replace("\n", " ")
    assert "config.toml of run" in words
    assert "--recover" in words


def test_a_run_that_is_moved_away_leaves_nothing_where_it_was(tmp_path):
    def move(epoch, frame):
        (tmp_path / "run").rename(tmp_path / "moved")

    with pytest.raises(FileNotFoundError):
        run(config(), tmp_path / "run", progress=move)
    assert not (tmp_path / "run").exists()
    assert resume(tmp_path / "moved").recorded == [0, 1, 2, 3]


def test_more_epochs_may_be_accepted_and_other_widths_never(tmp_path):
    path = stopped(tmp_path / "run")
    edit(path, "epochs = 4", "epochs = 5")
    assert resume(path, accept="config").recorded == [0, 1, 2, 3, 4]
    path = stopped(tmp_path / "other")
    edit(path, "widths = [64, 14, 10]", "widths = [64, 15, 10]")
    with pytest.raises(ValueError, match=r"edited config.toml: .* widths are \[64, 14, 10\]"):
        resume(path, accept=["config"])
    edit(path, "widths = [64, 15, 10]", "widths = [64, 14, 10]")
    edit(path, "epochs = 4", "epochs = 1")
    with pytest.raises(ValueError, match=r"edited config.toml: .* 2 are recorded and 1 planned"):
        resume(path, accept=["config"])
    with pytest.raises(ValueError, match="unknown difference 'confg'; did you mean 'config'"):
        resume(path, accept=["confg"])
    assert '"accepted"' not in (path / "record.jsonl").read_text()


def test_other_samples_are_refused_or_accepted_and_recorded(tmp_path, monkeypatch):
    path = stopped(tmp_path / "run")
    from topokit.experiments import preparation

    original = preparation.load_data

    def changed(*args, **kwargs):
        data = original(*args, **kwargs)
        data.x_train[3, 40] += 0.25
        return data

    monkeypatch.setattr(preparation, "load_data", changed)
    with pytest.raises(ValueError, match=r"the samples are not those .* --accept data"):
        resume(path)
    assert resume(path, accept=["data"]).recorded == [0, 1, 2, 3]
    assert '"what": "data"' in (path / "record.jsonl").read_text()


@pytest.mark.parametrize("rule", ["set", "random", "static"])
def test_edges_drawn_from_another_stream_are_accepted_by_name(tmp_path, monkeypatch, capsys, rule):
    more = [f"rule.name={rule}"]
    run(config(*more), tmp_path / "whole")
    with monkeypatch.context() as earlier:
        earlier.setattr(preparation, "GROWTH", "another")
        path = stopped(tmp_path / "run", *more)
    assert RunDirectory(path).read().growth == "another"
    if rule == "static":
        assert main(["resume", str(path)]) == 0
        assert_same_run(path, tmp_path / "whole")
    else:
        before = (path / "record.jsonl").read_bytes()
        assert main(["resume", str(path), "--accept", "data"]) == 2
        assert "--accept growth" in capsys.readouterr().err
        assert (path / "record.jsonl").read_bytes() == before
        assert main(["resume", str(path), "--accept", "growth"]) == 0
    assert RunDirectory(path).read().growth == GROWTH
    assert History.load(path).recorded == [0, 1, 2, 3]
    assert verify(path).intact


def test_once_accepted_a_stream_is_that_of_the_run(tmp_path, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr(preparation, "GROWTH", "another")
        path = stopped(tmp_path / "run")
    with pytest.raises(Stop):
        resume(path, accept="growth", progress=stop_after(2))
    assert resume(path).recorded == [0, 1, 2, 3]
    lines = (path / "record.jsonl").read_text().splitlines()
    assert sum('"accepted"' in line for line in lines) == 1


def test_a_rule_of_a_plugin_that_is_missing_is_named(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(RULES, "mine", RULES["set"])
        path = stopped(tmp_path / "run", "rule.name=mine")
    with pytest.raises(ValueError, match=r"unknown rule 'mine'.* --plugin; .* started by: "):
        resume(path)


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    path, other = stopped(tmp_path / "run"), stopped(tmp_path / "other", "seed=1")
    identity = RunDirectory(path).read().run
    shutil.copy(other / "checkpoint.pt", path)
    for use in (resume, History.load):
        with pytest.raises(ValueError, match=r"checkpoint\.pt .* belongs to another run"):
            use(path)
    content = (other / "checkpoint.pt").read_bytes()
    (path / "checkpoint.pt").write_bytes(seal(content, run=identity, epoch=2))
    with pytest.raises(ValueError, match="not the one that was saved at this point of the run"):
        resume(path)
    assert [f.file for f in verify(path).findings] == ["checkpoint.pt"]


def test_an_earlier_checkpoint_of_the_run_is_as_good(whole, tmp_path):
    path = stopped(tmp_path / "run", after=0)
    early = (path / "checkpoint.pt").read_bytes()
    with pytest.raises(Stop):
        resume(path, progress=stop_after(2))
    (path / "checkpoint.pt").write_bytes(early)
    resume(path)
    assert_same_run(path, whole)


@pytest.mark.parametrize("name", ["topology", "checkpoint.pt", "record.jsonl", "config.toml"])
def test_a_run_that_lacks_something_does_not_go_on(tmp_path, name):
    path = stopped(tmp_path / "run")
    target = path / name
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(ValueError, match="missing"):
        resume(path)
    assert not (path / "DONE").exists()
    assert not verify(path).intact


def crafted(path, change):
    content = torch.load(path / "checkpoint.pt", weights_only=True)
    change(content)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    (path / "checkpoint.pt").write_bytes(buffer.getvalue())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(epoch=-5), "it is of epoch -5"),
        (lambda c: c.update(epoch=10**9), "it is of epoch 1000000000"),
        (lambda c: c["optimizer"].update(state={}), "state of parameter 0 is missing"),
        (lambda c: c["optimizer"]["state"].pop(1), "state of parameter 1 is missing"),
        (lambda c: c.update(rngs="{}"), "expected random streams order, rule, got none"),
        (lambda c: c.update(step=0), "0 steps in 3 epochs"),
        (lambda c: c.pop("memory"), "lacks memory"),
        (lambda c: c.update(dropout=3), "its entry 'dropout' is of type int"),
    ],
)
def test_the_entries_of_a_checkpoint_without_checksum_must_fit(tmp_path, change, words):
    old = os.path.join(os.path.dirname(__file__), "../golden/run-schema-1/unfinished")
    path = shutil.copytree(old, tmp_path / "run")
    crafted(path, change)
    with pytest.raises(ValueError, match=words):
        resume(path)
    assert not (path / "record.jsonl").exists(), "a refused run is left as it was"


@pytest.mark.parametrize("writes", range(4))
@pytest.mark.parametrize("again", ["train", "resume"])
def test_a_run_killed_before_its_first_epoch_starts_again(
    whole, tmp_path, monkeypatch, writes, again
):
    """Killed before config.toml, environment.json, the record, and the first checkpoint."""
    path, calls, original = tmp_path / "run", [], RunDirectory.write

    def dies(self, name, content):
        calls.append(name)
        if len(calls) > writes:
            raise Stop
        return original(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write", dies)
        with pytest.raises(Stop):
            run(config(), path)
    if again == "resume" and not writes:
        with pytest.raises(ValueError, match="expected a run directory"):
            resume(path)  # there is nothing yet that says what to run
        return
    if writes:
        with pytest.raises(ValueError, match="another configuration"):
            run(config("seed=4"), path)
    run(config(), path) if again == "train" else resume(path)
    assert_same_run(path, whole)


def test_the_same_command_goes_on_after_a_full_disk(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "set_mlp_digits", "--set", *TINY]
    original = os.write

    def full(file, content):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert main(arguments) == 1
    assert os.write is original
    assert "record.jsonl" in capsys.readouterr().err
    assert main(arguments) == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["set_mlp_digits-seed0"]


def test_two_processes_that_create_one_directory(tmp_path, monkeypatch):
    """The second comes while the first holds the lock, and both found the folder empty."""
    from topokit.experiments import runs

    errors, path = [], tmp_path / "run"
    loop, inside, done = runs._loop, threading.Event(), threading.Event()

    def waits(*args):
        inside.set()
        assert done.wait(60)
        return loop(*args)

    def first():
        with monkeypatch.context() as patch:
            patch.setattr(runs, "_loop", waits)
            run(config(), path)

    thread = threading.Thread(target=first)
    checked = RunDirectory.check_free
    monkeypatch.setattr(RunDirectory, "check_free", lambda *args: None)  # both found it empty
    thread.start()
    assert inside.wait(60)
    try:
        run(config("seed=7"), path)
    except ValueError as error:
        errors.append(str(error))
    monkeypatch.setattr(RunDirectory, "check_free", checked)
    done.set()
    thread.join()
    assert "another process is writing" in errors[0]
    assert History.load(path).config["seed"] == 0
    assert verify(path).intact


def test_verify_at_the_command_line(whole, tmp_path, capsys):
    import json

    assert main(["verify", str(whole)]) == 0
    assert "every file is intact" in capsys.readouterr().out
    (whole / "measures.parquet").write_bytes(b"no")
    assert main(["verify", str(whole), "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found["findings"][0]["file"] == "measures.parquet"
    assert main(["verify", str(whole), "--recover"]) == 0
    assert "was recovered" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "none")]) == 2
    assert main(["verify"]) == 2
