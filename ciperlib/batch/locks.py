"""What only one run may have at a time: its folder, and GPUs. A claim is a file's lock; it goes with the process."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ciperlib import files
from ciperlib.batch.records import BatchError

POLL_SECONDS = 0.2


class Stopped(Exception):
    """The sweep was stopped before the run began."""


def is_stopped(stop: str) -> bool:
    """Whether the file is there whose appearance ends a sweep's runs; "" is never there."""
    return bool(stop) and Path(stop).exists()


@contextmanager
def lock(path: Path, stop: str = "") -> Iterator[None]:
    """Holds a file against every other run, sweep and person; waits for it, unless `Stopped`."""
    if is_stopped(stop):
        raise Stopped
    with files.lock(path, lambda: _wait(stop)):
        yield


@contextmanager
def claim_gpus(count: int, stop: str = "") -> Iterator[list[int]]:
    """The numbers of `count` GPUs of this machine that no other run holds; waits for them, unless `Stopped`.

    Raises:
        BatchError: more GPUs than this machine has, or a lock that another user left and that cannot be shared.
    """
    if not count:
        yield []
        return
    import torch

    known = torch.cuda.device_count()
    if count > known:
        raise BatchError(f"the run asks for {count} GPUs, and torch sees {known} on this machine")
    with ExitStack() as stack:
        while len(held := _claim_all(count, known, stack)) < count:
            _wait(stop)
        yield held


def _claim_all(count: int, known: int, stack: ExitStack) -> list[int]:
    """All of them or none: two runs that each keep some and wait for more would wait for ever."""
    held: list[int] = []
    with ExitStack() as tried:
        for number in range(known):
            path = files.shared_place(f"ciper-gpu-{number}.lock")
            try:
                tried.enter_context(files.lock(path))
            except BlockingIOError:
                continue
            except OSError as error:
                raise BatchError(f"{path} cannot be locked ({error.strerror}); ask its owner to remove it") from error
            held.append(number)
            if len(held) == count:
                stack.push(tried.pop_all())
                return held
    return []


def _wait(stop: str) -> None:
    if is_stopped(stop):
        raise Stopped
    time.sleep(POLL_SECONDS * (0.5 + random.random()))  # so that two who collide do not collide again
