"""Views of images, with the parameters that made them; each step is a file in this folder that registers it.

The image steps that ship are SimCLR's without blur (Chen et al. 2020, arXiv:2002.05709): what torchvision's
RandomResizedCrop, hflip, ColorJitter and grayscale do to float tensors, with the distributions of their `get_params`,
but for the whole batch at once. The dataset steps take another image of the anchor's object as the view.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ciperlib.learn.augment.augmentation import Augmentation, make_augmentation
from ciperlib.learn.augment.base import DatasetStep, ImageStep, ParameterSpec, View
from ciperlib.learn.augment.crop import CROP_SCALE

__all__ = ["CROP_SCALE", "Augmentation", "DatasetStep", "ImageStep", "ParameterSpec", "View", "make_augmentation"]

for found in iter_modules(__path__):
    import_module(f"{__name__}.{found.name}")
