"""Data sets in memory, and functions for loaders: finding files, splitting, subsets, scaling."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from topokit.foreign import count_not_finite, read_arrays, refusals
from topokit.graph.checksums import digest
from topokit.tables import choose, is_integer, need

__all__ = [
    "AUGMENTATIONS",
    "SCALES",
    "Data",
    "check_count",
    "find_files",
    "image_data",
    "largest_magnitude",
    "pixel_order",
    "rescale",
    "scaled",
    "scaled_data",
    "split",
    "subsets",
]

SCALES: dict[str, str] = {
    "unit": "divided by the largest possible value, to [0, 1]",
    "minmax": "each feature from [min, max] of the training part to [0, 1]",
    "standard": "each feature to mean 0 and deviation 1 in the training part",
    "global": "all features by one mean and one deviation of the training part",
    "none": "as stored",
}
"""Ways to scale features; a constant feature is only shifted.

Sparse samples have no "standard" and "global", which leave no zeros.
"""


def crop_flip(
    x: NDArray[np.float32], shape: Sequence[int], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return images shifted at random, with zeros at the border, half of them mirrored.

    Each image gets a border of zeros an eighth of its height wide (4 for 32 x 32), is cropped to
    its size at a random place, and mirrored left to right with probability 1/2.

    Parameters
    ----------
    x : (n, n_features) float32
    shape : sequence of int
        Of an image: ``(height, width)`` or ``(channels, height, width)``.
    rng : numpy.random.Generator

    Returns
    -------
    (n, n_features) float32

    References
    ----------
    .. [1] He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016, section
       4.2.

    Examples
    --------
    >>> image = np.arange(1, 65, dtype=np.float32)[None]
    >>> crop_flip(image, (8, 8), np.random.default_rng(0)).reshape(8, 8)[:2, :3].tolist()
    [[16.0, 15.0, 14.0], [24.0, 23.0, 22.0]]
    """
    height, width = shape[-2:]
    border = max(1, height // 8)
    images = x.reshape(len(x), -1, height, width)
    padded = np.pad(images, ((0, 0), (0, 0), (border, border), (border, border)))
    top, left = rng.integers(0, 2 * border + 1, (2, len(x), 1))
    mirrored = rng.random((len(x), 1)) < 0.5
    rows = (top + np.arange(height))[:, None, :, None]
    columns = np.arange(width)
    columns = (left + np.where(mirrored, columns[::-1], columns))[:, None, None, :]
    which = np.arange(len(x))[:, None, None, None]
    channel = np.arange(images.shape[1])[:, None, None]
    return padded[which, channel, rows, columns].reshape(x.shape)


def rotate_shift_flip(
    x: NDArray[np.float32], shape: Sequence[int], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return images rotated and shifted a little at random, half of them mirrored.

    As Keras does it for SET's authors: rotated about the centre by up to 10 degrees, shifted by up
    to a tenth of the height and of the width (all uniform), and mirrored left to right with
    probability 1/2. Values between pixels are interpolated linearly; beyond the border they are
    those of the nearest pixel.

    Parameters
    ----------
    x : (n, n_features) float32
    shape : sequence of int
        Of an image: ``(height, width)`` or ``(channels, height, width)``.
    rng : numpy.random.Generator

    Returns
    -------
    (n, n_features) float32

    References
    ----------
    .. [1] Mocanu et al., Nature Communications 9:2383, 2018: the authors' training script for
       CIFAR-10 (SET-MLP-Keras-Weights-Mask).

    Examples
    --------
    >>> image = np.full((1, 64), 0.5, np.float32)
    >>> rotate_shift_flip(image, (8, 8), np.random.default_rng(0)).min().item()
    0.5
    """
    height, width = shape[-2:]
    angle = np.deg2rad(rng.uniform(-10, 10, (len(x), 1, 1)))
    down = height * rng.uniform(-0.1, 0.1, (len(x), 1, 1))
    right = width * rng.uniform(-0.1, 0.1, (len(x), 1, 1))
    mirrored = rng.random((len(x), 1, 1)) < 0.5
    # where each pixel comes from: about the centre, in rows and columns of the original
    row = (np.arange(height) - (height - 1) / 2)[:, None] + down
    column = np.arange(width) - (width - 1) / 2
    column = np.where(mirrored, -column, column) + right
    rows = np.cos(angle) * row - np.sin(angle) * column + (height - 1) / 2
    columns = np.sin(angle) * row + np.cos(angle) * column + (width - 1) / 2
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    top = np.minimum(rows.astype(np.int64), max(height - 2, 0))
    left = np.minimum(columns.astype(np.int64), max(width - 2, 0))
    below = (rows - top).astype(np.float32)[:, None]
    beside = (columns - left).astype(np.float32)[:, None]
    images = x.reshape(len(x), -1, height, width)
    which, channel = np.arange(len(x))[:, None, None, None], np.arange(images.shape[1])
    place = (which, channel[:, None, None])
    bottom, end = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    upper, lower = (
        (1 - beside) * images[(*place, line[:, None], left[:, None])]
        + beside * images[(*place, line[:, None], end[:, None])]
        for line in (top, bottom)
    )
    return ((1 - below) * upper + below * lower).reshape(x.shape)


def pixel_order(shape: Sequence[int], seed: int) -> NDArray[np.int64]:
    """Return the order in which `shuffle_pixels` of image data sets puts the features of a sample.

    Feature i of a shuffled sample is feature ``pixel_order(shape, seed)[i]`` of the original one.
    All channels have their pixels in the same order.

    Parameters
    ----------
    shape : sequence of int
        Of an image: ``(height, width)`` or ``(channels, height, width)``.
    seed : int
        At least 0; the order depends on nothing else.

    Returns
    -------
    (n_features,) int64

    Examples
    --------
    >>> pixel_order((2, 2, 2), seed=0).tolist()
    [2, 0, 1, 3, 6, 4, 5, 7]
    """
    pixels = int(np.prod(shape[-2:]))
    order = np.random.default_rng(seed).permutation(pixels)
    channels = np.arange(int(np.prod(shape[:-2])))
    return (channels[:, None] * pixels + order).reshape(-1)


AUGMENTATIONS: dict[str, Callable[..., NDArray[np.float32]]] = {
    "crop_flip": crop_flip,
    "rotate_shift_flip": rotate_shift_flip,
}
"""Random changes of training images, by name: ``(x, image_shape, rng) -> x``."""

Augment = Literal["none", "crop_flip", "rotate_shift_flip"]
Scale = Literal["unit", "minmax", "standard", "global", "none"]
Subset = Literal["stratified", "tutorial"]
Loader = Callable[..., "Data"]

COMMON = """
    n_train, n_test : int, optional
        Sizes of the parts; stratified subsets drawn from `rng`.
    scale : str
        "unit", "minmax", "standard", "global" or "none"; see `SCALES`. Statistics are computed on
        the training part, after taking a subset."""
"""Common part of the docstrings of loaders."""


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """A data set in memory, split into a training and a test part.

    Parameters
    ----------
    name : str
    x_train, x_test : (n, n_features) float32
        Finite; images are flattened row by row (channels first where there are several). Sparse
        arrays of scipy stay sparse (CSR): batches are made dense one at a time.
    y_train, y_test : (n,) or (n, length) int64
        Classes ``0..n_classes - 1``, one for each sample or, as for texts, several; all -1 where
        the data has no labels.
    n_classes : int
        0 where the data has no labels.
    image_shape : tuple of int, optional
        ``(height, width)`` or ``(channels, height, width)``.
    source : str
        Where the data come from and how they were split and scaled.
    augment : str, optional
        A name of `AUGMENTATIONS`: how each batch of training images is changed at random.

    Raises
    ------
    ValueError
        If shapes or labels do not match, a value is not finite, or data without images, or sparse
        ones, are to be augmented.

    Examples
    --------
    >>> x, y = np.zeros((4, 3)), np.array([0, 1, 0, 1])
    >>> Data("zeros", x_train=x, y_train=y, x_test=x, y_test=y, n_classes=2).n_features
    3
    """

    name: str
    x_train: Any
    y_train: NDArray[np.int64]
    x_test: Any
    y_test: NDArray[np.int64]
    n_classes: int
    image_shape: tuple[int, ...] | None = None
    source: str = ""
    augment: str | None = None

    def __repr__(self) -> str:
        sizes = f"{len(self.y_train)} training and {len(self.y_test)} test samples"
        return f"Data({self.name!r}, {sizes}, {self.n_features} features, {self.n_classes} classes)"

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            x = _float32(getattr(self, f"x_{part}"))
            y = np.ascontiguousarray(getattr(self, f"y_{part}"), np.int64)
            where = f"data set {self.name!r}, {part} part"
            fits = x.ndim == 2 and y.ndim in (1, 2) and len(y) == x.shape[0]
            if not fits or 0 in x.shape or not y.size:
                raise ValueError(
                    f"{where}: expected x (n, n_features) and y (n,) with n of at least 1, "
                    f"got {x.shape} and {y.shape}"
                )
            if count_not_finite(x.data if _is_sparse(x) else x):
                raise ValueError(f"{where}: expected finite values, got nan or inf")
            low, high = (0, self.n_classes - 1) if self.n_classes else (-1, -1)
            if y.min() < low or y.max() > high:
                raise ValueError(
                    f"{where}: expected classes in {low}..{high}, got {y.min()}..{y.max()}"
                )
            object.__setattr__(self, f"x_{part}", x)
            object.__setattr__(self, f"y_{part}", y)
        if self.y_train.shape[1:] != self.y_test.shape[1:]:
            raise ValueError(
                f"data set {self.name!r}: expected as many classes of a sample in both parts, "
                f"got y of {self.y_train.shape} and {self.y_test.shape}"
            )
        if self.x_train.shape[1] != self.x_test.shape[1]:
            raise ValueError(
                f"data set {self.name!r}: expected as many features in both parts, "
                f"got {self.x_train.shape[1]} and {self.x_test.shape[1]}"
            )

        if self.augment is not None:
            choose("augmentation", self.augment, AUGMENTATIONS)
            if self.image_shape is None:
                raise ValueError(f"data set {self.name!r}: expected images to augment, got none")
            if _is_sparse(self.x_train):
                raise ValueError(f"data set {self.name!r}: expected dense images to augment")

    def augmented(self, x: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Return a batch of training samples as `augment` says; without it, `x` itself.

        Parameters
        ----------
        x : (n, n_features) float32
        rng : numpy.random.Generator
            Not used without an augmentation.
        """
        if self.augment is None or self.image_shape is None:
            return x
        return AUGMENTATIONS[self.augment](x, self.image_shape, rng)

    def checksum(self) -> str:
        """Return a checksum of all samples and labels. O(size)."""
        arrays: list[NDArray[Any]] = [
            *_stored(self.x_train), self.y_train, *_stored(self.x_test), self.y_test
        ]  # fmt: skip
        shapes = repr([(array.shape, array.dtype.str) for array in arrays])
        return digest(shapes.encode(), *arrays)

    @property
    def n_features(self) -> int:
        """Number of features of a sample."""
        return int(self.x_train.shape[1])


def _is_sparse(x: Any) -> bool:
    return bool(sp.issparse(x))


def _float32(x: Any) -> Any:
    """Return samples as a contiguous or CSR array of float32; a new one only if needed."""
    if not _is_sparse(x):
        return np.ascontiguousarray(x, np.float32)
    x = sp.csr_array(x, dtype=np.float32)
    if not x.has_canonical_format:
        x = x.copy()
        x.sum_duplicates()
    return x


def _stored(x: Any) -> list[NDArray[Any]]:
    """Return what samples consist of in memory, in types that are the same on all machines."""
    if not _is_sparse(x):
        return [x]
    return [np.array(x.shape), x.indptr.astype(np.int64), x.indices.astype(np.int32), x.data]


def scaled_data(
    name: str, parts: Sequence[Any], *, scale: str, largest: float, n_classes: int, source: str
) -> Data:
    """Return the data set of features that are still to be scaled; see `scaled`.

    `parts` are x_train, y_train, x_test and y_test.
    """
    x_train, y_train, x_test, y_test = parts
    x_train, x_test = scaled(x_train, x_test, scale, largest)
    source = f"{source}; {SCALES[scale]}"
    return Data(name, x_train, y_train, x_test, y_test, n_classes, None, source)


def image_data(
    name: str,
    parts: Sequence[Any],
    *,
    scale: str,
    largest: float,
    n_classes: int,
    shape: tuple[int, ...],
    source: str,
    augment: str | None,
    shuffle_pixels: int,
) -> Data:
    """Return the data set of images to be scaled; a seed puts their pixels in another order.

    `parts` are x_train, y_train, x_test and y_test; the options are those of loaders.
    """
    x_train, y_train, x_test, y_test = parts
    x_train, x_test = scaled(x_train, x_test, scale, largest)
    source = f"{source}; {SCALES[scale]}"
    augment = None if augment == "none" else augment
    good = is_integer(shuffle_pixels, 0)
    need(good, "data.shuffle_pixels", "0 or a seed, an integer above 0", shuffle_pixels)
    if shuffle_pixels:
        if augment is not None:
            raise ValueError(
                f"data.shuffle_pixels: expected no augmentation with it, got {augment!r}, which "
                "moves images as a whole"
            )
        order = pixel_order(shape, shuffle_pixels)
        x_train, x_test = x_train[:, order], x_test[:, order]
        source += f"; pixels in the order of seed {shuffle_pixels}"
    return Data(name, x_train, y_train, x_test, y_test, n_classes, shape, source, augment)


# --- finding files -----------------------------------------------------------------------------


def find_files(
    name: str, data_dir: Path | None, paths: Sequence[tuple[str, ...]], hint: str
) -> list[Path]:
    """Return the first existing file of each tuple of alternative paths, relative to `data_dir`.

    Parameters
    ----------
    name : str
        The data set, for the message.
    data_dir : Path or None
        By default ``TOPOKIT_DATA``.
    paths : sequence of tuple of str
        For each file wanted, the paths at which it may be.
    hint : str
        Where to get the files, for the message.

    Raises
    ------
    FileNotFoundError
        If a file is missing; the message names the folders searched and the files expected.
    """
    folder = data_dir or Path(os.environ.get("TOPOKIT_DATA") or "")
    expected = ", ".join(alternatives[0] for alternatives in paths)
    if data_dir is None and not os.environ.get("TOPOKIT_DATA"):
        raise FileNotFoundError(
            f"data set {name!r} needs files: give their folder with --data-dir DIR or in "
            f"TOPOKIT_DATA (neither is set).\nExpected there: {expected}. {hint}"
        )
    found = []
    for alternatives in paths:
        candidates = [folder / path for path in alternatives]
        found += [path for path in candidates if path.is_file()][:1]
    if len(found) < len(paths):
        looked = sorted({str((folder / path).parent) for group in paths for path in group})
        state = "" if folder.is_dir() else f" ({folder} is not a folder)"
        raise FileNotFoundError(
            f"data set {name!r} not found: looked in {', '.join(looked)}{state}.\n"
            f"Expected: {expected}. {hint}"
        )
    return found


def read_npz(path: Path, *choices: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return the arrays of an ``.npz`` file: the first set of names that it has; no unpickling."""
    expected = " or ".join(", ".join(names) for names in choices)
    with refusals(path, f"an intact .npz with {expected}"):
        arrays = read_arrays(path, {name for names in choices for name in names})
        for names in choices:
            if set(names) <= arrays.keys():
                return {name: arrays[name] for name in names}
        raise ValueError(f"arrays {', '.join(arrays) or 'with none of these names'}")


# --- splitting and scaling ---------------------------------------------------------------------


def _pick(
    y: NDArray[Any], n: int, rng: np.random.Generator, *, leave: int = 0
) -> NDArray[np.int64]:
    """Return `n` positions in random order, stratified by class (largest remainders).

    Of each class at least `leave` are not taken, as far as `n` allows.
    """
    classes, codes = np.unique(y, return_inverse=True)
    sizes = np.bincount(codes, minlength=classes.size)
    shares = sizes * (n / y.size)
    counts = np.floor(shares).astype(int)
    counts[np.argsort(counts - shares, kind="stable")[: n - counts.sum()]] += 1
    most = sizes - leave
    if n <= most.sum():  # what is over the most of a class is taken where most is left
        counts = np.minimum(counts, most)
        while missing := n - counts.sum():
            room = np.flatnonzero(counts < most)
            counts[room[np.argsort((counts - most)[room], kind="stable")[:missing]]] += 1
    # Positions by class from one sort, O(n log n); a search for each class is O(n * classes).
    groups = np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])
    parts = [rng.permutation(group)[:count] for group, count in zip(groups, counts, strict=True)]
    return rng.permutation(np.concatenate(parts))


def check_count(name: str, key: str, n: int, available: int) -> None:
    """Raise unless 1 <= n <= available."""
    if not 1 <= n <= available:
        raise ValueError(f"data set {name!r}: expected {key} in 1..{available}, got {n}")


def split(
    name: str, x: Any, y: Any, n_train: int | None, n_test: int, rng: np.random.Generator
) -> tuple[Any, Any, Any, Any]:
    """Return disjoint, stratified parts of the data: x_train, y_train, x_test, y_test.

    Of each class at least one sample is left for training, as far as sizes allow. `n_train` None
    takes all samples outside the test part. Raises ValueError if there are not enough samples.
    """
    check_count(name, "n_test", n_test, len(y) - 1)
    test = _pick(y, n_test, rng, leave=1)
    left = np.ones(len(y), bool)
    left[test] = False
    rest = np.flatnonzero(left)
    if n_train is None:
        train = rng.permutation(rest)
    else:
        check_count(name, "n_train", n_train, rest.size)
        train = rest[_pick(y[rest], n_train, rng)]
    return x[train], y[train], x[test], y[test]


def subsets(
    name: str,
    parts: tuple[Any, Any, Any, Any],
    n_train: int | None,
    n_test: int | None,
    subset: str,
    rng: np.random.Generator,
) -> tuple[Any, Any, Any, Any]:
    """Return subsets of data that come with a split; a size of `None` keeps the part as it is.

    `parts` and the result are x_train, y_train, x_test and y_test. Raises ValueError if a part has
    not enough samples.
    """
    if subset == "tutorial":  # one generator shuffles both parts, as in the SET tutorials
        legacy = np.random.RandomState(0)
    taken: list[Any] = []
    for key, n, x, y in (("n_train", n_train, *parts[:2]), ("n_test", n_test, *parts[2:])):
        order = None
        if subset == "tutorial":
            order = np.arange(len(y))
            legacy.shuffle(order)
        if n is not None:
            check_count(name, key, n, len(y))
            order = _pick(y, n, rng) if order is None else order[:n]
        taken += [x, y] if order is None else [x[order], y[order]]
    return taken[0], taken[1], taken[2], taken[3]


def scaled(train: Any, test: Any, scale: str, largest: float) -> tuple[Any, Any]:
    """Return both parts scaled with statistics of the training part; see `SCALES`.

    `largest` is the largest possible value, by which ``"unit"`` divides.
    """
    if _is_sparse(train):
        return _scaled_sparse(train, test, scale, largest)
    x = _single(np.asarray(train), np.asarray(test), scale)
    rescale(x[0], x[1], scale, largest)
    return x[0], x[1]


FAR = 1024  # times its range that a feature may be from 0 before it is shifted in double precision


def _single(
    train: NDArray[Any], test: NDArray[Any], scale: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return both parts in single precision, those features shifted that it would round too far.

    A time in seconds since 1970 would become a multiple of 128. Scales that shift features undo it.
    """
    x = np.array(train, np.float32), np.array(test, np.float32)
    if scale not in ("minmax", "standard", "global") or train.dtype.itemsize <= 2:
        return x
    with np.errstate(invalid="ignore", over="ignore"):  # of values that are refused later
        low, high = (find(train, axis=0).astype(np.float64) for find in (np.min, np.max))
        if scale == "global":
            low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
        far = (high > low) & (np.maximum(np.abs(low), np.abs(high)) > FAR * (high - low))
        if far.any():
            middle = (low + (high - low) / 2)[far]
            for part, rounded in zip((train, test), x, strict=True):
                rounded[:, far] = part[:, far].astype(np.float64) - middle
    return x


def rescale(
    train: NDArray[np.float32], test: NDArray[np.float32], scale: str, largest: float
) -> None:
    """Scale both parts as `scaled` does, in place."""
    if scale == "none":
        return
    if scale == "unit":
        shift, width = np.zeros(()), np.full((), largest)
    elif scale == "minmax":
        shift, width = train.min(axis=0), np.ptp(train, axis=0)
    elif scale in ("standard", "global"):
        shift, width = _moments(train)
        if scale == "global":
            width = np.sqrt(np.mean(width**2) + np.var(shift))
            shift = np.asarray(shift.mean())
    else:
        raise ValueError(f"data.scale: expected one of {', '.join(SCALES)}, got {scale!r}")
    width = np.where(width > 0, width, 1)
    for part in (train, test):
        part -= shift.astype(np.float32)
        part /= width.astype(np.float32)


def _scaled_sparse(train: Any, test: Any, scale: str, largest: float) -> tuple[Any, Any]:
    """Return both parts scaled, as sparse arrays with the values that dense ones would have."""
    if scale not in SCALES or scale in ("standard", "global"):
        why = ", which leaves no zeros" if scale in SCALES else ""
        raise ValueError(
            f"data.scale: expected one of unit, minmax, none for sparse samples, got {scale!r}{why}"
        )
    x: list[Any] = [sp.csr_array(part, dtype=np.float32, copy=True) for part in (train, test)]
    if scale == "none":
        return x[0], x[1]
    n = x[0].shape[1]
    shift, width = np.zeros(n, np.float32), np.full(n, largest, np.float32)
    if scale == "minmax":
        shift = x[0].min(axis=0).toarray().ravel()
        width = x[0].max(axis=0).toarray().ravel() - shift
    width = np.where(width > 0, width, 1).astype(np.float32)
    shifted = np.flatnonzero(shift)  # features that are 0 in no training sample
    ends = np.arange(shifted.size + 1)
    places = sp.csr_array((np.ones(shifted.size, np.float32), shifted, ends), (shifted.size, n))
    for i, part in enumerate(x):
        moved = part[:, shifted].toarray()  # few, as each is there in all training samples
        moved -= shift[shifted]
        moved /= width[shifted]
        part.data /= width[part.indices]
        part.data[np.isin(part.indices, shifted)] = 0
        x[i] = part + sp.csr_array(moved) @ places if shifted.size else part
        x[i].eliminate_zeros()
    return x[0], x[1]


def largest_magnitude(x: Any) -> float:
    """Return the largest absolute value; 1 if all are 0."""
    return max(float(x.max()), -float(x.min())) or 1.0  # the smallest int8 has no absolute value


def _moments(x: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return mean and standard deviation of each column, in double precision by blocks of rows."""
    blocks = [slice(start, start + 4096) for start in range(0, len(x), 4096)]
    mean = sum(x[rows].sum(axis=0, dtype=np.float64) for rows in blocks) / len(x)
    square = sum(((x[rows] - mean) ** 2).sum(axis=0) for rows in blocks)
    varies = np.ptp(x, axis=0) > 0  # rounding errors would make a constant column vary
    return np.asarray(mean), np.where(varies, np.sqrt(square / len(x)), 0)
