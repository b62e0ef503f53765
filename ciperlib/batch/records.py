"""What is known of one run of a notebook, as a file in its folder; light enough for every process that watches runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ciperlib.files import SealError, read_sealed, write_sealed

OUTPUT_VARIABLE = "CIPER_OUTPUT"  # of the environment in which a notebook runs: the folder of its pictures and numbers
RECORD = "status.json"
LAST_LINES = 12


KINDS = {"str": str, "float": (int, float), "dict": dict, "list": list}  # what a record's fields must be


class BatchError(RuntimeError):
    """A notebook that cannot be run as asked, or that failed; the message says where and why."""


class DamagedRecordError(BatchError):
    """A record that is not what was written: what is in its folder is neither trusted nor removed."""


@dataclass
class Record:
    """What is known of one run of a notebook; kept as status.json in its folder, never read off the notebook."""

    notebook: str
    parameters: dict[str, Any]
    profile: str
    status: str  # running, done, refused (by a config), failed; in a sweep also killed, timed out, stopped
    folder: str
    seconds: float = 0.0
    metrics: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    last_lines: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)  # what the run left in its folder: name -> SHA-256


def write_record(record: Record) -> None:
    """Keeps a record in its run's folder, sealed."""
    write_sealed(Path(record.folder) / RECORD, asdict(record))


def read_record(folder: Path) -> Record | None:
    """The record in a folder; None where there is none, or the status of something else.

    Raises:
        DamagedRecordError: there is one, and it cannot be read or is not what was written.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        values, sealed = read_sealed(path)
        if not sealed and "notebook" not in values:
            return None
        record = Record(**values)
    except (SealError, TypeError) as error:
        raise DamagedRecordError(f"{path} is damaged ({error}); remove its folder to run it again") from error
    wrong = [f.name for f in fields(Record) if not isinstance(getattr(record, f.name), KINDS[f.type.split("[")[0]])]
    if wrong:
        raise DamagedRecordError(f"{path} is damaged ({', '.join(wrong)}); remove its folder to run it again")
    return record


def check_folder(folder: Path, notebook: str) -> None:
    """Raises BatchError where a folder holds anything but an earlier run of this notebook."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        record = read_record(folder) if folder.is_dir() else None
        if record is None or record.notebook != notebook:
            raise BatchError(f"{folder} exists and is not a run of ours; choose another folder with --output")


def last_lines_of(text: str) -> list[str]:
    """The last lines of a text that are not empty."""
    return [line for line in text.splitlines() if line.strip()][-LAST_LINES:]
