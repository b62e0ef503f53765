"""One run of a sweep, watched from its beginning to its end by a worker; it imports nothing that takes long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ciperlib.batch.locks import POLL_SECONDS, Stopped, claim_gpus, is_stopped, lock
from ciperlib.batch.records import BatchError, Record, check_folder, last_lines_of, read_record, write_record
from ciperlib.files import end_group, new_group

FINISHED = ("done", "refused")  # not run again; failed, killed, timed out and stopped runs are
GRACE_SECONDS = 5.0
LOGS = ".logs"


@dataclass(frozen=True)
class Task:
    """One run of a sweep: everything a worker needs, as plain values."""

    notebook: str
    values: dict[str, Any]
    profile: str
    folder: Path  # of the run, in the sweep's
    timeout: float | None = None  # seconds that the run itself may take; waiting for its turn does not count
    gpus: int = 0
    threads: int | None = None  # None: 1, or in a sweep on this machine its cores divided among the runs at a time
    stop: str = ""  # the file whose appearance ends the run
    command: tuple[str, ...] = (sys.executable, "-m", "ciperlib", "run")

    @property
    def output(self) -> Path:
        """The sweep's folder."""
        return self.folder.parent


def run_task(task: Task) -> dict[str, Any]:
    """Runs one notebook as a process group of its own and waits for its end; on a worker, or anywhere.

    A finished run is only read. Where somebody else runs the same, this waits for it. In a sweep that was stopped
    nothing begins, and nothing is written of what has not begun.
    """
    try:
        with lock(task.output / LOGS / f"{task.folder.name}.lock", task.stop):
            if is_finished(task):
                return asdict(find_record(task))
            with claim_gpus(task.gpus, task.stop) as gpus:
                return asdict(_run(task, gpus))
    except Stopped:
        return asdict(make_record(task, "stopped", 0.0, []))
    except (BatchError, OSError) as error:  # nothing was run, and what is in the folder stays as it is
        return asdict(make_record(task, "failed", 0.0, last_lines_of(str(error))))


def _run(task: Task, gpus: list[int]) -> Record:
    begun, log = time.monotonic(), task.output / LOGS / f"{task.folder.name}.log"
    check_folder(task.folder, Path(task.notebook).name)
    earlier = read_record(task.folder)
    # what an earlier try left is not taken for this one's, but is still known to be ours
    _try_to_write(make_record(task, "running", 0.0, [], earlier and earlier.files))
    ended = _supervise(task, log, gpus)
    found = find_record(task)
    if found.status in FINISHED or (ended is None and found.status != "running"):
        return found
    lines = last_lines_of(log.read_text(errors="replace"))
    found = make_record(task, ended or "failed", time.monotonic() - begun, lines, found.files)
    _try_to_write(found)
    return found


def is_finished(task: Task) -> bool:
    """Whether the run has ended in a way that running it again would not change."""
    return find_record(task).status in FINISHED


def find_record(task: Task) -> Record:
    """What its folder says of the run; a failed one where that cannot be read, is of something else, or is missing."""
    try:
        check_folder(task.folder, Path(task.notebook).name)
        found = read_record(task.folder)
    except (BatchError, OSError) as error:
        return make_record(task, "failed", 0.0, last_lines_of(str(error)))
    return found or make_record(task, "failed", 0.0, ["no record was written"])


def make_record(
    task: Task, status: str, seconds: float, lines: list[str], files: dict[str, str] | None = None
) -> Record:
    """A record of a run that could not write its own; `files` are those that an earlier try left."""
    notebook = Path(task.notebook).name
    facts = dict(status=status, folder=str(task.folder), seconds=round(seconds, 2), last_lines=lines)
    return Record(notebook, dict(task.values), task.profile, **facts, files=files or {})


def _supervise(task: Task, log: Path, gpus: Iterable[int]) -> str | None:
    """Runs the command until it ends (None), is killed, its time is over, or the sweep is stopped; nothing is left."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [*task.command, task.notebook, "--profile", task.profile, "--output", str(task.output)]
    command += ["--values", json.dumps(task.values)]  # a text that looks like a number stays a text
    environment = {"NUMBA_NUM_THREADS": "1", **os.environ, "OMP_NUM_THREADS": str(task.threads or 1)}
    environment |= {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))} if task.gpus else {}
    begun = time.monotonic()
    with open(log, "w") as output:
        child = subprocess.Popen(command, env=environment, stdout=output, stderr=output, **new_group())
    try:
        while child.poll() is None:
            if task.timeout is not None and time.monotonic() - begun > task.timeout:
                return "timed out"
            if is_stopped(task.stop):
                return "stopped"
            time.sleep(POLL_SECONDS)
        return "killed" if child.returncode < 0 else None
    finally:
        _end(child)


def _end(child: subprocess.Popen) -> None:
    """Ends the child's whole process group, kernel and all."""
    for hard in (False, True):
        if not end_group(child.pid, hard):
            break
        try:
            child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    child.wait()


def _try_to_write(record: Record) -> None:
    """A full disk must not stop the other runs; the record is then missing, and the run is done again."""
    try:
        write_record(record)
    except OSError as error:
        print(f"{record.folder}: the record could not be written ({error.strerror})", file=sys.stderr)
