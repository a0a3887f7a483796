"""Loaders of binary data sets without labels, on which RBMs and other densities are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topokit.data.rows import LONGEST, numbers_of
from topokit.data.samples import SCALES, Data, Loader, find_files, read_npz, subsets
from topokit.foreign import open_regular, refusals

__all__ = ["binary_set", "read_binary", "read_made"]

Sizes = tuple[int, int]


def binary_set(
    name: str, n_features: int, sizes: Sizes, original: str, *, in_debd: bool = True
) -> Loader:
    """Return the loader of one of the binary data sets of Larochelle and others.

    Parameters
    ----------
    name : str
        Its name in the collections DEBD and MADE.
    n_features : int
    sizes : tuple of int
        Numbers of samples for training and for the test; a file with another number is refused.
    original : str
        File name of the original distribution, with ``{}`` for the part.
    in_debd : bool
        Whether DEBD has these parts of it.
    """
    n, held_out = sizes
    made = f"{name}.npz"
    debd = f"{name}.{{}}.data"
    files = [debd, original, made] if in_debd else [original, made]
    places = [f"{made} from github.com/mgermain/MADE"]
    if in_debd:
        both = f"{debd.format('train')} and {debd.format('test')}"
        places.insert(0, f"{both} from github.com/arranger1044/DEBD, datasets")
    hint = f"Get {', or '.join(places)}, and put them into a folder {name}/ there."

    def load(
        *,
        data_dir: Path | None = None,
        rng: np.random.Generator,
        n_train: int | None = None,
        n_test: int | None = None,
    ) -> Data:
        path, x_train, x_test = read(data_dir)
        labels = [np.full(len(x), -1) for x in (x_train, x_test)]
        parts = (x_train, labels[0], x_test, labels[1])
        cut = subsets(name, parts, n_train, n_test, "", rng)
        return Data(name, *cut, n_classes=0, source=f"{path}; {SCALES['none']}")

    def read(data_dir: Path | None) -> tuple[Path, Any, Any]:
        missing: list[FileNotFoundError] = []
        for file in files:
            wanted = dict.fromkeys(file.format(part) for part in ("train", "test"))
            paths = [(f"{name}/{each}", each) for each in wanted]
            try:
                found = find_files(name, data_dir, paths, hint)
            except FileNotFoundError as error:
                missing.append(error)
                continue
            if file == made:
                x_train, x_test = read_made(found[0], sizes, n_features)
            else:
                x_train, x_test = (
                    read_binary(path, rows, n_features)
                    for path, rows in zip(found, sizes, strict=True)
                )
            return found[0], x_train, x_test
        raise missing[0]

    load.__name__ = load.__qualname__ = name
    load.__doc__ = f"""Load {name}: {n:,} + {held_out:,} samples of {n_features} binary features.

    For density estimation: without labels (all are -1, `n_classes` is 0). The validation part is
    not used. In {name}/ and in the folder of data sets itself are looked for, in this order:
    {", ".join(file.format("train") for file in files)}. All hold the same samples.

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
    .. [1] Larochelle, Bengio, Turian, "Tractable multivariate binary density estimation and the
       restricted Boltzmann forest", Neural Computation 22, 2010.
    .. [2] Larochelle, Murray, "The neural autoregressive distribution estimator", AISTATS 2011 (the
       split).

    Examples
    --------
    >>> {name}(data_dir=Path("/nowhere"), rng=np.random.default_rng(0))
    Traceback (most recent call last):
    FileNotFoundError: data set {name!r} not found: looked in ...
    """
    return load


def read_made(path: Path, counts: Sizes, n_features: int) -> list[NDArray[np.float32]]:
    """Return both parts of an ``.npz`` file of MADE."""
    arrays = read_npz(path, ("train_data", "test_data"))
    found = []
    for part, n in zip(("train_data", "test_data"), counts, strict=True):
        x = arrays[part]
        if x.shape != (n, n_features) or x.dtype.kind not in "iufb" or not np.isin(x, (0, 1)).all():
            raise ValueError(
                f"{path}: expected 0 and 1 of shape {(n, n_features)} in {part}, got {x.dtype} of "
                f"shape {x.shape}"
            )
        found.append(x.astype(np.float32))
    return found


def read_binary(path: Path, n: int, n_features: int) -> NDArray[np.float32]:
    """Return the samples of a text file of binary features.

    Parameters
    ----------
    path : path
        ``.data``: values separated by commas. ``.libsvm``: a label, and the numbers of the features
        that are 1, as in ``-1 3:1 11:1``. Else values separated by spaces, and a label; labels are
        not used.
    n, n_features : int
        How many samples and features there must be.

    Returns
    -------
    (n, n_features) float32
        0 or 1.

    Raises
    ------
    ValueError
        If there is anything else; the message has the number of the line.
    """
    with refusals(path, f"{n:,} rows of {n_features} values 0 or 1"):
        if path.suffix == ".libsvm":
            return _libsvm(path, n, n_features)
        comma = path.suffix == ".data"
        x: NDArray[np.float32] = numbers_of(
            path, values=n_features + (not comma), separator="," if comma else " ", rows=n
        )
        x = x[:, :n_features]
        strange = np.argwhere(~np.isin(x, (0, 1)))
        if strange.size:
            row, column = strange[0]
            raise ValueError(f"line {row + 1}: {x[row, column]:g}, not 0 or 1")
        return x


def _libsvm(path: Path, n: int, n_features: int) -> NDArray[np.float32]:
    """Read lines of a label and pairs ``feature:1``, features from 1 and ascending."""
    x = np.zeros((n, n_features), np.float32)
    number = 0
    with open_regular(path) as file:
        while line := file.readline(LONGEST):
            words = line.split()
            if not words and not file.readline(1):
                break  # an empty line at the end
            number += 1
            if number > n:
                raise ValueError(f"more than {n:,} lines")
            last = 0
            if not words or b":" in words[0] or not _is_label(words[0]):
                raise ValueError(f"line {number}: no label, and then features such as 3:1")
            for word in words[1:]:
                feature, colon, value = word.partition(b":")
                at = int(feature) if feature.isdigit() and len(feature) < 10 else 0
                if not (colon and last < at <= n_features) or value not in _VALUES:
                    shown = word[:40].decode("latin-1")
                    raise ValueError(
                        f"line {number}: {shown!r}, not a feature in 1..{n_features}, after that "
                        "before it, with the value 1"
                    )
                x[number - 1, at - 1] = _VALUES[value]
                last = at
    if number != n:
        raise ValueError(f"{number:,} lines, not {n:,}")
    return x


_VALUES: dict[bytes, Any] = {b"1": 1, b"1.0": 1, b"1.000000": 1, b"0": 0, b"0.0": 0}


def _is_label(word: bytes) -> bool:
    return word.lstrip(b"+-").replace(b".", b"", 1).isdigit()
