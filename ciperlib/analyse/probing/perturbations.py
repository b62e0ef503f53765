"""How much of a probe survives a change of its test images: the perturbation tables of CLeVER, with fixed draws.

Each image's draw depends on its id and the seed alone, so that every encoder, and every part of one, is asked about the
same pictures; the public code draws anew for each evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ciperlib.analyse.features import Features, extract_features
from ciperlib.analyse.keys import recipe
from ciperlib.analyse.probing.probes import fit_linear_probe
from ciperlib.analyse.statistics import bootstrap_interval
from ciperlib.data.imageset import ImageSet
from ciperlib.learn.augment import Augmentation
from ciperlib.learn.augment.pixels import ORDERS
from ciperlib.learn.seeds import derived_seed

# one on top of the other, as in CLeVER's tables: jitter .4 .4 .4 .1, flip always, rotation within 90 degrees, elastic
PERTURBATIONS = ("clean", "jitter", "jitter + flip", "jitter + rotation", "jitter + rotation + elastic")
STRENGTH, DEGREES = 0.4, 90.0
ELASTIC, SMOOTH, SIDE = 100, 5, 224  # torchvision's alpha and sigma, in pixels of images of this side


def perturb(images: ImageSet, name: str, seed: int = 0) -> ImageSet:
    """The image set under one of `PERTURBATIONS`, rounded to whole grey values; factors and ids stay.

    Raises:
        ValueError: another name.
    """
    if name not in PERTURBATIONS:
        raise ValueError(f"there is no perturbation {name!r}; choose one of {', '.join(PERTURBATIONS)}")
    steps = [step for step in name.split(" + ") if step != "clean"]
    if not steps:
        return images
    x = images.floats().cpu()
    for step in steps:  # each with draws of its own, so that one more changes none before it
        generators = [torch.Generator().manual_seed(derived_seed(seed, step, i)) for i in images.ids.tolist()]
        x = _STEPS[step](x, generators)
    pixels = x.mul(255).round().clamp(0, 255).byte()
    return replace(images, images=pixels.to(images.device), masks=None)


@recipe(1)
def perturbation_table(
    encoder: nn.Module, train: ImageSet, test: ImageSet, factor: str = "object", *,
    parts: Mapping[str, slice] | None = None, seed: int = 0, **options: Any,
) -> pd.DataFrame:  # fmt: skip
    """Accuracy of a linear probe that was fitted on clean images, on each perturbation of the test images.

    Args:
        train, test: clean, without a common group.
        factor: a categorical factor.
        parts: name -> dimensions of h that the probe is given; default: the whole.
        seed: of the draws. options: for `extract_features`.

    Returns:
        One row a part and perturbation: part, perturbation, value, low, high (95% bootstrap over test groups).
    """
    fitted = extract_features(encoder, train, **options)
    scored = {name: extract_features(encoder, perturb(test, name, seed), **options) for name in PERTURBATIONS}
    rows = []
    for part, dimensions in (parts or {"whole": slice(None)}).items():
        probe = fit_linear_probe(_cut(fitted, dimensions), _cut(scored["clean"], dimensions), factor, resamples=0)
        for name, features in scored.items():
            guess = probe.details["values"][probe.model(features.matrix[:, dimensions].double()).argmax(1)]
            right = (guess == features.factors[factor]).double()
            terms = torch.stack((right, torch.ones_like(right)), 1)
            low, high = bootstrap_interval(features.groups, terms, lambda sums: sums[:, 0] / sums[:, 1], seed, 500)
            rows.append({"part": part, "perturbation": name, "value": float(right.mean()), "low": low, "high": high})
    return pd.DataFrame(rows)


def _cut(features: Features, dimensions: slice) -> Features:
    return replace(features, matrix=features.matrix[:, dimensions].contiguous())


def _jitter(x: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Always applied, in any order: the augmentation replayed with drawn parameters."""
    jitter = Augmentation(("jitter",), jitter_strength=STRENGTH)
    u = torch.stack([torch.rand(5, generator=generator) for generator in generators])
    columns = [spec.low + (spec.high - spec.low) * u[:, i] for i, spec in enumerate(jitter.specs)]
    columns[-1] = (u[:, -1] * len(ORDERS)).floor()
    return jitter.replay(x, torch.stack(columns, 1))


def _flip(x: Tensor, _: list[torch.Generator]) -> Tensor:
    return x.flip(-1)


def _rotate(x: Tensor, generators: list[torch.Generator]) -> Tensor:
    """About the middle, bilinear; what comes from outside is black."""
    u = torch.cat([torch.rand(1, generator=generator) for generator in generators])
    angle = torch.deg2rad(DEGREES * (2 * u - 1))
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    turn = torch.stack((torch.stack((cos, -sin, zero), 1), torch.stack((sin, cos, zero), 1)), 1)
    return F.grid_sample(x, F.affine_grid(turn, list(x.shape), align_corners=False), align_corners=False)


def _bend(x: Tensor, generators: list[torch.Generator]) -> Tensor:
    """A smooth random displacement of every pixel: as far, as smooth, and so as strong at any size, relative to the
    side, as torchvision's ElasticTransform is at 224 pixels."""
    from torchvision.transforms.functional import gaussian_blur  # a second and a half

    height, width = x.shape[-2:]
    noise = torch.stack([2 * torch.rand(2, height, width, generator=generator) - 1 for generator in generators])
    sigma = SMOOTH * width / SIDE
    window = 2 * int(4 * sigma + 0.5) + 1
    smooth = gaussian_blur(noise, [window, window], [sigma, sigma])
    # a mean of noise over fewer pixels is larger by as much as the window is narrower
    shift = smooth * (sigma / SMOOTH) * ELASTIC / SIDE
    still = F.affine_grid(torch.eye(2, 3).expand(len(x), -1, -1), list(x.shape), align_corners=False)
    return F.grid_sample(x, still + shift.permute(0, 2, 3, 1), align_corners=False)


_STEPS = {"jitter": _jitter, "flip": _flip, "rotation": _rotate, "elastic": _bend}
