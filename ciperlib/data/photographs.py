"""What loaders of photographs share: finding the folder, reading files of any size, dividing each object's views."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ciperlib.data.imageset import DataError

TEST_SHARE = 1 / 4  # of each object's views


def find_folder(base: Path, names: Sequence[str], what: str, source: str) -> Path:
    """The first of the folders `names` in `base` that is there.

    Raises:
        DataError: none is; the message says where to get `what`.
    """
    for name in names:
        if (base / name).is_dir():
            return base / name
    raise DataError(
        f"{what} was looked for in {base}, as a folder {' or '.join(names)}, and is not there. Get it from {source} "
        f"and unpack it in {base}, or set CIPER_DATA to the folder that has it"
    )


def read_images(paths: Sequence[Path], image_size: int) -> Tensor:
    """Square photographs in colour, made smaller where they are larger: uint8 [N, 3, image_size, image_size].

    Read by as many threads as there are cores, straight to their places: no more memory than the result takes.

    Raises:
        DataError: a file that is missing, truncated, not square, or smaller than `image_size`.
    """
    images = torch.empty(len(paths), 3, image_size, image_size, dtype=torch.uint8)

    def read(row: int) -> None:
        images[row] = torch.from_numpy(_read(paths[row], image_size, "RGB").copy()).permute(2, 0, 1)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without holding Python's lock
        for _ in pool.map(read, range(len(paths))):
            pass
    return images


def read_masks(paths: Sequence[Path], image_size: int) -> Tensor:
    """Masks, True where more than half of a pixel is white: bool [N, image_size, image_size]."""
    return torch.from_numpy(np.stack([_read(path, image_size, "L") for path in paths]) > 127)


def split_views(objects: np.ndarray, split: str, seed: int) -> np.ndarray:
    """Positions of a split's images: a quarter of each object's views, drawn by `seed`, is the test part.

    The objects take turns, so that every prefix has about as many images of each.
    """
    turns: list[tuple[int, int, int]] = []
    for value in np.unique(objects):
        own = np.random.default_rng([seed, int(value)]).permutation(np.flatnonzero(objects == value))
        tested = max(1, round(TEST_SHARE * len(own)))
        part = own[:tested] if split == "test" else own[tested:]
        turns += [(turn, int(value), int(image)) for turn, image in enumerate(part)]
    return np.array([image for _, _, image in sorted(turns)], dtype=np.int64)


def first(positions: np.ndarray, size: int | None, what: str) -> np.ndarray:
    """The first `size` positions; DataError where there are fewer."""
    if size is not None and size > len(positions):
        raise DataError(f"{what} has {len(positions)} images, not {size}; ask for fewer, or leave size out")
    return positions[:size]


def _read(path: Path, image_size: int, mode: str) -> np.ndarray:
    try:
        with Image.open(path) as file:
            image = file.convert(mode)
    except (OSError, SyntaxError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); it is missing, truncated or no image: get it again"
        ) from error
    if image.width != image.height:
        raise DataError(f"{path} is {image.width}x{image.height}; images must be square: cut it, or pad it")
    if image.width < image_size:
        raise DataError(
            f"{path} is {image.width} pixels wide, less than image_size={image_size}; ask for a smaller size"
        )
    if image.width > image_size:
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)  # PIL's averages over what it shrinks
    return np.asarray(image)
