"""Mutated files: every reader either reads a file or refuses it in one sentence.

    python tests/campaigns/mutations.py --count 1500 --seed 0

For each reader, files of several kinds are written, mutated at random (bits, bytes, lengths,
numbers, parts cut out or repeated; within archives as well, with right checksums), and read in a
process of its own. Counted are crashes and hangs of that process, exceptions other than the one
sentence that names the file, the slowest file (seconds of computing) and the largest memory of the
process.
"""

import gzip
import io
import itertools
import json
import os
import re
import resource
import select
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.campaigns import common

SECONDS, MEGABYTES = 20, 2048


# --- files to begin with ------------------------------------------------------------------------


def topology():
    import topokit as tk

    return tk.generate([12, 9, 5], "erdos_renyi", density=0.3, rng=0)


def matrix(kind):
    import scipy.sparse as sp

    rng = np.random.default_rng(1)
    dense = np.round(rng.random((12, 8)) * (rng.random((12, 8)) < 0.3), 3)
    dense[0, 0] = 1.5
    return (
        sp.bsr_array(dense, blocksize=(3, 2))
        if kind == "bsr"
        else sp.csr_array(dense).asformat(kind)
    )


def states():
    import torch
    from torch import nn
    from torch.nn.utils import prune

    from topokit.nn.models import MODELS

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(6, 5), nn.LSTM(5, 3))
    prune.random_unstructured(model[1], "weight", 0.5)
    dense = model.state_dict()
    nested = {"model": dense, "masks": {"0.weight": torch.ones(2, 1, 3, 3)}, "epoch": 3}
    square = torch.eye(5)[:, :4]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are in beta
        sparse = {
            "a.weight": square.to_sparse_coo(),
            "b.weight": square.to_sparse_csr(),
            "c.weight": square.to_sparse_csc(),
        }
    return dense, nested, sparse, MODELS["set_mlp"](topology(), rng=0).state_dict()


def safetensors(state):
    import torch

    names = {
        torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.int32: "I32",
        torch.float16: "F16", torch.bool: "BOOL", torch.uint8: "U8",
    }  # fmt: skip
    header, raw = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in state.items():
        piece = tensor.contiguous().numpy().tobytes()
        place = [len(raw), len(raw) + len(piece)]
        header[name] = {
            "dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place,
        }  # fmt: skip
        raw += piece
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + raw


def saved(write, *arguments, **keywords):
    """What a function writes into a file that it is given."""
    buffer = io.BytesIO()
    write(buffer, *arguments, **keywords)
    return buffer.getvalue()


def graphmls():
    import networkx as nx

    import topokit as tk

    graph = tk.to_networkx(topology())
    yield "\n".join(nx.generate_graphml(graph)).encode()
    sides = nx.complete_bipartite_graph(4, 3)
    nx.set_node_attributes(sides, {n: n > 3 for n in sides}, "type")
    for node in sides:
        del sides.nodes[node]["bipartite"]
    yield "\n".join(nx.generate_graphml(sides)).encode()
    yield (
        b'<graphml><key id="k" for="node" attr.name="bipartite"><default>0</default></key><graph>'
        b'<node id="a"/><node id="b"><data key="k">1</data></node><edge source="a" target="b"/>'
        b"</graph></graphml>"
    )


def gexfs():
    import networkx as nx

    import topokit as tk

    graph = tk.to_networkx(topology())
    yield "\n".join(nx.generate_gexf(graph)).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "own.gexf"
        tk.save_topology(path, topology())
        yield path.read_bytes()
    yield (
        b'<gexf version="1.3"><graph mode="static"><attributes class="node"><attribute id="0" '
        b'title="type" type="boolean"><default>false</default></attribute></attributes><nodes>'
        b'<node id="a"/><node id="b"><attvalues><attvalue for="0" value="true"/></attvalues>'
        b'</node></nodes><edges><edge source="a" target="b"/></edges></graph></gexf>'
    )


def markets():
    import scipy.io

    coo = matrix("coo")
    yield saved(scipy.io.mmwrite, coo)
    yield saved(scipy.io.mmwrite, coo, field="integer")
    yield saved(scipy.io.mmwrite, coo, field="pattern")
    yield saved(scipy.io.mmwrite, coo.toarray())
    yield saved(scipy.io.mmwrite, coo.tocsr()[:8] + coo.tocsr()[:8].T)
    yield saved(scipy.io.mmwrite, coo.astype(complex))


def arrays():
    rng = np.random.default_rng(2)
    return rng.random((30, 4)), np.arange(30) % 3


def tables():
    x, y = arrays()
    rows = [
        ",".join(f"{v:.4f}" for v in row) + f",{label}" for row, label in zip(x, y, strict=True)
    ]
    yield "\n".join(["a,b,c,d,kind", *rows]).encode()
    yield "\n".join(["a;b;c;d;kind", *(row.replace(",", ";") for row in rows)]).encode()


def mats():
    import scipy.io

    x, y = arrays()
    for compressed in (False, True):
        content = {"X": x, "Y": y[:, None].astype(np.uint8), "text": "abc"}
        yield saved(scipy.io.savemat, content, do_compression=compressed)


def recipes(folder):
    import topokit

    found = sorted((Path(topokit.__file__).parent / folder).glob("*.toml"))
    return [path.read_bytes() for path in found[:4]]


def higgs():
    rng = np.random.default_rng(3)
    rows = np.column_stack([np.arange(20) % 2, rng.normal(size=(20, 28)).astype(np.float32)])
    return "".join(",".join(f"{v:.18e}" for v in row) + "\n" for row in rows).encode()


def isolet():
    rng = np.random.default_rng(4)
    rows = rng.uniform(-1, 1, (6, 617))
    lines = [", ".join(f"{v:.4f}" for v in row) + f", {i + 1}.\n" for i, row in enumerate(rows)]
    return "".join(lines).encode()


def binary(form):
    rows = np.random.default_rng(5).integers(0, 2, (12, 8)).astype(int)
    if form == "libsvm":
        lines = [" ".join(["+1", *(f"{i + 1}:1" for i in np.flatnonzero(row))]) for row in rows]
    elif form == "amat":
        lines = [" ".join(map(str, [*row, 1])) for row in rows]
    else:
        lines = [",".join(map(str, row)) for row in rows]
    return "\n".join([*lines, ""]).encode()


def made():
    x = np.random.default_rng(5).integers(0, 2, (12, 8)).astype(np.float32)
    return [saved(np.savez, train_data=x, test_data=x, inputsize=8)]


def counts():
    rows = np.argwhere(np.random.default_rng(6).random((9, 15)) < 0.5) + 1
    return "".join(f"{i} {j} {1 + i * j % 3}\n" for i, j in rows).encode()


def cifar100():
    pixels = np.random.default_rng(7).integers(0, 256, (3, 3072))
    return np.column_stack([np.arange(3), np.arange(3) * 5, pixels]).astype(np.uint8).tobytes()


def idx():
    return bytes([0, 0, 8, 3, 0, 0, 0, 5, 0, 0, 0, 4, 0, 0, 0, 4]) + bytes(range(80))


def beginnings():
    """Of each reader: the ending of its files, and files to mutate."""
    import scipy.sparse as sp
    import torch

    import topokit as tk
    from topokit.experiments.study import STUDIES

    with tempfile.TemporaryDirectory() as folder:
        tk.save_topology(f"{folder}/t.npz", topology())
        own = Path(f"{folder}/t.npz").read_bytes()
    dense, nested, sparse, layers = states()
    mask = np.asarray(matrix("csr").toarray() != 0)
    x, y = arrays()
    found = {"topology .npz": (".npz", [own])}
    for kind in ("csr", "csc", "coo", "dia", "bsr"):
        packed = (saved(sp.save_npz, matrix(kind), compressed=c) for c in (True, False))
        found[f"scipy {kind} .npz"] = (".npz", list(packed))
    found |= {
        "dense .npz": (".npz", [saved(np.savez, fc1=mask, fc2=mask.T.astype(float))]),
        "dense .npy": (".npy", [saved(np.save, mask), saved(np.save, np.asfortranarray(x))]),
        "Matrix Market": (".mtx", list(markets())),
        "GraphML": (".graphml", list(graphmls())),
        "torch .pt": (".pt", [saved_torch(dense), saved_torch(layers)]),
        "torch .ckpt, nested": (".ckpt", [saved_torch(nested)]),
        "torch .pth, sparse": (".pth", [saved_torch(sparse)]),
        "torch .bin, before 1.6": (
            ".bin",
            [saved_torch(nested, False), saved_torch(sparse, False)],
        ),
        "safetensors": (".safetensors", [safetensors(dense), safetensors(layers)]),
        "data .csv": (".csv", list(tables())),
        "data .npz": (
            ".npz",
            [
                saved(np.savez, x=x, y=y),
                saved(np.savez_compressed, x_train=x, y_train=y, x_test=x, y_test=y),
            ],
        ),
        "data .mat": (".mat", list(mats())),
        "data IDX": ("-idx", [idx()]),
        "data IDX, gzip": ("-idx.gz", [gzip.compress(idx())]),
        "recipe": (".toml", recipes("recipes")),
        "study": (".toml", [path.read_bytes() for path in list(STUDIES.values())[:4]]),
        "GEXF": (".gexf", list(gexfs())),
        "data HIGGS": (".csv", [higgs()]),
        "data HIGGS, gzip": (".csv.gz", [gzip.compress(higgs())]),
        "data Isolet": (".data", [isolet()]),
        "data binary, commas": (".data", [binary("commas")]),
        "data binary, spaces": (".amat", [binary("amat")]),
        "data binary, LIBSVM": (".libsvm", [binary("libsvm")]),
        "data binary, .npz": (".npz", made()),
        "data word counts": (".data", [counts()]),
        "data CIFAR-100": (".bin", [cifar100()]),
    }
    assert torch.__version__
    return found


def saved_torch(state, archive=True):
    import torch

    return saved(lambda f: torch.save(state, f, _use_new_zipfile_serialization=archive))


# --- mutations ----------------------------------------------------------------------------------

SIZES = [2**k + d for k in (7, 8, 15, 16, 31, 32, 62, 63) for d in (-1, 0)] + [0, 1, 2**64 - 1]
WORDS = [
    b"-1", b"0", b"1e999", b"nan", b"0.9", b"99999999999999999999", b"2147483647", b"2147483648",
    b"4294967296", b"9223372036854775807", b"1000000000000", b"1j", b"",
]  # fmt: skip


def mutated(raw, rng, other):
    """Return bytes with one to four random changes; inside an archive half of the time."""
    inner = rng.random() < 0.5
    if inner and raw[:2] == b"PK":
        return _archive(raw, rng)
    if inner and raw[:2] == b"\x1f\x8b":
        return gzip.compress(mutated(gzip.decompress(raw), rng, other))
    if inner and raw[126:128] == b"IM":
        return _mat(raw, rng)
    for _ in range(int(rng.integers(1, 5))):
        change = CHANGES[int(rng.integers(len(CHANGES)))]
        raw = change(raw, rng, other) if raw else bytes(rng.bytes(8))
    return raw


def _span(raw, rng, longest=64):
    start = int(rng.integers(len(raw)))
    return start, start + int(rng.integers(1, longest))


def _bits(raw, rng, other):
    found = bytearray(raw)
    for _ in range(int(rng.integers(1, 9))):
        found[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
    return bytes(found)


def _bytes(raw, rng, other):
    start, end = _span(raw, rng, 9)
    return raw[:start] + rng.bytes(end - start) + raw[end:]


def _cut(raw, rng, other):
    return raw[: int(rng.integers(len(raw)))]


def _drop(raw, rng, other):
    start, end = _span(raw, rng)
    return raw[:start] + raw[end:]


def _repeat(raw, rng, other):
    start, end = _span(raw, rng, max(2, len(raw)))
    return raw[:end] + raw[start:end] * int(rng.integers(1, 4)) + raw[end:]


def _zeros(raw, rng, other):
    start, _ = _span(raw, rng)
    return raw[:start] + bytes(int(rng.integers(1, 20))) + raw[start:]


def _length(raw, rng, other):
    size, order = (4, 8)[int(rng.integers(2))], ("little", "big")[int(rng.integers(2))]
    start = int(rng.integers(max(1, len(raw) - size)))
    value = SIZES[int(rng.integers(len(SIZES)))] % 2 ** (8 * size)
    return raw[:start] + value.to_bytes(size, order) + raw[start + size :]


def _number(raw, rng, other):
    places = list(itertools.islice(re.finditer(rb"\d+", raw), 3000))
    if not places:
        return _length(raw, rng, other)
    at = places[int(rng.integers(len(places)))]
    return raw[: at.start()] + WORDS[int(rng.integers(len(WORDS)))] + raw[at.end() :]


def _splice(raw, rng, other):
    start, _ = _span(raw, rng)
    begin, end = _span(other, rng, max(2, len(other)))
    return raw[:start] + other[begin:end] + raw[start:]


CHANGES = [_bits, _bytes, _cut, _drop, _repeat, _zeros, _length, _number, _number, _splice]


def _archive(raw, rng):
    """Change a member of a zip archive, or the list of members; the checksums are right."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = [[m.filename, archive.read(m), m.compress_type] for m in archive.infolist()]
    at = int(rng.integers(len(members)))
    what = int(rng.integers(12))
    if what == 0:
        del members[at]
    elif what == 1:
        members.append(list(members[at]))
    elif what == 2:
        members[at][0] = members[int(rng.integers(len(members)))][0]
    elif what == 3:
        members[at][2] = (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED)[at % 3]
    else:
        pickles = [i for i, member in enumerate(members) if member[0].endswith(".pkl")]
        at = pickles[0] if pickles and rng.random() < 0.5 else at
        members[at][1] = mutated(members[at][1], rng, members[0][1])
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that come twice
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content, method in members:
                archive.writestr(name, content, compress_type=method)
    return buffer.getvalue()


def _mat(raw, rng):
    """Change the content of a compressed variable, or the file if it has none."""
    kind, length = np.frombuffer(raw, "<u4", 2, 128)
    if kind != 15:
        return _bits(raw, rng, raw)
    content = zlib.compress(mutated(zlib.decompress(raw[136 : 136 + length]), rng, raw))
    head = np.array([15, len(content)], "<u4").tobytes()
    return raw[:128] + head + content + raw[136 + length :]


# --- reading in a process of its own ------------------------------------------------------------


def read(reader, path):
    """Read a file as users do."""
    if reader.startswith("data"):
        return read_data(reader, path)
    if reader in ("recipe", "study"):
        from topokit.experiments.config import load_recipe
        from topokit.experiments.study import load_study

        return (load_recipe if reader == "recipe" else load_study)(path)
    import topokit as tk

    return tk.topology_of(path)


def read_data(reader, path):
    import topokit as tk
    from topokit.data.binary import read_binary, read_made
    from topokit.data.features import _read_mat, read_isolet
    from topokit.data.higgs import read_higgs
    from topokit.data.images import read_idx, read_records
    from topokit.data.newsgroups import read_counts

    if reader == "data .mat":
        return _read_mat(Path(path))
    if reader.startswith("data HIGGS"):
        return read_higgs(Path(path), np.arange(20) % 3 > 0)
    if reader == "data Isolet":
        return read_isolet(Path(path), 6)
    if reader == "data binary, .npz":
        return read_made(Path(path), (12, 12), 8)
    if reader.startswith("data binary"):
        return read_binary(Path(path), 12, 8)
    if reader == "data word counts":
        return read_counts(Path(path), 9, 15)
    if reader == "data CIFAR-100":
        return read_records(Path(path), {"coarse labels": 20, "fine labels": 100}, 3)
    if reader.startswith("data IDX"):
        return read_idx(path, magic=2051)
    return tk.load_data(reader[6:], rng=0, path=path)


def child():
    """Read the files named on standard input; a line of JSON for each on standard output."""
    import topokit.read  # noqa: F401  (imported before the clock starts)

    warnings.simplefilter("ignore")
    report = os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        reader, path = line.rstrip("\n").split("\t")
        report.write(json.dumps({"begin": path}) + "\n")
        start = time.process_time()
        try:
            read(reader, path)
            outcome, text = "read", ""
        except (ValueError, FileNotFoundError) as error:
            text = str(error)
            clear = "\n" not in text and text.isprintable() and Path(path).name in text
            outcome = "refused" if clear else "unclear"
        except BaseException as error:
            outcome, text = "uncaught", f"{type(error).__name__}: {error}"
        peak = _peak()
        seconds = time.process_time() - start
        row = {"path": path, "outcome": outcome, "text": text[:300], "s": seconds, "mb": peak}
        report.write(json.dumps(row) + "\n")


def _peak():
    """Largest memory of this process in MB; `getrusage` begins with that of the parent."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def read_all(jobs):
    """Yield (reader, path, row) of each file, with a new process after a crash or a hang."""
    jobs = list(jobs)
    while jobs:
        process = subprocess.Popen(
            [sys.executable, __file__, "--child"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        try:
            lines = _lines(process)
            done = 0
            for reader, path in jobs:
                process.stdin.write(f"{reader}\t{path}\n".encode())
                process.stdin.flush()
                row = {"outcome": "crash", "text": "", "s": 0.0, "mb": 0.0}
                for line in lines:
                    found = json.loads(line) if line else {"outcome": "hang", "s": SECONDS}
                    if "outcome" in found:
                        row |= found
                        break
                done += 1
                yield reader, path, row
                if row["outcome"] in ("crash", "hang"):
                    break
            jobs = jobs[done:]
        finally:
            process.kill()
            process.stdin.close()
            process.wait()
            process.stdout.close()


def _lines(process):
    """Yield lines of a process; "" if it computes or waits too long without one."""
    rest, busy, since = b"", _computed(process), time.monotonic()
    while True:
        ready, _, _ = select.select([process.stdout], [], [], 1)
        if not ready:
            if _computed(process) - busy > 2 * SECONDS or time.monotonic() - since > 900:
                yield ""
            continue
        block = os.read(process.stdout.fileno(), 2**16)
        if not block:
            return
        *whole, rest = (rest + block).split(b"\n")
        yield from (line.decode() for line in whole)
        busy, since = _computed(process), time.monotonic()


def _computed(process):
    """Seconds that a process has computed; waiting for a busy machine does not count."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- the campaign -------------------------------------------------------------------------------


def campaign(count, seed):
    """Return the lines of the tables."""
    rows = [tally(reader, found) for reader, found in attacked(count, seed).items()]
    head = ["reader", "files", "read", "refused", "unclear", "uncaught", "crashes", "hangs"]
    return common.table([*head, "slowest (s)", "memory (MB)"], rows)


def attacked(count, seed):
    """Return, for each reader, the outcomes of its mutated files."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        jobs = []
        only = os.environ.get("ONLY", "").split(",")  # some readers, to try a change
        for i, (reader, (ending, files)) in enumerate(beginnings().items()):
            if only != [""] and reader not in only:
                continue
            for k in range(count):
                rng = np.random.default_rng([seed, i, k])
                raw = files[k % len(files)]
                path = Path(folder) / f"{i:02d}-{k:05d}{ending}"
                path.write_bytes(mutated(raw, rng, files[(k + 1) % len(files)]))
                jobs.append((reader, path))
            results[reader] = []
            if count >= 100:  # a process for each reader, so that memory is that of the reader
                _read_into(results, jobs)
                jobs = []
        _read_into(results, jobs)
    return results


def _read_into(results, jobs):
    for reader, path, row in read_all(jobs):
        results[reader].append(row)
        bad = row["outcome"] in ("unclear", "uncaught", "crash", "hang")
        if bad and (keep := os.environ.get("KEEP")):
            Path(keep, path.name).write_bytes(path.read_bytes())
            print(reader, path.name, row["outcome"], row["text"], file=sys.stderr)
        path.unlink()


def tally(reader, rows):
    kinds = ("read", "refused", "unclear", "uncaught", "crash", "hang")
    counts = [sum(row["outcome"] == kind for row in rows) for kind in kinds]
    slowest = max(row["s"] for row in rows)
    return [reader, len(rows), *counts, f"{slowest:.2f}", f"{max(row['mb'] for row in rows):.0f}"]


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        child()
    else:
        sys.exit(common.main("mutations", "Mutated files", campaign, count=1500))
