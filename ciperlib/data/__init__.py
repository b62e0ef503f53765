"""Images in, `ImageSet` out: each dataset is a file in this folder that registers it; nothing else lists them."""

from importlib import import_module
from pkgutil import iter_modules

from ciperlib.data.imageset import DataError, ImageSet, load_images

__all__ = ["DataError", "ImageSet", "load_images"]

for found in iter_modules(__path__):
    import_module(f"{__name__}.{found.name}")
