"""Data sets by name: embedded digits, images, features, texts, user data, OpenML.

This package holds loaders, one function for each data set, and what they share: finding files,
splitting and scaling. A data set is a loader and a line in `DATASETS`. Imports no other package of
topokit, only `topokit.tables` and `topokit.foreign`, and never torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from topokit.data.binary import binary_set
from topokit.data.features import isolet_files, mat_features
from topokit.data.higgs import higgs_table
from topokit.data.images import cifar10, cifar100, digits, idx_images
from topokit.data.newsgroups import bags_of_words
from topokit.data.samples import Data, Loader
from topokit.data.synthetic import synthetic
from topokit.data.text import text
from topokit.data.user import csv, npz, openml
from topokit.tables import Table, as_generator, choose

__all__ = ["DATASETS", "Data", "load_data"]

_NIPS = 'Guyon et al., "Result analysis of the NIPS 2003 feature selection challenge", NIPS 2004.'
_FEATURES = 'Li et al., "Feature selection: a data perspective", ACM Computing Surveys 50:94, 2017.'

DATASETS: dict[str, Loader] = {
    "digits": digits,
    "mnist": idx_images(
        "mnist",
        ("mnist", "MNIST/raw"),
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        'LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document '
        'recognition", Proceedings of the IEEE 86, 1998.',
    ),
    "fashion_mnist": idx_images(
        "fashion_mnist",
        ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw"),
        "github.com/zalandoresearch/fashion-mnist, data/fashion,",
        'Xiao, Rasul, Vollgraf, "Fashion-MNIST", arXiv 1708.07747, 2017.',
    ),
    "cifar10": cifar10,
    "cifar100": cifar100,
    "madelon": mat_features("madelon", "madelon/madelon.mat", (2600, 500), 2, 600, _NIPS),
    "pcmac": mat_features("pcmac", "pcmac/PCMAC.mat", (1943, 3289), 2, 389, _FEATURES),
    "basehock": mat_features("basehock", "basehock/BASEHOCK.mat", (1993, 4862), 2, 399, _FEATURES),
    "tox_171": mat_features("tox_171", "tox_171/TOX-171.mat", (171, 5748), 4, 57, _FEATURES),
    "lung_small": mat_features(
        "lung_small", "lung_small/lung_small.mat", (73, 325), 7, 24, _FEATURES
    ),
    "isolet": isolet_files((6238, 1559)),
    "isolet_small": mat_features(
        "isolet_small", "isolet_small/Isolet.mat", (1560, 617), 26, 312, _FEATURES
    ),
    "higgs": higgs_table(11_000_000, 500_000),
    "newsgroups": bags_of_words((11_269, 7505), 61_188, 20),
    "adult": binary_set("adult", 123, (5000, 26_147), "a5a_{}.libsvm"),
    "connect4": binary_set("connect4", 126, (16_000, 47_557), "connect-4_{}.libsvm"),
    "dna": binary_set("dna", 180, (1400, 1186), "dna_scale_{}.libsvm", in_debd=False),
    "mushrooms": binary_set("mushrooms", 112, (2000, 5624), "mushrooms_{}.libsvm"),
    "nips": binary_set("nips", 500, (400, 1240), "nips-0-12_all_shuffled_bidon_target_{}.amat"),
    "ocr_letters": binary_set("ocr_letters", 128, (32_152, 10_000), "ocr_letters_{}.txt"),
    "rcv1": binary_set("rcv1", 150, (40_000, 150_000), "rcv1_all_subset.binary_{}_voc_150.amat"),
    "web": binary_set("web", 300, (14_000, 32_561), "w6a_{}.libsvm", in_debd=False),
    "synthetic": synthetic,
    "text": text,
    "csv": csv,
    "npz": npz,
    "openml": openml,
}
"""Loader of each data set: a function of `data_dir`, `rng` and its own parameters."""
DATASETS = Table("data set", DATASETS)


def load_data(
    name: str, *, data_dir: str | Path | None = None, rng: np.random.Generator | int, **params: Any
) -> Data:
    """Return a data set, loaded by name.

    Parameters
    ----------
    name : str
        A key of `DATASETS`.
    data_dir : path, optional
        The folder of data sets; by default the environment variable ``TOPOKIT_DATA``.
    rng : numpy.random.Generator or int
        Draws splits and subsets (and the samples of ``"synthetic"``).
    **params
        Parameters of the loader; see its docstring.

    Returns
    -------
    Data

    Raises
    ------
    ValueError
        If the name is unknown or a file is damaged.
    FileNotFoundError
        If files are missing; the message names the folders searched, the files expected and where
        to get them.

    Examples
    --------
    >>> data = load_data("digits", rng=np.random.default_rng(0))
    >>> data.x_train.shape, data.x_test.shape, data.n_classes
    ((1348, 64), (449, 64), 10)
    """
    rng = as_generator(rng)
    folder = Path(data_dir).expanduser() if data_dir is not None else None
    return choose("data set", name, DATASETS)(data_dir=folder, rng=rng, **params)
