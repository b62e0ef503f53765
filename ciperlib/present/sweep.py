"""A grid of notebook runs on Dask, each its own process in its own folder; and what they found, as one table.

What a run is worth knowing of stands in its folder's status record, never in Dask: a worker may die, the scheduler may
go, two people may start the same sweep. Whoever comes next reads the records and does what is missing.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from ciperlib.config import nearest, profile_parameters
from ciperlib.data.imageset import home
from ciperlib.present.batch import (
    BatchError,
    Record,
    declared_parameters,
    folder_name,
    last_lines_of,
    read_record,
    write_record,
)

FINISHED = ("done", "refused")  # not run again; failed, killed, timed out and stopped runs are
POLL_SECONDS, GRACE_SECONDS = 0.2, 5.0
LOGS, STOP = ".logs", ".stop"


@dataclass(frozen=True)
class Task:
    """One run of a sweep: everything a worker needs, as plain values."""

    notebook: str
    values: dict[str, Any]
    profile: str
    output: str  # the sweep's folder
    timeout: float | None = None
    gpus: int = 0
    threads: int = 1
    stop: str = ""  # the file whose appearance ends the run
    command: tuple[str, ...] = (sys.executable, "-m", "ciperlib", "run")

    @property
    def folder(self) -> Path:
        return Path(self.output) / folder_name(Path(self.notebook), self.values)


def make_tasks(
    notebook: str | Path, grid: Mapping[str, Sequence[Any]], *, profile: str = "teaching",
    output: str | Path | None = None, **options: Any,
) -> list[Task]:  # fmt: skip
    """Every combination of the grid's values, each once.

    Args:
        grid: parameter -> its values.
        output: the sweep's folder; default `out/<notebook>-sweep`.
        options: timeout, gpus, threads of `Task`.

    Raises:
        BatchError: no such notebook, a parameter that it does not have, or one without values.
    """
    notebook = Path(notebook)
    declared = declared_parameters(notebook)
    for name, values in grid.items():
        if name not in declared:
            raise BatchError(f"{notebook.name} has no parameter named {name!r}{nearest(name, declared)}")
        if not len(values):
            raise BatchError(f"the grid has no values for {name!r}")
    output, fixed = (
        Path(output or home() / "out" / f"{notebook.stem}-sweep"),
        profile_parameters(profile, notebook.stem),
    )
    tasks = {}
    for values in itertools.product(*grid.values()):
        chosen = {**fixed, **dict(zip(grid, values))}
        task = Task(str(notebook.resolve()), chosen, profile, str(output.resolve()), **options)
        tasks.setdefault(task.folder.name, task)
    return list(tasks.values())


def sweep(
    tasks: Sequence[Task], *, scheduler: str | None = None, workers: int | None = None, retries: int = 0,
    report: Callable[[str], None] = print,
) -> list[Record]:  # fmt: skip
    """Runs what has not been run, and returns the record of every task, in their order.

    Args:
        scheduler: address of a Dask scheduler whose workers see the same folders; default: a cluster on this machine.
        workers: of that cluster; default: one for every core, at most one for every task.
        retries: how often a run that fails, is killed or times out is tried again.
        report: is told in a line how far it is, every few seconds.

    Raises:
        KeyboardInterrupt: after every child has been ended; the same call carries on.
    """
    waiting = [task for task in tasks if not _is_finished(task)]
    if waiting:
        Path(waiting[0].output).mkdir(parents=True, exist_ok=True)
        stop = Path(waiting[0].output) / f"{STOP}-{os.getpid()}-{time.time_ns()}"
        waiting = [replace(task, stop=str(stop)) for task in waiting]
        with _client(scheduler, workers or min(len(waiting), os.cpu_count() or 1)) as client, _stopping(stop):
            _follow(client, waiting, run_task, retries, len(tasks) - len(waiting), report)
    return [read_record(task.folder) or _record(task, "failed", 0.0, ["no record was written"]) for task in tasks]


def run_task(task: Task) -> dict[str, Any]:
    """Runs one notebook as a process group of its own and waits for its end; on a worker, or anywhere.

    A finished run is only read. Where somebody else runs the same, this waits for it.
    """
    with _lock(task):
        if _is_finished(task):
            return asdict(read_record(task.folder))
        begun, log = time.monotonic(), Path(task.output) / LOGS / f"{task.folder.name}.log"
        with _claim_gpus(task.gpus) as gpus:
            ended = _supervise(task, log, gpus)
        found = read_record(task.folder)
        if ended is not None or found is None or found.status == "running":
            found = _record(task, ended or "failed", time.monotonic() - begun, last_lines_of(log.read_text()))
            _try_to_write(found)
        return asdict(found)


def estimate_seconds(tasks: Sequence[Task], workers: int) -> float | None:
    """How long the unfinished tasks would take, from the finished ones; None where none is."""
    known = [r.seconds for task in tasks if (r := read_record(task.folder)) is not None and r.status == "done"]
    waiting = sum(not _is_finished(task) for task in tasks)
    return median(known) * waiting / max(1, workers) if known else None


def _follow(client, tasks, function, retries: int, done: int, report) -> None:
    """Submits all tasks, tries failures again, and reports; what a run found stands in its folder."""
    from dask.distributed import as_completed

    options = {"pure": False}
    if tasks[0].gpus:
        options["resources"] = {"GPU": tasks[0].gpus}
    futures = {client.submit(function, task, **options): (task, 0) for task in tasks}
    total, failed, begun, told, finished = done + len(tasks), 0, time.monotonic(), 0.0, 0
    queue = as_completed(list(futures))
    for future in queue:
        task, tried = futures.pop(future)
        status = _outcome(future)
        if status not in FINISHED and tried < retries:
            again = client.submit(function, task, **options)
            futures[again] = (task, tried + 1)
            queue.add(again)
            continue
        finished += 1
        failed += status not in FINISHED
        if time.monotonic() - told > 2 or not futures:
            told = time.monotonic()
            left = (told - begun) / finished * len(futures)
            report(
                f"{done + finished - failed} of {total} done, {failed} failed, {len(futures)} to go, {left:.0f} s left"
            )


def _outcome(future) -> str:
    """The status that a task returned; "failed" where Dask itself gave it up (its worker died again and again)."""
    try:
        return future.result()["status"]
    except Exception as error:
        return f"failed: {error}"


def _supervise(task: Task, log: Path, gpus: Iterable[int]) -> str | None:
    """Runs the command until it ends (None), is killed, its time is over, or the sweep is stopped; nothing is left."""
    log.parent.mkdir(parents=True, exist_ok=True)
    pairs = [part for name, value in task.values.items() for part in ("-p", name, _text(value))]
    command = [*task.command, task.notebook, "--profile", task.profile, "--output", task.output, *pairs]
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
    folder = Path(task.output) / LOGS
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{task.folder.name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _claim_gpus(count: int) -> Iterator[list[int]]:
    """The numbers of `count` GPUs of this machine that no other run holds; waits for them."""
    if not count:
        yield []
        return
    import tempfile

    import torch

    held: dict[int, Any] = {}
    try:
        while len(held) < count:
            for number in set(range(torch.cuda.device_count())) - set(held):
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


@contextmanager
def _client(scheduler: str | None, workers: int) -> Iterator[Any]:
    from dask.distributed import Client, LocalCluster

    if scheduler is not None:
        with Client(scheduler, timeout=30) as client:
            yield client
        return
    local = dict(
        n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1", silence_logs=50
    )
    with LocalCluster(**local) as cluster, Client(cluster) as client:
        yield client


@contextmanager
def _stopping(stop: Path) -> Iterator[None]:
    """On Ctrl-C, or any other end before the end, every child is told to stop, wherever it runs."""
    try:
        yield
    except BaseException:
        stop.touch()
        time.sleep(GRACE_SECONDS)
        raise
    finally:
        stop.unlink(missing_ok=True)


def _is_finished(task: Task) -> bool:
    record = read_record(task.folder)
    return record is not None and record.status in FINISHED


def _record(task: Task, status: str, seconds: float, lines: list[str]) -> Record:
    notebook = Path(task.notebook).name
    facts = dict(status=status, folder=str(task.folder), seconds=round(seconds, 2), last_lines=lines)
    return Record(notebook, dict(task.values), task.profile, **facts)


def _try_to_write(record: Record) -> None:
    """A full disk must not stop the other runs; the record is then missing, and the run is done again."""
    try:
        write_record(record)
    except OSError as error:
        print(f"{record.folder}: the record could not be written ({error.strerror})", file=sys.stderr)


def _text(value: Any) -> str:
    """A value as the command line reads it."""
    return (
        {True: "true", False: "false", None: "none"}[value] if value is None or isinstance(value, bool) else str(value)
    )
