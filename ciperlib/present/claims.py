"""What only one run may have at a time: its folder, and GPUs. A claim is a file's lock; it goes with the process."""

from __future__ import annotations

import fcntl
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ciperlib.present.records import BatchError

POLL_SECONDS = 0.2


class Stopped(Exception):
    """The sweep was stopped before the run began."""


def is_stopped(stop: str) -> bool:
    """Whether the file is there whose appearance ends a sweep's runs; "" is never there."""
    return bool(stop) and Path(stop).exists()


@contextmanager
def hold(path: Path, stop: str = "") -> Iterator[None]:
    """Holds a file against every other run, sweep and person; waits for it, unless `Stopped`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        _wait_for(lambda: _try_lock(file), stop)
        yield


@contextmanager
def claim_gpus(count: int, stop: str = "") -> Iterator[list[int]]:
    """The numbers of `count` GPUs of this machine that no other run holds; waits for them, unless `Stopped`.

    Raises:
        BatchError: more GPUs than this machine has.
    """
    if not count:
        yield []
        return
    import torch

    known = torch.cuda.device_count()
    if count > known:
        raise BatchError(f"the run asks for {count} GPUs, and torch sees {known} on this machine")
    held: dict[int, IO] = {}
    try:
        _wait_for(lambda: _claim_all(held, count, known), stop)
        yield sorted(held)
    finally:
        _let_go(held)


def _claim_all(held: dict[int, IO], count: int, known: int) -> bool:
    """All of them or none: two runs that each keep some and wait for more would wait for ever."""
    import tempfile

    for number in range(known):
        file = open(Path(tempfile.gettempdir()) / f"ciper-gpu-{number}.lock", "w")  # noqa: SIM115 (closed by _let_go)
        if _try_lock(file):
            held[number] = file
        else:
            file.close()
        if len(held) == count:
            return True
    _let_go(held)
    return False


def _let_go(held: dict[int, IO]) -> None:
    while held:
        held.popitem()[1].close()


def _try_lock(file: IO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for(ready: Callable[[], bool], stop: str) -> None:
    while not is_stopped(stop):
        if ready():
            return
        time.sleep(POLL_SECONDS * (0.5 + random.random()))  # so that two who collide do not collide again
    raise Stopped
