"""A grid of notebook runs on Dask, each its own process in its own folder; and what they found, as one table.

What a run is worth knowing of stands in its folder's status record, never in Dask: a worker may die, the scheduler may
go, two people may start the same sweep. Whoever comes next reads the records and does what is missing.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from ciperlib.batch.records import BatchError, Record
from ciperlib.batch.runner import check_names, folder_name
from ciperlib.batch.task import FINISHED, Task, find_record, is_finished, run_task
from ciperlib.config import profile_parameters
from ciperlib.files import project_root

STOP, STOP_SECONDS = ".stop", 30.0  # the file that ends a sweep's runs, and how long it may take them
QUIET = {  # a cluster that watches itself less often: the runs beside it need the processors
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
}


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
    check_names(notebook, grid)
    for name, values in grid.items():
        if not len(values):
            raise BatchError(f"the grid has no values for {name!r}")
    output, tasks = Path(output or project_root() / "out" / f"{notebook.stem}-sweep"), {}
    fixed = profile_parameters(profile, notebook.stem)
    for values in itertools.product(*grid.values()):
        chosen = {**fixed, **dict(zip(grid, values))}
        folder = output.resolve() / folder_name(notebook, chosen)
        tasks.setdefault(folder, Task(str(notebook.resolve()), chosen, profile, folder, **options))
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
    waiting = [task for task in tasks if not is_finished(task)]
    if waiting:
        waiting[0].output.mkdir(parents=True, exist_ok=True)
        stop = str(waiting[0].output / f"{STOP}-{os.getpid()}-{time.time_ns()}")
        workers = min(workers or os.cpu_count() or 1, len(waiting))
        threads = _threads(workers) if scheduler is None else None
        waiting = [replace(task, stop=stop, threads=task.threads or threads) for task in waiting]
        with _client(scheduler, workers) as client:
            _follow(client, waiting, run_task, retries, len(tasks) - len(waiting), report)
    return [find_record(task) for task in tasks]


def estimate_seconds(tasks: Sequence[Task], workers: int) -> float | None:
    """How long the unfinished tasks would take, from the finished ones; None where none is."""
    known = [record.seconds for record in map(find_record, tasks) if record.status == "done"]
    waiting = sum(not is_finished(task) for task in tasks)
    return median(known) * waiting / max(1, workers) if known else None


def _threads(runs: int) -> int:
    """Of each run: what the environment asks for, else this machine's cores divided among the runs at a time."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() else max(1, (os.cpu_count() or 1) // runs)


def _follow(client, tasks, function, retries: int, done: int, report) -> None:
    """Submits all tasks, tries failures again, and reports; what a run found stands in its folder."""
    from dask.distributed import as_completed

    futures: dict[Any, tuple[Task, int]] = {}
    total, failed, begun, told, finished = done + len(tasks), 0, time.monotonic(), 0.0, 0
    with _stopping(tasks[0].stop, futures):
        futures |= {client.submit(function, task, pure=False): (task, 0) for task in tasks}
        queue = as_completed(list(futures))
        for future in queue:
            task, tried = futures.pop(future)
            status = _outcome(future)
            if status not in FINISHED and tried < retries:
                again = client.submit(function, task, pure=False)
                futures[again] = (task, tried + 1)
                queue.add(again)
                continue
            finished += 1
            failed += status not in FINISHED
            if time.monotonic() - told > 2 or not futures:
                told = time.monotonic()
                left = (told - begun) / finished * len(futures)
                counts = f"{done + finished - failed} of {total} done, {failed} failed, {len(futures)} to go"
                report(f"{counts}, {left:.0f} s left")


def _outcome(future) -> str:
    """The status that a task returned; "failed" where Dask itself gave it up (its worker died again and again)."""
    try:
        return future.result()["status"]
    except Exception as error:
        return f"failed: {error}"


@contextmanager
def _client(scheduler: str | None, workers: int) -> Iterator[Any]:
    import dask
    from dask.distributed import Client, LocalCluster

    if scheduler is not None:
        with Client(scheduler, timeout=30) as client:
            yield client
        return
    local = dict(
        n_workers=workers,
        threads_per_worker=1,
        processes=False,  # a worker only watches; the run is a process of its own, with what memory it needs
        memory_limit=None,
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
        silence_logs=50,
    )
    with dask.config.set(QUIET), LocalCluster(**local) as cluster, Client(cluster) as client:
        yield client


@contextmanager
def _stopping(stop: str, futures: Mapping[Any, Any]) -> Iterator[None]:
    """On Ctrl-C, or any other end before the end, every child is told to stop, wherever it runs, and waited for. The
    file stays until then: whoever has not begun must see it, too."""
    from dask.distributed import wait

    try:
        yield
    except BaseException:
        if stop:
            Path(stop).touch()
            with suppress(TimeoutError):
                wait(list(futures), timeout=STOP_SECONDS)
                Path(stop).unlink()
        raise
