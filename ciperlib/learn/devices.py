"""Where a training runs, and what its last bits depend on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import torch
from torch import nn

import ciperlib
from ciperlib.files import cpu_flags
from ciperlib.learn.parallel import world_size


class DeviceError(RuntimeError):
    """A device that is asked for and not there."""


def find_device(name: str) -> torch.device:
    """The device called so; "auto" is a CUDA GPU if there is one. Under torchrun each process has its own GPU.

    Apple's "mps" is taken where torch has it, and trains in float32; it was not run here, so "auto" leaves it out.

    Raises:
        DeviceError: a GPU is asked for where torch sees none.
    """
    gpus = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    apple = ("mps",) if torch.backends.mps.is_available() else ()
    if name not in ("cpu", "cuda", *apple, *(f"cuda:{i}" for i in range(gpus))):
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


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 is the faster precision there, from what the device says of itself and never from a timing.

    On a CPU the chip and torch must both say so: without AVX-512 (or AMX) instructions for bf16, or with torch built or
    told to do without them (ATEN_CPU_CAPABILITY), a convolution in bf16 takes many times as long as one in float32.
    What is unknown counts as slow.
    """
    if device.type != "cpu":
        return device.type == "cuda"
    told = getattr(torch.cpu, "get_capabilities", None)
    chip = {name for name, has in told().items() if has} if told else cpu_flags()
    return bool(chip & {"avx512_bf16", "amx_bf16"}) and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def memory_format(model: nn.Module, device: torch.device) -> torch.memory_format:
    """How images and weights lie in memory while a network trains: channels last, the faster way.

    Not on a CPU with a convolution of one pixel, with strides, from fewer than 8 channels (a narrow network's
    shortcut): without AVX-512, torch 2.11's backward pass writes beyond its memory there.
    """
    convolutions = (layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    narrow = any(c.in_channels < 8 and c.kernel_size == (1, 1) and c.stride != (1, 1) for c in convolutions)
    return torch.contiguous_format if device.type == "cpu" and narrow else torch.channels_last


def environment(device: torch.device) -> dict[str, str]:
    """What a training's last bits depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "ciperlib": ciperlib.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),  # importing it takes a second and a half
        "device": f"{device.type} ({name})",
        "threads": str(torch.get_num_threads()),
        "processes": str(world_size()),
    }
