"""Handwritten digits: MNIST (LeCun et al. 1998) where its files are, else the 1,797 small ones of scikit-learn."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ciperlib.data.imageset import DataError, ImageSet, data_root
from ciperlib.registry import datasets

TEST_IDS_FROM = 1_000_000
RAW = Path("MNIST", "raw")
FILES = {  # unpacked: bytes and MD5, since other sets of digits and clothes come under the same names
    "train-images-idx3-ubyte": (47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": (60_008, "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": (7_840_016, "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": (10_008, "27ae3e4e09519cfbb04c329615203637"),
}


@datasets.register("digits", label="handwritten digits", factors=("category",), smallest_side=28, place=80)
def load(
    name: str, split: str, *, size: int | None = None, image_size: int = 32, root: str | Path | None = None
) -> ImageSet:
    """White digits on black, in random order, one factor, `category`.

    The set's name says which digits these are: `digits-mnist` (60,000 for training and 10,000 for testing, of 28
    pixels and a black rim) or `digits-small` (1,437 and 360, of 8 pixels each enlarged).

    Raises:
        DataError: MNIST files that are missing or not the official ones (by size and MD5), more images than there are,
            or a size below 28.
    """
    if image_size < 28:
        raise DataError(f"digits are at least 28 pixels wide, not image_size={image_size}")
    base = data_root(root)
    kind = "mnist" if (base / RAW).is_dir() else "small"
    pixels, labels = _mnist(base, split) if kind == "mnist" else _small(split)
    n = len(pixels) if size is None else size
    if n > len(pixels):
        raise DataError(f"digits ({kind}, {split}) are {len(pixels)}, not {n}; ask for fewer, or leave size out")
    scale = image_size // pixels.shape[-1]
    grown = pixels[:n].repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    rim = image_size - grown.shape[-1]
    square = F.pad(grown, (rim // 2, rim - rim // 2) * 2)
    ids = torch.arange(n) + (TEST_IDS_FROM if split == "test" else 0)
    images = square[:, None].repeat(1, 3, 1, 1)
    factors, names = {"category": labels[:n].long()}, {"category": tuple("0123456789")}
    return ImageSet(f"digits-{kind}-{image_size}", split, images, factors, ids, ids.clone(), names)


def _mnist(base: Path, split: str) -> tuple[Tensor, Tensor]:
    """uint8 [N, 28, 28] and int64 [N], from the official files, each of which is looked at before it is read."""
    for name, (size, md5) in FILES.items():
        path = base / RAW / name
        if not path.is_file() or path.stat().st_size != size or _md5(path) != md5:
            what = "damaged or another set's" if path.is_file() else "not there"
            raise DataError(
                f"MNIST in {base / RAW} is damaged or not all there ({name} is {what}): put the four official files "
                "there, unpacked, or remove the folder to use scikit-learn's digits"
            )
    from torchvision.datasets.mnist import read_image_file, read_label_file  # a second and a half

    part = base / RAW / ("train" if split == "train" else "t10k")  # torchvision's MNIST would prefer unpickled copies
    return read_image_file(f"{part}-images-idx3-ubyte"), read_label_file(f"{part}-labels-idx1-ubyte")


def _md5(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _small(split: str) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = torch.from_numpy(found.images * (255 / 16)).round().byte()
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    rows = order[360:] if split == "train" else order[:360]
    return pixels[rows], torch.from_numpy(found.target)[rows]
