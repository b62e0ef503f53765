"""What the columns of a table of images are: categories or quantities."""

from __future__ import annotations

import math
import re

import numpy as np
import torch
from torch import Tensor

from ciperlib.data.imageset import POSE, DataError
from ciperlib.data.table import DEGREES, UNDERSTOOD, Table

TURN = 2 * math.pi + 0.0001  # in radians, with what rounding to four digits adds
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
GAPS = {  # what programs write, in capitals or not, where there is no number
    "na", "n/a", "#n/a", "nan", "none", "null", "nil", "-", "?",
    "inf", "+inf", "-inf", "infinity", "-infinity",
}  # fmt: skip


def to_factors(table: Table) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """Factors by name, each [N], and the names of the values of those that are texts.

    Every column but file, split, group and mask is a factor: texts and whole numbers are categories (int64), other
    numbers quantities (float32). The parts of the pose and what ends in `_degrees` are quantities whatever they look
    like; `azimuth_degrees` becomes `azimuth` in radians, and so on.

    Raises:
        DataError: a cell that is no finite number in a column of numbers (a gap, a decimal comma), a whole number
            beyond int64, or an azimuth or elevation of more than a turn.
    """
    factors, labels = {}, {}
    for name in (name for name in table.columns if name not in UNDERSTOOD):
        factor = name.removesuffix(DEGREES)
        if factor != name:
            factors[factor] = _quantity(np.radians(_numbers(table, name)))
        elif name in POSE:
            factors[name] = _quantity(_numbers(table, name))
        elif not _are_numbers(table, name):
            factors[name] = torch.from_numpy(table.codes(name))
            labels[name] = tuple(sorted(set(table.columns[name])))
        elif all(map(WHOLE.fullmatch, table.columns[name])):
            factors[name] = torch.from_numpy(_whole_numbers(table, name))
        else:
            factors[name] = _quantity(_numbers(table, name))
    return factors, labels


def _quantity(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _are_numbers(table: Table, name: str) -> bool:
    """Whether every cell of a column is a number; DataError where all would be, but for gaps or decimal commas."""
    cells = table.columns[name]
    others = [row for row, cell in enumerate(cells) if not NUMBER.fullmatch(cell)]
    commas = [row for row in others if COMMA.fullmatch(cells[row])]
    gaps = [row for row in others if cells[row].lower() in GAPS]
    texts = len(others) - len(commas) - len(gaps)
    if commas and not texts:
        raise DataError(
            f"{table.where(commas[0])}: {name} is {cells[commas[0]][:40]!r}: write decimals with a point; if it names "
            "a class, write it otherwise"
        )
    if gaps and not texts and len(gaps) < len(cells):
        raise DataError(
            f"{table.where(gaps[0])}: {name} is {cells[gaps[0]]!r} among numbers: leave the row out if the number "
            "is not known, or, if it names a class, call the others by texts, too"
        )
    return not others


def _numbers(table: Table, name: str) -> np.ndarray:
    """float64 [N], finite in float32 too."""
    largest = TURN if name in POSE[:2] else float(np.finfo(np.float32).max)
    values = np.array([float(cell) if NUMBER.fullmatch(cell) else math.nan for cell in table.columns[name]])
    if bad := np.flatnonzero(~(np.abs(values) <= largest)).tolist():
        cell = table.columns[name][bad[0]]
        if math.isfinite(values[bad[0]]) and largest == TURN:
            raise DataError(
                f"{table.where(bad[0])}: {name} is {cell} radians, more than a turn; if these are degrees, call the "
                f"column {name}{DEGREES}"
            )
        raise DataError(
            f"{table.where(bad[0])}: {name} must be a finite number, not {cell[:40]!r}; leave the row out, or, if it "
            "names a class, call the column otherwise"
        )
    return values


def _whole_numbers(table: Table, name: str) -> np.ndarray:
    """int64 [N]."""
    limits = np.iinfo(np.int64)
    for row, cell in enumerate(table.columns[name]):
        if len(cell) > 20 or not limits.min <= int(cell) <= limits.max:
            raise DataError(f"{table.where(row)}: {name} is too large a whole number ({cell[:30]}); number from 0")
    return np.array(list(map(int, table.columns[name])), dtype=np.int64)
