"""Loader of the 20 Newsgroups as sparse word counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from topokit.data.rows import lines_of, numbers_of
from topokit.data.samples import Data, Loader, find_files, scaled_data, subsets
from topokit.foreign import refusals

__all__ = ["bags_of_words", "read_counts"]

PARTS = ("train", "test")


def bags_of_words(sizes: tuple[int, int], n_words: int, n_classes: int) -> Loader:
    """Return the loader of documents in the format of 20news-bydate-matlab.

    Parameters
    ----------
    sizes : tuple of int
        Numbers of documents for training and for the test; files with other numbers are refused.
    n_words, n_classes : int
    """
    hint = (
        "Get 20news-bydate-matlab.tgz from qwone.com/~jason/20Newsgroups and unpack it there, so "
        "that there is a folder 20news-bydate/matlab/."
    )

    def load(
        *,
        data_dir: Path | None = None,
        rng: np.random.Generator,
        n_train: int | None = None,
        n_test: int | None = None,
        scale: Literal["unit", "minmax", "none"] = "minmax",
    ) -> Data:
        places = ("20news-bydate/matlab/", "newsgroups/", "")
        names = [f"{part}.{kind}" for part in PARTS for kind in ("data", "label")]
        files = find_files(
            "newsgroups", data_dir, [tuple(p + n for p in places) for n in names], hint
        )
        found: list[Any] = []
        for n, counts, labels in zip(sizes, files[::2], files[1::2], strict=True):
            with refusals(labels, f"a class in 1..{n_classes} for each of {n:,} documents"):
                y = numbers_of(labels, values=1, separator=" ", rows=n, dtype=np.float64)[:, 0]
                strange = np.flatnonzero(~np.isin(y, np.arange(1, n_classes + 1)))
                if strange.size:
                    raise ValueError(f"line {strange[0] + 1}: {y[strange[0]]:g}")
            found += [read_counts(counts, n, n_words), y.astype(np.int64) - 1]
        parts = (found[0], found[1], found[2], found[3])
        largest = float(found[0].max())
        return scaled_data(
            "newsgroups",
            subsets("newsgroups", parts, n_train, n_test, "stratified", rng),
            scale=scale,
            largest=largest,
            n_classes=n_classes,
            source=str(files[0].parent),
        )

    load.__name__ = load.__qualname__ = "newsgroups"
    n, held_out = sizes
    load.__doc__ = f"""Load 20 Newsgroups: {n:,} + {held_out:,} documents, {n_words:,} word counts.

    The version sorted by date, in {n_classes} classes: train.data and test.data have a line of a
    document, a word and a count for each word of a document, train.label and test.label the class
    of each document. Read from 20news-bydate/matlab, newsgroups, or the folder of data sets itself.
    Samples stay sparse; batches are made dense one at a time.

    Parameters
    ----------
    data_dir : path, optional
        The folder of data sets; by default ``TOPOKIT_DATA``.
    rng : numpy.random.Generator
        Used for subsets only.
    n_train, n_test : int, optional
        Sizes of the parts; stratified subsets drawn from `rng`.
    scale : str
        "unit" (divided by the largest count of the training documents), "minmax" (each word's
        counts by its largest one in the training part) or "none"; see `SCALES`.

    Returns
    -------
    Data
        Sparse. Many words occur in no training document; their weights are never trained.

    Notes
    -----
    Memory grows with the number of lines of the files, whatever the number of words.

    References
    ----------
    .. [1] Lang, "NewsWeeder: learning to filter netnews", ICML 1995.

    Examples
    --------
    >>> newsgroups(data_dir=Path("/nowhere"), rng=np.random.default_rng(0))
    Traceback (most recent call last):
    FileNotFoundError: data set 'newsgroups' not found: looked in ...
    """
    return load


def read_counts(path: Path, n_documents: int, n_words: int) -> Any:
    """Return word counts from a file of lines ``document word count``, both numbered from 1.

    Parameters
    ----------
    path : path
    n_documents, n_words : int
        Each document must have a word.

    Returns
    -------
    (n_documents, n_words) scipy.sparse.csr_array of float32

    Raises
    ------
    ValueError
        If a line has not three whole numbers in their ranges, a word comes twice in a document, or
        a document has none, as when the file is cut off.
    """
    found: list[NDArray[Any]] = []
    with refusals(path, "lines of a document, a word and how often it occurs"):
        for lines in lines_of(path, values=3, separator=" "):
            values = lines.numbers(dtype=np.float64)
            fits = (values == np.round(values)) & (values >= 1)
            fits &= values <= (n_documents, n_words, 2**24)
            wrong = np.flatnonzero(~fits.all(axis=1))
            if wrong.size:
                words = " ".join(f"{value:g}" for value in values[wrong[0]])
                raise ValueError(
                    f"line {lines.first + wrong[0]}: '{words}', not a document in "
                    f"1..{n_documents}, a word in 1..{n_words} and a whole number"
                )
            found.append(values.astype(np.int32))
        if not found:
            raise ValueError("no lines")
        document, word, count = np.concatenate(found).T
        del found
        counts = sp.coo_array(
            (count.astype(np.float32), (document - 1, word - 1)), (n_documents, n_words)
        ).tocsr()
        if counts.nnz < count.size:
            raise ValueError(f"{count.size - counts.nnz:,} words that come twice in a document")
        without = np.flatnonzero(np.diff(counts.indptr) == 0)
        if without.size:
            raise ValueError(
                f"no word for {without.size:,} of {n_documents:,} documents, such as document "
                f"{without[0] + 1}"
            )
    return counts
