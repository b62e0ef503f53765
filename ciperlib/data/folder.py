"""Your own images: a folder with a table `factors.csv`, one row an image."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import time
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

import numpy as np
import torch
from torch import Tensor

from ciperlib.data.columns import to_factors
from ciperlib.data.division import in_turns, tested_rows
from ciperlib.data.imageset import DataError, ImageSet, data_root
from ciperlib.data.photographs import as_pixels, first, for_each_file, read_images, read_masks
from ciperlib.data.pictures import digest, read_picture
from ciperlib.data.table import Table, read_table
from ciperlib.registry import datasets

TABLE = "factors.csv"
SETTLED = 2_000_000_000  # nanoseconds after which another content has another time (FAT counts in two seconds)
_digests: dict[tuple, bytes] = {}  # of the pictures in files that this process has read


@datasets.register("folder", label="a folder of your own", factors=None, named=True, place=90)
def load(
    name: str, split: str, *, size: int | None = None, image_size: int = 32, root: str | Path | None = None
) -> ImageSet:
    """Images of `folder:NAME`, in the folder NAME of the data root, as its table says.

    Columns of factors.csv (commas, UTF-8): `file` (relative to the folder, square images of at least `image_size`
    pixels); if you have them `split` (train or test), `group` (rows of one group are never divided by a probe) and
    `mask` (file, white on the object). Every other column is a factor: texts and whole numbers are categories, other
    numbers quantities. `azimuth`, `elevation` (radians), `distance` and what ends in `_degrees` are always quantities;
    `azimuth_degrees` becomes `azimuth` in radians, as the pose needs it.

    Images are read as `pictures.read_picture` says: turned by their EXIF orientation, white where they are
    transparent, 16 bits scaled in PNGs and refused in other files; masks are black where they are transparent.

    Without a column `split` a quarter is tested: of the groups; without groups, of each object's images (an object of
    one image is trained on); without objects of two images, of all. Copies of a picture are then kept together, unless
    all are copies of one. The order is one in which objects take turns, and in each turn categories, so that the first
    `size` images are a fair sample; ids are the table's row numbers.

    The set's name ends in a digest of the table and of all pixels in both splits: another content is another set.

    Raises:
        DataError: a NAME outside the data root, a table that `read_table` or `to_factors` refuses, a file outside the
            folder, an image that is refused, a split without rows, or a picture that the table puts in both splits.
    """
    place = _place(name)
    folder = data_root(root) / place
    if not os.path.isfile(folder / TABLE):
        raise DataError(f"{folder / TABLE} is not there: write a table with a column `file` and one column a factor")
    table = read_table(folder / TABLE)
    factors, labels = to_factors(table)
    paths = _paths(table, "file")
    masks = _paths(table, "mask") if "mask" in table.columns else None
    digests, pixels = _look(table, paths, image_size)
    rows = _rows(table, factors, digests, split)
    rows = first(rows, size, f"{name} ({split})")
    groups = table.codes("group") if "group" in table.columns else np.arange(len(table))
    where = [table.where(row) for row in rows]
    return ImageSet(
        name=f"folder:{place}-{image_size}-{_content(table, digests)}",
        split=split,
        images=_images(rows, pixels, paths, image_size, where),
        factors={factor: column[rows] for factor, column in factors.items()},
        ids=torch.from_numpy(rows.copy()),
        groups=torch.from_numpy(groups[rows]),
        labels=labels,
        masks=None if masks is None else read_masks([masks[row] for row in rows], image_size, where),
    )


def _place(name: str) -> str:
    """NAME of folder:NAME, with slashes."""
    text = name.partition(":")[2]
    place = posixpath.normpath(PureWindowsPath(text).as_posix())
    if place == ".":
        raise DataError("say which folder: 'folder:NAME', a folder with a factors.csv in the data root")
    if _leaves(text) or ".." in PureWindowsPath(text).parts:
        raise DataError(
            f"{name!r} leaves the data root: name a folder in it, and the data root by --data or CIPER_DATA"
        )
    return place


def _leaves(text: str) -> bool:
    """Whether a relative path would be none, or lead out of the folder that it is relative to; on any system."""
    path = PureWindowsPath(text)
    return bool(path.anchor) or posixpath.normpath(path.as_posix()).split("/")[0] == ".."


def _paths(table: Table, column: str) -> list[Path]:
    """The files of a column, all there and in the table's folder (links, which you made, may lead elsewhere)."""
    paths = [table.path.parent / text for text in table.columns[column]]
    for row, (text, path) in enumerate(zip(table.columns[column], paths)):
        if _leaves(text):
            raise DataError(
                f"{table.where(row)}: {text} leaves the folder: name each {column} relative to it, and copy or link "
                "what is not in it"
            )
        if not os.path.isfile(path):
            raise DataError(f"{table.where(row)}: {path} cannot be read: {_why_not(path)}")
    return paths


def _why_not(path: Path) -> str:
    if os.path.isdir(path):
        return "it is a folder"
    try:
        near = [name for name in sorted(os.listdir(path.parent)) if name.startswith(f"{path.name}.")]
    except (OSError, ValueError):
        near = []
    return "there is no such file" + (f"; there is {near[0]}: write the whole name" if near else "")


def _look(table: Table, paths: Sequence[Path], image_size: int) -> tuple[list[bytes], dict[int, Tensor]]:
    """Digests of all pictures; and by row the pixels, at `image_size`, of those that had to be decoded for that."""
    digests, pixels = [b""] * len(paths), {}

    def look(row: int) -> None:
        key = _stamp(paths[row])
        if key in _digests:
            digests[row] = _digests[key]
            return
        picture = read_picture(paths[row])
        digests[row], pixels[row] = digest(picture), as_pixels(picture, paths[row], image_size)
        if key is not None:
            _digests[key] = digests[row]

    for_each_file(look, len(paths), [table.where(row) for row in range(len(paths))])
    return digests, pixels


def _stamp(path: Path) -> tuple | None:
    """What changes when the file's content does; None where it was written so lately that it need not."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    settled = time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > SETTLED
    return (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) if settled else None


def _rows(table: Table, factors: dict[str, Tensor], digests: Sequence[bytes], split: str) -> np.ndarray:
    categories = [name for name, column in factors.items() if not column.is_floating_point()]
    number = {picture: i for i, picture in enumerate(dict.fromkeys(digests))}
    tested = tested_rows(table, np.array([number[picture] for picture in digests]))
    rows = in_turns(table, np.flatnonzero(tested == (split == "test")), categories)
    if not len(rows):
        raise DataError(f"{table.path} has no rows for the split {split!r}: its column `split` says so of none")
    return rows


def _images(
    rows: np.ndarray, pixels: dict[int, Tensor], paths: Sequence[Path], image_size: int, where: Sequence[str]
) -> Tensor:
    """uint8 [n, 3, image_size, image_size]: what is in `pixels`, and the rest read."""
    missing = [i for i, row in enumerate(rows) if row not in pixels]
    read = read_images([paths[rows[i]] for i in missing], image_size, [where[i] for i in missing])
    found = {**pixels, **dict(zip(rows[missing], read))}
    return torch.stack([found[row] for row in rows])


def _content(table: Table, digests: Sequence[bytes]) -> str:
    """8 hexadecimal digits of everything that the folder holds."""
    cells = json.dumps(list(table.columns.items())).encode()
    return hashlib.sha256(cells + b"".join(digests)).hexdigest()[:8]
