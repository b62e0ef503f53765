"""How many threads a small problem is worth: one.

Threads wait for one another at every product, and where a processor has other work each waits until it is its turn.
Measured on two cores: explaining-away of 480 rows takes 1.3 s with one thread and with two; beside two busy processes
2.1 s with one and 13 s with two. One thread also gives the same numbers on machines with any number of cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import torch

SMALL = 700_000  # numbers in a matrix of representations: 5,000 rows of 128 dimensions are small
Function = TypeVar("Function", bound=Callable[..., Any])


@contextmanager
def threads_for(numbers: int) -> Iterator[None]:
    """Torch's threads inside: one for a small problem, else as many as there were."""
    before = torch.get_num_threads()
    try:
        if numbers <= SMALL:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


def single_where_small(function: Function) -> Function:
    """A decorator for what is fitted to its first argument's matrix of representations."""

    @wraps(function)
    def run(features: Any, *arguments: Any, **options: Any) -> Any:
        with threads_for(features.matrix.numel()):
            return function(features, *arguments, **options)

    return run
