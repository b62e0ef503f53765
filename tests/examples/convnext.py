"""timm's ConvNeXt, made small: a stem of 2x2 patches, and stages as wide as the config says."""

from ciperlib.config import ConfigError
from ciperlib.learn.encoders.base import Encoder
from ciperlib.registry import Option, architectures, methods

HALVINGS = 32  # what a side is divided by: 2 in the stem, and 2 in each stage


class SmallConvNeXt(Encoder):
    """float [B, 3, H, W] in 0..1 -> h [B, 8 * width]."""

    def __init__(self, config):
        from timm.models.convnext import ConvNeXt  # only who chooses it needs timm

        super().__init__(config.coordinates)
        self.representation_size = 8 * config.width
        self.network = ConvNeXt(
            in_chans=self.in_channels, num_classes=0, patch_size=2, depths=(1, 1, config.option("convnext_depth"), 1),
            dims=[config.width * 2**stage for stage in range(4)],
        )  # fmt: skip

    def forward(self, images):
        return self.network(self.prepare(images))


def check_side(config):
    """Raises ConfigError for images that it would halve to nothing."""
    least = 2 * HALVINGS if methods[config.method].halves else HALVINGS
    if config.image_size < least:
        raise ConfigError(f"image_size={config.image_size} does not go with architecture='convnext': choose {least}")


@architectures.register(
    "convnext", label="ConvNeXt", check=check_side, package="timm",
    options={"convnext_depth": Option(1, "blocks of the third stage", low=1, high=9)},
)  # fmt: skip
def make_convnext(config):
    """ConvNeXt of four stages."""
    return SmallConvNeXt(config)
