"""Where in the network is it? Probes of each stage of a ResNet, and of what the contrastive loss sees."""

from __future__ import annotations

import pandas as pd
from torch import Tensor, nn

from ciperlib.analyse.features import extract_features
from ciperlib.analyse.keys import recipe
from ciperlib.analyse.probing.checks import ProbeError
from ciperlib.analyse.probing.conditional import degrees_off, fit_within
from ciperlib.analyse.probing.probes import fit_linear_probe, fit_regression_probe
from ciperlib.data.imageset import ImageSet, TrainedOn
from ciperlib.learn.encoders.resnet import ResNet


class Stage(nn.Module):
    """A ResNet up to a stage, each channel averaged over the image: [B, 3, H, W] -> [B, channels]."""

    def __init__(self, encoder: ResNet, stage: int):
        super().__init__()
        self.encoder, self.stage = encoder, stage

    def forward(self, images: Tensor) -> Tensor:
        """float [B, 3, H, W] in 0..1 -> float [B, channels]."""
        return self.encoder.up_to(self.stage, images)


@recipe(1)
def probe_stages(
    encoder: ResNet, train: ImageSet, test: ImageSet, projector: nn.Module | None = None, *,
    trained_on: TrainedOn | None = None, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """What can be read after the first convolution and after each stage of a ResNet, whose last one is h; and of z.

    Args:
        encoder: one of this library's ResNets.
        train, test: images with the factors object and azimuth.
        projector: h -> z, what the contrastive loss sees; None where no head was kept.

    Returns:
        A row for each: stage (a number, or "z"), channels, azimuth by one map and by a map for each object (mean error
        in degrees), object (accuracy).

    Raises:
        ProbeError: an encoder without stages; otherwise as the probes.
    """
    if not isinstance(encoder, ResNet):
        raise ProbeError(f"{type(encoder).__name__} has no stages that are known here: a ResNet of this library has")
    parts: dict[int | str, nn.Module] = {stage: Stage(encoder, stage) for stage in range(encoder.stages + 1)}
    if projector is not None:
        parts["z"] = nn.Sequential(encoder, projector).eval()
    rows, options = [], dict(seed=seed, resamples=0)
    for stage, network in parts.items():
        h = [extract_features(network, images, trained_on=trained_on) for images in (train, test)]
        azimuth = fit_regression_probe(*h, "azimuth", **options), fit_within(*h, "azimuth", "object", **options)
        pooled, own = (float(degrees_off(found, h[1]).mean()) for found in azimuth)
        told = fit_linear_probe(*h, "object", **options).value
        rows.append(
            {"stage": stage, "channels": h[0].matrix.shape[1], "azimuth": pooled, "own maps": own, "object": told}
        )
    return pd.DataFrame(rows)
