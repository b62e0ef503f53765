"""Images in, `ImageSet` out."""

from ciperlib.data.imageset import DataError, ImageSet, load_images

__all__ = ["DataError", "ImageSet", "load_images"]
