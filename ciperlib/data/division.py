"""Which rows of a table of images are tested, and in which order the others are taken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ciperlib.data.imageset import DataError
from ciperlib.data.photographs import split_views
from ciperlib.data.table import Table


def tested_rows(table: Table, pictures: np.ndarray) -> np.ndarray:
    """bool [N]: what the column `split` says; without it a quarter, drawn.

    Whole groups are drawn where the table has them. Else each object's pictures are, an object of a single one being
    trained on; without objects, or where no object has two, all pictures. Copies of a picture are drawn together,
    unless there is no other picture, so that nothing could be recognised.

    Args:
        pictures: int64 [N], the same number for the same picture, counted as they come.

    Raises:
        DataError: rows that cannot be divided, or a picture that split or group put into both parts.
    """
    if "split" in table.columns:
        tested = np.array(table.columns["split"]) == "test"
    elif "group" in table.columns:
        group = table.codes("group")
        _check_divisible(table, group.max() + 1, "group")
        tested = np.isin(group, split_views(np.zeros(group.max() + 1, int), "test", seed=0))
    else:
        _check_divisible(table, len(table), "row")
        return _drawn(table, pictures if pictures.max() else np.arange(len(table)))
    _check_copies(table, tested, pictures)
    return tested


def in_turns(table: Table, rows: np.ndarray, categories: Sequence[str]) -> np.ndarray:
    """The rows in an order of which every prefix is a fair sample: objects take turns, and in each turn categories.

    Args:
        rows: int64 [n], in any order; the result does not depend on chance.
        categories: the columns that hold categories; without `category` the first other of which a value repeats is
            one.
    """
    rows = np.random.default_rng(0).permutation(rows)
    repeated = [name for name in categories if name != "object" and len(set(table.columns[name])) < len(table)]
    kinds = ["category"] if "category" in categories else repeated[:1]
    known = ["object", *kinds] if "object" in categories else kinds
    turns = [np.zeros(len(rows), dtype=np.int64)]
    for name in known:
        own = turns[-1] * len(table) + table.codes(name)[rows]
        turns.append(pd.Series(own).groupby(own).cumcount().to_numpy())
    return rows[np.lexsort(turns[::-1])]


def _drawn(table: Table, unit: np.ndarray) -> np.ndarray:
    """bool [N]: a quarter of each object's units (which are counted as they come), at least one of two."""
    begin = np.unique(unit, return_index=True)[1]
    object = table.codes("object")[begin] if "object" in table.columns else np.zeros(len(begin), int)
    several = np.bincount(object)[object] > 1
    if not several.any():
        object, several = np.zeros_like(object), np.ones_like(several)
    drawn = split_views(object, "test", seed=0)
    return np.isin(unit, drawn[several[drawn]])


def _check_divisible(table: Table, count: int, what: str) -> None:
    if count < 2:
        raise DataError(
            f"{table.path} has one {what}, which cannot be divided into train and test: add a column `split`, "
            f"or more {what}s"
        )


def _check_copies(table: Table, tested: np.ndarray, pictures: np.ndarray) -> None:
    shared = np.intersect1d(pictures[tested], pictures[~tested])
    if not len(shared):
        return
    train, test = (np.flatnonzero(part & (pictures == shared[0]))[0] for part in (~tested, tested))
    files, lines = table.columns["file"], table.lines
    others = f" (as {len(shared) - 1} more are)" if len(shared) > 1 else ""
    raise DataError(
        f"{table.path}: {files[train]} (line {lines[train]}, train) and {files[test]} (line {lines[test]}, test) are "
        f"the same picture{others}, so that what is tested would have been seen: leave one of them out, or give both "
        "the same split, or the same group"
    )
