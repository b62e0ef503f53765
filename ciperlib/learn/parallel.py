"""Several processes, one batch: what `torchrun` asks of the losses and of the training loop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed


@contextmanager
def processes(device: str) -> Iterator[None]:
    """Joins torchrun's process group inside, and leaves it after; nothing happens without torchrun.

    Args:
        device: as asked for; GPUs talk by NCCL, CPUs by gloo.
    """
    gpus = device != "cpu" and torch.cuda.is_available()
    joins = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized()
    if joins:
        distributed.init_process_group("nccl" if gpus else "gloo")
    try:
        yield
    finally:
        if joins:
            distributed.destroy_process_group()


def rank() -> int:
    """Which of the processes this is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """How many processes share the training."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def wait_for_all() -> None:
    """Returns when every process has come here."""
    if world_size() > 1:
        distributed.barrier()


def own_rows(rows: Tensor) -> Tensor:
    """This process's share of the rows [R, ...] of all: what it gave to `gather`."""
    share = len(rows) // world_size()
    return rows[rank() * share : (rank() + 1) * share]


def gather(rows: Tensor) -> Tensor:
    """The rows [B, ...] of all processes [R, ...], in rank order; gradient flows to this process's own rows.

    Every process then computes the loss of the whole batch. The gradient that reaches its own rows is exact, and the
    sum over processes is the whole gradient (the training loop makes a sum of data parallel's mean).
    """
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    distributed.all_gather(parts, rows.detach().contiguous())
    parts[rank()] = rows
    return torch.cat(parts)
