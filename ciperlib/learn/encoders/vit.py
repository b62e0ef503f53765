"""A small vision transformer as an encoder: timm's, with patches that suit small images."""

from __future__ import annotations

from torch import Tensor

from ciperlib.config import Config, ConfigError
from ciperlib.learn.encoders.base import Encoder
from ciperlib.registry import architectures, methods

PATCH = 4  # side of a patch, in pixels
DEPTH, HEAD = 12, 64  # blocks, and dimensions of an attention head: ViT-Ti's (width 24 here)


class ViT(Encoder):
    """timm's VisionTransformer; h is its class token after the last norm.

    float [B, 3, H, W] in 0..1 -> h [B, 8 * width]; H and W multiples of 4, also others than it was made for (its
    positions are interpolated).
    """

    def __init__(self, image_size: int, width: int, coordinates: bool = True) -> None:
        from timm.models.vision_transformer import VisionTransformer  # not needed by any other encoder

        super().__init__(coordinates)
        self.representation_size = 8 * width
        self.network = VisionTransformer(
            img_size=image_size, patch_size=PATCH, in_chans=self.in_channels, num_classes=0, depth=DEPTH,
            embed_dim=self.representation_size, num_heads=max(1, self.representation_size // HEAD),
            dynamic_img_size=True,
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.prepare(images))


def check_patches(config: Config) -> None:
    """Raises ConfigError for a width that its heads cannot share, or a side that its patches do not fill."""
    size, tile = 8 * config.width, PATCH * (2 if methods[config.method].halves else 1)
    if size % max(1, size // HEAD):
        raise ConfigError(
            f"width={config.width} does not go with architecture='vit_tiny', whose {size} dimensions are "
            f"divided among heads of {HEAD}: choose a multiple of 8"
        )
    if config.image_size % tile:
        raise ConfigError(
            f"image_size={config.image_size} does not go with architecture='vit_tiny', whose patches have "
            f"{PATCH} pixels, and method={config.method!r}: choose a multiple of {tile}"
        )


@architectures.register("vit_tiny", label="ViT", check=check_patches, package="timm", place=50)
def make_vit(config: Config) -> ViT:
    """A vision transformer of twelve layers."""
    return ViT(config.image_size, config.width, config.coordinates)
