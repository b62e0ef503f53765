"""The lock of a run: no two processes train the same one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ciperlib.files import lock
from ciperlib.learn.runs import RunError, writing

POLL_SECONDS = 0.2


class RunBusyError(RunError):
    """Another process is training this run."""


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Holds the run's folder against other processes; the lock goes with the process, however that ends.

    Raises:
        RunBusyError: another process holds it, and nobody waits.
    """
    message = f"{folder.name} is being trained by another process; wait for it, or stop it"
    told: list[str] = []

    def waits() -> None:
        if not told:
            told.append(message)
            print(message, flush=True)
        time.sleep(POLL_SECONDS)

    with ExitStack() as stack:
        with writing(folder):
            try:
                stack.enter_context(lock(folder / ".lock", waits if wait else None))
            except BlockingIOError as error:
                raise RunBusyError(message) from error
        yield
