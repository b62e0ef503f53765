"""The encoders: each architecture is a file in this folder that registers it; nothing else lists them."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ciperlib.config import Config
from ciperlib.learn.encoders.base import Encoder
from ciperlib.learn.seeds import seeded
from ciperlib.registry import architectures


def make_encoder(config: Config) -> Encoder:
    """The config's encoder with fresh weights, seeded by `config.seed` alone; in train mode, on the CPU.

    Example:
        >>> import torch
        >>> make_encoder(Config(width=8)).eval()(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 64])
    """
    with seeded(config.seed, "encoder"):
        return architectures[config.architecture](config)


for found in iter_modules(__path__):
    import_module(f"{__name__}.{found.name}")
