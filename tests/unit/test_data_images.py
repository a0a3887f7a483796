import gzip
import io
import math
import struct
from functools import partial

import numpy as np
import pytest
from scipy.ndimage import affine_transform

from topokit.data import DATASETS, Data, images, load_data
from topokit.data.samples import AUGMENTATIONS, crop_flip, pixel_order, rotate_shift_flip
from topokit.experiments.config import load_recipe
from topokit.experiments.runs import check
from topokit.tables import parameters_of


def equal(a, b):
    names = ("x_train", "y_train", "x_test", "y_test")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def seeded(seed=0):
    return np.random.default_rng(seed)


def write_idx(folder, *, n_train=40, n_test=20, end=".gz", seed=0, side=28):
    """Four small files in the format of MNIST; returns the arrays."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part, n in (("train", n_train), ("t10k", n_test)):
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (n, side, side), dtype=np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = (np.arange(n) % 10).astype(np.uint8)
    for name, array in arrays.items():
        head = struct.pack(f">{1 + array.ndim}I", 2048 + array.ndim, *array.shape)
        content = head + array.tobytes()
        (folder / (name + end)).write_bytes(gzip.compress(content) if end else content)
    return list(arrays.values())


def test_digits_splits_by_seed_and_class():
    data = load_data("digits", rng=seeded())
    assert (data.x_train.shape, data.x_test.shape) == ((1348, 64), (449, 64))
    assert (data.n_classes, data.image_shape) == (10, (8, 8))
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)
    assert equal(data, load_data("digits", rng=seeded()))
    assert not equal(data, load_data("digits", rng=seeded(1)))
    share = np.bincount(data.y_test) / np.bincount(np.concatenate([data.y_train, data.y_test]))
    assert np.abs(share - 449 / 1797).max() < 0.006
    rows = np.concatenate([data.x_train, data.x_test])
    everything = DATASETS["digits"](rng=seeded(5), n_train=1796, n_test=1)
    again = np.concatenate([everything.x_train, everything.x_test])
    assert sorted(map(bytes, rows)) == sorted(map(bytes, again))


def test_digits_sizes():
    data = load_data("digits", rng=seeded(), n_train=57, n_test=100)
    assert (len(data.y_train), len(data.y_test)) == (57, 100)
    assert np.bincount(data.y_train).min() >= 5
    with pytest.raises(ValueError, match=r"'digits': expected n_train in 1\.\.1348, got 1349"):
        load_data("digits", rng=seeded(), n_train=1349)
    with pytest.raises(ValueError, match=r"expected n_test in 1\.\.1796, got 1797"):
        load_data("digits", rng=seeded(), n_test=1797)


def test_unknown_scale():
    with pytest.raises(ValueError, match=r"data\.scale: expected one of unit, .*, got 'zscore'"):
        load_data("digits", rng=seeded(), scale="zscore")


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("mnist", "mnist"),
        ("mnist", ""),
        ("mnist", "MNIST/raw"),
        ("fashion_mnist", "fashion-mnist"),
        ("fashion_mnist", "fashion_mnist"),
        ("fashion_mnist", ""),
    ],
)
@pytest.mark.parametrize("end", ["", ".gz"])
def test_images_are_read_whole_and_in_order(tmp_path, name, place, end):
    arrays = write_idx(tmp_path / place, end=end)
    rng = seeded()
    state = rng.bit_generator.state
    data = load_data(name, data_dir=tmp_path, rng=rng)
    assert np.allclose(data.x_train, arrays[0].reshape(40, -1) / 255)
    assert np.array_equal(data.y_train, arrays[1])
    assert np.allclose(data.x_test, arrays[2].reshape(20, -1) / 255)
    assert np.array_equal(data.y_test, arrays[3])
    assert (data.name, data.n_classes, data.image_shape) == (name, 10, (28, 28))
    assert rng.bit_generator.state == state


def test_data_dir_from_the_environment(tmp_path, monkeypatch):
    write_idx(tmp_path / "mnist")
    monkeypatch.setenv("TOPOKIT_DATA", str(tmp_path))
    assert load_data("mnist", rng=seeded()).x_train.shape == (40, 784)
    with pytest.raises(FileNotFoundError):
        load_data("mnist", data_dir=tmp_path / "elsewhere", rng=seeded())


def test_subsets(tmp_path):
    arrays = write_idx(tmp_path / "mnist")
    data = load_data("mnist", data_dir=tmp_path, rng=seeded(), n_train=20, n_test=10)
    assert np.bincount(data.y_train).tolist() == [2] * 10
    assert np.bincount(data.y_test).tolist() == [1] * 10
    assert equal(data, load_data("mnist", data_dir=tmp_path, rng=seeded(), n_train=20, n_test=10))
    with pytest.raises(ValueError, match=r"'mnist': expected n_test in 1\.\.20, got 21"):
        load_data("mnist", data_dir=tmp_path, rng=seeded(), n_test=21)

    tutorial = load_data(
        "mnist", data_dir=tmp_path, rng=seeded(), n_train=7, n_test=5, subset="tutorial"
    )
    legacy = np.random.RandomState(0)
    order_train, order_test = np.arange(40), np.arange(20)
    legacy.shuffle(order_train)
    legacy.shuffle(order_test)
    assert np.array_equal(tutorial.y_train, arrays[1][order_train[:7]])
    assert np.array_equal(tutorial.y_test, arrays[3][order_test[:5]])


def test_bad_images(tmp_path):
    folder = tmp_path / "mnist"
    write_idx(folder, side=27)
    with pytest.raises(ValueError, match=r"expected images of 28 x 28 .* shape \(40, 27, 27\)"):
        load_data("mnist", data_dir=tmp_path, rng=seeded())
    write_idx(folder)
    labels = folder / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(struct.pack(">II", 2049, 20) + bytes([10] * 20)))
    with pytest.raises(ValueError, match=r"t10k-images.* got shape .* 20 labels up to 10"):
        load_data("mnist", data_dir=tmp_path, rng=seeded())
    labels.write_bytes(gzip.compress(struct.pack(">II", 2049, 19) + bytes(19)))
    with pytest.raises(ValueError, match="and 19 labels up to 0"):
        load_data("mnist", data_dir=tmp_path, rng=seeded())
    labels.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz: expected an intact gzip"):
        load_data("mnist", data_dir=tmp_path, rng=seeded())


def cifar_images(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), (np.arange(n) % 10)


def write_cifar(folder):
    """60 images in the binary layout; returns pixels and labels."""
    folder.mkdir(parents=True)
    pixels, labels = cifar_images(60)
    records = np.column_stack([labels.astype(np.uint8), pixels.reshape(60, -1)])
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    for i, name in enumerate(names):
        records[10 * i : 10 * i + 10].tofile(folder / name)
    return pixels, labels


@pytest.mark.parametrize(
    "place", ["cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "cifar10"]
)
def test_cifar10_in_its_binary_layout(tmp_path, place):
    folder = tmp_path / place
    pixels, labels = write_cifar(folder)
    data = load_data("cifar10", data_dir=tmp_path, rng=seeded())
    assert np.allclose(data.x_train, pixels[:50].reshape(50, -1) / 255)
    assert np.array_equal(data.y_test, labels[50:])
    assert (data.image_shape, data.n_classes) == ((3, 32, 32), 10)
    few = load_data("cifar10", data_dir=tmp_path, rng=seeded(), n_train=20)
    assert np.bincount(few.y_train).tolist() == [2] * 10

    path = folder / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=r"data_batch_3\.bin: expected records of 3073 bytes, got "
    ):
        load_data("cifar10", data_dir=tmp_path, rng=seeded())
    path.write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(ValueError, match=r"data_batch_3\.bin: expected labels 0\.\.9, got 10"):
        load_data("cifar10", data_dir=tmp_path, rng=seeded())
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"(?s)'cifar10' not found.*cifar-10-binary\.tar"):
        load_data("cifar10", data_dir=tmp_path, rng=seeded())


def write_cifar100(folder, monkeypatch, sizes=(60, 20)):
    """Files with records of coarse label, fine label and pixels; returns what is in them."""
    monkeypatch.setattr("topokit.data.images.CIFAR100_IMAGES", sizes)
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for seed, (part, n) in enumerate(zip(("train", "test"), sizes, strict=True)):
        pixels = cifar_images(n, seed)[0].reshape(n, -1)
        fine = np.arange(n) * 7 % 100
        records = np.column_stack([fine // 5, fine, pixels]).astype(np.uint8)
        records.tofile(folder / f"{part}.bin")
        found[part] = (pixels, fine)
    return found


@pytest.mark.parametrize("place", ["cifar-100-binary", "cifar100/cifar-100-binary", "cifar100"])
def test_cifar100(tmp_path, monkeypatch, place):
    found = write_cifar100(tmp_path / place, monkeypatch)
    data = load_data("cifar100", data_dir=tmp_path, rng=seeded())
    for part in ("train", "test"):
        assert np.allclose(getattr(data, f"x_{part}"), found[part][0] / 255)
        assert np.array_equal(getattr(data, f"y_{part}"), found[part][1])
    assert (data.image_shape, data.n_classes) == ((3, 32, 32), 100)
    coarse = load_data("cifar100", data_dir=tmp_path, rng=seeded(), labels="coarse")
    assert np.array_equal(coarse.y_train, found["train"][1] // 5)
    assert coarse.n_classes == 20
    assert "coarse labels" in coarse.source
    few = load_data("cifar100", data_dir=tmp_path, rng=seeded(), n_train=20, labels="coarse")
    assert len(few.y_train) == 20
    with pytest.raises(ValueError, match="unknown kind of labels 'course'"):
        load_data("cifar100", data_dir=tmp_path, rng=seeded(), labels="course")


def test_other_files_of_cifar100_are_refused(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-100-binary"
    write_cifar100(folder, monkeypatch)
    path = folder / "train.bin"
    whole = path.read_bytes()
    size = r"train\.bin: expected 60 records of 3074 bytes, got a file of"
    for content, message in (
        (whole[:-1], size),
        (whole[:-3074], size),
        (whole + whole[:3074], size),
        (b"", size),
        (b"\x80\x02}q\x01(U\tfilenames", size),
        (bytes([20]) + whole[1:], r"train\.bin: expected coarse labels 0\.\.19, got 20"),
        (whole[:1] + bytes([100]) + whole[2:], r"expected fine labels 0\.\.99, got 100"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            load_data("cifar100", data_dir=tmp_path, rng=seeded())
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"cifar-100-binary.*pickles are never unpickled"):
        load_data("cifar100", data_dir=tmp_path, rng=seeded())


def write_jpegs(folder, **changes):
    """Flat images, which JPEG keeps nearly exactly."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    arrays, colours = {}, {}
    for part, n in (("train", 20), ("test", 10)):
        rng = np.random.default_rng(n)
        colours[part] = rng.integers(0, 256, (n, 3), dtype=np.uint8)
        images = []
        for colour in colours[part]:
            buffer = io.BytesIO()
            Image.fromarray(np.tile(colour, (32, 32, 1))).save(buffer, "JPEG", quality=95)
            images.append(buffer.getvalue())
        arrays[f"jpeg_{part}"] = np.frombuffer(b"".join(images), np.uint8)
        arrays[f"offset_{part}"] = np.cumsum([0, *map(len, images)])
        arrays[f"y_{part}"] = (np.arange(n) % 10).astype(np.uint8)
    path = folder / "cifar10-jpeg-60k.npz"
    np.savez(path, **arrays | changes)
    return path, arrays, colours


def test_cifar10_from_jpeg_copies(tmp_path):
    path, arrays, colours = write_jpegs(tmp_path / "cifar10")
    data = load_data("cifar10", data_dir=tmp_path, rng=seeded(), scale="none")
    seen = data.x_train.reshape(20, 3, 1024)
    assert np.abs(seen - colours["train"][:, :, None].astype(float)).max() <= 4
    assert np.array_equal(data.y_test, np.arange(10))

    broken = arrays["jpeg_train"].copy()
    broken[arrays["offset_train"][3] :][:100] = 0
    write_jpegs(tmp_path / "cifar10", jpeg_train=broken)
    with pytest.raises(ValueError, match=r"60k\.npz: image 3 is damaged: "):
        load_data("cifar10", data_dir=tmp_path, rng=seeded())
    write_jpegs(tmp_path / "cifar10", y_train=np.zeros(19, np.uint8))
    with pytest.raises(ValueError, match="got 20 images and 19 labels up to 0"):
        load_data("cifar10", data_dir=tmp_path, rng=seeded())
    for content in (b"", b"PK\3\4 no zip", path.read_bytes()[:5000]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"60k\.npz: expected an intact \.npz with jpeg_train"):
            load_data("cifar10", data_dir=tmp_path, rng=seeded())


@pytest.mark.parametrize("shape", [(32, 32), (3, 32, 32), (8, 8), (28, 28)])
def test_crop_flip_shifts_and_mirrors_whole_images(rng, shape):
    x = rng.random((200, math.prod(shape)), dtype=np.float32) + 1
    y = crop_flip(x, shape, np.random.default_rng(0)).reshape(200, -1, *shape[-2:])
    border, (height, width) = shape[-2] // 8, shape[-2:]
    padded = np.pad(x.reshape(y.shape), ((0, 0), (0, 0), (border, border), (border, border)))
    found = set()
    for image, wide in zip(y, padded, strict=True):
        places = [
            (top, left, flip)
            for top in range(2 * border + 1)
            for left in range(2 * border + 1)
            for flip in (False, True)
            if np.array_equal(
                image, wide[:, top : top + height, left : left + width][:, :, :: -1 if flip else 1]
            )
        ]
        assert len(places) == 1
        found.add(places[0])
    tops, lefts, flips = (set(values) for values in zip(*found, strict=True))
    assert tops == lefts == set(range(2 * border + 1))
    assert flips == {False, True}


def test_only_images_are_augmented(rng):
    x, y = np.ones((4, 6)), np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match="expected images to augment, got none"):
        Data("plain", x, y, x, y, 2, augment="crop_flip")
    with pytest.raises(ValueError, match="unknown augmentation 'crop'"):
        Data("plain", x, y, x, y, 2, (2, 3), augment="crop")
    data = load_data("digits", rng=0, augment="crop_flip")
    same = load_data("digits", rng=0, augment="none")
    assert np.array_equal(data.x_train, same.x_train)
    assert not np.array_equal(data.augmented(data.x_train[:9], rng), data.x_train[:9])
    assert same.augmented(same.x_train, rng) is same.x_train


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(7, 8), (3, 8, 6), (1, 1)])
def test_every_augmentation_returns_images_of_one_kind(name, shape, rng):
    x = rng.random((5, math.prod(shape)), dtype=np.float32)
    got = AUGMENTATIONS[name](x, shape, seeded())
    assert (got.shape, got.dtype) == (x.shape, np.float32)
    assert np.array_equal(got, AUGMENTATIONS[name](x, shape, seeded()))


@pytest.mark.parametrize("shape", [(9, 12), (3, 10, 8)])
def test_rotations_and_shifts_are_those_of_scipy(rng, shape):
    height, width = shape[-2:]
    x = rng.random((40, math.prod(shape)), dtype=np.float32)
    got = rotate_shift_flip(x, shape, seeded(3)).reshape(40, -1, height, width)
    draws = seeded(3)
    angle = np.deg2rad(draws.uniform(-10, 10, 40))
    shift = np.stack([height * draws.uniform(-0.1, 0.1, 40), width * draws.uniform(-0.1, 0.1, 40)])
    mirrored = draws.random(40) < 0.5
    centre = np.array([height - 1, width - 1]) / 2
    for i, image in enumerate(x.reshape(40, -1, height, width)):
        turn = np.array(
            [[np.cos(angle[i]), -np.sin(angle[i])], [np.sin(angle[i]), np.cos(angle[i])]]
        )
        for channel, expected in enumerate(image):
            moved = affine_transform(
                expected, turn, centre + turn @ (shift[:, i] - centre), order=1, mode="nearest"
            )
            moved = moved[:, ::-1] if mirrored[i] else moved
            assert np.allclose(got[i, channel], moved, atol=1e-5)
    assert 0 < mirrored.sum() < 40


def image_sets(folder, monkeypatch):
    """A small data set of each loader of images, as a function of its options."""
    write_idx(folder / "mnist")
    write_idx(folder / "fashion-mnist", seed=1)
    write_cifar(folder / "cifar-10-batches-bin")
    write_cifar100(folder / "cifar-100-binary", monkeypatch)

    def loaded(name, **options):
        return load_data(name, data_dir=folder, rng=seeded(), **options)

    names = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100")
    return {name: partial(loaded, name) for name in names}


def test_pixels_of_every_image_set_are_shuffled_alike(tmp_path, monkeypatch):
    sets = image_sets(tmp_path, monkeypatch)
    with_option = {n for n, load in DATASETS.items() if "shuffle_pixels" in parameters_of(load)}
    assert with_option == set(sets)
    for name, load in sets.items():
        plain, shuffled, other = (load(shuffle_pixels=seed) for seed in (0, 7, 8))
        assert equal(plain, load())
        shape = plain.image_shape
        order = pixel_order(shape, 7)
        assert sorted(order) == list(range(plain.n_features))
        assert not equal(shuffled, plain)
        assert not equal(shuffled, other)
        for part in ("x_train", "x_test"):
            x, moved = getattr(plain, part), getattr(shuffled, part)
            assert np.array_equal(moved, x[:, order])
            # all channels alike: a pixel keeps its colour
            channels = x.reshape(len(x), -1, shape[-2] * shape[-1])
            again = moved.reshape(channels.shape)
            assert np.array_equal(again, channels[:, :, order[: channels.shape[2]]])
        assert np.array_equal(shuffled.y_train, plain.y_train)
        assert shuffled.image_shape == shape
        assert "order of seed 7" in shuffled.source
        assert "order" not in plain.source, name


def test_what_cannot_be_shuffled():
    for seed in (-1, 1.5, True):
        with pytest.raises(ValueError, match=r"data.shuffle_pixels: expected 0 or a seed"):
            load_data("digits", rng=0, shuffle_pixels=seed)
    assert load_data("digits", rng=0, shuffle_pixels=1, augment="none").augment is None
    with pytest.raises(ValueError, match="expected no augmentation with it, got 'crop_flip'"):
        load_data("digits", rng=0, shuffle_pixels=1, augment="crop_flip")
    config = load_recipe("set_mlp_madelon").override(["data.shuffle_pixels=1"])
    with pytest.raises(ValueError, match=r"'data.shuffle_pixels'"):
        check(config, load=False)


@pytest.mark.parametrize("found", [True, False])
def test_digits_are_those_of_scikit_learn(monkeypatch, found):
    from sklearn.datasets import load_digits

    if not found:  # as where scikit-learn keeps the file elsewhere
        monkeypatch.setattr(images, "find_spec", lambda name: None)
    for ours, theirs in zip(
        images._digits_of_sklearn.__wrapped__(), load_digits(return_X_y=True), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
