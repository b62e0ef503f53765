"""What loaders of photographs share: finding the folder, reading files of any size, dividing each object's views."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ciperlib.data.imageset import DataError
from ciperlib.data.pictures import pillow_in_order, read_mask, read_picture

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


def read_images(paths: Sequence[Path], image_size: int, where: Sequence[str] = ()) -> Tensor:
    """Square photographs in colour, made smaller where they are larger: uint8 [N, 3, image_size, image_size].

    Read as `read_picture` says, by as many threads as there are cores, straight to their places: no more memory than
    the result takes. `where` is what a refusal begins with, one for each path.

    Raises:
        DataError: a file that `read_picture` refuses, that is not square, or smaller than `image_size`.
    """
    images = torch.empty(len(paths), 3, image_size, image_size, dtype=torch.uint8)

    def read(row: int) -> None:
        images[row] = as_pixels(read_picture(paths[row]), paths[row], image_size)

    for_each_file(read, len(paths), where)
    return images


def read_masks(paths: Sequence[Path], image_size: int, where: Sequence[str] = ()) -> Tensor:
    """Masks, True where more than half of a pixel is white: bool [N, image_size, image_size]; else as `read_images`."""
    masks = torch.empty(len(paths), image_size, image_size, dtype=torch.bool)

    def read(row: int) -> None:
        masks[row] = as_pixels(read_mask(paths[row]), paths[row], image_size)[0] > 127

    for_each_file(read, len(paths), where)
    return masks


def for_each_file(read: Callable[[int], None], count: int, where: Sequence[str] = ()) -> None:
    """Calls `read` with 0 ... count - 1, in threads; a DataError of one of them begins with its `where`."""

    def read_or_say_where(row: int) -> None:
        try:
            read(row)
        except DataError as error:
            if not where:
                raise
            raise DataError(f"{where[row]}: {error}") from error

    with pillow_in_order(), ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding does not hold Python's lock
        for _ in pool.map(read_or_say_where, range(count)):
            pass


def as_pixels(picture: Image.Image, path: Path, image_size: int) -> Tensor:
    """A square picture at another size: uint8 [channels, image_size, image_size].

    Raises:
        DataError: it is not square, or smaller.
    """
    if picture.width != picture.height:
        raise DataError(f"{path} is {picture.width}x{picture.height}; images must be square: cut it, or pad it")
    if picture.width < image_size:
        raise DataError(
            f"{path} is {picture.width} pixels wide, less than image_size={image_size}; ask for a smaller size"
        )
    if picture.width > image_size:  # PIL's resize averages over what it shrinks
        picture = picture.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.atleast_3d(np.asarray(picture)).copy()).permute(2, 0, 1)


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
