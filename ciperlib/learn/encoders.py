"""Encoders: images to representations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ciperlib.config import Config

BLOCKS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2)}
GROUPS = 4  # of GroupNorm; every width used here is a multiple of it


class Encoder(nn.Module):
    """What every encoder does before its own layers: normalise, then append coordinates.

    Both happen inside and after everything random, so that no augmentation can move the coordinates (a moved
    coordinate would tell the predictor the crop).

    Attributes:
        representation_size: dimensions of h.
        pixel_mean, pixel_std: buffers [3, 1, 1], the training images' statistics in 0..1.
    """

    representation_size: int

    def __init__(self, coordinates: bool):
        super().__init__()
        self.coordinates = coordinates
        self.register_buffer("pixel_mean", torch.full((3, 1, 1), 0.5))
        self.register_buffer("pixel_std", torch.full((3, 1, 1), 0.25))

    @property
    def in_channels(self) -> int:
        return 5 if self.coordinates else 3

    def normalise_with(self, images: Tensor) -> None:
        """Stores the mean and standard deviation of uint8 images [N, 3, H, W]."""
        pixels = images.float().div_(255)
        self.pixel_mean.copy_(pixels.mean((0, 2, 3)).view(3, 1, 1))
        self.pixel_std.copy_(pixels.std((0, 2, 3)).clamp_min(1e-3).view(3, 1, 1))

    def prepare(self, images: Tensor) -> Tensor:
        """float [B, 3, H, W] in 0..1 -> normalised, with x and y in -1..1 appended: [B, 5, H, W] (3 without)."""
        x = (images - self.pixel_mean) / self.pixel_std
        if not self.coordinates:
            return x
        b, _, h, w = x.shape
        column = torch.linspace(-1, 1, w, device=x.device, dtype=x.dtype).expand(b, 1, h, w)
        row = torch.linspace(-1, 1, h, device=x.device, dtype=x.dtype).view(h, 1).expand(b, 1, h, w)
        return torch.cat((x, column, row), 1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2015), with torchvision's parameter names."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str):
        super().__init__()
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn1 = _norm2d(norm, outputs)
        self.conv2 = _conv3x3(outputs, outputs)
        self.bn2 = _norm2d(norm, outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, _norm2d(norm, outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(Encoder):
    """ResNet for small images: 3x3 stem with stride 1 and no max-pool (SimCLR's CIFAR setting; paper, section 4.1).

    float [B, 3, H, W] in 0..1 -> h [B, 8 * width]. Parameter names are torchvision's (without `fc`).
    """

    def __init__(self, blocks: tuple[int, ...], width: int = 64, coordinates: bool = True, norm: str = "batch"):
        super().__init__(coordinates)
        self.conv1 = _conv3x3(self.in_channels, width)
        self.bn1 = _norm2d(norm, width)
        self.relu = nn.ReLU(inplace=True)
        for stage, n in enumerate(blocks):
            inputs, outputs = width * 2 ** max(stage - 1, 0), width * 2**stage
            strides = [1 if stage == 0 else 2] + [1] * (n - 1)
            layers = [BasicBlock(inputs if i == 0 else outputs, outputs, s, norm) for i, s in enumerate(strides)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.stages = len(blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.representation_size = width * 2 ** (len(blocks) - 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(self.prepare(images))))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.avgpool(x).flatten(1)


def make_encoder(config: Config) -> Encoder:
    """The config's encoder with fresh weights, seeded by `config.seed` alone; in train mode, on the CPU."""
    from ciperlib.learn.equivariant import make_c4_resnet  # all three are made of what is here
    from ciperlib.learn.mamba import VMamba
    from ciperlib.learn.transformer import ViT

    with seeded(config.seed, "encoder"):
        if config.architecture == "vit_tiny":
            return ViT(config.image_size, config.width, config.coordinates)
        if config.architecture == "vmamba":
            return VMamba(config.width, config.coordinates)
        if config.architecture.startswith("c4"):
            return make_c4_resnet(config.architecture, config.width, config.norm)
        return ResNet(BLOCKS[config.architecture], config.width, config.coordinates, config.norm)


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Torch's CPU generator seeded by (seed, name) inside, and as before outside.

    Each module gets weights of its own name's, so that adding a head does not change another one.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, name))
        yield


def derived_seed(seed: int, *names: object) -> int:
    """A seed in 0..2^63 that depends on `seed` and on all of `names`, the same on every machine."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def _norm2d(norm: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(GROUPS, channels)
