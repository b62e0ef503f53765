"""A table of images: factors.csv, read strictly, every cell a text."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ciperlib.data.imageset import SPLITS, DataError

LIMIT = 2**28  # bytes; a table of a million images has a tenth
UNDERSTOOD = ("file", "split", "group", "mask")  # the columns that are no factors
RESERVED = ("id", "ids", "groups", "masks", "pose")  # what is known of images under these names is something else
DEGREES = "_degrees"  # a column's ending; its factor is in radians, and called without it
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True)
class Table:
    """Rows of texts, none of them empty.

    Attributes:
        path: the file.
        columns: cells by the column's name, each [N].
        lines: on which line of the file each row begins, counted from 1.
    """

    path: Path
    columns: dict[str, list[str]]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, row: int) -> str:
        """What a refusal of a row begins with."""
        return f"{self.path}, line {self.lines[row]}"

    def codes(self, name: str) -> np.ndarray:
        """int64 [N]: which of the column's values, in the order of texts, each cell is."""
        values = sorted(set(self.columns[name]))  # as np.unique, which would make all as long as the longest
        number = {value: i for i, value in enumerate(values)}
        return np.array([number[cell] for cell in self.columns[name]], dtype=np.int64)


def read_table(path: Path) -> Table:
    """A table with a column `file`: commas, UTF-8 with a mark or without, quotes where a cell needs them.

    Spaces around cells are dropped, and so are blank lines. NA, None and the like are texts as any other.

    Raises:
        DataError: a file that cannot be read, is too large, empty or not UTF-8; a header without `file`, with a column
            twice, without a name or of a reserved one; or a row that does not fit, has an empty cell, or is in a split
            other than train and test. The message says on which line.
    """
    text = _text(path)
    _check_separator(path, text)
    rows = _rows(path, text)
    _, names = next(rows, (1, [""]))  # there is none in a text of nothing but quotes
    names = [" ".join(name.split()) for name in names]  # a line break in one would break the sentences
    _check_names(path, names)
    lines, cells = [], []
    for line, row in rows:
        if len(row) != len(names):
            raise DataError(
                f"{path}, line {line} has {len(row)} cells for {len(names)} columns; put a text with a comma in quotes"
            )
        lines.append(line)
        cells.append(row)
    if not cells:
        raise DataError(f"{path} has a header and no rows: write one row an image")
    table = Table(path, {name: list(column) for name, column in zip(names, zip(*cells))}, lines)
    _check_cells(table)
    return table


def _text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(LIMIT + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > LIMIT:
        raise DataError(f"{path} has more than {LIMIT:,} bytes, and is no table of images")
    try:
        text = content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise DataError(_not_utf8(path, content, error)) from error
    if not text.strip():
        raise DataError(f"{path} is empty: write a header with a column `file`, and one row an image")
    if "\0" in text:
        line = _line(content, content.index(0))
        raise DataError(f"{path}, line {line} holds zero bytes, as UTF-16 does and UTF-8 does not: save it as UTF-8")
    return text


def _not_utf8(path: Path, content: bytes, error: UnicodeDecodeError) -> str:
    line = _line(error.object, error.start)
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    guess = "UTF-16" if wide else "Windows-1252"  # what spreadsheets save where they do not save UTF-8
    byte = error.object[error.start]
    return f"{path}, line {line} is not UTF-8 (byte 0x{byte:02x}; it may be {guess}): save it as UTF-8"


def _line(content: bytes, place: int) -> int:
    return len(re.findall(rb"\r\n|\r|\n", content[:place])) + 1


def _check_separator(path: Path, text: str) -> None:
    head = re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0].strip()
    found = [separator for separator in SEPARATORS if separator in head]
    if "," not in head and found:
        raise DataError(f"{path} is separated by {SEPARATORS[found[0]]}; save it with commas")


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Each row, blank ones left out, with the line on which it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    line = 1
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if len(cells) > 1 or any(cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {line} is no row ({error}); is a quote open, or a text that has one?") from error


def _check_names(path: Path, names: Sequence[str]) -> None:
    if "file" not in names:
        raise DataError(f"{path} has no column `file`; it has: {', '.join(names) or 'none'}"[:1000])
    factors = [name.removesuffix(DEGREES) for name in names]
    for number, factor in enumerate(factors, start=1):
        if not factor:
            raise DataError(f"{path}: column {number} has no name; name it, or leave it out")
        if factor in RESERVED:
            raise DataError(f"{path}: column {number} is called {names[number - 1]!r}, a word that is taken: rename it")
    twice, count = Counter(factors).most_common(1)[0]
    if count > 1:
        own = [name for name, factor in zip(names, factors) if factor == twice]
        raise DataError(f"{path} has two columns {twice!r} ({', '.join(own)}): rename one, or leave it out")


def _check_cells(table: Table) -> None:
    gaps = {name: [row for row, cell in enumerate(column) if not cell] for name, column in table.columns.items()}
    rows = sorted(set().union(*gaps.values()))
    if rows:
        empty = ", ".join(name for name, own in gaps.items() if rows[0] in own)
        count = f"{len(rows)} rows are" if len(rows) > 1 else "1 row is"
        raise DataError(f"{table.where(rows[0])}: {empty} is empty; {count} incomplete")
    for row, split in enumerate(table.columns.get("split", ())):
        if split not in SPLITS:
            raise DataError(f"{table.where(row)}: split must be train or test, not {split[:40]!r}")
