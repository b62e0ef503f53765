"""ETH-80, COIL-100 and your own folder: made fixtures in the official layouts always, the real files where they are."""

import hashlib
import math

import numpy as np
import pytest
import torch
from conftest import TINY, real_data
from PIL import Image
from sklearn.datasets import load_digits

from ciperlib.analyse.probing.tables import default_factors, probe_baselines
from ciperlib.config import Config, ConfigError
from ciperlib.data import DataError, coil100, digits, eth80, load_images
from ciperlib.data.photographs import read_images, split_views
from ciperlib.learn.training import fit


def write(path, value, side=20, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (side, side), value).save(path)


@pytest.fixture
def eth80_files(tmp_path, monkeypatch):
    """One object of each category from four directions; the object is the left half."""
    monkeypatch.setattr(eth80, "OBJECTS", 1)
    monkeypatch.setattr(eth80, "VIEWS", 4)
    for i, kind in enumerate(eth80.CATEGORIES):
        folder = tmp_path / "eth80-cropped256" / f"{kind}1"
        for polar, azimuth in ((0, 0), (45, 90), (90, 0), (90, 270)):
            write(folder / f"{kind}1-{polar:03d}-{azimuth:03d}.png", (10 * i, polar, azimuth // 2))
            half = np.zeros((20, 20), np.uint8)
            half[:, :10] = 255
            path = folder / "maps" / f"{kind}1-{polar:03d}-{azimuth:03d}-map.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(half).save(path)
    return tmp_path


def test_eth80_in_its_official_layout(eth80_files):
    train, test = (load_images("eth80", split, image_size=10, root=eth80_files) for split in ("train", "test"))
    assert (len(train), len(test)) == (24, 8)
    assert not set(train.ids.tolist()) & set(test.ids.tolist())
    assert sorted(train.factors["object"][:8].tolist()) == list(range(8))  # every prefix is balanced
    for images in (train, test):
        red, green, blue = images.images[:, :, 0, 0].float().T
        torch.testing.assert_close(images.factors["category"].float(), red / 10)
        torch.testing.assert_close(images.factors["elevation"], torch.deg2rad(90 - green))
        torch.testing.assert_close(images.factors["azimuth"], torch.deg2rad(2 * blue))
        assert images.masks[:, :, :5].all()
        assert not images.masks[:, :, 5:].any()
    assert train.labels["object"][0] == "apple 1"


def test_eth80_that_is_not_whole(eth80_files):
    victim = eth80_files / "eth80-cropped256" / "cow1" / "cow1-090-270.png"
    victim.write_bytes(victim.read_bytes()[:40])
    with pytest.raises(DataError, match=r"cow1-090-270\.png cannot be read .* truncated"):
        (
            load_images("eth80", "train", image_size=10, root=eth80_files),
            load_images("eth80", "test", image_size=10, root=eth80_files),
        )
    victim.unlink()
    with pytest.raises(DataError, match="holds 31 of ETH-80's 32 images"):
        load_images("eth80", "train", image_size=10, root=eth80_files)
    with pytest.raises(DataError, match=r"eth80-cropped256 or .* not there. Get it from"):
        load_images("eth80", "train", root=eth80_files / "elsewhere")


def test_coil100_in_its_official_layout(tmp_path, monkeypatch):
    monkeypatch.setitem(coil100.IMAGES, "coil-100", 16)
    for number in (1, 12):
        for degrees in range(0, 40, 5):
            write(tmp_path / "coil-100" / f"obj{number}__{degrees}.png", (number, degrees, 0))
    train, test = (load_images("coil100", split, image_size=20, root=tmp_path) for split in ("train", "test"))
    assert (len(train), len(test)) == (12, 4)
    assert sorted(train.ids.tolist() + test.ids.tolist()) == [*range(8), *range(11 * 72, 11 * 72 + 8)]
    red, green, _ = train.images[:, :, 0, 0].float().T
    assert torch.equal(train.factors["object"], red.long() - 1)
    torch.testing.assert_close(train.factors["azimuth"], torch.deg2rad(green))
    assert train.masks is None
    with pytest.raises(DataError, match="has 12 images, not 13"):
        load_images("coil100", "train", size=13, image_size=20, root=tmp_path)


@pytest.fixture
def own_folder(tmp_path):
    rows = ["file, kind, count, size, azimuth_degrees, group, mask"]
    for i in range(12):
        write(tmp_path / "mine" / f"{i}.png", (i, 0, 0))
        write(tmp_path / "mine" / f"m{i}.png", 255 * (i % 2), mode="L")
        rows.append(f"{i}.png, {'cat' if i % 3 else 'bee'}, {i % 4}, {i / 2 + 0.25}, {30 * i}, g{i // 2}, m{i}.png")
    (tmp_path / "mine" / "factors.csv").write_text("\n".join(rows))
    return tmp_path


def test_your_own_folder(own_folder):
    train, test = (load_images("folder:mine", split, image_size=10, root=own_folder) for split in ("train", "test"))
    assert (len(train), len(test)) == (8, 4)  # a quarter of the six groups is 1.5
    assert not set(train.groups.tolist()) & set(test.groups.tolist())
    number = train.images[:, 0, 0, 0].long()
    assert train.labels == {"kind": ("bee", "cat")}
    assert torch.equal(train.factors["kind"], (number % 3 > 0).long())
    assert torch.equal(train.factors["count"], number % 4)
    torch.testing.assert_close(train.factors["size"], number / 2 + 0.25)
    torch.testing.assert_close(train.factors["azimuth"], number * math.radians(30))
    assert torch.equal(train.masks.flatten(1).all(1), number % 2 == 1)
    assert torch.equal(train.ids, number)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("file", "image", 1), "no column `file`"),
        (lambda text: text.replace("bee", "", 1), "line 2: kind is empty"),
        (lambda text: text.replace("11.png", "77.png").replace("m77", "m11"), r"77\.png cannot be read"),
        (lambda text: text.replace("group", "split", 1), "split must be train or test"),
    ],
)
def test_a_table_that_does_not_fit(own_folder, change, words):
    path = own_folder / "mine" / "factors.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=words):
        _ = [load_images("folder:mine", split, image_size=10, root=own_folder) for split in ("train", "test")]


def test_a_folder_without_a_table_or_a_name(tmp_path):
    with pytest.raises(DataError, match=r"factors\.csv is not there"):
        load_images("folder:nothing", root=tmp_path)
    with pytest.raises(DataError, match="say which folder"):
        load_images("folder", root=tmp_path)


def test_another_table_is_another_image_set(own_folder):
    before = load_images("folder:mine", image_size=10, root=own_folder).name
    path = own_folder / "mine" / "factors.csv"
    path.write_text(path.read_text().replace("cat", "dog"))
    assert load_images("folder:mine", image_size=10, root=own_folder).name != before


def test_files_of_a_wrong_shape(tmp_path):
    write(tmp_path / "small.png", 0, side=8)
    Image.new("RGB", (8, 9)).save(tmp_path / "oblong.png")
    with pytest.raises(DataError, match="8 pixels wide, less than image_size=16"):
        read_images([tmp_path / "small.png"], 16)
    with pytest.raises(DataError, match="8x9; images must be square"):
        read_images([tmp_path / "oblong.png"], 8)


def test_shrinking_averages(tmp_path):
    checks = np.indices((32, 32)).sum(0) % 2 * 255
    Image.fromarray(checks.astype(np.uint8)).save(tmp_path / "checks.png")
    small = read_images([tmp_path / "checks.png"], 8)
    assert (small.float() - 127.5).abs().max() < 8  # sampling would give 0 or 255


def test_splits_are_disjoint_whole_and_balanced():
    objects = np.repeat([3, 5, 9], [8, 40, 72])
    train, test = (split_views(objects, split, seed=1) for split in ("train", "test"))
    assert sorted([*train, *test]) == list(range(120))
    assert np.unique(objects[test], return_counts=True)[1].tolist() == [2, 10, 18]
    assert sorted(objects[train[:3]]) == [3, 5, 9]


def test_a_pose_is_what_the_images_have_of_it(own_folder, tmp_path):
    """An encoder trained on turned photographs: the azimuth is all that is known of the view."""
    path = own_folder / "mine" / "factors.csv"
    path.write_text(path.read_text().replace("kind", "object", 1))
    choices = {**TINY, "train_size": 8, "batch_size": 4, "image_size": 10, "epochs": 1}
    config = Config(dataset="folder:mine", augmentations="pose", **choices)
    assert ":" not in config.name
    run = fit(config, root=tmp_path / "runs", data_root=own_folder)
    assert run.trained_on.name.startswith("folder:mine-10-")
    test = load_images("folder:mine", "test", image_size=10, root=own_folder)
    assert default_factors(test) == ("object", "count", "pose", "size")


def test_digits_without_mnist(tmp_path):
    train, test = (load_images("digits", split, root=tmp_path) for split in ("train", "test"))
    assert (train.name, len(train), len(test)) == ("digits-small-32", 1437, 360)
    assert train.images.shape[1:] == (3, 32, 32)
    assert not set(train.ids.tolist()) & set(test.ids.tolist())
    assert torch.equal(train.images[:, :, ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3), train.images)
    again = load_images("digits", root=tmp_path)
    assert torch.equal(again.images, train.images)
    kept = torch.bincount(train.factors["category"]) + torch.bincount(test.factors["category"])
    assert kept.tolist() == np.bincount(load_digits().target).tolist()  # each of them once
    with pytest.raises(DataError, match="are 1437, not 2000"):
        load_images("digits", size=2000, root=tmp_path)
    with pytest.raises(DataError, match="at least 28 pixels"):
        load_images("digits", image_size=16, root=tmp_path)
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    with pytest.raises(DataError, match=r"MNIST .* not all there \(train-images-idx3-ubyte is not there\)"):
        load_images("digits", root=tmp_path)


@pytest.fixture
def mnist_files(tmp_path, monkeypatch):
    """Three images for training and two for testing in MNIST's own files, their sizes and checksums taken for its."""
    folder, files = tmp_path / "MNIST" / "raw", {}
    folder.mkdir(parents=True)
    for part, count in (("train", 3), ("t10k", 2)):
        images = (np.arange(count)[:, None] + np.zeros(784, int)).astype(np.uint8).tobytes()
        written = {
            f"{part}-images-idx3-ubyte": np.array([2051, count, 28, 28], ">i4").tobytes() + images,
            f"{part}-labels-idx1-ubyte": np.array([2049, count], ">i4").tobytes() + bytes(range(count)),
        }
        for name, content in written.items():
            (folder / name).write_bytes(content)
            files[name] = len(content), hashlib.md5(content).hexdigest()
    monkeypatch.setattr(digits, "FILES", files)
    return tmp_path


def test_mnist_in_its_official_files(mnist_files):
    for split, count in (("train", 3), ("test", 2)):
        images = load_images("digits", split, root=mnist_files)
        assert images.name == "digits-mnist-32"
        assert images.factors["category"].tolist() == images.images[:, 0, 16, 16].tolist() == list(range(count))


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b[:-1] + b"\7", lambda b: b""])
def test_other_files_under_mnist_s_names(mnist_files, name, damage):
    """Cut, longer, of another set and the same size (clothes come so), empty."""
    path = mnist_files / "MNIST" / "raw" / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"MNIST .*{name} is damaged or another set's"):
        load_images("digits", root=mnist_files)


def test_mnist():
    root = real_data("MNIST")
    train, test = (load_images("digits", split, root=root) for split in ("train", "test"))
    assert (train.name, len(train), len(test)) == ("digits-mnist-32", 60_000, 10_000)
    assert not train.images[:, :, :2].any()  # the rim
    assert torch.bincount(test.factors["category"]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_configs_know_which_photographs_have_views():
    Config(dataset="eth80", augmentations="pose")
    with pytest.raises(ConfigError, match="session needs images"):
        Config(dataset="coil100", augmentations="session")
    with pytest.raises(ConfigError, match="dataset has no 'eth8'"):
        Config(dataset="eth8")


@pytest.mark.parametrize("name", ["eth80", "coil100"])
def test_the_real_files(name):
    root = real_data({"eth80": "eth80-64", "coil100": "coil-100-64"}[name])
    train, test = (load_images(name, split, root=root) for split in ("train", "test"))
    assert (len(train), len(test)) == {"eth80": (2480, 800), "coil100": (5208, 1736)}[name]
    assert not set(train.ids.tolist()) & set(test.ids.tolist())
    views = torch.bincount(test.factors["object"])
    assert len(views) == {"eth80": 80, "coil100": 100}[name]
    assert views.min() == {"eth80": 10, "coil100": 2}[name]  # the copy of COIL-100 has 8 views of four objects
    if name == "eth80":
        inside = test.masks.flatten(1).float().mean(1)
        assert 0.05 < inside.min() < inside.max() < 0.9
        blue = test.images[:, 2].float() - test.images[:, 0].float()  # the cloth is blue
        assert blue[~test.masks].mean() > 60 > 0 > blue[test.masks].mean()
        baselines = probe_baselines(train, test, ("category",), resamples=0)
        assert baselines["category"]["pixels"] > 0.6 > 0.25 > baselines["category"]["shuffled labels"]
