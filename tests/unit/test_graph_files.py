"""Files written as a whole, locks and safe names, also against planted links and dead writers."""

import errno
import os
import stat
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topokit.graph import files
from topokit.graph.files import is_temporary, locked, safe_name, write_atomic

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX: symbolic links, pipes and flock")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(path, text="new"):
    with write_atomic(path) as temporary:
        temporary.write_text(text)


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", [True, False])
def test_a_file_is_written_whole_and_nothing_is_left_beside_it(tmp_path, sync):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with write_atomic(path, sync=sync) as temporary:
        assert temporary.parent == tmp_path
        assert temporary != path
        assert is_temporary(temporary.name)
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyError("stop"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_content_alone(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def half():
        with write_atomic(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_before_anything_is_written_is_itself_reported(tmp_path):
    def early():
        with write_atomic(tmp_path / "file.txt"):
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        early()
    assert not list(tmp_path.iterdir())


def test_temporary_names_cannot_be_guessed(tmp_path, monkeypatch):
    with write_atomic(tmp_path / "a") as first, write_atomic(tmp_path / "a") as second:
        assert first != second
    tokens = iter(["same", "same", "other"])
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: next(tokens))
    with write_atomic(tmp_path / "a") as first, write_atomic(tmp_path / "a") as second:
        assert ["same" in first.name, "other" in second.name] == [True, True]


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_umask_decides_who_may_read(tmp_path, umask):
    before = os.umask(umask)
    try:
        write(tmp_path / "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask


def in_the_way(folder, name, kind):
    """Put what is no regular file at a path; return a file that must not change, and the path."""
    victim, path = folder / "victim", folder / name
    victim.write_text("mine")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(victim if kind == "link" else folder / "nowhere")
    return victim, path


@posix
@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "pipe"])
def test_only_regular_files_are_replaced(tmp_path, kind):
    victim, path = in_the_way(tmp_path, "file", kind)
    before = path.lstat()
    with pytest.raises(ValueError, match=r"expected a file or nothing at .*file, found a"):
        write(path)
    assert path.lstat() == before
    assert victim.read_text() == "mine"
    assert names(tmp_path) == ["file", "victim"]


@posix
def test_a_planted_link_is_not_followed_while_writing(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_text("mine")

    def planted():
        with write_atomic(path) as temporary:
            temporary.write_text("new")
            path.symlink_to(victim)

    with pytest.raises(ValueError, match="found a symbolic link"):
        planted()
    assert victim.read_text() == "mine"
    assert names(tmp_path) == ["file", "victim"]


@pytest.mark.parametrize(
    "raised",
    [OSError(errno.ENOSPC, "in words of a library"), OSError(errno.EDQUOT, "q", "TEMPORARY")],
)
def test_errors_name_the_file_and_not_the_temporary_one(tmp_path, raised):
    def full():
        with write_atomic(tmp_path / "file") as temporary:
            if raised.filename:
                raised.filename = str(temporary)
            raise raised

    with pytest.raises(OSError, match=os.strerror(raised.errno)) as caught:
        full()
    assert caught.value.filename == str(tmp_path / "file")
    assert names(tmp_path) == []
    with pytest.raises(FileNotFoundError) as caught:
        write(tmp_path / "no folder" / "file")
    assert caught.value.filename == str(tmp_path / "no folder" / "file")


def test_errors_about_other_files_are_left_alone(tmp_path):
    def other():
        with write_atomic(tmp_path / "file"):
            (tmp_path / "source").read_text()

    with pytest.raises(FileNotFoundError) as caught:
        other()
    assert caught.value.filename == str(tmp_path / "source")


def test_content_and_name_are_on_the_disk(tmp_path, monkeypatch):
    flushed = []
    fsync = os.fsync

    def record(descriptor):
        flushed.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), names(tmp_path)))
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", record)
    write(tmp_path / "file")
    (content, before), (folder, after) = flushed
    assert (content, folder, after) == (False, True, ["file"])
    assert all(is_temporary(name) for name in before)
    with write_atomic(tmp_path / "file", sync=False):
        pass
    assert len(flushed) == 2


# --- files that dead writers left -----------------------------------------------------------------

KILLED = """
import os, sys
from topokit.graph.files import write_atomic
with write_atomic(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    if sys.argv[2] == "dies":
        os.kill(os.getpid(), 9)
    sys.stdin.readline()
"""


def writer(path, what):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), what],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "writing\n"
    return process


@posix
def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_else(tmp_path):
    (tmp_path / ".topokit-tmp-notes").write_text("not ours: another ending")
    (tmp_path / ".checkpoint.pt.tmp").write_text("not ours: another beginning")
    (tmp_path / ".topokit-tmp-link.tmp").symlink_to(tmp_path / ".checkpoint.pt.tmp")
    (tmp_path / ".topokit-tmp-folder.tmp").mkdir()
    mine = names(tmp_path)
    with writer(tmp_path / "b", "waits") as alive, writer(tmp_path / "a", "dies") as dead:
        dead.wait()
        assert len(names(tmp_path)) == len(mine) + 2
        write(tmp_path / "c")
        left = [name for name in names(tmp_path) if name not in mine]
        assert len(left) == 2
        assert left[1] == "c"
        alive.communicate("\n")
        assert alive.returncode == 0
    assert names(tmp_path) == sorted([*mine, "b", "c"])
    assert (tmp_path / "b").read_text() == "half"


@posix
def test_without_locks_only_old_temporary_files_are_removed(tmp_path, monkeypatch):
    def none(descriptor, flags):
        raise OSError(errno.ENOLCK, "no locks")

    old, new = (tmp_path / f".topokit-tmp-{name}.tmp" for name in ("old", "new"))
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 90_000,) * 2)
    monkeypatch.setattr(files.fcntl, "flock", none)
    write(tmp_path / "a")
    assert names(tmp_path) == [new.name, "a"]


@posix
def test_a_temporary_file_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    flock, seen = files.fcntl.flock, []

    def remove_first(descriptor, flags):
        if not seen:
            seen.extend(tmp_path.iterdir())
            seen[0].unlink()
        flock(descriptor, flags)

    monkeypatch.setattr(files.fcntl, "flock", remove_first)
    write(tmp_path / "a")
    assert names(tmp_path) == ["a"]
    assert len(seen) == 1


# --- locks ----------------------------------------------------------------------------------------


def test_a_second_holder_is_refused_until_the_first_ends(tmp_path):
    path = tmp_path / ".lock"
    with (
        locked(path, what="the run r"),
        pytest.raises(ValueError, match="another process is writing to the run r; wait"),
        locked(path, what="the run r"),
    ):
        raise AssertionError
    with (
        locked(path),
        pytest.raises(ValueError, match=f"writing to {tmp_path}"),
        locked(path),
    ):
        raise AssertionError
    with locked(path):
        pass


@posix
def test_the_lock_ends_with_its_process(tmp_path):
    code = (
        "import os, sys\nfrom topokit.graph.files import locked\n"
        "with locked(sys.argv[1]):\n    print('held', flush=True)\n    sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with (
            pytest.raises(ValueError, match="another process is writing"),
            locked(tmp_path / ".lock"),
        ):
            raise AssertionError
        process.kill()
    with locked(tmp_path / ".lock"):
        pass


@posix
@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "pipe"])
def test_a_lock_is_a_file_of_its_own(tmp_path, kind):
    victim, path = in_the_way(tmp_path, ".lock", kind)
    with pytest.raises(ValueError, match="found a"), locked(path):
        raise AssertionError
    assert victim.read_text() == "mine"
    assert names(tmp_path) == [".lock", "victim"]


def test_a_file_used_as_a_lock_keeps_its_content(tmp_path):
    (tmp_path / ".lock").write_text("mine")
    with locked(tmp_path / ".lock"):
        pass
    assert (tmp_path / ".lock").read_text() == "mine"


@posix
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_other_errors_of_locking_are_not_another_process(tmp_path, monkeypatch, number):
    def fail(descriptor, flags):
        raise OSError(number, "?")

    monkeypatch.setattr(files.fcntl, "flock", fail)
    with pytest.raises(OSError, match="cannot lock the file") as caught, locked(tmp_path / ".lock"):
        raise AssertionError
    assert os.strerror(number) in caught.value.strerror
    assert caught.value.filename == str(tmp_path / ".lock")
    with pytest.raises(FileNotFoundError), locked(tmp_path / "none" / ".lock"):
        raise AssertionError


@posix
def test_a_lock_file_removed_in_between_is_made_again(tmp_path, monkeypatch):
    flock, seen = files.fcntl.flock, []

    def remove_first(descriptor, flags):
        if not seen:
            seen.append((tmp_path / ".lock").unlink())
        flock(descriptor, flags)

    monkeypatch.setattr(files.fcntl, "flock", remove_first)
    with (
        locked(tmp_path / ".lock"),
        pytest.raises(ValueError, match="another"),
        locked(tmp_path / ".lock"),
    ):
        raise AssertionError


# --- names ----------------------------------------------------------------------------------------

ODD = [
    "", ".", "..", ".hidden", "-rf", "a/b", "a\\b", "x/../../../victim/holiday", "a..b", "a.",
    "a ", "a\n", "\x00", "\x1b[31m", "CON", "nul.txt", "Lpt1", "é", "層", "\ud800", "a" * 101, "~",
]  # fmt: skip


@pytest.mark.parametrize("name", ["fc1", "features.0", "layer1.0.conv2", "a-b_c+d=e,f", "a" * 100])
def test_plain_names_stay(name):
    assert safe_name(name) == name


@pytest.mark.parametrize("name", ODD)
def test_odd_names_become_safe(name):
    _is_safe(safe_name(name))
    assert safe_name(name) != name


def test_different_names_stay_different():
    odd = [*ODD, *map(safe_name, ODD), "a/b", "a_b", "a:b", "a" * 102]
    assert len({safe_name(name) for name in odd}) == len(set(odd))


def test_names_that_differ_in_case_only():
    layers = ["FC1", "fc1", "fc2"]
    found = [safe_name(name, among=layers) for name in layers]
    assert len({name.casefold() for name in found}) == 3
    assert found[2] == "fc2"


@settings(max_examples=50, deadline=None)
@given(st.text(), st.text())
@pytest.mark.slow
def test_any_names(first, second):
    _is_safe(safe_name(first))
    assert (safe_name(first) == safe_name(second)) == (first == second)


def _is_safe(name):
    assert 1 <= len(name) <= 100
    assert name[0] not in ".-"
    assert name[-1] not in ". "
    assert ".." not in name
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+=,.-~")
    assert name.partition(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT1"}
