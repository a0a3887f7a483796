import io
import os

import numpy as np
import pytest
import torch

from topokit.graph.checksums import read_file, read_seal, seal, stamp, stamped, unseal


def archives():
    buffer = io.BytesIO()
    np.savez_compressed(buffer, ids=np.arange(50))
    yield buffer.getvalue()
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(5)}, buffer)
    yield buffer.getvalue()


def test_a_flip_of_any_bit_of_a_line_is_found():
    line = stamp({"epoch": 3, "metrics": {"loss": 0.25}, "bad": float("nan")}).encode()
    assert stamped(line)["metrics"] == {"loss": 0.25}
    for bit in range(8 * len(line)):
        flipped = bytearray(line)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match=r"checksum|empty"):
            stamped(bytes(flipped))


@pytest.mark.parametrize("archive", list(archives()), ids=["numpy", "torch"])
def test_a_flip_of_any_bit_of_a_sealed_file_is_found(archive, tmp_path):
    sealed = seal(archive, run="r", epoch=3)
    about = unseal(sealed)
    assert (about["run"], about["epoch"]) == ("r", 3)
    for bit in range(0, 8 * len(sealed), 7):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            found = unseal(bytes(flipped))
        except ValueError:
            continue
        assert found is None, "a damaged file may count as one without a seal, never as sealed"
    (tmp_path / "file").write_bytes(sealed)
    assert read_seal(tmp_path / "file") == about
    assert unseal(seal(sealed, run="other"))["run"] == "other"
    assert unseal(archive) is None


def test_sealed_files_stay_files_of_numpy_and_torch():
    arrays, weights = (seal(archive, run="r") for archive in archives())
    assert np.load(io.BytesIO(arrays))["ids"].tolist() == list(range(50))
    assert torch.load(io.BytesIO(weights), weights_only=True)["weight"].sum() == 5


def test_what_is_no_regular_file_is_refused_and_not_opened(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert read_file(tmp_path / "file", last=3) == b"ent"
    for name in ("link", "folder", "pipe"):
        with pytest.raises(ValueError, match=rf"regular file at .*, found a {name}"):
            read_file(tmp_path / name)
    with pytest.raises(ValueError, match="device or socket"):
        read_file(tmp_path.__class__("/dev/zero"))
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none")
