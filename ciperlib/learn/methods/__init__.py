"""The methods: each is a file in this folder that registers it; nothing else lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pkgutil import iter_modules

from ciperlib.config import Config
from ciperlib.learn.augment import ParameterSpec
from ciperlib.learn.methods.base import Objective
from ciperlib.registry import methods


def make_objective(
    config: Config, specs: Sequence[ParameterSpec], levels: Mapping[str, int] | None = None
) -> Objective:
    """The config's objective with fresh weights, for an augmentation with these parameter specs and images whose
    categorical factors have so many values."""
    return methods[config.method](config, specs, levels or {})


for found in iter_modules(__path__):
    import_module(f"{__name__}.{found.name}")
