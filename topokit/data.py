"""Data sets as arrays: digits embedded, image and feature sets from files, by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from topokit.idx import read_idx
from topokit.samples import SCALES, Data, find_files, scaled, split, subsets
from topokit.tables import choose

__all__ = ["DATASETS", "Data", "load_data"]

Scale = Literal["unit", "minmax", "standard", "global", "none"]
Subset = Literal["stratified", "tutorial"]
Loader = Callable[..., Data]


_COMMON = """
    n_train, n_test : int, optional
        Sizes of the parts; drawn from `rng`, each class in proportion.
    scale : str
        "unit", "minmax", "standard", "global" or "none"; see `SCALES`. Statistics are those of
        the training part in use."""


# --- the loaders -------------------------------------------------------------------------------


def digits(
    *,
    data_dir: Path | None = None,
    rng: np.random.Generator,
    n_train: int | None = None,
    n_test: int = 449,
    scale: Scale = "unit",
) -> Data:
    """Load the 1,797 handwritten digits (8 x 8, values 0 to 16) that scikit-learn ships.

    No file is needed. The test part of `n_test` samples is drawn from `rng`, stratified.

    Parameters
    ----------
    data_dir : path, optional
        Not used.
    rng : numpy.random.Generator
        Decides the split.
    n_train : int, optional
        Size of the training part; by default all that is not tested on.
    n_test : int
        Size of the test part.
    scale : str
        A key of `SCALES`.

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
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x_train, y_train, x_test, y_test = split("digits", x, y, n_train, n_test, rng)
    x_train, x_test = scaled(x_train, x_test, scale, 16)
    return Data(
        "digits",
        x_train,
        y_train,
        x_test,
        y_test,
        10,
        (8, 8),
        f"scikit-learn's load_digits; stratified split; {SCALES[scale]}",
    )


_IDX_FILES = (
    ("train-images-idx3-ubyte", 2051),
    ("train-labels-idx1-ubyte", 2049),
    ("t10k-images-idx3-ubyte", 2051),
    ("t10k-labels-idx1-ubyte", 2049),
)


def _idx_images(name: str, folders: tuple[str, ...], url: str, paper: str) -> Loader:
    """Make the loader of a set in the four files of MNIST."""
    hint = f"Get them from {url} and put them into a folder {folders[0]}/ there."

    def load(
        *,
        data_dir: Path | None = None,
        rng: np.random.Generator,
        n_train: int | None = None,
        n_test: int | None = None,
        subset: Subset = "stratified",
        scale: Scale = "unit",
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
        x_train, y_train, x_test, y_test = subsets(name, parts, n_train, n_test, subset, rng)
        x_train, x_test = scaled(x_train, x_test, scale, 255)
        source = f"{files[0].parent}; {SCALES[scale]}"
        return Data(name, x_train, y_train, x_test, y_test, 10, (28, 28), source)

    load.__name__ = load.__qualname__ = name
    load.__doc__ = f"""Load {name}: 60,000 + 10,000 grey images of 28 x 28 in 10 classes.

    The files are the four of the original distribution, compressed (``.gz``) or not, in
    {" or ".join(folders)}, or in the folder of data sets itself.

    Parameters
    ----------
    data_dir : path, optional
        The folder of data sets; by default ``TOPOKIT_DATA``.
    rng : numpy.random.Generator
        Decides the subsets, where there are any.{_COMMON}
    subset : str
        "stratified", or "tutorial": the samples the SET tutorials train on (both parts
        shuffled by one legacy generator with seed 0, the first ones taken).

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


def _mat(
    name: str, file: str, shape: tuple[int, int], n_classes: int, n_test: int, paper: str
) -> Loader:
    """Make the loader of a feature set in a MATLAB file with `X` and `Y`."""
    hint = f"Get {Path(file).name} from github.com/jundongl/scikit-feature, skfeature/data."
    held_out = n_test

    def load(
        *,
        data_dir: Path | None = None,
        rng: np.random.Generator,
        n_train: int | None = None,
        n_test: int = held_out,
        scale: Scale = "standard",
    ) -> Data:
        (path,) = find_files(name, data_dir, [(file, Path(file).name)], hint)
        x, y = _read_mat(path)
        classes, codes = np.unique(y, return_inverse=True)
        if x.shape != shape or classes.size != n_classes:
            raise ValueError(
                f"{path}: expected X of shape {shape} and {n_classes} classes in Y, "
                f"got {x.shape} and {classes.size}"
            )
        x_train, y_train, x_test, y_test = split(name, x, codes, n_train, n_test, rng)
        x_train, x_test = scaled(x_train, x_test, scale, float(x.max()))
        source = f"{path}; stratified split; {SCALES[scale]}"
        return Data(name, x_train, y_train, x_test, y_test, n_classes, None, source)

    load.__name__ = load.__qualname__ = name
    load.__doc__ = f"""Load {name}: {shape[0]:,} x {shape[1]:,} features in {n_classes} classes.

    Read from {file}, in MATLAB's v5 format.
    There is no split: the test part is drawn from `rng`, stratified.

    Parameters
    ----------
    data_dir : path, optional
        The folder of data sets; by default ``TOPOKIT_DATA``.
    rng : numpy.random.Generator
        Decides the split.{_COMMON}

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


def _read_mat(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Read the numeric arrays `X` (n, features) and `Y` (n,) of a MATLAB v5 file."""
    from scipy.io import loadmat

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            content = loadmat(path, variable_names=["X", "Y"])
        x, y = content["X"], content["Y"].ravel()
    except Exception as error:  # the reader fails in a dozen ways on damaged files
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{path}: expected an intact MATLAB v5 file with X and Y, got {reason}"
        ) from None
    if x.ndim != 2 or y.size != len(x) or x.dtype.kind not in "iufb" or y.dtype.kind not in "iufb":
        raise ValueError(
            f"{path}: expected numbers X (n, features) and Y (n, 1), "
            f"got {x.dtype} {x.shape} and {y.dtype} {content['Y'].shape}"
        )
    return x, y


_NIPS = "Guyon et al., Result analysis of the NIPS 2003 feature selection challenge, 2004."
_FEATURES = "Li et al., Feature selection: a data perspective, ACM Computing Surveys 50:94, 2017."

DATASETS: dict[str, Loader] = {
    "digits": digits,
    "mnist": _idx_images(
        "mnist",
        ("mnist", "MNIST/raw"),
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, "
        "1998.",
    ),
    "fashion_mnist": _idx_images(
        "fashion_mnist",
        ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw"),
        "github.com/zalandoresearch/fashion-mnist, data/fashion,",
        "Xiao, Rasul, Vollgraf, Fashion-MNIST, arXiv 1708.07747, 2017.",
    ),
    "madelon": _mat("madelon", "madelon/madelon.mat", (2600, 500), 2, 600, _NIPS),
    "pcmac": _mat("pcmac", "pcmac/PCMAC.mat", (1943, 3289), 2, 389, _FEATURES),
    "basehock": _mat("basehock", "basehock/BASEHOCK.mat", (1993, 4862), 2, 399, _FEATURES),
    "tox_171": _mat("tox_171", "tox_171/TOX-171.mat", (171, 5748), 4, 57, _FEATURES),
    "lung_small": _mat("lung_small", "lung_small/lung_small.mat", (73, 325), 7, 24, _FEATURES),
}
"""The data sets, by name: functions of `data_dir`, `rng` and their own parameters."""


def load_data(
    name: str, *, data_dir: str | Path | None = None, rng: np.random.Generator, **params: Any
) -> Data:
    """Load a data set by name.

    Parameters
    ----------
    name : str
        A key of `DATASETS`.
    data_dir : path, optional
        The folder of data sets; by default the environment variable ``TOPOKIT_DATA``.
    rng : numpy.random.Generator
        Decides splits and subsets, nothing else; sets used whole never draw from it.
    **params
        Of the loader; see its docstring.

    Returns
    -------
    Data

    Raises
    ------
    ValueError
        If the name is unknown or a file is damaged.
    FileNotFoundError
        If the files are not there; the message says where they were looked for, which are
        expected and how to get them.

    Examples
    --------
    >>> data = load_data("digits", rng=np.random.default_rng(0))
    >>> data.x_train.shape, data.x_test.shape, data.n_classes
    ((1348, 64), (449, 64), 10)
    """
    folder = Path(data_dir).expanduser() if data_dir is not None else None
    return choose("data set", name, DATASETS)(data_dir=folder, rng=rng, **params)
