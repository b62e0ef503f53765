"""ETH-80 (Leibe and Schiele 2003): 80 real objects of 8 categories, each from 41 known directions, with masks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from ciperlib.data.imageset import DataError, ImageSet, data_root
from ciperlib.data.photographs import find_folder, first, read_images, read_masks, split_views
from ciperlib.registry import datasets

FOLDERS = ("eth80-cropped256", "eth80-cropped-close128", "eth80-64")  # the official names, and a copy of 64x64
CATEGORIES = ("apple", "car", "cow", "cup", "dog", "horse", "pear", "tomato")
OBJECTS, VIEWS = 10, 41  # of a category, of an object
PATTERN = re.compile(rf"({'|'.join(CATEGORIES)})(\d+)-(\d+)-(\d+)\.png")  # polar angle, azimuth


@datasets.register(
    "eth80", label="ETH-80", factors=("category", "object", "azimuth", "elevation"), enough={"pose": 160}, place=40
)
def load(
    name: str, split: str, *, size: int | None = None, image_size: int = 32, root: str | Path | None = None
) -> ImageSet:
    """Known objects in unseen views: 31 views of each object in "train" (2,480), the 10 others in "test" (800).

    Factors: category, object (int64), azimuth and elevation in radians (from above the azimuth counts as 0). Every
    background is the same blue cloth. Where several copies lie in the folder the largest is read.

    Raises:
        DataError: files missing or damaged, fewer than 3,280 of them, or smaller than `image_size`.
    """
    folder = find_folder(data_root(root), FOLDERS, "ETH-80", "https://www.mpi-inf.mpg.de (ETH-80, cropped)")
    matches = [(match, path) for path in folder.rglob("*.png") if (match := PATTERN.fullmatch(path.name))]
    found = sorted((match[1], *map(int, match.groups()[1:]), path) for match, path in matches)
    expected = len(CATEGORIES) * OBJECTS * VIEWS
    if len(found) != expected:
        raise DataError(f"{folder} holds {len(found)} of ETH-80's {expected:,} images: unpack it again")
    names = sorted({row[:2] for row in found})  # not every number is taken: the fourth car is car 5
    object = np.array([names.index(row[:2]) for row in found])
    angles = np.radians([row[2:4] for row in found])
    chosen = first(split_views(object, split, seed=80), size, f"ETH-80 ({split})")
    paths = [found[i][-1] for i in chosen]
    column = lambda values: torch.from_numpy(values[chosen].copy())  # noqa: E731
    return ImageSet(
        name=f"{name}-{image_size}",
        split=split,
        images=read_images(paths, image_size),
        factors={
            "category": column(object // OBJECTS),
            "object": column(object),
            "azimuth": column(angles[:, 1].astype(np.float32)),
            "elevation": column((np.pi / 2 - angles[:, 0]).astype(np.float32)),
        },
        ids=torch.from_numpy(chosen.copy()),
        groups=torch.from_numpy(chosen.copy()),
        labels={
            "category": CATEGORIES,
            "object": tuple(f"{kind} {number}" for kind, number in names),
        },
        masks=read_masks([path.parent / "maps" / f"{path.stem}-map.png" for path in paths], image_size),
    )
