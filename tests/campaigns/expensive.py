"""Files of nearly 50 MB that are made to be expensive, and small ones that claim to be large.

    python tests/campaigns/expensive.py

Each is read in a process of its own, whose computing time and memory are measured. The bounds are
20 seconds and 2 GB.
"""

import gzip
import json
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.campaigns import common
from tests.campaigns.mutations import read_all, saved


def expensive(folder):
    """Write files of nearly 50 MB, or of a few bytes that claim more, and yield them."""
    big = 49 * 10**6

    def put(name, raw):
        (folder / name).write_bytes(raw)
        return folder / name

    def zipped(name, members, method=zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(folder / name, "w", method) as archive:
            for member, content in members:
                archive.writestr(member, content)
        return folder / name

    def npy(array):
        return saved(np.save, array)

    ones = big // 7000 * 7000
    header = {"a.weight": {"dtype": "I8", "shape": [ones // 7000, 7000], "data_offsets": [0, ones]}}
    text = json.dumps(header).encode()
    yield (
        "safetensors",
        put("dense.safetensors", len(text).to_bytes(8, "little") + text + b"\1" * ones),
    )
    entries = {
        f"{i}": {"dtype": "U8", "shape": [1, 1], "data_offsets": [i, i + 1]} for i in range(600_000)
    }
    text = json.dumps(entries).encode()
    yield (
        "safetensors",
        put("many.safetensors", len(text).to_bytes(8, "little") + text + bytes(600_000)),
    )
    head = b"%%MatrixMarket matrix coordinate pattern general\n"
    yield "Matrix Market", put("long.mtx", head + b"3000 4000 12000000\n" + b"1 1\n" * 12_000_000)
    symmetric = head.replace(b"general", b"symmetric")
    yield "Matrix Market", put("sym.mtx", symmetric + b"9 9 12000000\n" + b"1 2\n" * 12_000_000)
    count = 29_000_000
    index = np.random.default_rng(0).integers(0, 100, count).astype(np.int8)
    members = {
        "format.npy": npy(np.array(b"coo")), "shape.npy": npy(np.array([200, 200])),
        "row.npy": npy(index), "col.npy": npy(index[::-1].copy()),
        "data.npy": npy(np.ones(count, np.int8)),
    }  # fmt: skip
    yield "scipy coo .npz", zipped("wide.npz", members.items())
    yield "dense .npz", zipped("bomb.npz", [("a.npy", npy(np.ones((20_000, 20_000), bool)))])
    many = [(f"{i}.npy", npy(np.ones((1, 1), bool))) for i in range(200_000)]
    yield "dense .npz", zipped("members.npz", many, zipfile.ZIP_STORED)
    edges = b'<edge source="a" target="b"/>' * (big // 30)
    nodes = b'<node id="a"><data key="k">0</data></node><node id="b"><data key="k">1</data></node>'
    start = b'<graphml><key id="k" for="node" attr.name="bipartite"/><graph>'
    yield "GraphML", put("edges.graphml", start + nodes + edges + b"</graph></graphml>")
    nodes = b"".join(b'<node id="%d"/>' % i for i in range(2_400_000))
    yield "GraphML", put("nodes.graphml", start + nodes + b"</graph></graphml>")
    yield "GraphML", put("deep.graphml", start + b"<a>" * (big // 3))
    start = b'<gexf><graph><attributes class="node"><attribute id="k" title="type"/></attributes>'
    nodes = b"".join(b'<node id="%d"/>' % i for i in range(2_400_000))
    yield "GEXF", put("nodes.gexf", start + nodes + b"</graph></gexf>")
    value = b'<attvalue for="k" value="1"/>'
    nodes = b"".join(b'<node id="%d">%b</node>' % (i, value) for i in range(big // 56))
    yield "GEXF", put("values.gexf", start + nodes + b"</graph></gexf>")
    body = b"\x80\x02}q\0(" + b"K\1K\1" * 2_000_000
    yield "torch .pt", zipped("ops.pt", [("a/data.pkl", body + b"u."), ("a/version", b"3")])
    yield (
        "torch .pt",
        zipped("bomb.pt", [("a/data.pkl", b"\x80\x02}."), ("a/data/0", bytes(3 * 10**9))]),
    )
    yield "torch .bin, before 1.6", put("ops.bin", b"\x80\x02]" + b"]" * big)
    yield "data .csv", put("long.csv", b"a,b\n" + b"1,1\n2,2\n" * (big // 8))
    text = b"a,b\n" + b"".join(b"%d,%d\n" % (i % 7, i // 3) for i in range(5_200_000))
    yield "data .csv", put("classes.csv", text[: text.rindex(b"\n", 0, big) + 1])
    numbers = np.random.default_rng(0).permutation(5_400_000)
    yield "data .csv", put("index.csv", b",b\n" + b"".join(b"%d,1\n" % i for i in numbers)[:big])
    yield "data .csv", put("wide.csv", b",".join([b"a"] * 20_000_000) + b"\n")
    text = b"a,b\n" + b"".join(b"x%d,1\n" % i for i in range(5_000_000))
    yield "data .csv", put("words.csv", text[:big])
    zeros = bytes(10**6)
    with gzip.open(folder / "bomb-idx.gz", "wb") as file:
        file.write(bytes([0, 0, 8, 3, 0, 0, 0x27, 0x10, 0, 0, 0x27, 0x10, 0, 0, 0, 40]))
        for _ in range(4000):
            file.write(zeros)
    yield "data IDX, gzip", folder / "bomb-idx.gz"
    import scipy.io

    content = {"X": np.zeros((20_000, 20_000), np.int8), "Y": np.zeros((20_000, 1))}
    scipy.io.savemat(folder / "bomb.mat", content, do_compression=True)
    yield "data .mat", folder / "bomb.mat"
    yield "recipe", put("long.toml", b"x = [" + b"[" * big)
    yield "recipe", put("keys.toml", b"".join(b"a%d = 1\n" % i for i in range(25_000)))
    yield "recipe", put("dots.toml", b"a" + b".a" * 100_000 + b" = 1")


def campaign(count, seed):
    """Return the lines of the table; `count` and `seed` have no effect."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for reader, path in expensive(Path(folder)):
            size = path.stat().st_size
            _, _, row = next(iter(read_all([(reader, path)])))
            words = row["text"].replace(f"{path.parent}/", "")[:120].replace("|", " ")
            found = [path.name, f"{size / 1e6:.2f}", row["outcome"]]
            rows.append([*found, f"{row['s']:.1f}", f"{row['mb']:.0f}", words])
            print(*rows[-1], file=sys.stderr, flush=True)
            path.unlink()
    return common.table(["file", "MB", "outcome", "s", "memory (MB)", "message"], rows)


if __name__ == "__main__":
    sys.exit(common.main("expensive", "Expensive files", campaign, count=1))
