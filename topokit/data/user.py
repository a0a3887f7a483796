"""Loaders of user data: CSV and npz files, and data sets of OpenML."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from topokit.data.samples import SCALES, Data, Scale, read_npz, scaled, split, subsets
from topokit.tables import choose

__all__ = ["csv", "npz", "openml"]


def _user_file(data_dir: Path | None, path: str) -> Path:
    """Return a file relative to the folder of data sets, or else to the working directory."""
    folder = data_dir or Path(os.environ.get("TOPOKIT_DATA") or ".")
    candidates = [folder / Path(path).expanduser(), Path(path).expanduser()]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = " and ".join(dict.fromkeys(map(str, candidates)))
    raise FileNotFoundError(f"data.path: expected a file, found none at {looked}")


def _classified(
    name: str,
    where: str,
    x: Any,
    y: Any,
    n_train: int | None,
    n_test: int | None,
    scale: str,
    rng: np.random.Generator,
) -> Data:
    """Return a data set from samples and labels: classes numbered, split, and scaled."""
    classes, codes = np.unique(y, return_inverse=True)
    if classes.dtype.kind == "f" and (classes != np.round(classes)).any():
        raise ValueError(f"{where}: expected classes as labels, got numbers such as {classes[0]}")
    if classes.size < 2 or classes.size > max(2, len(y) // 2):
        raise ValueError(
            f"{where}: expected 2 to {max(2, len(y) // 2)} classes among {len(y)} labels, "
            f"got {classes.size}"
        )
    n_test = max(1, len(y) // 5) if n_test is None else n_test
    x_train, y_train, x_test, y_test = split(name, x, codes, n_train, n_test, rng)
    x_train, x_test = scaled(x_train, x_test, scale, float(np.abs(x).max()) or 1.0)
    source = f"{where}; stratified split; {SCALES[scale]}"
    return Data(name, x_train, y_train, x_test, y_test, classes.size, None, source)


def csv(
    *,
    data_dir: Path | None = None,
    rng: np.random.Generator,
    path: str,
    label: str | int = -1,
    header: bool = True,
    n_train: int | None = None,
    n_test: int | None = None,
    scale: Scale = "standard",
) -> Data:
    r"""Load a user's table: comma-separated numbers with one column of class labels.

    Parameters
    ----------
    data_dir : path, optional
        The folder of data sets; by default ``TOPOKIT_DATA``.
    rng : numpy.random.Generator
        Used for the split.
    path : str
        Relative to the folder of data sets or to the working directory, or absolute.
    label : str or int
        Name of the label column, or its position (the last one by default).
    header : bool
        Whether the first line contains the names of the columns.
    n_train, n_test : int, optional
        Sizes of the parts, stratified; by default a fifth is the test part.
    scale : str
        A key of `SCALES`.

    Returns
    -------
    Data
        Classes are numbered in the order of their sorted labels.

    References
    ----------
    .. [1] RFC 4180, Common format and MIME type for comma-separated values, 2005.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> rows = [f"{i},{i * i},{'odd' if i % 2 else 'even'}" for i in range(20)]
    >>> _ = (folder / "points.csv").write_text("\n".join(["a,b,kind", *rows]))
    >>> data = csv(data_dir=folder, rng=np.random.default_rng(0), path="points.csv", label="kind")
    >>> data.x_train.shape, data.n_classes
    ((16, 2), 2)
    """
    import pandas as pd

    file = _user_file(data_dir, path)
    try:
        frame = pd.read_csv(file, header=0 if header else None, skipinitialspace=True)
    except ValueError as error:  # includes parser and decoding errors
        reason = " ".join(str(error).split())
        raise ValueError(f"{file}: expected comma-separated values, got: {reason}") from None
    names = [str(column) for column in frame.columns]
    if isinstance(label, int):
        if not -len(names) <= label < len(names):
            raise ValueError(
                f"data.label: expected a column in 0..{len(names) - 1} of {file}, got {label}"
            )
        at = label % len(names)
    elif label in names:
        at = names.index(label)
    else:
        choose("column", label, dict.fromkeys(names))
    y, x = frame.iloc[:, at], frame.drop(columns=frame.columns[at])
    if frame.isna().to_numpy().any():
        row, column = np.argwhere(frame.isna().to_numpy())[0]
        raise ValueError(f"{file}: a value is missing in row {row}, column {names[column]!r}")
    for column, kind in x.dtypes.items():
        if kind.kind not in "iufb":
            raise ValueError(f"{file}: expected numbers in column {str(column)!r}, got {kind}")
    labels = y.astype(str) if y.dtype.kind not in "iufb" else y
    return _classified(
        "csv", str(file), x.to_numpy(np.float64), labels.to_numpy(), n_train, n_test, scale, rng
    )


def npz(
    *,
    data_dir: Path | None = None,
    rng: np.random.Generator,
    path: str,
    n_train: int | None = None,
    n_test: int | None = None,
    scale: Scale = "none",
) -> Data:
    """Load a user's arrays from an ``.npz`` file; nothing is unpickled.

    Parameters
    ----------
    data_dir : path, optional
        The folder of data sets; by default ``TOPOKIT_DATA``.
    rng : numpy.random.Generator
        Used for the split, if the file has none, and for subsets.
    path : str
        A file with arrays `x` (n, features) and `y` (n,), or `x_train`, `y_train`, `x_test` and
        `y_test`. Further axes of x are flattened. Relative paths as for `csv`.
    n_train, n_test : int, optional
        Sizes of the parts, stratified; if the file has no split, by default a fifth is the test
        part.
    scale : str
        A key of `SCALES`.

    Returns
    -------
    Data
        Classes are numbered in the order of their sorted labels.

    References
    ----------
    .. [1] NumPy Enhancement Proposal 1, A simple file format for NumPy arrays, 2007.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> np.savez(folder / "points.npz", x=np.eye(20), y=np.arange(20) % 2)
    >>> npz(data_dir=folder, rng=np.random.default_rng(0), path="points.npz").x_test.shape
    (4, 20)
    """
    file = _user_file(data_dir, path)
    parts = ("x_train", "y_train", "x_test", "y_test")
    arrays = read_npz(file, ("x", "y"), parts)
    for name, array in arrays.items():
        if array.ndim < (2 if name[0] == "x" else 1) or (
            name[0] == "x" and array.dtype.kind not in "iufb"
        ):
            raise ValueError(
                f"{file}: expected x (n, features) of numbers and y (n,), "
                f"got {name} {array.dtype} {array.shape}"
            )
        if name[0] == "x":
            arrays[name] = array.reshape(len(array), -1)
        elif array.size != len(arrays[name.replace("y", "x")]):
            raise ValueError(
                f"{file}: expected as many labels as samples, got {array.size} in {name} and "
                f"{len(arrays[name.replace('y', 'x')])}"
            )
        else:
            arrays[name] = array.ravel()
    if "x" in arrays:
        return _classified("npz", str(file), arrays["x"], arrays["y"], n_train, n_test, scale, rng)
    classes, codes = np.unique(
        np.concatenate([arrays["y_train"], arrays["y_test"]]), return_inverse=True
    )
    n = arrays["y_train"].size
    given = (arrays["x_train"], codes[:n], arrays["x_test"], codes[n:])
    x_train, y_train, x_test, y_test = subsets("npz", given, n_train, n_test, "", rng)
    x_train, x_test = scaled(x_train, x_test, scale, float(np.abs(x_train).max()) or 1.0)
    source = f"{file}; {SCALES[scale]}"
    return Data("npz", x_train, y_train, x_test, y_test, classes.size, None, source)


def openml(
    *,
    data_dir: Path | None = None,
    rng: np.random.Generator,
    dataset: str,
    version: int | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
    scale: Scale = "standard",
) -> Data:
    """Load a classification data set of OpenML by name; downloads it the first time.

    Parameters
    ----------
    data_dir : path, optional
        Not used: scikit-learn keeps downloads in a folder of its own.
    rng : numpy.random.Generator
        Used for the split.
    dataset : str
        Its name on openml.org.
    version : int, optional
        By default the active one; give a version to make results reproducible.
    n_train, n_test : int, optional
        Sizes of the parts, stratified; by default a fifth is the test part.
    scale : str
        A key of `SCALES`.

    Returns
    -------
    Data
        Categorical features are numbered, and classes in the order of their sorted labels.

    References
    ----------
    .. [1] Vanschoren et al., OpenML: networked science in machine learning, 2013.

    Examples
    --------
    >>> data = openml(rng=np.random.default_rng(0), dataset="har")  # doctest: +SKIP
    """
    from sklearn.datasets import fetch_openml

    try:
        x, y = fetch_openml(
            dataset,
            version="active" if version is None else version,
            return_X_y=True,
            as_frame=False,
            parser="liac-arff",
            n_retries=1,
        )
    except OSError as error:  # includes the errors of urllib
        reason = " ".join(str(error).split())
        raise FileNotFoundError(
            f"OpenML data set {dataset!r} is not on this machine and could not be downloaded: "
            f"{reason}. Check the network and its name on openml.org"
        ) from None
    if y is None or np.ndim(y) != 1:
        raise ValueError(f"OpenML data set {dataset!r}: expected a label for each sample, got none")
    x = x.toarray() if hasattr(x, "toarray") else np.asarray(x)
    where = f"OpenML {dataset!r}, version {'active' if version is None else version}"
    return _classified("openml", where, x, y, n_train, n_test, scale, rng)
