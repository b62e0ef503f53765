"""Where a training runs, and what its last bits depend on."""

from __future__ import annotations

import os
import platform

import torch
import torchvision

import ciperlib
from ciperlib.learn.parallel import world_size


class DeviceError(RuntimeError):
    """A device that is asked for and not there."""


def find_device(name: str) -> torch.device:
    """The device called so; "auto" is a GPU if there is one. Under torchrun each process has its own GPU.

    Raises:
        DeviceError: a GPU is asked for where torch sees none.
    """
    gpus = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    if name not in ("cpu", "cuda", *(f"cuda:{i}" for i in range(gpus))):
        raise DeviceError(f"there is no device {name!r} here; use 'auto', 'cpu' or one of {gpus} GPUs: 'cuda:0' ...")
    if name == "cuda" and not gpus:
        raise DeviceError("device='cuda', but torch sees no GPU here; use device='cpu' or 'auto'")
    if name == "cuda" and world_size() > 1:
        local = int(os.environ["LOCAL_RANK"])
        if local >= gpus:
            raise DeviceError(f"process {local} has no GPU of its own among {gpus}; start one process a GPU")
        name = f"cuda:{local}"
        torch.cuda.set_device(name)
    return torch.device(name)


def environment(device: torch.device) -> dict[str, str]:
    """What a training's last bits depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "ciperlib": ciperlib.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "device": f"{device.type} ({name})",
        "threads": str(torch.get_num_threads()),
        "processes": str(world_size()),
    }
