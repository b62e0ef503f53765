"""A Gaussian blur whose width is drawn for each image, and can be predicted."""

import torch
import torch.nn.functional as F

from ciperlib.learn.augment.base import ImageStep, ParameterSpec, shares
from ciperlib.registry import Option, steps

LOWEST = 0.1  # in pixels: nothing is seen of it
REACH = 4  # pixels to each side


@steps.register(
    "blur", label="blur", place=70, difference=shares,
    options={"blur_sigma": Option(1.5, "the widest blur, in pixels", low=0.2, high=2.0)},
)  # fmt: skip
class Blur(ImageStep):
    """Each image at a width of its own, from 0.1 pixels to `blur_sigma`."""

    def __init__(self, blur_sigma: float = 1.5):
        self.specs = (ParameterSpec("sigma", "continuous", LOWEST, blur_sigma),)

    def draw(self, random, height, width):
        (spec,) = self.specs
        return [spec.low + (spec.high - spec.low) * random(1)[0]]

    def apply(self, images, parameters):
        place = torch.arange(-REACH, REACH + 1, device=images.device)
        window = torch.exp(-place.square() / (2 * parameters["sigma"][:, None] ** 2))
        window = (window / window.sum(1, keepdim=True)).repeat_interleave(3, 0)  # [3 B, 2 REACH + 1]
        planes = F.pad(images, (REACH,) * 4, mode="reflect").flatten(0, 1)[None]
        planes = F.conv2d(planes, window[:, None, None, :], groups=len(window))
        return F.conv2d(planes, window[:, None, :, None], groups=len(window)).view_as(images)
