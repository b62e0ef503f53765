"""One run of a sweep, watched from its beginning to its end by a worker; it imports nothing that takes long."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ciperlib.present.records import BatchError, Record, last_lines_of, read_record, write_record

FINISHED = ("done", "refused")  # not run again; failed, killed, timed out and stopped runs are
POLL_SECONDS, GRACE_SECONDS = 0.2, 5.0
LOGS = ".logs"


@dataclass(frozen=True)
class Task:
    """One run of a sweep: everything a worker needs, as plain values."""

    notebook: str
    values: dict[str, Any]
    profile: str
    folder: Path  # of the run, in the sweep's
    timeout: float | None = None
    gpus: int = 0
    threads: int = 1
    stop: str = ""  # the file whose appearance ends the run
    command: tuple[str, ...] = (sys.executable, "-m", "ciperlib", "run")

    @property
    def output(self) -> Path:
        """The sweep's folder."""
        return self.folder.parent


def run_task(task: Task) -> dict[str, Any]:
    """Runs one notebook as a process group of its own and waits for its end; on a worker, or anywhere.

    A finished run is only read. Where somebody else runs the same, this waits for it.
    """
    with _lock(task):
        if is_finished(task):
            return asdict(read_record(task.folder))
        begun, log = time.monotonic(), task.output / LOGS / f"{task.folder.name}.log"
        try:
            with _claim_gpus(task.gpus) as gpus:
                ended = _supervise(task, log, gpus)
        except BatchError as error:
            log.write_text(str(error))
            ended = "failed"
        found = read_record(task.folder)
        if ended is not None or found is None or found.status == "running":
            found = make_record(task, ended or "failed", time.monotonic() - begun, last_lines_of(log.read_text()))
            _try_to_write(found)
        return asdict(found)


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
    own = {"OMP_NUM_THREADS": str(task.threads), "NUMBA_NUM_THREADS": "1"}
    environment = {**own, **os.environ} | ({"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))} if task.gpus else {})
    begun = time.monotonic()
    with open(log, "w") as output:
        child = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True, preexec_fn=_die_with_parent
        )
    try:
        while child.poll() is None:
            if task.timeout is not None and time.monotonic() - begun > task.timeout:
                return "timed out"
            if task.stop and Path(task.stop).exists():
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


def _die_with_parent() -> None:
    """A child of a worker that is killed must not go on writing while Dask runs the task again elsewhere (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


@contextmanager
def _lock(task: Task) -> Iterator[None]:
    """Holds the run's folder against other sweeps; goes with the process, however that ends."""
    folder = task.output / LOGS
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{task.folder.name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _claim_gpus(count: int) -> Iterator[list[int]]:
    """The numbers of `count` GPUs of this machine that no other run holds; waits for them. The claim is a file's lock:
    it holds between workers, sweeps and people, and goes with the process.

    Raises:
        BatchError: more GPUs than this machine has.
    """
    if not count:
        yield []
        return
    import tempfile

    import torch

    held, known = {}, torch.cuda.device_count()
    if count > known:
        raise BatchError(f"the run asks for {count} GPUs, and torch sees {known} on this machine")
    try:
        while len(held) < count:
            for number in set(range(known)) - set(held):
                file = open(Path(tempfile.gettempdir()) / f"ciper-gpu-{number}.lock", "w")  # noqa: SIM115 (closed below)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    held[number] = file
                except BlockingIOError:
                    file.close()
                if len(held) == count:
                    break
            else:
                time.sleep(POLL_SECONDS)
        yield sorted(held)
    finally:
        for file in held.values():
            file.close()


def _try_to_write(record: Record) -> None:
    """A full disk must not stop the other runs; the record is then missing, and the run is done again."""
    try:
        write_record(record)
    except OSError as error:
        print(f"{record.folder}: the record could not be written ({error.strerror})", file=sys.stderr)


def _text(value: Any) -> str:
    """A value as the command line reads it."""
    return {"True": "true", "False": "false", "None": "none"}.get(str(value), str(value))
