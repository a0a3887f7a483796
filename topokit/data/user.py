"""Loaders of user data: CSV and npz files, and data sets of OpenML."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from csv import reader as read_rows
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topokit.data.samples import (
    Data,
    Scale,
    largest_magnitude,
    read_npz,
    scaled_data,
    split,
    subsets,
)
from topokit.foreign import ReadingNote, first_few, open_regular, refusals
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
    classes, (codes,) = _numbered(where, y)
    n_test = max(1, len(y) // 5) if n_test is None else n_test
    parts = split(name, x, codes, n_train, n_test, rng)
    source = f"{where}; stratified split"
    _note_unseen(source, classes, parts)
    return scaled_data(
        name,
        parts,
        scale=scale,
        largest=largest_magnitude(x),
        n_classes=len(classes),
        source=source,
    )


def _numbered(where: str, *labels: Any) -> tuple[Any, list[NDArray[np.int64]]]:
    """Return the classes in order, and the number of the class of each sample, part by part.

    White space around a label is none of it. Where all labels are -1 there are no classes, and the
    number of each sample is -1.

    Raises
    ------
    ValueError
        If some labels are numbers and others words, one is missing or no class, or there are too
        few or too many classes.
    """
    words = [part.dtype.kind not in "iufb" for part in labels]
    if any(words) and not all(words):
        kinds = " and ".join(str(part.dtype) for part in labels)
        raise ValueError(f"{where}: expected labels of one kind in all parts, got {kinds}")
    y = np.concatenate([_stripped(where, part) for part in labels] if all(words) else labels)
    classes, codes = np.unique(y, return_inverse=True)
    if classes.dtype.kind == "f":
        strange = classes[~np.isfinite(classes) | (classes != np.round(classes))]
        if strange.size:
            raise ValueError(
                f"{where}: expected classes as labels, got numbers such as {strange[0]}"
            )
    if not all(words) and np.array_equal(classes, [-1]):
        classes, codes = classes[:0], codes - 1
    elif classes.size < 2 or classes.size > max(2, len(y) // 2):
        raise ValueError(
            f"{where}: expected 2 to {max(2, len(y) // 2)} classes among {len(y)} labels, "
            f"got {classes.size}; of samples without labels these are all -1"
        )
    ends = np.cumsum([len(part) for part in labels])[:-1]
    return classes, np.split(codes, ends)


def _stripped(where: str, labels: Any) -> Any:
    """Return labels that are words without the white space around them."""
    import pandas as pd

    missing = np.flatnonzero(pd.isna(labels))
    if missing.size:
        raise ValueError(
            f"{where}: expected a label for each sample, got none for number {missing[0]}"
        )
    return np.strings.strip(labels.astype(np.str_))


def _note_unseen(where: str, classes: Any, parts: Sequence[Any]) -> None:
    """Warn of classes of the test part that have no training sample."""
    _, y_train, _, y_test = parts
    unseen = [str(classes[code]) for code in np.setdiff1d(y_test, y_train)]
    if unseen:
        warnings.warn(
            f"{where}: no training sample is of these classes of the test part: "
            f"{first_few(unseen, 6)}",
            ReadingNote,
            stacklevel=2,
        )


def csv(
    *,
    data_dir: Path | None = None,
    rng: np.random.Generator,
    path: str,
    label: str | int | None = None,
    header: bool | None = None,
    drop: Sequence[str | int] = (),
    n_train: int | None = None,
    n_test: int | None = None,
    scale: Scale = "standard",
) -> Data:
    r"""Load a user's table: numbers with one column of class labels.

    Commas, semicolons, tabs, vertical bars and spaces are recognised as separators; except where
    it separates, a comma may be the decimal point. What was recognised is said in a
    `topokit.foreign.ReadingNote` and in the data's `source`. A column that numbers the rows, such
    as the index that pandas writes, is refused: a network learns the order of the rows from it.

    Parameters
    ----------
    data_dir : path, optional
        The folder of data sets; by default ``TOPOKIT_DATA``.
    rng : numpy.random.Generator
        Used for the split.
    path : str
        Relative to the folder of data sets or to the working directory, or absolute.
    label : str or int, optional
        Name of the label column, or its position. By default the one called label, class, target
        or y, if there is one such column, else the last.
    header : bool, optional
        Whether the first line contains the names of the columns; by default it does if a word
        stands over a column of numbers, or over all columns. A given value that the lines
        contradict is refused.
    drop : sequence of str or int
        Columns to leave out, by name or position. Positions, also that of `label`, are those in the
        file, where every column counts.
    n_train, n_test : int, optional
        Sizes of the parts, stratified; by default a fifth is the test part.
    scale : str
        A key of `SCALES`.

    Returns
    -------
    Data
        Classes are numbered in the order of their sorted labels, without white space around them.

    References
    ----------
    .. [1] RFC 4180, "Common format and MIME type for comma-separated values", 2005.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> rows = [f"{i},{i * i},{'odd' if i % 2 else 'even'}" for i in range(20)]
    >>> _ = (folder / "points.csv").write_text("\n".join(["a,b,kind", *rows]))
    >>> data = csv(
    ...     data_dir=folder, rng=np.random.default_rng(0), path="points.csv", drop=["a"]
    ... )
    >>> data.x_train.shape, data.n_classes
    ((16, 1), 2)
    """
    file = user_file(data_dir, path)
    with refusals(file, "a table of numbers and a column of labels"):
        frame, said = _table(file, header)
        out = [frame.columns[_position(frame, "data.drop", column)] for column in drop]
        chosen = None if label is None else frame.columns[_position(frame, "data.label", label)]
        if chosen is not None and chosen in out:
            raise ValueError(f"data.drop leaves out the column of labels, {str(chosen)!r}")
        frame = frame.drop(columns=out)
        if frame.shape[1] < 2:
            raise ValueError("a single column, which cannot hold features and labels")
        at, words = _label(frame) if chosen is None else (frame.columns.get_loc(chosen), [])
        said += words
        names = [str(column) for column in frame.columns]
        missing = frame.isna().to_numpy()
        if missing.any():
            row, column = np.argwhere(missing)[0]
            raise ValueError(
                f"no value in row {row + 1} of the data, column {names[column]!r}; leave such rows "
                "out, or fill them"
            )
        y, x = frame.iloc[:, at], frame.drop(columns=frame.columns[at])
        for column in x:
            _refuse_words(x[column])
        for place, column in enumerate(x):
            _refuse_row_numbers(x[column], first=place == 0)
        labels = y.astype(str) if y.dtype.kind not in "iufb" else y
        values = x.to_numpy(np.float64)
        where = f"{file} ({', '.join(said)})" if said else str(file)
        data = _classified("csv", where, values, labels.to_numpy(), n_train, n_test, scale, rng)
    if said:
        warnings.warn(f"{file}: read with {', '.join(said)}", ReadingNote, stacklevel=2)
    return data


_WIDEST = 100_000
_SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "vertical bars", ",": "commas", " ": "spaces"}
"""Separators and their names. The comma, which may be the decimal point, is tried after those
before it, and spaces, which may follow any other separator, last."""
_LOOKED_AT = 20


def _table(file: Path, header: bool | None) -> tuple[Any, list[str]]:
    """Return a file of separated values as a frame, and what was guessed."""
    import pandas as pd

    with open_regular(file) as raw:
        lines, longest = _first_lines(raw)
        if not lines:
            raise ValueError("an empty file")
        if longest >= 2**22:
            raise ValueError(f"a line of more than {2**22:,} bytes")
        if any("\0" in line for line in lines):
            raise ValueError("no text: it has bytes of value 0")
        separator = _separator(lines)
        columns = len(lines[0].split()) if separator == " " else lines[0].count(separator) + 1
        if columns > _WIDEST:
            raise ValueError(f"{columns:,} columns; at most {_WIDEST:,} are read")
        cells = _cells(lines, separator)
        decimal = "." if separator == "," else ","
        numeric = [[_is_numeric(cell, decimal) for cell in row] for row in cells]
        named = _has_names(cells, numeric)
        if header is not None and header != named:
            raise ValueError(
                "a first line of numbers in place of names; set data.header=false if it is a sample"
                if header
                else "a first line of names; set data.header=true"
            )
        if len(cells) > 1 and len(cells[1]) > len(cells[0]):
            raise ValueError(
                f"{len(cells[0])} values in the first line and {len(cells[1])} in the next: a "
                "decimal comma, or rows with numbers or names (which write.table(..., "
                "row.names=FALSE) leaves out)"
            )
        options: dict[str, Any] = {
            "header": 0 if named else None,
            "skipinitialspace": True,
            "sep": r"\s+" if separator == " " else separator,
            "encoding": "utf-8-sig",
            "index_col": False,
        }
        raw.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # of rows that are too long
            frame = pd.read_csv(raw, **options)
        said = [] if separator == "," else [f"{_SEPARATORS[separator]} as separators"]
        if separator != "," and _has_decimal_commas(frame):
            raw.seek(0)
            frame = pd.read_csv(raw, **options, decimal=",")
            said.append("decimal commas")
    if header is None and (not named or all(numeric[0])):
        said.append("the first line as names" if named else "no line of names")
    return frame, said


def _first_lines(raw: Any) -> tuple[list[str], int]:
    """Return the first lines that are not blank, and the number of bytes of the longest."""
    lines: list[bytes] = []
    while len(lines) < _LOOKED_AT and (line := raw.readline(2**22)):
        if line.strip():
            lines.append(line)
    text = b"".join(lines).decode("utf-8-sig")
    return text.splitlines(), max(map(len, lines), default=0)


def _separator(lines: list[str]) -> str:
    """Return the separator that divides all of the first lines into as many columns."""
    for separator in _SEPARATORS:
        widths = {len(row) for row in _cells(lines, separator)}
        if len(widths) == 1 and widths != {1}:
            return " " if separator == "," and _only_decimal_commas(lines) else separator
    others = [s for s in _SEPARATORS if s != " " and s in lines[0]]
    return max(others, key=lambda s: (lines[0].count(s), s == ","), default=" ")


def _only_decimal_commas(lines: list[str]) -> bool:
    """Return whether spaces divide lines into numbers, each comma being within one."""
    names, *rows = _cells(lines, " ")
    return len({len(row) for row in (names, *rows)}) == 1 < len(names) and all(
        _is_numeric(cell, ",") and cell.strip(",") == cell for row in rows for cell in row
    )


def _cells(lines: list[str], separator: str) -> list[list[str]]:
    """Return the cells of lines; several spaces in a row separate once."""
    if separator == " ":
        lines = [line.strip() for line in lines]
    return list(read_rows(lines, delimiter=separator, skipinitialspace=True))


def _has_names(cells: list[list[str]], numeric: list[list[bool]]) -> bool:
    """Return whether the first line has names: words over a column of numbers, or everywhere.

    Numbers from 0 on count as names, too: pandas writes them where columns have none.
    """
    first, below = numeric[0], numeric[1:]
    if not any(cell and not known for cell, known in zip(cells[0], first, strict=True)):
        return cells[0] == [str(i) for i in range(len(first))] and len(first) > 1
    numbered = [cell == str(i) for i, cell in enumerate(cells[0]) if first[i]]
    if not any(first) or (len(numbered) > 1 and all(numbered)):
        return True
    columns = zip(first, *(row for row in below if len(row) == len(first)), strict=True)
    return any(not column[0] and all(column[1:]) for column in columns if len(column) > 1)


def _is_numeric(text: str, decimal: str = ".") -> bool:
    """Return whether a cell is a number, or empty."""
    try:
        float(text.replace(decimal, ".") or 0)
    except ValueError:
        return False
    return True


def _has_decimal_commas(frame: Any) -> bool:
    """Return whether columns have numbers with a decimal comma.

    Raises
    ------
    ValueError
        If they could as well be thousands: "1,234".
    """
    found = []
    for column in frame:
        values = frame[column]
        if values.dtype.kind in "iufb":
            continue
        texts = values.dropna().astype(str).str.strip()
        if len(texts) and bool(texts.str.fullmatch(r"[-+]?\d*(,\d+)?([eE][-+]?\d+)?").all()):
            found.append(texts[texts.str.contains(",")])
    if found and all(
        bool(texts.str.fullmatch(r"[-+]?[1-9]\d{0,2},\d{3}").all()) for texts in found
    ):
        raise ValueError(
            f"numbers such as {found[0].iloc[0]!r}, whose comma may be a decimal point or divide "
            "thousands; save the table with points"
        )
    return bool(found)


_LABELS = ("label", "class", "target", "y")


def _label(frame: Any) -> tuple[int, list[str]]:
    """Return the position of the label column where none is given, and what was guessed."""
    names = [str(name) for name in frame.columns]
    found = [at for at, name in enumerate(names) if name.strip().lower() in _LABELS]
    if len(found) == 1 and found[0] != len(names) - 1:
        return found[0], [f"the column {names[found[0]]!r} as labels"]
    return len(names) - 1, []


def _position(frame: Any, key: str, column: str | int) -> int:
    """Return the position of a column given by name or position."""
    names = [str(name) for name in frame.columns]
    if isinstance(column, int):
        need(-len(names) <= column < len(names), key, f"a column in 0..{len(names) - 1}", column)
        return column % len(names)
    if column not in names:
        choose("column", column, dict.fromkeys(names))
    return names.index(column)


def _refuse_words(column: Any) -> None:
    """Raise a ValueError if a column of features has anything but numbers."""
    if column.dtype.kind in "iufb":
        return
    texts = column.astype(str).str.strip()
    row = next((i for i, text in enumerate(texts) if not _is_numeric(text)), 0)
    value = texts.iloc[row]
    comma = bool(re.fullmatch(r"[-+]?[\d.]*,\d+", value))
    hint = ", a number with a comma; save the table with decimal points" if comma else ""
    raise ValueError(
        f"{value!r} in row {row + 1} of the data, column {str(column.name)!r}, no number{hint}; "
        f"leave the column out with data.drop=[{_toml(column.name)}] if it is no feature"
    )


def _toml(name: Any) -> str:
    """Return a column as a configuration names it."""
    return str(name) if isinstance(name, int | np.integer) else f'"{name}"'


_ROW_WORDS = frozenset({"index", "id", "row", "idx", "rownames", "row_names"})


def _refuse_row_numbers(column: Any, *, first: bool) -> None:
    """Raise a ValueError if a column numbers the rows.

    That is a column of whole numbers called like one, or the first one without a name, that are
    all different; and a column of any name that is 0, 1, 2, ... or 1, 2, 3, ...
    """
    values, name = column.to_numpy(), str(column.name)
    if values.dtype.kind not in "iuf" or len(values) < 3 or (values != np.round(values)).any():
        return
    counts = values[0] in (0, 1) and bool((np.diff(values) == 1).all())
    nameless = name.startswith("Unnamed: ") or (first and name == "0" and counts)
    word = name.strip().lower() in _ROW_WORDS
    if not counts and not ((nameless or word) and (np.diff(np.sort(values)) != 0).all()):
        return
    called = "a column without a name" if nameless else f"a column {name!r}"
    drop = _toml(column.name)
    if nameless and first:
        called, drop = "a first column without a name", "0"
    keep = "" if nameless or word else "; if it is a feature, shuffle the rows of the table"
    raise ValueError(
        f"{called} that numbers the rows; save the table without it (to_csv(..., index=False)) "
        f"or leave it out with data.drop=[{drop}]{keep}"
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
        `y_test`. Further axes of x are flattened. Samples without labels, for Boltzmann machines,
        have -1 throughout in y. Relative paths as for `csv`.
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
    .. [1] NumPy Enhancement Proposal 1, "A simple file format for NumPy arrays", 2007.

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
        classes, codes = _numbered(str(file), arrays["y_train"], arrays["y_test"])
        given = (arrays["x_train"], codes[0], arrays["x_test"], codes[1])
        cut = subsets("npz", given, n_train, n_test, "", rng)
        _note_unseen(str(file), classes, cut)
        return scaled_data(
            "npz",
            cut,
            scale=scale,
            largest=largest_magnitude(cut[0]),
            n_classes=len(classes),
            source=str(file),
        )


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
    .. [1] Vanschoren et al., "OpenML: networked science in machine learning", SIGKDD Explorations
       15, 2013.

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
