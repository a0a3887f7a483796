"""Loaders of feature data sets: MATLAB files, Isolet."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from topokit.data.mat import read_mat
from topokit.data.rows import numbers_of
from topokit.data.samples import (
    COMMON,
    Data,
    Loader,
    Scale,
    find_files,
    scaled_data,
    split,
    subsets,
)
from topokit.foreign import refusals
from topokit.tables import choose

__all__ = ["isolet_files", "mat_features", "read_isolet"]


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
        storage: Literal["dense", "sparse"] = "dense",
    ) -> Data:
        (path,) = find_files(name, data_dir, [(file, Path(file).name)], hint)
        x, y = _read_mat(path)
        classes, codes = np.unique(y, return_inverse=True)
        if x.shape != shape or classes.size != n_classes:
            raise ValueError(
                f"{path}: expected X of shape {shape} and {n_classes} classes in Y, "
                f"got {x.shape} and {classes.size}"
            )
        largest = float(x.max())
        choose("storage", storage, {"dense": 0, "sparse": 1})
        samples: Any = sp.csr_array(x) if storage == "sparse" else x
        return scaled_data(
            name,
            split(name, samples, codes, n_train, n_test, rng),
            scale=scale,
            largest=largest,
            n_classes=n_classes,
            source=f"{path}; stratified split",
        )

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
    storage : {{"dense", "sparse"}}
        How samples are held: "sparse" keeps only values other than 0, for word counts, and makes
        batches dense one at a time. Results are the same; not with "standard" and "global".

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


N_SPOKEN = 617


def isolet_files(sizes: tuple[int, int]) -> Loader:
    """Return the loader of the two files of Isolet.

    Parameters
    ----------
    sizes : tuple of int
        Numbers of samples in both; files with other numbers are refused.
    """
    hint = (
        "Get isolet.zip from archive.ics.uci.edu (data set 54), put what is in it into a folder "
        "isolet/ there, and unpack the .Z files with gzip -d."
    )

    def load(
        *,
        data_dir: Path | None = None,
        rng: np.random.Generator,
        n_train: int | None = None,
        n_test: int | None = None,
        parts: Literal["speakers", "random"] = "speakers",
        scale: Scale = "standard",
    ) -> Data:
        choose("way to divide", parts, {"speakers": 0, "random": 1})
        names = ("isolet1+2+3+4.data", "isolet5.data")
        files = find_files("isolet", data_dir, [(f"isolet/{n}", n) for n in names], hint)
        found: list[Any] = []
        for path, n in zip(files, sizes, strict=True):
            found += read_isolet(path, n)
        if parts == "speakers":
            given = (found[0], found[1], found[2], found[3])
            cut = subsets("isolet", given, n_train, n_test, "stratified", rng)
        else:
            x, y = np.concatenate(found[::2]), np.concatenate(found[1::2])
            held_out = -(-len(y) // 5) if n_test is None else n_test
            cut = split("isolet", x, y, n_train, held_out, rng)
        words = "speakers 121 to 150 for the test" if parts == "speakers" else "stratified split"
        return scaled_data(
            "isolet",
            cut,
            scale=scale,
            largest=1,
            n_classes=26,
            source=f"{files[0].parent}; {words}",
        )

    load.__name__ = load.__qualname__ = "isolet"
    n, held_out = sizes
    load.__doc__ = f"""Load Isolet: {n:,} + {held_out:,} spoken letters, {N_SPOKEN} features.

    Read from isolet1+2+3+4.data and isolet5.data: lines of features in [-1, 1] and the letter's
    number, 1 to 26. The speakers of the second file, the test part, are not those of the first.

    Parameters
    ----------
    data_dir : path, optional
        The folder of data sets; by default ``TOPOKIT_DATA``.
    rng : numpy.random.Generator
        Used for subsets, and for the split into parts at random.{COMMON}
    parts : {{"speakers", "random"}}
        The test part is the second file, or a fifth of all samples at random, as in CTRE's code:
        the same speakers are then in both parts, which is easier.

    Returns
    -------
    Data

    References
    ----------
    .. [1] Fanty, Cole, "Spoken letter recognition", NIPS 1990.

    Examples
    --------
    >>> isolet(data_dir=Path("/nowhere"), rng=np.random.default_rng(0))
    Traceback (most recent call last):
    FileNotFoundError: data set 'isolet' not found: looked in ...
    """
    return load


def read_isolet(path: Path, n: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return features and classes, from 0, of a file of Isolet with `n` samples."""
    with refusals(path, f"{n:,} rows of {N_SPOKEN} features and a class in 1..26"):
        values = numbers_of(path, values=N_SPOKEN + 1, separator=",", rows=n)
        x, y = values[:, :-1], values[:, -1]
        for strange, what in (
            (np.abs(x).max(axis=1) > 1, "a feature beyond -1..1"),
            (~np.isin(y, np.arange(1, 27)), "a class that is not in 1..26"),
        ):
            if strange.any():
                raise ValueError(f"line {np.flatnonzero(strange)[0] + 1}: {what}")
        return x, y.astype(np.int64) - 1
