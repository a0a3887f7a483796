"""Loaders of image data sets: the embedded digits, files in IDX format, CIFAR."""

from __future__ import annotations

import gzip
import io
import math
import struct
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from topokit.data.samples import (
    COMMON,
    Augment,
    Data,
    Loader,
    Scale,
    Subset,
    find_files,
    image_data,
    read_npz,
    split,
    subsets,
)
from topokit.foreign import check_bytes, open_regular, refusals, size_of
from topokit.tables import choose

__all__ = ["cifar10", "cifar100", "digits", "idx_images", "read_idx", "read_records"]


def digits(
    *,
    data_dir: Path | None = None,
    rng: np.random.Generator,
    n_train: int | None = None,
    n_test: int = 449,
    scale: Scale = "unit",
    augment: Augment | None = None,
    shuffle_pixels: int = 0,
) -> Data:
    """Load the 1,797 handwritten digits (8 x 8, values 0 to 16) that scikit-learn ships.

    No file is needed. A stratified test part of `n_test` samples is drawn from `rng`.

    Parameters
    ----------
    data_dir : path, optional
        Not used.
    rng : numpy.random.Generator
        Used for the split.
    n_train : int, optional
        Size of the training part; by default all samples outside the test part.
    n_test : int
        Size of the test part.
    scale : str
        A key of `SCALES`.
    augment : {"none", "crop_flip", "rotate_shift_flip"}, optional
        Change each batch of training images at random; see `AUGMENTATIONS`.
    shuffle_pixels : int
        0 leaves pixels where they are. Another number is the seed of one random order of pixels,
        that of `topokit.data.samples.pixel_order`, for all images, training and test: neighbouring
        features are then no neighbours in the image. Not with `augment`, which moves images.

    Returns
    -------
    Data

    References
    ----------
    .. [1] Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (its test
       part).

    Examples
    --------
    >>> digits(rng=np.random.default_rng(0), n_train=100).x_train.shape
    (100, 64)
    """
    x, y = _digits_of_sklearn()
    return image_data(
        "digits",
        split("digits", x, y, n_train, n_test, rng),
        scale=scale,
        largest=16,
        n_classes=10,
        shape=(8, 8),
        source="scikit-learn's load_digits; stratified split",
        augment=augment,
        shuffle_pixels=shuffle_pixels,
    )


@cache
def _digits_of_sklearn() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return scikit-learn's digits, without the second that it takes to import scikit-learn."""
    package = find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            with gzip.open(path, "rt", encoding="utf-8") as file:
                table = np.loadtxt(file, delimiter=",")
            table.flags.writeable = False
            return table[:, :-1], table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x, y


_IDX_FILES = (
    ("train-images-idx3-ubyte", 2051),
    ("train-labels-idx1-ubyte", 2049),
    ("t10k-images-idx3-ubyte", 2051),
    ("t10k-labels-idx1-ubyte", 2049),
)


def idx_images(name: str, folders: tuple[str, ...], url: str, paper: str) -> Loader:
    """Return the loader of a data set in the four-file format of MNIST.

    Parameters
    ----------
    name : str
    folders : tuple of str
        Folders, relative to that of the data sets, in which the files are looked for.
    url : str
        Where to get the files, for the message if they are missing.
    paper : str
        Reference for the docstring of the loader.
    """
    hint = f"Get them from {url} and put them into a folder {folders[0]}/ there."

    def load(
        *,
        data_dir: Path | None = None,
        rng: np.random.Generator,
        n_train: int | None = None,
        n_test: int | None = None,
        subset: Subset = "stratified",
        scale: Scale = "unit",
        augment: Augment | None = None,
        shuffle_pixels: int = 0,
    ) -> Data:
        places = [f"{folder}/" for folder in folders] + [""]
        paths = [
            tuple(place + file + end for place in places for end in (".gz", ""))
            for file, _ in _IDX_FILES
        ]
        files = find_files(name, data_dir, paths, hint)
        arrays = [read_idx(path, magic=m) for path, (_, m) in zip(files, _IDX_FILES, strict=True)]
        for first, path in ((0, files[0]), (2, files[2])):
            images, labels = arrays[first], arrays[first + 1]
            fits = images.shape == (len(labels), 28, 28)
            if not fits or labels.max(initial=0) > 9:
                raise ValueError(
                    f"{path}: expected images of 28 x 28 and a label 0..9 for each, got shape "
                    f"{images.shape} and {len(labels)} labels up to {labels.max(initial=0)}"
                )
        parts = (
            arrays[0].reshape(len(arrays[0]), -1),
            arrays[1].astype(np.int64),
            arrays[2].reshape(len(arrays[2]), -1),
            arrays[3].astype(np.int64),
        )
        return image_data(
            name,
            subsets(name, parts, n_train, n_test, subset, rng),
            scale=scale,
            largest=255,
            n_classes=10,
            shape=(28, 28),
            source=str(files[0].parent),
            augment=augment,
            shuffle_pixels=shuffle_pixels,
        )

    load.__name__ = load.__qualname__ = name
    load.__doc__ = f"""Load {name}: 60,000 + 10,000 grey images of 28 x 28 in 10 classes.

    Read from the four files of the original distribution, compressed (``.gz``) or not, in
    {" or ".join(folders)}, or in the folder of data sets itself.

    Parameters
    ----------
    data_dir : path, optional
        The folder of data sets; by default ``TOPOKIT_DATA``.
    rng : numpy.random.Generator
        Used for subsets only.{COMMON}
    subset : str
        "stratified", or "tutorial": the samples used in the SET tutorials (both parts shuffled by
        one legacy generator with seed 0, the first ones taken).
    augment : {"none", "crop_flip", "rotate_shift_flip"}, optional
        Change each batch of training images at random; see `AUGMENTATIONS`.
    shuffle_pixels : int
        0 leaves pixels where they are. Another number is the seed of one random order of pixels,
        that of `topokit.data.samples.pixel_order`, for all images, training and test: neighbouring
        features are then no neighbours in the image. Not with `augment`, which moves images.

    Returns
    -------
    Data

    References
    ----------
    .. [1] {paper}

    Examples
    --------
    >>> {name}(data_dir=Path("/nowhere"), rng=np.random.default_rng(0))
    Traceback (most recent call last):
    FileNotFoundError: data set {name!r} not found: looked in ...
    """
    return load


def cifar10(
    *,
    data_dir: Path | None = None,
    rng: np.random.Generator,
    n_train: int | None = None,
    n_test: int | None = None,
    scale: Scale = "unit",
    augment: Augment | None = None,
    shuffle_pixels: int = 0,
) -> Data:
    """Load CIFAR-10: 50,000 + 10,000 colour images of 32 x 32 in 10 classes.

    The official binary files are read from cifar-10-batches-bin, in the folder of data sets or in
    its folder cifar10. If they are missing, the JPEG copies in cifar10/cifar10-jpeg-60k.npz are
    decoded, which takes some seconds; their pixels differ slightly and their order is different.

    Parameters
    ----------
    data_dir : path, optional
        The folder of data sets; by default ``TOPOKIT_DATA``.
    rng : numpy.random.Generator
        Used for subsets only.
    n_train, n_test : int, optional
        Sizes of the parts; stratified subsets drawn from `rng`.
    scale : str
        A key of `SCALES`.
    augment : {"none", "crop_flip", "rotate_shift_flip"}, optional
        Change each batch of training images at random; see `AUGMENTATIONS`.
    shuffle_pixels : int
        0 leaves pixels where they are. Another number is the seed of one random order of pixels,
        that of `topokit.data.samples.pixel_order`, for all images, training and test: neighbouring
        features are then no neighbours in the image. Not with `augment`, which moves images.

    Returns
    -------
    Data
        A sample is 1,024 red, 1,024 green and 1,024 blue values, each row by row. The whole data
        set takes 740 MB.

    References
    ----------
    .. [1] Krizhevsky, "Learning multiple layers of features from tiny images", University of
       Toronto, 2009.

    Examples
    --------
    >>> cifar10(data_dir=Path("/nowhere"), rng=np.random.default_rng(0))
    Traceback (most recent call last):
    FileNotFoundError: data set 'cifar10' not found: looked in ...
    """
    name = "cifar10"
    hint = (
        "Get https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz and unpack it there, "
        "or put cifar10-jpeg-60k.npz into cifar10/."
    )
    batches = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    places = ("cifar-10-batches-bin/", "cifar10/cifar-10-batches-bin/", "cifar10/")
    packed = ("cifar10/cifar10-jpeg-60k.npz", "cifar10-jpeg-60k.npz")
    try:
        paths = [tuple(place + batch for place in places) for batch in batches]
        files = find_files(name, data_dir, paths, hint)
        parts = _cifar_batches(files)
    except FileNotFoundError as missing:
        try:
            files = find_files(name, data_dir, [packed], hint)
        except FileNotFoundError:
            raise missing from None
        parts = _cifar_jpegs(files[0])
    return image_data(
        name,
        subsets(name, parts, n_train, n_test, "stratified", rng),
        scale=scale,
        largest=255,
        n_classes=10,
        shape=(3, 32, 32),
        source=str(files[0]),
        augment=augment,
        shuffle_pixels=shuffle_pixels,
    )


def _cifar_batches(files: list[Path]) -> tuple[Any, Any, Any, Any]:
    """Read records of a label byte and 3,072 pixel bytes; the last file is the test part."""
    batches = [read_records(path, {"labels": 10}) for path in files]
    train, test = np.concatenate(batches[:-1]), batches[-1]
    return train[:, 1:], train[:, 0].astype(np.int64), test[:, 1:], test[:, 0].astype(np.int64)


def read_records(path: Path, labels: dict[str, int], n: int | None = None) -> NDArray[np.uint8]:
    """Return the records of a file of CIFAR: some bytes of labels, then 3,072 of pixels.

    Parameters
    ----------
    path : path
    labels : dict
        The name of each byte of labels and its number of classes.
    n : int, optional
        How many records there must be.

    Returns
    -------
    (n, n_labels + 3072) uint8
    """
    width = len(labels) + 3072
    with open_regular(path) as file:
        size = size_of(file)
        if not size or size % width or (n is not None and size != n * width):
            expected = "" if n is None else f"{n:,} "
            raise ValueError(
                f"{path}: expected {expected}records of {width} bytes, got a file of {size}"
            )
        records = np.fromfile(file, np.uint8).reshape(-1, width)
    for at, (name, n_classes) in enumerate(labels.items()):
        if records[:, at].max() >= n_classes:
            raise ValueError(
                f"{path}: expected {name} 0..{n_classes - 1}, got {records[:, at].max()}"
            )
    return records


CIFAR100_IMAGES = (50_000, 10_000)
"""Images for training and for the test."""


def cifar100(
    *,
    data_dir: Path | None = None,
    rng: np.random.Generator,
    n_train: int | None = None,
    n_test: int | None = None,
    labels: Literal["fine", "coarse"] = "fine",
    scale: Scale = "unit",
    augment: Augment | None = None,
    shuffle_pixels: int = 0,
) -> Data:
    """Load CIFAR-100: 50,000 + 10,000 colour images of 32 x 32 in 100 classes.

    The official binary files train.bin and test.bin are read from cifar-100-binary, in the folder
    of data sets or in its folder cifar100. The Python version consists of pickles, which are never
    unpickled.

    Parameters
    ----------
    data_dir : path, optional
        The folder of data sets; by default ``TOPOKIT_DATA``.
    rng : numpy.random.Generator
        Used for subsets only.
    n_train, n_test : int, optional
        Sizes of the parts; stratified subsets drawn from `rng`.
    labels : {"fine", "coarse"}
        100 classes, or the 20 that each unite five of them.
    scale : str
        A key of `SCALES`.
    augment : {"none", "crop_flip", "rotate_shift_flip"}, optional
        Change each batch of training images at random; see `AUGMENTATIONS`.
    shuffle_pixels : int
        0 leaves pixels where they are. Another number is the seed of one random order of pixels,
        that of `topokit.data.samples.pixel_order`, for all images, training and test: neighbouring
        features are then no neighbours in the image. Not with `augment`, which moves images.

    Returns
    -------
    Data
        Samples as in `cifar10`. The whole data set takes 740 MB.

    References
    ----------
    .. [1] Krizhevsky, "Learning multiple layers of features from tiny images", University of
       Toronto, 2009.

    Examples
    --------
    >>> cifar100(data_dir=Path("/nowhere"), rng=np.random.default_rng(0))
    Traceback (most recent call last):
    FileNotFoundError: data set 'cifar100' not found: looked in ...
    """
    name = "cifar100"
    hint = (
        "Get https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz (not the Python version, "
        "whose pickles are never unpickled) and unpack it there."
    )
    places = ("cifar-100-binary/", "cifar100/cifar-100-binary/", "cifar100/")
    paths = [tuple(place + file for place in places) for file in ("train.bin", "test.bin")]
    files = find_files(name, data_dir, paths, hint)
    kinds = {"coarse": 20, "fine": 100}
    choose("kind of labels", labels, kinds)
    columns = {f"{kind} labels": n for kind, n in kinds.items()}
    parts: list[Any] = []
    for path, n in zip(files, CIFAR100_IMAGES, strict=True):
        records = read_records(path, columns, n)
        parts += [records[:, 2:], records[:, list(kinds).index(labels)].astype(np.int64)]
    return image_data(
        name,
        subsets(name, (parts[0], parts[1], parts[2], parts[3]), n_train, n_test, "stratified", rng),
        scale=scale,
        largest=255,
        n_classes=kinds[labels],
        shape=(3, 32, 32),
        source=f"{files[0].parent}; {labels} labels",
        augment=augment,
        shuffle_pixels=shuffle_pixels,
    )


def _cifar_jpegs(path: Path) -> tuple[Any, Any, Any, Any]:
    """Decode the JPEG images of both parts, channels first."""
    names = [f"{kind}_{part}" for part in ("train", "test") for kind in ("jpeg", "offset", "y")]
    arrays = read_npz(path, names)
    parts: list[NDArray[Any]] = []
    for part in ("train", "test"):
        packed, offsets, labels = (arrays[f"{kind}_{part}"] for kind in ("jpeg", "offset", "y"))
        fits = offsets.size == labels.size + 1 and all(
            a.ndim == 1 and a.dtype.kind in "iu" for a in (packed, offsets, labels)
        )
        if not fits or labels.max(initial=0) > 9 or labels.min(initial=0) < 0:
            raise ValueError(
                f"{path}: expected a label 0..9 for each image, got {offsets.size - 1} images "
                f"and {labels.size} labels up to {labels.max(initial=0)}"
            )
        pixels = np.empty((labels.size, 3072), np.uint8)
        for i in range(labels.size):
            pixels[i] = _decode(path, i, packed[offsets[i] : offsets[i + 1]].tobytes())
        parts += [pixels, labels.astype(np.int64)]
    return parts[0], parts[1], parts[2], parts[3]


def _decode(path: Path, i: int, jpeg: bytes) -> NDArray[np.uint8]:
    """Decode an image to (3072,) bytes, channels first."""
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(jpeg))  # reads the size only
        if picture.size != (32, 32):
            raise ValueError(f"{picture.size[1]} x {picture.size[0]} pixels, not 32 x 32")
        image = np.asarray(picture.convert("RGB"), np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: image {i} is damaged: {reason}") from None
    if image.shape != (32, 32, 3):
        raise ValueError(f"{path}: expected images of 32 x 32, got {image.shape} at {i}")
    return image.transpose(2, 0, 1).reshape(-1)


def read_idx(path: str | Path, *, magic: int) -> NDArray[np.uint8]:
    """Read a file of unsigned bytes in IDX format, compressed if its name ends in ``.gz``.

    Parameters
    ----------
    path : path
    magic : int
        The first four bytes, big-endian: 2049 for labels (n,), 2051 for images (n, rows, columns).
        The last byte is the number of dimensions.

    Returns
    -------
    (n,) or (n, rows, columns) uint8

    Raises
    ------
    ValueError
        If the magic number differs, bytes are missing or left over, or the compression is
        damaged. The message names the file, what was expected and what was found.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "labels"
    >>> _ = path.write_bytes(struct.pack(">II", 2049, 3) + bytes([7, 2, 1]))
    >>> read_idx(path, magic=2049).tolist()
    [7, 2, 1]
    """
    path = Path(path)
    n_dimensions = magic & 0xFF
    header = 4 * (1 + n_dimensions)
    with refusals(path, f"an intact {'gzip' if path.suffix == '.gz' else 'IDX'} file"):
        with open_regular(path) as raw:
            file: Any = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
            start = file.read(header)
            if len(start) < header:
                raise ValueError(f"{len(start)} bytes in place of an IDX header of {header} bytes")
            got, *shape = struct.unpack(f">{1 + n_dimensions}I", start)
            if got != magic:
                raise ValueError(f"the IDX magic number {got}, not {magic}")
            expected = math.prod(shape)
            size = size_of(raw)
            check_bytes(expected if file is not raw else min(expected, size), size)
            content = file.read(expected + 1) if file is not raw else file.read()
        if len(content) != expected:
            more = "more than " if len(content) > expected else ""
            raise ValueError(
                f"{more}{min(len(content), expected)} bytes of data, not the {expected} of shape "
                f"{tuple(shape)}"
            )
    return np.frombuffer(content, np.uint8).reshape(shape)
