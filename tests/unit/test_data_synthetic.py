import numpy as np
import pytest

from topokit.data import load_data


def made(seed=0, **params):
    return load_data("synthetic", rng=np.random.default_rng(seed), **params)


def test_one_seed_gives_one_set_whose_classes_differ_where_it_says():
    data, again, other = (made(seed, n_features=400, n_train=2000) for seed in (1, 1, 2))
    assert np.array_equal(data.x_train, again.x_train)
    assert not np.array_equal(data.x_train, other.x_train)
    assert (data.n_features, data.n_classes, data.x_train.dtype) == (400, 10, np.float32)
    means = np.array([data.x_train[data.y_train == c].mean(axis=0) for c in range(10)])
    differing = means.std(axis=0) > 0.25  # noise alone: 1 / sqrt(200) = 0.07
    assert differing.sum() == 40


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_features": 0}, "expected n_features of at least 1, got 0"),
        ({"informative": 0}, r"expected a share of informative features in \(0, 1\], got 0"),
    ],
)
def test_sizes_out_of_range(params, message):
    with pytest.raises(ValueError, match=message):
        made(**params)
