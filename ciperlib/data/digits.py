"""Handwritten digits: MNIST (LeCun et al. 1998) where its files are, else the 1,797 small ones of scikit-learn."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.datasets import MNIST

from ciperlib.data.imageset import DataError, ImageSet, data_root

TEST_IDS_FROM = 1_000_000
RAW = Path("MNIST", "raw")


def load(
    name: str, split: str, *, size: int | None = None, image_size: int = 32, root: str | Path | None = None
) -> ImageSet:
    """White digits on black, in random order, one factor, `category`.

    The set's name says which digits these are: `digits-mnist` (60,000 for training and 10,000 for testing, of 28
    pixels and a black rim) or `digits-small` (1,437 and 360, of 8 pixels each enlarged).

    Raises:
        DataError: MNIST files that are damaged or not all there, more images than there are, or a size below 28.
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
    try:
        files = MNIST(str(base), train=split == "train")
    except (RuntimeError, ValueError, AssertionError, OSError) as error:
        raise DataError(
            f"MNIST in {base / RAW} is damaged or not all there ({error}): put the four official files there, "
            "unpacked, or remove the folder to use scikit-learn's digits"
        ) from error
    return files.data, files.targets


def _small(split: str) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = torch.from_numpy(found.images * (255 / 16)).round().byte()
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    rows = order[360:] if split == "train" else order[:360]
    return pixels[rows], torch.from_numpy(found.target)[rows]
