"""The methods: each is a file in this folder that registers it; nothing else lists them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules

from ciperlib.config import Config
from ciperlib.learn.augment import ParameterSpec
from ciperlib.learn.methods.base import Objective
from ciperlib.registry import methods


def make_objective(config: Config, specs: Sequence[ParameterSpec], categories: int = 0) -> Objective:
    """The config's objective with fresh weights, for an augmentation with these parameter specs and images of so many
    categories (0: not known)."""
    return methods[config.method](config, specs, categories)


for found in iter_modules(__path__):
    import_module(f"{__name__}.{found.name}")
