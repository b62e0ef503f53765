"""Numbers of one encoder that its report holds: each is a file in this folder that registers it."""

from importlib import import_module
from pkgutil import iter_modules

for found in iter_modules(__path__):
    import_module(f"{__name__}.{found.name}")
