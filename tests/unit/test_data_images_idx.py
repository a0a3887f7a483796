import gzip
import struct

import numpy as np
import pytest

from topokit.data.images import read_idx


def idx(array, magic=None):
    head = struct.pack(f">{1 + array.ndim}I", magic or (2048 + array.ndim), *array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("end", ["", ".gz"])
def test_round_trip(tmp_path, rng, end):
    images = rng.integers(0, 256, (5, 3, 2)).astype(np.uint8)
    path = tmp_path / f"images{end}"
    path.write_bytes(gzip.compress(idx(images)) if end else idx(images))
    assert np.array_equal(read_idx(path, magic=2051), images)


LABELS = idx(np.arange(9))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LABELS[:-1], r"got: 8 bytes of data, not the 9 of shape \(9,\)"),
        (LABELS + b"\0", "got: more than 9 bytes of data, not the 9"),
        (LABELS[:7], "got: 7 bytes in place of an IDX header of 8 bytes"),
        (b"", "got: (an empty file|0 bytes in place)"),
        (idx(np.arange(9), 2051), "got: the IDX magic number 2051, not 2049"),
        (struct.pack(">II", 2049, 2**32 - 1), "4,294,967,295 bytes|not the 4294967295 of shape"),
    ],
)
@pytest.mark.parametrize("end", ["", ".gz"])
def test_bad_content(tmp_path, content, message, end):
    path = tmp_path / f"labels{end}"
    path.write_bytes(gzip.compress(content) if end else content)
    with pytest.raises(ValueError, match=message) as caught:
        read_idx(path, magic=2049)
    assert str(path) in str(caught.value)


def test_bad_compression(tmp_path):
    path = tmp_path / "labels.gz"
    intact = gzip.compress(LABELS)
    flipped = bytearray(intact)
    flipped[len(intact) // 2] ^= 0xFF
    for content in (LABELS, intact[:-9], bytes(flipped), intact[:5], intact[:-4] + b"\1\2\3\4"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"labels\.gz: expected an intact gzip file, got: "):
            read_idx(path, magic=2049)
