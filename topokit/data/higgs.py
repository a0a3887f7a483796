"""Loader of HIGGS, a table too large to be held in memory more than once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topokit.data.rows import lines_of
from topokit.data.samples import (
    SCALES,
    Data,
    Loader,
    Scale,
    check_count,
    find_files,
    largest_magnitude,
    rescale,
)
from topokit.foreign import refusals

__all__ = ["higgs_table", "read_higgs"]

N_FEATURES = 28


def higgs_table(rows: int, held_out: int) -> Loader:
    """Return the loader of a table like that of HIGGS.

    Parameters
    ----------
    rows : int
        Number of lines; a file with another number is refused.
    held_out : int
        How many of the last lines are the test part.
    """
    hint = (
        "Get HIGGS.csv.gz from archive.ics.uci.edu (data set 280) and put it, unpacked or not, "
        "into a folder higgs/ there."
    )

    def load(
        *,
        data_dir: Path | None = None,
        rng: np.random.Generator,
        n_train: int | None = None,
        n_test: int | None = None,
        scale: Scale = "standard",
    ) -> Data:
        places = tuple(f"{place}HIGGS.csv{end}" for place in ("higgs/", "") for end in ("", ".gz"))
        (path,) = find_files("higgs", data_dir, [places], hint)
        sizes = [rows - held_out, held_out]
        wanted = [n_train, n_test]
        for key, n, size in zip(("n_train", "n_test"), wanted, sizes, strict=True):
            if n is not None:
                check_count("higgs", key, n, size)
        drawn = [_drawn(size, n, rng) for size, n in zip(sizes, wanted, strict=True)]
        x, y = read_higgs(path, np.concatenate(drawn))
        n = int(drawn[0].sum())
        rescale(x[:n], x[n:], scale, largest_magnitude(x[:n]))
        source = f"{path}; the last {held_out:,} rows for the test; {SCALES[scale]}"
        return Data("higgs", x[:n], y[:n], x[n:], y[n:], 2, None, source)

    load.__name__ = load.__qualname__ = "higgs"
    load.__doc__ = f"""Load HIGGS: {rows:,} simulated collisions, {N_FEATURES} features, 2 classes.

    Read from HIGGS.csv or HIGGS.csv.gz, in the folder of data sets or in its folder higgs: the
    class (1 signal, 0 background), 21 features measured by the detector and 7 derived from them.
    The last {held_out:,} rows are the test part, as in the paper.

    Parameters
    ----------
    data_dir : path, optional
        The folder of data sets; by default ``TOPOKIT_DATA``.
    rng : numpy.random.Generator
        Used for subsets only.
    n_train, n_test : int, optional
        Sizes of the parts; subsets drawn from `rng`, all rows alike, in the order of the file.
    scale : str
        "unit", "minmax", "standard", "global" or "none"; see `SCALES`. Statistics are computed on
        the training part, after taking a subset; "unit" divides by the largest absolute value.

    Returns
    -------
    Data

    Notes
    -----
    The file is read once, in blocks; of rows that are not drawn only the number of values is
    checked. Memory: 120 bytes for each row that is drawn (all: 1.3 GB), a byte for each of the
    file, and a few blocks.

    References
    ----------
    .. [1] Baldi, Sadowski, Whiteson, "Searching for exotic particles in high-energy physics with
       deep learning", Nature Communications 5:4308, 2014.

    Examples
    --------
    >>> higgs(data_dir=Path("/nowhere"), rng=np.random.default_rng(0))
    Traceback (most recent call last):
    FileNotFoundError: data set 'higgs' not found: looked in ...
    """
    return load


def read_higgs(
    path: Path, wanted: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return features and classes of some rows of a table like that of HIGGS.

    Parameters
    ----------
    path : path
    wanted : (n_rows,) bool
        Which ones; the file must have as many rows.

    Raises
    ------
    ValueError
        If a row has another number of values, or one that is wanted no finite numbers or a class
        other than 0 and 1; if there are more or fewer rows, or the file is damaged. The message
        has the number of the line.
    """
    n = int(wanted.sum())
    x, y = np.empty((n, N_FEATURES), np.float32), np.empty(n, np.int64)
    with refusals(path, f"rows of a class 0 or 1 and {N_FEATURES} numbers"):
        read = filled = 0
        for lines in lines_of(path, values=1 + N_FEATURES, separator=",", most=wanted.size):
            size = len(lines.starts) - 1
            which = wanted[read : read + size]
            read += size
            if not which.any():
                continue
            values = lines.numbers(which)
            strange = np.flatnonzero(~np.isin(values[:, 0], (0, 1)))
            if strange.size:
                line = lines.number_of(which, strange[0])
                raise ValueError(f"line {line}: the class {values[strange[0], 0]:g}, not 0 or 1")
            to = filled + len(values)
            x[filled:to], y[filled:to] = values[:, 1:], values[:, 0]
            filled = to
        if read != wanted.size:
            raise ValueError(f"{read:,} lines, not {wanted.size:,}")
    return x, y


def _drawn(n: int, k: int | None, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which of n rows are drawn if k of them are, by blocks; None draws all."""
    if k is None or k == n:
        return np.ones(n, bool)
    drawn = np.zeros(n, bool)
    for start in range(0, n, 1 << 16):
        size = min(1 << 16, n - start)
        here = int(rng.hypergeometric(size, n - start - size, k))
        drawn[start + rng.choice(size, here, replace=False, shuffle=False)] = True
        k -= here
    return drawn
