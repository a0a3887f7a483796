"""Loaders of feature data sets: MATLAB files and mushrooms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from topokit.data.mat import read_mat
from topokit.data.samples import (
    COMMON,
    SCALES,
    Data,
    Loader,
    Scale,
    find_files,
    scaled,
    split,
    subsets,
)
from topokit.foreign import open_regular, refusals

__all__ = ["mat_features", "mushrooms"]


def mat_features(
    name: str, file: str, shape: tuple[int, int], n_classes: int, n_test: int, paper: str
) -> Loader:
    """Return the loader of a data set in a MATLAB file with arrays `X` and `Y`.

    Parameters
    ----------
    name, file : str
        Name of the data set, and path of its file in the folder of data sets.
    shape : tuple of int
        Number of samples and of features; a file with another shape is refused.
    n_classes, n_test : int
        Number of classes, and default size of the test part.
    paper : str
        Reference for the docstring of the loader.
    """
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

    Read from {file}, in MATLAB's v5 format. The file has no split: a stratified test part is drawn
    from `rng`.

    Parameters
    ----------
    data_dir : path, optional
        The folder of data sets; by default ``TOPOKIT_DATA``.
    rng : numpy.random.Generator
        Used for the split.{COMMON}

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
    with refusals(path, "an intact MATLAB v5 file with X and Y"):
        content = read_mat(path, ("X", "Y"))
        x, y = content["X"], content["Y"].ravel()
    if x.ndim != 2 or y.size != len(x) or x.dtype.kind not in "iufb" or y.dtype.kind not in "iufb":
        raise ValueError(
            f"{path}: expected numbers X (n, features) and Y (n, 1), "
            f"got {x.dtype} {x.shape} and {y.dtype} {content['Y'].shape}"
        )
    return x, y


def mushrooms(
    *,
    data_dir: Path | None = None,
    rng: np.random.Generator,
    n_train: int | None = None,
    n_test: int | None = None,
) -> Data:
    """Load mushrooms: 2,000 + 5,624 samples of 112 binary features, without labels.

    For density estimation: all labels are -1 and `n_classes` is 0. The 500 samples of the
    validation part are not used.

    Parameters
    ----------
    data_dir : path, optional
        The folder of data sets; by default ``TOPOKIT_DATA``.
    rng : numpy.random.Generator
        Used for subsets only.
    n_train, n_test : int, optional
        Sizes of the parts, drawn from `rng`.

    Returns
    -------
    Data

    References
    ----------
    .. [1] Larochelle, Murray, The neural autoregressive distribution estimator, 2011 (the split).

    Examples
    --------
    >>> mushrooms(data_dir=Path("/nowhere"), rng=np.random.default_rng(0))
    Traceback (most recent call last):
    FileNotFoundError: data set 'mushrooms' not found: looked in ...
    """
    name = "mushrooms"
    paths = [
        (f"mushrooms/mushrooms.{part}.data", f"mushrooms.{part}.data") for part in ("train", "test")
    ]
    hint = "Get them from github.com/arranger1044/DEBD, datasets/mushrooms."
    files = find_files(name, data_dir, paths, hint)
    parts: list[Any] = []
    for path in files:
        with refusals(path, "rows of 0 and 1"), open_regular(path) as file:
            x = np.loadtxt(file, np.float32, delimiter=",", ndmin=2)
        if x.shape[1] != 112 or not np.isin(x, (0, 1)).all():
            raise ValueError(f"{path}: expected 112 columns of 0 and 1, got {x.shape[1]} columns")
        parts += [x, np.full(len(x), -1)]
    cut = subsets(name, (parts[0], parts[1], parts[2], parts[3]), n_train, n_test, "", rng)
    return Data(name, *cut, n_classes=0, source=f"{files[0].parent}; {SCALES['none']}")
