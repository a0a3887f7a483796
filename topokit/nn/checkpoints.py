"""Reading the tensors of torch checkpoints and of safetensors files; nothing is executed."""

from __future__ import annotations

import io
import json
import math
import os
import pickletools
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

import torch

from topokit.foreign import Reading, first_few, open_regular, open_zip, printable, size_of

__all__ = ["read_safetensors", "read_torch"]

_SAFETENSORS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.int64, "U32": torch.int32, "U16": torch.int16, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
"""Types by their names in the format. Which numbers are zero is the same with and without sign."""

_OF_INDICES = re.compile("(is not satisfied|inconsistent with indices|negative index|uncoalesced)")
"""What torch says of indices of sparse tensors that break its rules."""

_LONGEST_PICKLE = 8 * 2**20

MOST_TENSORS = 50_000
"""Tensors of a file: some seconds of reading."""

_KNOWN = frozenset(
    {
        "collections.OrderedDict", "collections.Counter", "collections.defaultdict",
        "builtins.set", "builtins.complex", "builtins.dict", "_codecs.encode",
        "torch.Size", "torch.Tensor", "torch.device", "torch.serialization._get_layout",
        "torch.nn.parameter.Parameter", "torch._tensor._rebuild_from_type_v2",
        "torch.storage.TypedStorage", "torch.storage.UntypedStorage",
        *(
            f"torch._utils._rebuild_{kind}"
            for kind in (
                "tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state",
                "sparse_tensor", "sparse_csr_tensor", "meta_tensor_no_storage",
            )
        ),
    }
)  # fmt: skip
"""What a checkpoint may name. torch's own list is longer: it has ``bytearray``, with which a few
bytes ask for any amount of memory, and quantized and nested tensors."""


def read_torch(path: str | os.PathLike[str]) -> Any:
    """Return the content of a file that `torch.save` wrote.

    Raises
    ------
    ValueError
        If it names objects other than tensors and containers of them; or what else it is.
    Exception
        Of many kinds, by torch, if it is damaged; see `topokit.foreign.refusals`.

    Notes
    -----
    Read with ``weights_only=True`` and the checks of sparse tensors. Before that, the opcodes of
    the pickle in it are listed without executing them, so that what it names is known, and the
    sizes of the archive's members are compared with the limits.
    """
    with open_regular(path) as file:
        start = file.read(8)
        file.seek(0)
        if start[:4] == b"PK\x03\x04":
            _check_archive(file)
        elif start[:1] == b"\x80":
            _check_legacy(file)
        elif start[7:] == b"\0" and file.read(9)[8:] == b"{":
            raise ValueError("a safetensors file; give it the ending .safetensors")
        else:
            raise ValueError("a damaged file or one of another kind: torch.save did not write it")
        file.seek(0)
        with warnings.catch_warnings(), torch.sparse.check_sparse_tensor_invariants(True):
            warnings.simplefilter("ignore")
            try:
                return torch.load(file, map_location="cpu", weights_only=True)
            except RuntimeError as error:
                if _OF_INDICES.search(str(error)):
                    raise ValueError(
                        "a sparse tensor whose indices contradict its shape or are not sorted"
                    ) from error
                raise


def _check_archive(file: BinaryIO) -> None:
    """Check the members of a checkpoint and what its pickle names."""
    with open_zip(file) as archive:
        names = archive.namelist()
        folders = {name.rpartition("/")[0].partition("/")[0] for name in names}
        if any(name.endswith("/constants.pkl") for name in names):
            raise ValueError(
                "a TorchScript program, which is code; save torch.jit.load(path).state_dict()"
            )
        if names and all(name.endswith(".npy") for name in names):
            raise ValueError("arrays of numpy; give it the ending .npz")
        pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1 or len(folders) != 1:
            raise ValueError("a zip archive that torch.save did not write")
        if archive.getinfo(pickles[0]).file_size > _LONGEST_PICKLE:
            raise ValueError(f"a list of objects of more than {_LONGEST_PICKLE:,} bytes")
        _check_names(_named_in(io.BytesIO(archive.read(pickles[0]))))


def _check_legacy(file: BinaryIO) -> None:
    """Check a checkpoint of torch before 1.6: five pickles, then the numbers."""
    size, names = size_of(file), set()
    content = io.BytesIO(file.read(_LONGEST_PICKLE))
    for i in range(5):
        try:
            names |= _named_in(content)
        except ValueError as error:
            cut = size > _LONGEST_PICKLE
            why = f"a list of objects of over {_LONGEST_PICKLE:,} bytes" if cut else str(error)
            raise ValueError(
                f"{why if i else 'a damaged pickle'}; if it is a pickle of your own, save "
                "the state dict with torch.save(model.state_dict(), path)"
            ) from None
        if content.tell() >= size:
            _check_names(names)
            raise ValueError(
                "a pickle that torch.save did not write; save the state dict with "
                "torch.save(model.state_dict(), path)"
            )
    _check_names(names)


def _named_in(content: io.BytesIO) -> set[str]:
    """Return what a pickle names for being called, without unpickling it."""
    names: set[str] = set()
    strings: list[str] = []
    for code, argument, _ in pickletools.genops(content):
        if code.name in ("GLOBAL", "INST"):
            names.add(str(argument).replace("__builtin__", "builtins").replace(" ", ".", 1))
        elif code.name == "STACK_GLOBAL":
            names.add(".".join(strings[-2:]))
        elif isinstance(argument, str):
            strings = [*strings[-1:], argument]
    return names


def _check_names(names: set[str]) -> None:
    """Raise a ValueError that lists the objects that are no tensors or containers of them."""
    safe = torch.serialization.get_safe_globals()
    pairs = [thing if isinstance(thing, tuple) else (thing, "") for thing in safe]
    allowed = {name or f"{thing.__module__}.{thing.__qualname__}" for thing, name in pairs}
    others = sorted(name for name in names - _KNOWN - allowed if not _is_type(name))
    if others:
        shown = first_few((printable(name)[:80] for name in others), 3)
        raise ValueError(
            f"objects of {shown}, which are not loaded as that could run code; save the "
            "state dict alone: torch.save(model.state_dict(), path)"
        )


def _is_type(name: str) -> bool:
    """Return whether a name is that of a storage, tensor or number type of torch."""
    module, _, leaf = name.rpartition(".")
    if module == "torch" and isinstance(getattr(torch, leaf, None), torch.dtype):
        return not leaf.startswith(("q", "bits"))
    of_torch = module in ("torch", "torch.cuda", "torch.sparse", "torch.cuda.sparse")
    return of_torch and leaf.endswith("Storage") and not leaf.startswith("Q")


def read_safetensors(path: str | os.PathLike[str], options: Reading) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file: length of a JSON header, header, one buffer.

    Tensors of types that are not known here are left out and noted. Writers of the format sort by
    names as texts (``layers.10`` before ``layers.2``), which says nothing of the model: tensors in
    that order are returned in the order of the numbers in their names.

    Raises
    ------
    ValueError, KeyError, TypeError
        If the header is damaged, or tensors lie outside the file, on each other, or leave bytes
        between or after them that belong to none.
    """
    with open_regular(path) as file:
        size = size_of(file)
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, 100 * 2**20):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        header = json.loads(file.read(length), object_pairs_hook=_distinct)
        if not isinstance(header, dict):
            raise ValueError("a header that is no JSON object")
        header.pop("__metadata__", None)
        if len(header) > MOST_TENSORS:
            raise ValueError(f"{len(header):,} tensors; at most {MOST_TENSORS:,} are read")
        tensors, unknown = {}, []
        for name, (begin, end, dtype, shape) in _places(header, size - 8 - length):
            if dtype not in _SAFETENSORS:
                unknown.append(f"{name} {printable(dtype)[:20]} {tuple(shape)}")
                continue
            file.seek(8 + length + begin)
            tensors[name] = _tensor(name, bytearray(file.read(end - begin)), dtype, shape)
    if unknown:
        options.notes.append(f"not read, of an unknown type: {first_few(unknown, 4)}")
    types = {name: entry["dtype"] for name, entry in header.items()}
    rank = {kind: i for i, kind in enumerate(dict.fromkeys(types.values()))}
    if list(types) != sorted(types, key=lambda name: (rank[types[name]], name)):
        return tensors
    return {name: tensors[name] for name in sorted(tensors, key=_by_numbers)}


def _by_numbers(name: str) -> list[list[Any]]:
    """Return what names are sorted by, part by part, if numbers in them are to count as numbers.

    Examples
    --------
    >>> sorted(["fc10.weight", "fc2.weight", "fc.weight"], key=_by_numbers)
    ['fc.weight', 'fc2.weight', 'fc10.weight']
    """
    return [
        [(len(piece.lstrip("0")), piece) if at % 2 else piece for at, piece in enumerate(pieces)]
        for pieces in (re.split(r"([0-9]+)", part) for part in name.split("."))
    ]


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dictionary; refuse a key that comes twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"a header with two entries {twice!r}")
    return found


def _places(
    header: dict[str, Any], size: int
) -> Iterator[tuple[str, tuple[int, int, str, list[int]]]]:
    """Yield name, first byte, end, type and shape of each tensor, in the order of their bytes."""
    rows = []
    for name, entry in header.items():
        begin, end = (_number(n) for n in entry["data_offsets"])
        shape = [_number(n) for n in entry["shape"]]
        if len(shape) > 16:
            raise ValueError(f"{len(shape)} dimensions at {name!r}")
        rows.append((begin, end, name, str(entry["dtype"]), shape))
    order = {name: i for i, name in enumerate(header)}
    free = 0  # the format has no holes: something could be hidden there, or a size be wrong
    for begin, end, name, _, _ in sorted(rows, key=lambda row: row[:2]):
        if not free == begin <= end <= size:
            raise ValueError(
                f"a wrong place of {name!r}: bytes {begin}..{end} of {size}, expected them to "
                f"begin at {free}, where the tensor before ends"
            )
        free = end
    if free < size:
        raise ValueError(f"{size - free:,} bytes after the last tensor, which belong to none")
    for begin, end, name, dtype, shape in sorted(rows, key=lambda row: order[row[2]]):
        yield name, (begin, end, dtype, shape)


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**62:
        raise ValueError(f"{printable(str(value))[:40]!r} in place of a size")
    return value


def _tensor(name: str, raw: bytearray, kind: str, shape: list[int]) -> torch.Tensor:
    """Return the tensor in some bytes, after comparing their number with its shape."""
    dtype = _SAFETENSORS[kind]
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"a wrong size at {name!r}: {len(raw)} bytes for {kind} {shape}")
    if not raw:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(raw, dtype=dtype).reshape(shape)
