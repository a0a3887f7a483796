import dataclasses

import numpy as np
import pytest

from topokit.data.samples import SCALES, Data, scaled, split


def small(**changes):
    values = {
        "name": "small",
        "x_train": np.ones((3, 2)),
        "y_train": np.array([0, 1, 0]),
        "x_test": np.ones((2, 2)),
        "y_test": np.array([1, 1]),
        "n_classes": 2,
    }
    return Data(**values | changes)


def test_data_has_the_types_models_need():
    data = small()
    assert data.x_train.dtype == data.x_test.dtype == np.float32
    assert data.y_train.dtype == data.y_test.dtype == np.int64
    assert data.x_train.flags.c_contiguous
    assert data.n_features == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": np.array([0, 1])}, r"train part: expected x .* got \(3, 2\) and \(2,\)"),
        ({"x_test": np.ones(2)}, r"test part: expected x .* got \(2,\)"),
        ({"x_test": np.ones((2, 3))}, "as many features in both parts, got 2 and 3"),
        ({"x_test": np.full((2, 2), np.nan)}, "test part: expected finite values"),
        ({"y_test": np.array([1, 2])}, r"test part: expected classes in 0\.\.1, got 1\.\.2"),
        ({"n_classes": 0}, r"expected classes in -1\.\.-1, got 0\.\.1"),
        ({"x_train": np.ones((0, 2)), "y_train": np.ones(0)}, "with n of at least 1"),
    ],
)
def test_data_checks_itself(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


@pytest.mark.parametrize("scale", SCALES)
def test_scales_use_the_training_part(rng, scale):
    train, test = rng.integers(0, 256, (500, 4)), rng.integers(0, 256, (50, 4))
    train[:, 3] = test[:, 3] = 7
    a, b = scaled(train, test, scale, 255)
    assert a.dtype == b.dtype == np.float32
    t = train.astype(float)
    expected = {
        "none": lambda x: x,
        "unit": lambda x: x / 255,
        "minmax": lambda x: (x - t.min(0)) / np.where(np.ptp(t, 0), np.ptp(t, 0), 1),
        "standard": lambda x: (x - t.mean(0)) / np.where(t.std(0), t.std(0), 1),
        "global": lambda x: (x - t.mean()) / t.std(),
    }[scale]
    assert np.allclose(a, expected(train), atol=1e-5)
    assert np.allclose(b, expected(test), atol=1e-5)


def test_scaling_in_blocks_is_exact(rng):
    train = rng.normal(1000, 3, (9000, 3))
    a, _ = scaled(train, train[:2], "standard", 1)
    assert np.allclose(a.mean(0), 0, atol=1e-4)
    assert np.allclose(a.std(0), 1, atol=1e-4)


def test_constant_features_do_not_explode():
    train, test = np.full((10_000, 1), 0.1), np.full((2, 1), 0.3)
    assert np.allclose(scaled(train, test, "standard", 1)[1], 0.2)


@pytest.mark.parametrize("scale", ["minmax", "standard", "global"])
@pytest.mark.parametrize(
    "x",
    [
        1.7e12 + np.arange(300.0)[:, None] * [1000, 250],  # milliseconds since 1970
        101_325 + np.sin(np.arange(300.0))[:, None] * [0.01, 0.02],  # a pressure
        2**30 + np.arange(600).reshape(300, 2),  # identifiers, as integers
        -1e9 + np.cos(np.arange(600.0)).reshape(300, 2),
    ],
)
def test_features_far_from_0_keep_their_differences(x, scale):
    train, test = x[:200], x[200:]
    t = train.astype(float)
    shift, width = {
        "minmax": (t.min(0), np.ptp(t, 0)),
        "standard": (t.mean(0), t.std(0)),
        "global": (t.mean(), t.std()),
    }[scale]
    for found, part in zip(scaled(train, test, scale, 1), (train, test), strict=True):
        assert found.dtype == np.float32
        assert np.allclose(found, (part - shift) / width, atol=2e-4)


def test_only_features_far_from_0_are_computed_otherwise(rng):
    near = rng.normal(5, 1, (300, 2))
    both = np.column_stack([near, 1e9 + near[:, 0]])
    for scale in ("minmax", "standard"):
        alone, beside = (scaled(x[:200], x[200:], scale, 1) for x in (near, both))
        for a, b in zip(alone, beside, strict=True):
            assert np.array_equal(a, b[:, :2])
            assert np.allclose(a[:, 0], b[:, 2], atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "n_test"),
    [
        ([1, 30, 30], 12),
        ([1, 1, 1, 1, 1, 20], 5),
        ([1] * 10 + [2] * 10, 6),
        ([2, 2, 2, 2], 4),  # none of a class may be left without, none of two be taken
        ([3, 40], 40),
    ],
)
def test_each_class_has_a_training_sample(sizes, n_test):
    y = np.repeat(np.arange(len(sizes)), sizes)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        y = rng.permutation(y)
        at = np.arange(len(y))
        train, y_train, test, y_test = split("points", at, y, None, n_test, rng)
        assert sorted([*train, *test]) == at.tolist()
        assert len(test) == n_test
        assert np.array_equal(y[train], y_train)
        assert np.array_equal(y[test], y_test)
        assert np.array_equal(np.unique(y_train), np.arange(len(sizes)))


def test_a_test_part_that_takes_nearly_all_is_still_drawn(rng):
    y = np.repeat([0, 1, 2], [1, 1, 4])
    _, y_train, _, y_test = split("points", np.arange(6), y, None, 5, rng)
    assert len(y_train) == 1
    assert len(y_test) == 5
