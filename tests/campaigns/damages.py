"""Damage run directories in every way we can think of, and use them.

What each use may do: give the result of the undamaged run, or refuse in a sentence. A different
result without a word, an uncaught exception and a hang are faults.
"""

import io
import json
import os
import shutil
import signal
import socket
import stat
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.campaigns.common import main, table
from topokit.experiments.config import load_recipe
from topokit.experiments.record import History
from topokit.experiments.runs import resume, run
from topokit.experiments.verify import verify
from topokit.graph.checksums import seal, seal_in, stamp, stamped
from topokit.read import read_topologies

TITLE = "Damaged run directories"
TINY = [
    "data.n_train=60", "data.n_test=30", "model.widths=[64,14,12,10]", "topology.epsilon=3",
    "batch_size=30", "threads=1", 'measures.names=["fan_in","turnover","explored_fraction"]',
    "epochs=12",
]  # fmt: skip
STOP = 10  # epochs of the unfinished runs; the first change after a keyframe is of epoch 1 and 11
PATIENCE = 20  # seconds
RESULTS = ("same", "refused", "different", "uncaught", "hang")  # refused or reported


class Stop(Exception):
    pass


class Hang(BaseException):
    pass


# --- the runs -------------------------------------------------------------------------------------


def make_runs(root):
    """Finished and unfinished runs: of two seeds, and what the unfinished ones must end as."""
    for seed in (0, 1):
        config = load_recipe("set_mlp_digits").override([*TINY, f"seed={seed}"])

        def stop(epoch, frame):
            if epoch.index == STOP:
                raise Stop

        run(config, root / f"finished-{seed}")
        with suppress(Stop):
            run(config, root / f"unfinished-{seed}", progress=stop)
    shutil.copytree(root / "unfinished-0", root / "whole-0")
    resume(root / "whole-0")
    return root


@contextmanager
def quick():
    """Without waiting for the disk, in one thread, with all warnings silent."""
    import warnings

    original, threads = os.fsync, torch.get_num_threads()
    os.fsync = lambda descriptor: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.fsync = original
        torch.set_num_threads(threads)


# --- uses and their results -----------------------------------------------------------------------


def content_of(history):
    """Everything a run says, but for its name and for seconds.

    Of the topologies those of the epochs from which every file is read.
    """
    recorded = history.recorded
    epochs = history.epochs.drop(columns=["run", "seconds"], errors="ignore")
    measures = history.measures.drop(columns="run", errors="ignore")
    graphs = [
        [(name, graph.shape, graph.edge_ids.tobytes()) for name, graph in t.items()]
        for t in map(history.topology, sorted({4, 9, len(recorded) - 1} & {*recorded}))
    ]
    config = {key: value for key, value in history.config.items() if key != "about"}
    return (
        epochs.to_json(double_precision=15),
        measures.to_json(double_precision=15),
        graphs,
        config,
    )


def load(path):
    return content_of(History.load(path))


def go_on(path):
    return content_of(resume(path))


def analyze(path):
    topology, previous, _ = read_topologies(path)
    return [[(n, g.edge_ids.tobytes()) for n, g in (t or {}).items()] for t in (topology, previous)]


def recovered(path):
    verify(path, recover=True)
    return content_of(resume(path))


def guarded(use, path):
    """Return what a use gave, and how it ended; mirrors what the command line catches."""

    def alarm(*_):
        raise Hang

    before = signal.signal(signal.SIGALRM, alarm)
    signal.alarm(PATIENCE)
    try:
        return use(path), "same", ""
    except Hang:
        return None, "hang", ""
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        words = str(error)
        good = words and len(words) < 700 and words.count("\n") < 3
        return None, "refused" if good else "uncaught", repr(error)
    except OSError as error:
        return None, "refused" if error.filename else "uncaught", repr(error)
    except Exception as error:
        return None, "uncaught", repr(error)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def verified(path, damaged):
    """How `verify` ended: reporting a damage counts as refusing, missing one as different."""
    got, how, why = guarded(verify, path)
    if how == "same" and not got.intact:
        how = "refused"
    return "different" if how == "same" and damaged else how, why


def use_all(path, right, damaged):
    """Use a damaged run in all ways; return the result of each."""
    found = {}
    for name, use in (("load", load), ("analyze", analyze)):
        got, how, why = guarded(use, path)
        found[name] = ("different" if how == "same" and got != right[name] else how, why)
    found["verify"] = verified(path, damaged)
    copy = path.with_name(path.name + "-copy")
    if path.is_dir() and not path.is_symlink():
        shutil.copytree(path, copy, symlinks=True, copy_function=_copy, dirs_exist_ok=True)
        got, how, why = guarded(recovered, copy)
        found["recover"] = ("different" if how == "same" and got != right["resume"] else how, why)
        shutil.rmtree(copy)
    got, how, why = guarded(go_on, path)
    found["resume"] = ("different" if how == "same" and got != right["resume"] else how, why)
    return found


def _copy(source, target):
    """Copy a file of any kind."""
    mode = os.lstat(source).st_mode
    if stat.S_ISFIFO(mode):
        os.mkfifo(target)
    elif stat.S_ISREG(mode):
        shutil.copy2(source, target)
    return target


# --- damages --------------------------------------------------------------------------------------


def files_of(path):
    return sorted(
        f for f in path.rglob("*") if f.is_file() and not f.is_symlink() and f.name != ".lock"
    )


def _bytes(change):
    def damage(file, rng, others):
        content = file.read_bytes()
        file.write_bytes(change(content, rng))

    return damage


def _special(make):
    def damage(file, rng, others):
        content = file.read_bytes()
        file.unlink()
        make(file, content)

    return damage


def _device(file, content):
    with socket.socket(socket.AF_UNIX) as end:
        here = os.getcwd()
        os.chdir(file.parent)  # names of sockets are short
        try:
            end.bind(file.name)
        finally:
            os.chdir(here)


def _linked(file, content):
    target = file.parent / ".elsewhere"
    target.write_bytes(content)
    file.symlink_to(target)


def _garbage_block(content, rng):
    at = int(rng.integers(len(content) or 1))
    return content[:at] + rng.bytes(16) + content[at + 16 :]


def _swapped(file, rng, others):
    """Take the file of the same name of another run."""
    base = next(parent for parent in file.parents if (parent / "config.toml").exists())
    rivals = [o / file.relative_to(base) for o in others if (o / file.relative_to(base)).is_file()]
    if rivals:
        shutil.copy2(rivals[rng.integers(len(rivals))], file)


def _other_epoch(file, rng, others):
    """Take the file of another epoch of the same run."""
    rivals = [path for path in sorted(file.parent.glob("*.npz")) if path != file]
    if rivals and file.suffix == ".npz":
        shutil.copy2(rivals[rng.integers(len(rivals))], file)


FILE_DAMAGES = {
    "deleted": lambda file, rng, others: file.unlink(),
    "emptied": _bytes(lambda content, rng: b""),
    "truncated": _bytes(lambda content, rng: content[: int(rng.integers(len(content) or 1))]),
    "garbage": _bytes(lambda content, rng: rng.bytes(max(1, len(content)))),
    "garbage inside": _bytes(_garbage_block),
    "garbage behind": _bytes(lambda content, rng: content + rng.bytes(20)),
    "zeros inside": _bytes(lambda c, rng: c[: len(c) // 2] + bytes(20) + c[len(c) // 2 + 20 :]),
    "twice": _bytes(lambda content, rng: content + content),
    "of another run": _swapped,
    "of another epoch": _other_epoch,
    "a pipe": _special(lambda file, content: os.mkfifo(file)),
    "a socket": _special(_device),
    "a folder": _special(lambda file, content: file.mkdir()),
    "a link": _special(_linked),
    "a link to nothing": _special(lambda file, content: file.symlink_to("/nowhere/at/all")),
    "a link to itself": _special(lambda file, content: file.symlink_to(file.name)),
    "a link to zeros": _special(lambda file, content: file.symlink_to("/dev/zero")),
}


def _done(path, rng, others):
    choices = [b"", b"done\n"]
    choices += [(o / "DONE").read_bytes() for o in others if (o / "DONE").is_file()]
    (path / "DONE").write_bytes(choices[rng.integers(len(choices))])


EDITS = [
    ("seed = 0", "seed = 5"), ("epochs = 12", "epochs = 11"), ("epochs = 12", "epochs = 40"),
    ("lr = ", "lr = 1"), ("batch_size = 30", "batch_size = 20"), ("n_train = 60", "n_train = 50"),
    ('name = "set"', 'name = "static"'), ("drop_fraction = 0.3", "drop_fraction = 0.2"),
]  # fmt: skip


def _config(path, rng, others):
    file = path / "config.toml"
    old, new = EDITS[rng.integers(len(EDITS))]
    text = file.read_text()
    file.write_text(text.replace(old, new) if old in text else text + "\n# edited\n")


def _lines(change):
    def damage(path, rng, others):
        file = path / "record.jsonl"
        lines = file.read_bytes().splitlines(keepends=True)
        change(lines, int(rng.integers(1, len(lines) - 1)), rng)
        file.write_bytes(b"".join(lines))

    return damage


def _forge_line(lines, at, rng):
    """A line of other numbers, with a checksum that is right."""
    values = stamped(lines[at].rstrip())
    del values["digest"]
    values["metrics"]["test_accuracy"] = 0.99
    lines[at] = stamp(values).encode() + b"\n"


def _swap_lines(lines, at, rng):
    other = int(rng.integers(1, len(lines)))
    lines[at], lines[other] = lines[other], lines[at]
    if other == at:
        del lines[at]


def _newer(lines, at, rng):
    values = stamped(lines[0].rstrip())
    del values["digest"]
    lines[0] = stamp({**values, "schema": 3}).encode() + b"\n"


RUN_DAMAGES = {
    "a mark of the end that is not the run's": _done,
    "an edited configuration": _config,
    "a line left out": _lines(lambda lines, at, rng: lines.pop(at)),
    "the last line left out": _lines(lambda lines, at, rng: lines.pop()),
    "a line twice": _lines(lambda lines, at, rng: lines.insert(at, lines[at])),
    "the last line twice": _lines(lambda lines, at, rng: lines.append(lines[-1])),
    "the first line twice": _lines(lambda lines, at, rng: lines.insert(0, lines[0])),
    "lines in another order": _lines(_swap_lines),
    "a line forged": _lines(_forge_line),
    "a record of a newer schema": _lines(_newer),
    "no topologies": lambda path, rng, others: shutil.rmtree(path / "topology"),
    "topologies of another run": lambda path, rng, others: (
        shutil.rmtree(path / "topology"),
        shutil.copytree(others[rng.integers(len(others))] / "topology", path / "topology"),
    ),
    "a linked folder": lambda path, rng, others: (
        (path / "topology").rename(path / "moved"),
        (path / "topology").symlink_to("moved"),
    ),
}


# Checkpoints whose entries lie: as torch saves them, sealed anew, and with the record forged to
# match, so that only their content can give them away.


def _entries(**new):
    return lambda content: content.update(new)


def _optimizer(change):
    return lambda content: change(content["optimizer"])


def _less_state(optimizer):
    optimizer["state"].pop(next(iter(optimizer["state"])))


def _other_shape(optimizer):
    state = next(iter(optimizer["state"].values()))
    for key, value in state.items():
        if isinstance(value, torch.Tensor) and value.ndim:
            state[key] = value[:-1]


def _streams(content):
    streams = json.loads(content["rngs"])
    streams.pop("order")
    content["rngs"] = json.dumps(streams)


def _bad_stream(content):
    streams = json.loads(content["rngs"])
    streams["order"]["state"] = {"state": "x"}
    content["rngs"] = json.dumps(streams)


def _nan(content):
    for value in content["model"].values():
        if value.is_floating_point():
            value.fill_(float("nan"))


def _less_model(content):
    content["model"].pop(next(reversed(content["model"])))


CRAFTED = {
    "epoch -5": _entries(epoch=-5),
    "epoch 10^9": _entries(epoch=10**9),
    "epoch 0": _entries(epoch=0),
    "epoch one less": lambda content: content.update(epoch=content["epoch"] - 1),
    "epoch True": _entries(epoch=True),
    "epoch a text": _entries(epoch="3"),
    "step -1": _entries(step=-1),
    "no random stream": _streams,
    "a random stream of nonsense": _bad_stream,
    "random streams not JSON": _entries(rngs="{"),
    "random streams a list": _entries(rngs="[]"),
    "dropout stream too short": _entries(dropout=torch.zeros(3, dtype=torch.uint8)),
    "no optimizer state": _optimizer(lambda optimizer: optimizer.update(state={})),
    "less optimizer state": _optimizer(_less_state),
    "optimizer state of another shape": _optimizer(_other_shape),
    "no parameter groups": _optimizer(lambda optimizer: optimizer.update(param_groups=[])),
    "an optimizer that is none": _entries(optimizer={}),
    "weights nan": _nan,
    "less weights": _less_model,
    "no weights": _entries(model={}),
    "memory a list": _entries(memory=[1]),
    "no memory": lambda content: content.pop("memory"),
}


def crafted(path, name, how):
    file = path / "checkpoint.pt"
    original = file.read_bytes()
    about = {k: v for k, v in seal_in(original).items() if k not in ("digest", "content")}
    content = torch.load(io.BytesIO(original), weights_only=True)
    CRAFTED[name](content)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    made = buffer.getvalue()
    if how != "unsealed":
        made = seal(made, **about)
    file.write_bytes(made)
    if how == "recorded":
        record = path / "record.jsonl"
        lines = record.read_bytes().splitlines()
        values = stamped(lines[-1])
        del values["digest"]
        values["checkpoint"] = seal_in(made)["digest"]
        record.write_bytes(b"\n".join([*lines[:-1], stamp(values).encode()]) + b"\n")


# --- the campaign ---------------------------------------------------------------------------------


def plan(count, rng):
    """Names of runs and damages: each kind about equally often."""
    kinds = [("file", name) for name in FILE_DAMAGES] * 3 + [("run", name) for name in RUN_DAMAGES]
    kinds += [("checkpoint", name) for name in CRAFTED]
    chosen = [kinds[i] for i in np.resize(rng.permutation(len(kinds)), count)]
    bases = ("finished-0", "unfinished-0")  # each kind is done to both in turn
    return [(*kind, bases[(i + i // len(kinds)) % 2]) for i, kind in enumerate(chosen)]


def state_of(path):
    """Kind and content of every file, to see whether a damage changed one."""
    return {
        str(f.relative_to(path)): f.read_bytes() if f.is_file() and not f.is_symlink() else "other"
        for f in sorted(path.rglob("*"))
        if f.name not in (".lock", "topology", ".elsewhere")
    }


def damage_one(root, work, kind, name, base, rng):
    """Damage a copy of a run and return the results of its uses, and what was done."""
    path = work / base
    shutil.copytree(root / base, path)
    before = state_of(path)
    others = [root / "finished-1", root / "finished-0", root / "unfinished-1"]
    what = f"{name}"
    if kind == "file":
        files = files_of(path)
        file = files[rng.integers(len(files))]
        FILE_DAMAGES[name](file, rng, [o for o in others if o.name != base])
        what = f"{file.relative_to(path)}: {name}"
    elif kind == "run":
        RUN_DAMAGES[name](path, rng, [o for o in others if o.name != base])
    else:
        base = "unfinished-0"
        shutil.rmtree(path)
        path = work / base
        shutil.copytree(root / base, path)
        how = ("unsealed", "sealed", "recorded")[rng.integers(3)]
        crafted(path, name, how)
        what = f"checkpoint: {name}, {how}"
    after = state_of(path)
    changed = after != before
    ends = {key for key in before if before[key] != after.get(key)} == {"DONE"}
    if ends and "DONE" not in after:
        changed = False  # a run that lost its mark of the end is one that was about to end
    if kind == "checkpoint" and how == "recorded":
        changed = False  # every checksum is right: only going on can tell
    return path, base, what, changed


def campaign(count, seed):
    """Return the lines of the section; see `tests.campaigns.common.main`."""
    rng = np.random.default_rng(seed)
    totals, faults = {}, []
    with quick(), tempfile.TemporaryDirectory() as folder:
        root = make_runs(Path(folder))
        right = {}
        for base, end in (("finished-0", "finished-0"), ("unfinished-0", "whole-0")):
            right[base] = {
                "load": load(root / base),
                "analyze": analyze(root / base),
                "resume": load(root / end),
            }
        for i, (kind, name, base) in enumerate(plan(count, rng)):
            work = root / f"work-{i}"
            work.mkdir()
            path, base, what, changed = damage_one(root, work, kind, name, base, rng)
            for use, (how, why) in use_all(path, right[base], changed).items():
                totals.setdefault(use, Counter())[how] += 1
                if how in RESULTS[2:]:
                    faults.append(f"- {base}, {what}, {use}: {how} {why}")
            shutil.rmtree(work)
    rows = [[use, *(totals[use][how] for how in RESULTS)] for use in totals]
    lines = [
        f"{count} damages of finished and unfinished runs of 12 epochs: {len(FILE_DAMAGES)} kinds "
        f"done to any file, {len(RUN_DAMAGES)} to the run, {len(CRAFTED)} crafted checkpoints (as "
        "saved, sealed anew, and with the record forged to match). Each run is then used in five "
        "ways. *different* counts results that differ without a word, and damages that `verify` "
        "does not see.", "",
        *table(["use", *RESULTS], rows),
    ]  # fmt: skip
    return [*lines, "", *faults] if faults else lines


if __name__ == "__main__":
    sys.exit(main("damages", TITLE, campaign, count=1200))
