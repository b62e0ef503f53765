"""A ResNet that commutes with quarter turns: group convolutions over C4 (Cohen and Welling 2016, arXiv 1602.07576).

A *field* is four planes, one for each quarter turn. Turning the image by a quarter turns every plane and moves each to
the next place, exactly; an average over pixels then leaves four numbers a field that move around in a circle. Strides
are means of four pixels, since every second pixel of an even side would not be the same ones after a turn.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ciperlib.config import Config, ConfigError
from ciperlib.learn.encoders.base import GROUPS, Encoder
from ciperlib.learn.encoders.resnet import BLOCKS
from ciperlib.registry import architectures, methods

TURNS = 4


class Lifting(nn.Conv2d):
    """Images to fields: [B, C, H, W] -> [B, fields, 4, H, W], each filter at each quarter turn."""

    def __init__(self, inputs: int, fields: int) -> None:
        super().__init__(inputs, fields, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = torch.stack([self.weight.rot90(turns, (2, 3)) for turns in range(TURNS)], 1)
        return F.conv2d(x, kernel.flatten(0, 1), padding=1).unflatten(1, (-1, TURNS))


class GroupConv(nn.Conv2d):
    """Fields to fields: [B, F, 4, H, W] -> [B, fields, 4, H, W].

    A filter has a part for each plane of a field; turned, its parts turn and change places, as the planes do.
    """

    def __init__(self, inputs: int, fields: int, side: int = 3) -> None:
        super().__init__(TURNS * inputs, fields, side, padding=side // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.weight.unflatten(1, (-1, TURNS))  # (fields, F, 4, side, side)
        turned = [parts.rot90(turns, (3, 4)).roll(turns, 2) for turns in range(TURNS)]
        kernel = torch.stack(turned, 1).flatten(2, 3).flatten(0, 1)
        return F.conv2d(x.flatten(1, 2), kernel, padding=self.padding).unflatten(1, (-1, TURNS))


class FieldBlock(nn.Module):
    """A ResNet's basic block of fields; the image may be halved before it."""

    def __init__(self, inputs: int, outputs: int, halve: bool, norm: str) -> None:
        super().__init__()
        self.halve = halve
        self.conv1, self.bn1 = GroupConv(inputs, outputs), _norm(norm, outputs)
        self.conv2, self.bn2 = GroupConv(outputs, outputs), _norm(norm, outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if halve or inputs != outputs:
            self.downsample = nn.Sequential(GroupConv(inputs, outputs, 1), _norm(norm, outputs))

    def forward(self, x: Tensor) -> Tensor:
        if self.halve:
            x = F.avg_pool2d(x.flatten(1, 2), 2).unflatten(1, (-1, TURNS))
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class C4ResNet(Encoder):
    """The ResNet of `encoders` with fields: half as many as that has channels, and a representation of the same size.

    float [B, 3, H, W] in 0..1 -> h [B, 8 * width], H = W. The last layer makes 2 * width fields, whose four numbers are
    h: a quarter turn of the image moves each four around by one place (h.view(B, -1, 4).roll(1, 2)). With `invariant`
    it makes 8 * width fields, and h is the largest of each four: a quarter turn changes nothing.
    """

    def __init__(self, blocks: tuple[int, ...], width: int, norm: str = "batch", invariant: bool = False) -> None:
        super().__init__(coordinates=False)
        self.invariant = invariant
        fields = width // 2
        self.conv1, self.bn1 = Lifting(3, fields), _norm(norm, fields)
        self.relu = nn.ReLU(inplace=True)
        for stage, n in enumerate(blocks):
            inputs, outputs = fields * 2 ** max(stage - 1, 0), fields * 2**stage
            layers = [FieldBlock(outputs if i else inputs, outputs, stage > 0 and not i, norm) for i in range(n)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.stages = len(blocks)
        last = (8 if invariant else 2) * width
        self.conv_last, self.bn_last = GroupConv(outputs, last, 1), _norm(norm, last)
        self.representation_size = 8 * width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(self.prepare(images))))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        h = self.relu(self.bn_last(self.conv_last(x))).mean((3, 4))
        return h.max(2).values if self.invariant else h.flatten(1)


def _norm(norm: str, fields: int) -> nn.Module:
    """One scale for the four planes of a field: another for each would not commute with a turn."""
    return nn.BatchNorm3d(fields) if norm == "batch" else nn.GroupNorm(GROUPS, fields)


def check_turns(config: Config) -> None:
    """Raises ConfigError for what does not turn with the image, or cannot be halved three times."""
    if config.coordinates:
        raise ConfigError(
            f"coordinates=True does not go with architecture={config.architecture!r}: coordinates do not turn with "
            "the image, and the network would no longer be equivariant; choose coordinates=False"
        )
    side, fields = 8 * (2 if methods[config.method].halves else 1), 8 if config.norm == "group" else 2
    if config.width % fields or config.image_size % side:
        raise ConfigError(
            f"width={config.width}, image_size={config.image_size} do not go with "
            f"architecture={config.architecture!r}, norm={config.norm!r} and method={config.method!r}: it halves "
            f"images three times, and has fields for half the width; choose multiples of {fields} and {side}"
        )


@architectures.register("c4_resnet10", label="turning network", check=check_turns, place=30)
def make_c4_resnet10(config: Config) -> C4ResNet:
    """The ResNet-10 whose h turns with the image."""
    return C4ResNet(BLOCKS["resnet10"], config.width, config.norm)


@architectures.register("c4_resnet10_invariant", label="turning network, pooled", check=check_turns, place=40)
def make_c4_resnet10_invariant(config: Config) -> C4ResNet:
    """The same, with an h that a quarter turn does not change."""
    return C4ResNet(BLOCKS["resnet10"], config.width, config.norm, invariant=True)
