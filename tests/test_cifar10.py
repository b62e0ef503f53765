"""CIFAR-10: a made fixture in the official layout always, the official files where they are."""

import hashlib
import pickle

import numpy as np
import pytest
from conftest import real_data
from torchvision.datasets import CIFAR10

from ciperlib.data import DataError, load_images

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def official_layout(tmp_path, monkeypatch):
    """Five training files and a test file of four images each, with torchvision's checksums set to theirs."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    sums = {}

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()

    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        pixels = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        write(name, {"data": pixels, "labels": [int(x) for x in rng.integers(0, 10, 4)]})
    write("batches.meta", {"label_names": CLASSES})
    monkeypatch.setattr(CIFAR10, "train_list", [[n, sums[n]] for n in sums if n.startswith("data")])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return tmp_path


def test_reads_the_official_layout(official_layout):
    train = load_images("cifar10", "train", root=official_layout)
    test = load_images("cifar10", "test", root=official_layout, size=3)
    with open(official_layout / CIFAR10.base_folder / "data_batch_1", "rb") as file:
        first = pickle.load(file)
    assert len(train) == 20
    assert len(test) == 3
    assert np.array_equal(train.images[1].numpy().ravel(), first["data"][1])
    assert train.factors["category"][:4].tolist() == first["labels"]
    assert train.labels["category"] == tuple(CLASSES)
    assert not set(train.ids.tolist()) & set(test.ids.tolist())


def test_a_truncated_file_is_named_and_kept(official_layout):
    path = official_layout / CIFAR10.base_folder / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-10])
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"data_batch_3 is truncated or changed.*CIPER_DATA"):
        load_images("cifar10", root=official_layout)
    assert path.read_bytes() == before


def test_a_missing_file_is_named(official_layout):
    (official_layout / CIFAR10.base_folder / "test_batch").unlink()
    with pytest.raises(DataError, match="test_batch is missing"):
        load_images("cifar10", root=official_layout)


def test_says_where_it_looked_when_nothing_is_there_and_nothing_can_be_fetched(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(CIFAR10, "download", unreachable)
    with pytest.raises(DataError, match=r"looked for in .*cifar-10-batches-py.*CIPER_DATA"):
        load_images("cifar10", root=tmp_path)


def test_refuses_other_sizes(official_layout):
    with pytest.raises(DataError, match="32 pixels"):
        load_images("cifar10", root=official_layout, image_size=64)
    with pytest.raises(DataError, match="has 20 train images, not 21"):
        load_images("cifar10", root=official_layout, size=21)


def test_the_official_files():
    root = real_data("cifar-10-batches-py")
    train, test = load_images("cifar10", "train", root=root), load_images("cifar10", "test", root=root)
    assert (len(train), len(test)) == (50_000, 10_000)
    assert train.factors["category"].bincount().tolist() == [5000] * 10
    assert train.labels["category"][train.factors["category"][0]] == "frog"
    assert train.images.float().mean((0, 2, 3)).div(255).tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
