"""Random numbers that depend on a seed and a name, and on nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Torch's CPU generator seeded by (seed, name) inside, and as before outside.

    Each module gets weights of its own name's, so that adding a head does not change another one.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, name))
        yield


def derived_seed(seed: int, *names: object) -> int:
    """A seed in 0..2^63 that depends on `seed` and on all of `names`, the same on every machine."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
