"""Your own images: a folder with a table `factors.csv`, one row an image."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ciperlib.data.imageset import SPLITS, DataError, ImageSet, data_root
from ciperlib.data.photographs import first, read_images, read_masks, split_views

TABLE = "factors.csv"
RESERVED = ("file", "split", "group", "mask")
DEGREES = "_degrees"


def load(
    name: str, split: str, *, size: int | None = None, image_size: int = 32, root: str | Path | None = None
) -> ImageSet:
    """Images of `folder:NAME`, in the folder NAME of the data root, as its table says.

    Columns of factors.csv: `file` (relative to the folder, square images of at least `image_size` pixels); if you have
    them `split` (train or test; else a quarter of each object's images is tested, or of all where there is no object),
    `group` (rows of one group are never divided by a probe) and `mask` (file, white on the object). Every other column
    is a factor: texts and whole numbers are categories, other numbers quantities; `azimuth_degrees` becomes `azimuth`
    in radians, as the pose needs it (a plain `azimuth` is taken as radians).

    Raises:
        DataError: no table, no `file` column, a row that is incomplete, or an image that is missing or damaged.
    """
    place = name.partition(":")[2]
    if not place:
        raise DataError("say which folder: 'folder:NAME', a folder with a factors.csv in the data root")
    folder = data_root(root) / place
    table = _read_table(folder)
    positions = first(_positions(table, split), size, f"{name} ({split})")
    if not len(positions):
        raise DataError(f"{folder / TABLE} has no rows for the split {split!r}")
    factors, labels = _factors(table)
    paths = [folder / file for file in table["file"]]
    masks = [folder / file for file in table["mask"].iloc[positions]] if "mask" in table else None
    groups = np.unique(table["group"], return_inverse=True)[1] if "group" in table else np.arange(len(table))
    content = hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()[:8]
    return ImageSet(
        name=f"folder:{place}-{image_size}-{content}",  # another table is another image set
        split=split,
        images=read_images([paths[i] for i in positions], image_size),
        factors={factor: column[positions] for factor, column in factors.items()},
        ids=torch.from_numpy(positions.copy()),
        groups=torch.from_numpy(groups[positions].copy()),
        labels=labels,
        masks=None if masks is None else read_masks(masks, image_size),
    )


def _read_table(folder: Path) -> pd.DataFrame:
    path = folder / TABLE
    if not path.is_file():
        raise DataError(f"{path} is not there: write a table with a column `file` and one column a factor")
    table = pd.read_csv(path, skipinitialspace=True)
    if "file" not in table:
        raise DataError(f"{path} has no column `file`; it has: {', '.join(map(str, table.columns))}")
    gaps = table.index[table.isna().any(axis=1)]
    if len(gaps):
        columns = ", ".join(table.columns[table.loc[gaps[0]].isna()])
        raise DataError(f"{path}, line {gaps[0] + 2}: {columns} is empty; {len(gaps)} rows are incomplete")
    if "split" in table and not set(table["split"]) <= set(SPLITS):
        raise DataError(f"{path}: split must be train or test, not {sorted(set(table['split']) - set(SPLITS))}")
    return table


def _positions(table: pd.DataFrame, split: str) -> np.ndarray:
    if "split" in table:
        return np.flatnonzero(table["split"] == split)
    if "group" in table:  # whole groups
        groups = np.unique(table["group"], return_inverse=True)[1]
        return np.flatnonzero(np.isin(groups, split_views(np.zeros(groups.max() + 1, int), split, seed=0)))
    objects = table["object"] if "object" in table else np.zeros(len(table))
    return split_views(np.unique(objects, return_inverse=True)[1], split, seed=0)


def _factors(table: pd.DataFrame) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
    factors, labels = {}, {}
    for name in table.columns.difference(RESERVED, sort=False):
        column = table[name]
        if name.endswith(DEGREES):
            factors[name.removesuffix(DEGREES)] = torch.tensor(np.radians(column.to_numpy(float)), dtype=torch.float32)
        elif pd.api.types.is_float_dtype(column):
            factors[name] = torch.tensor(column.to_numpy(), dtype=torch.float32)
        elif pd.api.types.is_integer_dtype(column):
            factors[name] = torch.tensor(column.to_numpy(), dtype=torch.int64)
        else:
            values, codes = np.unique(column.astype(str), return_inverse=True)
            factors[name], labels[name] = torch.from_numpy(codes), tuple(map(str, values))
    return factors, labels
