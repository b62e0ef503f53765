"""What many runs found, as one table: a row a run, its parameters, metrics, versions and folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ciperlib.batch.records import RECORD, BatchError, DamagedRecordError, Record, read_record
from ciperlib.files import write_own
from ciperlib.markup import as_html

TABLE, PAGE = "table.csv", "failed.html"
ABOUT = ("notebook", "profile", "status", "seconds", "folder")


def collect(folder: str | Path) -> pd.DataFrame:
    """One row for each run in a folder, in order of the runs' names.

    Columns: notebook, profile, status, seconds, folder; then the parameters, the metrics (as "metric: NAME") and the
    versions ("version: NAME"), each in order of name. What a run has not is empty.

    Raises:
        BatchError: no such folder, or no runs in it.
    """
    rows = [_row(record, folder) for record in read_records(folder)]
    if not rows:
        raise BatchError(f"there are no runs in {folder}; a sweep makes some")
    names = sorted({name for row in rows for name in row} - set(ABOUT), key=_place)
    return pd.DataFrame(rows, columns=[*ABOUT, *names])


def read_records(folder: str | Path) -> Iterator[Record]:
    """The records of all runs in a folder, in order of name; one that cannot be read has the status "damaged"."""
    for path in sorted(Path(folder).glob(f"*/{RECORD}")):
        try:
            record = read_record(path.parent)
        except DamagedRecordError as error:
            record = Record("", {}, "", "damaged", str(path.parent), last_lines=[str(error)])
        if record is not None:
            yield record


def write_collection(folder: str | Path) -> tuple[pd.DataFrame, list[Path]]:
    """Writes the table as table.csv, and the last lines of every run that did not end well as failed.html.

    Raises:
        NotOursError: one of them was edited, or is somebody else's; nothing is overwritten.
    """
    table = collect(folder)
    table_path, page_path = Path(folder) / TABLE, Path(folder) / PAGE
    write_own(table_path, table.to_csv(index=False))
    write_own(page_path, _page(list(read_records(folder))))
    return table, [table_path, page_path]


def _row(record: Record, folder: str | Path) -> dict:
    about = {name: getattr(record, name) for name in ABOUT} | {"folder": Path(record.folder).name}
    metrics = {f"metric: {name}": value for name, value in record.metrics.items()}
    versions = {f"version: {name}": value for name, value in record.versions.items()}
    return {**record.parameters, **metrics, **versions, **about}


def _place(name: str) -> tuple[int, str]:
    return (1 if name.startswith("metric: ") else 2 if name.startswith("version: ") else 0, name)


def _page(records: list[Record]) -> str:
    parts = []
    for record in records:
        if record.status != "done":
            values = ", ".join(f"{name} = {value}" for name, value in record.parameters.items())
            title, place = as_html(f"{values}: {record.status}"), as_html(record.folder)
            parts.append(f"<h2>{title}</h2><p>{place}</p><pre>{as_html(chr(10).join(record.last_lines))}</pre>")
    style = (
        "<style>body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}pre{overflow:auto}</style>"
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Runs that did not end well</title>{style}'
        f"<h1>{len(parts)} of {len(records)} runs did not end well</h1>{''.join(parts)}</html>\n"
    )
