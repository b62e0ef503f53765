"""What is known of one run of a notebook, as a file in its folder; light enough for every process that watches runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ciperlib.files import write_json

OUTPUT_VARIABLE = "CIPER_OUTPUT"  # of the environment in which a notebook runs: the folder of its pictures and numbers
STATUS = "status.json"
LAST_LINES = 12


class BatchError(RuntimeError):
    """A notebook that cannot be run as asked, or that failed; the message says where and why."""


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


def write_record(record: Record) -> None:
    write_json(Path(record.folder) / STATUS, asdict(record))


def read_record(folder: Path) -> Record | None:
    """The record in a run's folder; None where there is none, or none that can be read."""
    try:
        return Record(**json.loads((folder / STATUS).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def last_lines_of(text: str) -> list[str]:
    """The last lines of a text that are not empty."""
    return [line for line in text.splitlines() if line.strip()][-LAST_LINES:]
