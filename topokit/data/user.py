"""Loaders of user data: CSV and npz files, and data sets of OpenML."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from topokit.data.samples import SCALES, Data, Scale, read_npz, scaled, split, subsets
from topokit.foreign import open_regular, refusals
from topokit.tables import choose, need

__all__ = ["csv", "npz", "openml", "user_file"]


def user_file(data_dir: Path | None, path: str) -> Path:
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
    drop: Sequence[str | int] = (),
    n_train: int | None = None,
    n_test: int | None = None,
    scale: Scale = "standard",
) -> Data:
    r"""Load a user's table: comma-separated numbers with one column of class labels.

    Semicolons, tabs and vertical bars are recognised as separators in the first line, and said in
    the data's `source`; with semicolons, a comma may be the decimal point. A first column that
    only counts the rows, such as the index that pandas writes, is refused: a network learns the
    order of the rows from it.

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
        Whether the first line contains the names of the columns. A first line of numbers only, or
        of words only over columns of numbers, that says otherwise is refused.
    drop : sequence of str or int
        Columns to leave out, by name or position.
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
    file = user_file(data_dir, path)
    with refusals(file, "a table of numbers and a column of labels"):
        frame, read_as = _table(file, header)
        for column in drop:
            frame = frame.drop(columns=frame.columns[_position(frame, "data.drop", column)])
        at = _position(frame, "data.label", label)
        names = [str(column) for column in frame.columns]
        missing = frame.isna().to_numpy()
        if missing.any():
            row, column = np.argwhere(missing)[0]
            raise ValueError(f"no value in row {row}, column {names[column]!r}")
        y, x = frame.iloc[:, at], frame.drop(columns=frame.columns[at])
        for column, kind in x.dtypes.items():
            if kind.kind not in "iufb":
                first = frame[column].iloc[0]
                raise ValueError(f"{kind} such as {first!r} in column {str(column)!r}, no numbers")
        if x.shape[1] and at != 0:
            _refuse_row_numbers(x.iloc[:, 0], header)
        labels = y.astype(str) if y.dtype.kind not in "iufb" else y
        values = x.to_numpy(np.float64)
        where = f"{file}{read_as}"
        return _classified("csv", where, values, labels.to_numpy(), n_train, n_test, scale, rng)


_WIDEST = 100_000


def _table(file: Path, header: bool) -> tuple[Any, str]:
    """Return a file of separated values as a frame, and how it was read if not with commas."""
    import pandas as pd

    with open_regular(file) as raw:
        first = raw.readline(2**22)
        second = raw.readline(2**22)
        if len(first) >= 2**22:
            raise ValueError(f"a first line of more than {2**22:,} bytes")
        if b"\0" in first + second:
            raise ValueError("no text: it has bytes of value 0")
        line = first.decode("utf-8-sig")
        separator = next((s for s in ",;\t|" if s in line), ",")
        if line.count(separator) >= _WIDEST:
            raise ValueError(f"{line.count(separator) + 1:,} columns; at most {_WIDEST:,} are read")
        decimal = "." if separator != ";" or b"," not in second else ","
        fields = [field.strip().strip('"') for field in line.strip("\r\n").split(separator)]
        numbers = [_is_numeric(field) for field in fields]
        counts = fields == [str(i) for i in range(len(fields))]  # what pandas writes without names
        if header and all(numbers) and not counts:
            raise ValueError(
                "a first line of numbers in place of names; set data.header=false if it is a sample"
            )
        raw.seek(0)
        frame = pd.read_csv(
            raw,
            header=0 if header else None,
            skipinitialspace=True,
            sep=separator,
            decimal=decimal,
            encoding="utf-8-sig",
        )
    if not header and len(frame) > 1 and not any(numbers):
        below = [_is_numeric(str(value)) for value in frame.iloc[1]]
        if all(below[:-1]) and len(below) > 1:
            raise ValueError("a first line of names; set data.header=true")
    word = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}.get(separator)
    comma = " and decimal commas" if decimal == "," else ""
    return frame, f" (separated by {word}{comma})" if word else ""


def _is_numeric(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def _position(frame: Any, key: str, column: str | int) -> int:
    """Return the position of a column given by name or position."""
    names = [str(name) for name in frame.columns]
    if isinstance(column, int):
        need(-len(names) <= column < len(names), key, f"a column in 0..{len(names) - 1}", column)
        return column % len(names)
    if column not in names:
        choose("column", column, dict.fromkeys(names))
    return names.index(column)


_ROW_WORDS = frozenset({"index", "id", "row", "idx", "no", "nr", "number"})


def _refuse_row_numbers(column: Any, header: bool) -> None:
    """Raise a ValueError if a first column counts the rows, or has no name and could do so."""
    values, name = column.to_numpy(), str(column.name)
    if values.dtype.kind not in "iu" or len(values) < 3:
        return
    nameless = not header or name.startswith("Unnamed: ")
    counts = bool((np.diff(values) == 1).all())
    if nameless and not counts:  # as an index that was shuffled with its rows
        counts = header and np.unique(values).size == len(values)
    if counts and (nameless or name.strip().lower() in _ROW_WORDS):
        called = "a first column without a name" if nameless else f"a column {name!r}"
        drop = "0" if nameless else repr(name)
        raise ValueError(
            f"{called} that numbers the rows; save the table without it (to_csv(..., index=False)) "
            f"or leave it out with data.drop=[{drop}]" + (", or name it to keep it" * nameless)
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
    file = user_file(data_dir, path)
    parts = ("x_train", "y_train", "x_test", "y_test")
    arrays = read_npz(file, ("x", "y"), parts)
    with refusals(file, "arrays of numbers and labels"):
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
            return _classified(
                "npz", str(file), arrays["x"], arrays["y"], n_train, n_test, scale, rng
            )
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
