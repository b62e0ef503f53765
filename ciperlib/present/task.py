"""One run of a sweep, watched from its beginning to its end by a worker; it imports nothing that takes long."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ciperlib.present.claims import POLL_SECONDS, Stopped, claim_gpus, hold, is_stopped
from ciperlib.present.records import BatchError, Record, last_lines_of, read_record, write_record

FINISHED = ("done", "refused")  # not run again; failed, killed, timed out and stopped runs are
GRACE_SECONDS = 5.0
LOGS = ".logs"
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before anything forks


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
        with hold(task.output / LOGS / f"{task.folder.name}.lock", task.stop):
            if is_finished(task):
                return asdict(read_record(task.folder))
            with claim_gpus(task.gpus, task.stop) as gpus:
                return asdict(_run(task, gpus))
    except Stopped:
        return asdict(make_record(task, "stopped", 0.0, []))
    except BatchError as error:
        found = make_record(task, "failed", 0.0, last_lines_of(str(error)))
        _try_to_write(found)
        return asdict(found)


def _run(task: Task, gpus: list[int]) -> Record:
    begun, log = time.monotonic(), task.output / LOGS / f"{task.folder.name}.log"
    _try_to_write(make_record(task, "running", 0.0, []))  # what an earlier try left is not taken for this one's
    ended = _supervise(task, log, gpus)
    found = read_record(task.folder)
    if found is not None and (found.status in FINISHED or (ended is None and found.status != "running")):
        return found
    lines = last_lines_of(log.read_text(errors="replace"))
    found = make_record(task, ended or "failed", time.monotonic() - begun, lines)
    _try_to_write(found)
    return found


def is_finished(task: Task) -> bool:
    """Whether the run has ended in a way that running it again would not change."""
    record = read_record(task.folder)
    return record is not None and record.status in FINISHED


def make_record(task: Task, status: str, seconds: float, lines: list[str]) -> Record:
    """A record of a run that could not write its own."""
    notebook = Path(task.notebook).name
    facts = dict(status=status, folder=str(task.folder), seconds=round(seconds, 2), last_lines=lines)
    return Record(notebook, dict(task.values), task.profile, **facts)


def _supervise(task: Task, log: Path, gpus: Iterable[int]) -> str | None:
    """Runs the command until it ends (None), is killed, its time is over, or the sweep is stopped; nothing is left."""
    log.parent.mkdir(parents=True, exist_ok=True)
    pairs = [part for name, value in task.values.items() for part in ("-p", name, _text(value))]
    command = [*task.command, task.notebook, "--profile", task.profile, "--output", str(task.output), *pairs]
    environment = {"NUMBA_NUM_THREADS": "1", **os.environ, "OMP_NUM_THREADS": str(task.threads or 1)}
    environment |= {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))} if task.gpus else {}
    begun, parent = time.monotonic(), os.getpid()
    with open(log, "w") as output:
        child = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True,
            preexec_fn=lambda: _die_with(parent),
        )  # fmt: skip
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
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, how)
        except ProcessLookupError:
            break
        try:
            child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    child.wait()


def _die_with(parent: int) -> None:
    """A child of a worker that is killed must not go on writing while Dask runs the task again elsewhere (Linux)."""
    if LIBC is not None:
        LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before
            os._exit(1)


def _try_to_write(record: Record) -> None:
    """A full disk must not stop the other runs; the record is then missing, and the run is done again."""
    try:
        write_record(record)
    except OSError as error:
        print(f"{record.folder}: the record could not be written ({error.strerror})", file=sys.stderr)


def _text(value: Any) -> str:
    """A value as the command line reads it."""
    return {"True": "true", "False": "false", "None": "none"}.get(str(value), str(value))
