"""CIFAR-10 (Krizhevsky 2009) from its official files, read and, where they are missing, downloaded by torchvision."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import torch

from ciperlib.data.imageset import DataError, ImageSet, data_root
from ciperlib.registry import datasets

FOLDER = "cifar-10-batches-py"
TEST_IDS_FROM = 1_000_000


@datasets.register("cifar10", label="CIFAR-10", factors=("category",), fixed=True, place=30)
def load(
    name: str, split: str, *, size: int | None = None, image_size: int = 32, root: str | Path | None = None
) -> ImageSet:
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32, one factor, `category`.

    The files are in random order, so the first `size` images are a fair sample of each class.

    Raises:
        DataError: files missing and not to be downloaded, truncated or changed; or another image size asked for.
    """
    if image_size != 32:
        raise DataError(f"CIFAR-10 images are 32 pixels wide, not image_size={image_size}")
    base = data_root(root)
    _ensure_files(base)
    files = _official()(str(base), train=split == "train")
    n = len(files.data) if size is None else size
    if n > len(files.data):
        raise DataError(f"CIFAR-10 has {len(files.data)} {split} images, not {n}; ask for fewer, or leave size out")
    ids = torch.arange(n) + (TEST_IDS_FROM if split == "test" else 0)
    return ImageSet(
        name=name,
        split=split,
        images=torch.from_numpy(files.data[:n].transpose(0, 3, 1, 2).copy()),
        factors={"category": torch.tensor(files.targets[:n])},
        ids=ids,
        groups=ids,
        labels={"category": tuple(files.classes)},
    )


@cache
def _official():
    """torchvision's CIFAR10, once it is asked for: the import takes a second and a half."""
    from torchvision.datasets import CIFAR10

    return CIFAR10


def _ensure_files(base: Path) -> None:
    """Downloads the files if none is there; refuses an incomplete or changed copy rather than overwrite it."""
    official = _official()
    expected = [*official.train_list, *official.test_list, (official.meta["filename"], official.meta["md5"])]
    present = [name for name, _ in expected if (base / FOLDER / name).exists()]
    if not present:
        _download(base)
        return
    for name, md5 in expected:
        path = base / FOLDER / name
        if not path.exists():
            raise DataError(f"{path} is missing although {present[0]} is there. {_remedy(base)}")
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "md5").hexdigest() != md5:
                raise DataError(f"{path} is truncated or changed: its MD5 checksum is not {md5}. {_remedy(base)}")


def _download(base: Path) -> None:
    try:
        _official()(str(base), download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"CIFAR-10 was looked for in {base / FOLDER} and is not there, and downloading it failed ({error}). "
            f"{_remedy(base)}"
        ) from error


def _remedy(base: Path) -> str:
    return (
        f"Delete {base / FOLDER} and run again with a network, or unpack the official {_official().filename} there; "
        "or set CIPER_DATA to a folder that has it"
    )
