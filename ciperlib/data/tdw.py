"""TDW (Aubret et al. 2022, Zenodo 5776080): 12 rendered objects, each from 1,008 known places around it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ciperlib.data.imageset import POSE, DataError, ImageSet, data_root
from ciperlib.data.photographs import find_folder, first, read_images
from ciperlib.registry import datasets

FOLDER = "spherical_photoreal_64x64_DoF"
OBJECTS = (
    "cup", "comb", "scissor", "hammer", "book", "calculator", "goblet", "candle", "headphones", "screwdriver",
    "cassette", "bottle",
)  # fmt: skip
DISTANCES, ELEVATIONS, AZIMUTHS = (0.3, 0.4, 0.5, 0.6), 7, 36  # elevations from 10 and azimuths from 0, in tens
VIEWS = len(DISTANCES) * ELEVATIONS * AZIMUTHS  # 1,008 of each object


@datasets.register("tdw", label="TDW", factors=("object", *POSE), place=70)
def load(
    name: str, split: str, *, size: int | None = None, image_size: int = 32, root: str | Path | None = None
) -> ImageSet:
    """The official split, in random order: 12,096 images each.

    Factors: object (int64), azimuth and elevation in radians, distance. They come from a file's place in the sorted
    list of names, as in the data's own code; the names say nothing.

    Raises:
        DataError: files missing or damaged, another number than 12,096, or smaller than `image_size`.
    """
    source = "https://doi.org/10.5281/zenodo.5776080 (spherical_photoreal_64x64_DoF)"
    folder = find_folder(data_root(root), (FOLDER,), "TDW", source) / split
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: unpack TDW again")
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    expected = len(OBJECTS) * VIEWS
    if len(paths) != expected:
        raise DataError(
            f"{folder} holds {len(paths):,} files, not {expected:,}: what is what is known by their order only"
        )
    rows = first(np.random.default_rng(12).permutation(expected), size, f"TDW ({split})")
    object, view = rows // VIEWS, rows % VIEWS
    distance, rest = np.divmod(view, ELEVATIONS * AZIMUTHS)
    elevation, azimuth = np.divmod(rest, AZIMUTHS)
    column = lambda values: torch.from_numpy(np.asarray(values, dtype=np.float32))  # noqa: E731
    ids = torch.from_numpy(rows.copy()) + (expected if split == "test" else 0)
    return ImageSet(
        name=f"{name}-{image_size}",
        split=split,
        images=read_images([paths[row] for row in rows], image_size),
        factors={
            "object": torch.from_numpy(object),
            "azimuth": column(np.radians(10 * azimuth)),
            "elevation": column(np.radians(10 + 10 * elevation)),
            "distance": column(np.array(DISTANCES)[distance]),
        },
        ids=ids,
        groups=ids.clone(),
        labels={"object": OBJECTS},
    )
