"""COIL-100 (Nene, Nayar and Murase 1996): 100 real objects turned through 360 degrees in steps of 5."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from ciperlib.data.imageset import DataError, ImageSet, data_root
from ciperlib.data.photographs import find_folder, first, read_images, split_views
from ciperlib.registry import datasets

IMAGES = {"coil-100": 7200, "coil-100-64": 6944}  # the official folder; a copy of 64x64 (64 views of 4 objects missing)
PATTERN = re.compile(r"obj(\d+)__(\d+)\.png")


@datasets.register("coil100", label="COIL-100", factors=("object", "azimuth"), enough={"pose": 200}, place=50)
def load(
    name: str, split: str, *, size: int | None = None, image_size: int = 32, root: str | Path | None = None
) -> ImageSet:
    """Known objects in unseen views: three quarters of each object's views in "train", the others in "test".

    Factors: object (int64, 0 to 99) and azimuth in radians. Backgrounds are black, and there are no masks.

    Raises:
        DataError: files missing or damaged, fewer than there should be, or smaller than `image_size`.
    """
    folder = find_folder(
        data_root(root), tuple(IMAGES), "COIL-100", "https://www.cs.columbia.edu/CAVE/software/softlib"
    )
    matches = [(match, path) for path in folder.rglob("*.png") if (match := PATTERN.fullmatch(path.name))]
    if len(matches) != IMAGES[folder.name]:
        raise DataError(f"{folder} holds {len(matches)} of COIL-100's {IMAGES[folder.name]:,} images: unpack it again")
    found = sorted((int(match[1]) - 1, int(match[2]), path) for match, path in matches)
    object, degrees = (np.array([row[i] for row in found]) for i in (0, 1))
    chosen = first(split_views(object, split, seed=100), size, f"COIL-100 ({split})")
    ids = torch.from_numpy(object[chosen] * 72 + degrees[chosen] // 5)  # the same in both copies
    return ImageSet(
        name=f"{name}-{image_size}",
        split=split,
        images=read_images([found[i][2] for i in chosen], image_size),
        factors={
            "object": torch.from_numpy(object[chosen]),
            "azimuth": torch.from_numpy(np.radians(degrees[chosen]).astype(np.float32)),
        },
        ids=ids,
        groups=ids.clone(),
        labels={"object": tuple(f"object {i + 1}" for i in range(100))},
    )
