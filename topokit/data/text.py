"""Texts, a character at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topokit.data.samples import Data
from topokit.data.user import user_file
from topokit.foreign import open_regular, refusals

__all__ = ["CHARACTERS", "text"]

CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
"""The characters with a code of their own, 1 to 96: newline and printable ASCII."""


def text(
    *,
    data_dir: Path | None = None,
    rng: np.random.Generator,
    path: str | None = None,
    length: int = 64,
    n_train: int | None = None,
    n_test: int | None = None,
) -> Data:
    """Load a text cut into blocks, each character's class being the character that follows it.

    By default the reference of the Python language that the interpreter itself ships with for
    ``help`` (the module ``pydoc_data.topics``, some 450,000 characters), whose text differs between
    versions of Python. The last tenth is the test part. A character is coded by its position in
    `CHARACTERS`, from 1; 0 is any other, so there are always 97 classes.

    Parameters
    ----------
    data_dir : path, optional
        The folder of data sets, to which `path` may be relative.
    rng : numpy.random.Generator
        Used for subsets only.
    path : str, optional
        A text file in UTF-8, relative to the folder of data sets or to the working directory, or
        absolute.
    length : int
        Characters of a block, at least 1. Blocks do not overlap.
    n_train, n_test : int, optional
        Numbers of blocks, drawn from `rng`; by default all.

    Returns
    -------
    Data
        Labels of shape (n, length), those of x shifted by one character.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no text, or too short for two blocks in the test part.

    References
    ----------
    .. [1] "The Python Language Reference", docs.python.org/3/reference.

    Examples
    --------
    >>> data = text(rng=np.random.default_rng(0), length=32, n_train=100, n_test=10)
    >>> data.x_train.shape, data.y_train.shape, data.n_classes
    ((100, 32), (100, 32), 97)
    >>> bool((data.x_test[:, 1:] == data.y_test[:, :-1]).all())
    True
    """
    if length < 1:
        raise ValueError(f"data.length: expected at least 1 character, got {length}")
    if path is None:
        source, content = "Python's pydoc_data.topics", _reference()
    else:
        file = user_file(data_dir, path)
        source = str(file)
        with refusals(file, "a text in UTF-8"), open_regular(file) as raw:
            content = raw.read().decode("utf-8-sig").replace("\r\n", "\n")
    codes = _codes(content)
    least = 20 * (length + 1)
    if codes.size < least:
        raise ValueError(
            f"{source}: expected at least {least} characters for blocks of {length}, got "
            f"{codes.size}; use a smaller data.length"
        )
    cut = codes.size - codes.size // 10
    parts: list[NDArray[np.int64]] = []
    for key, part, n in (("n_train", codes[:cut], n_train), ("n_test", codes[cut:], n_test)):
        blocks = (part.size - 1) // length
        x = part[: blocks * length].reshape(blocks, length)
        y = part[1 : blocks * length + 1].reshape(blocks, length)
        if n is not None:
            if not 1 <= n <= blocks:
                raise ValueError(f"data set 'text': expected {key} in 1..{blocks}, got {n}")
            taken = rng.permutation(blocks)[:n]
            x, y = x[taken], y[taken]
        parts += [x, y]
    x_train, y_train, x_test, y_test = parts
    words = f"{source}; blocks of {length} characters, the last tenth for the test"
    return Data(
        "text", x_train.astype(np.float32), y_train, x_test.astype(np.float32), y_test,
        len(CHARACTERS) + 1, None, words,
    )  # fmt: skip


def _reference() -> str:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise FileNotFoundError(
            "data set 'text': expected the module pydoc_data of Python's standard library, which "
            "this installation lacks; give a text file with data.path"
        ) from None
    return "\n\n".join(topics[name] for name in sorted(topics))


def _codes(content: str) -> NDArray[np.int64]:
    """Return the code of each character."""
    table = np.zeros(128, np.int64)
    table[[ord(character) for character in CHARACTERS]] = np.arange(1, len(CHARACTERS) + 1)
    points = np.frombuffer(content.encode("utf-32-le"), np.uint32)
    return np.where(points < 128, table[np.minimum(points, 127)], 0)
