"""ResNets for small images."""

from __future__ import annotations

from torch import Tensor, nn

from ciperlib.config import Config
from ciperlib.learn.encoders.base import GROUPS, Encoder
from ciperlib.registry import architectures

BLOCKS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2)}


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
        return self.up_to(self.stages, images)

    def up_to(self, stage: int, images: Tensor) -> Tensor:
        """The channels of a stage, each averaged over the image: after the first convolution (0) or a stage, 1 to
        `stages`, whose means are h."""
        x = self.relu(self.bn1(self.conv1(self.prepare(images))))
        for layer in range(stage):
            x = getattr(self, f"layer{layer + 1}")(x)
        return self.avgpool(x).flatten(1)


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def _norm2d(norm: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(GROUPS, channels)


@architectures.register("resnet10", label="ResNet-10", place=10)
def make_resnet10(config: Config) -> ResNet:
    """One block a stage: the teaching network."""
    return ResNet(BLOCKS["resnet10"], config.width, config.coordinates, config.norm)


@architectures.register("resnet18", label="ResNet-18", place=20)
def make_resnet18(config: Config) -> ResNet:
    """Two blocks a stage: the papers' network."""
    return ResNet(BLOCKS["resnet18"], config.width, config.coordinates, config.norm)
