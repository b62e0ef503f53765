"""Orbits: every image at every level of a transformation, so that image and transformation are independent exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ciperlib.analyse.features import Features, FeaturesError, extract_features, pixel_features
from ciperlib.analyse.keys import recipe
from ciperlib.data.imageset import ImageSet
from ciperlib.learn.augment.transformations import LEVEL, Transformation

SOURCE = "source"  # every orbit has the factors `source` and `level`


@recipe(1)
def extract_orbits(
    encoder: nn.Module, images: ImageSet | Sequence[ImageSet], transformation: Transformation, **options: Any
) -> Features:
    """Features of each image at each level: N * m rows, the levels of an image one after the other.

    The factors are the images' own, repeated, with `source` (the image's id) and `level` (0 ... m - 1, whose names are
    the labels). The groups are the images' own: an image's levels are never divided between fitting and testing.

    Args:
        encoder, options: as for `extract_features`.
        images: as they are, or `transformation.orbit` of them, made once for several encoders.
        transformation: what is applied, see `learn.transformations`.

    Example:
        >>> from ciperlib.config import Config
        >>> from ciperlib.data import load_images
        >>> from ciperlib.learn.augment.transformations import make_transformation
        >>> from ciperlib.learn.encoders import make_encoder
        >>> test, rotation = load_images("turntable", "test", size=50), make_transformation("rotation")
        >>> orbits = extract_orbits(make_encoder(Config(width=4)).eval(), test, rotation)
        >>> orbits.matrix.shape, as_orbits(orbits)[0].shape
        (torch.Size([200, 32]), torch.Size([50, 4, 32]))
    """
    levels = transformation.orbit(images) if isinstance(images, ImageSet) else images
    return _interleave([extract_features(encoder, part, **options) for part in levels], transformation)


@recipe(1)
def pixel_orbits(train: ImageSet, images: ImageSet | Sequence[ImageSet], transformation: Transformation) -> Features:
    """The control without an encoder: as `extract_orbits`, of pixels on the leading 128 components of `train`."""
    levels = transformation.orbit(images) if isinstance(images, ImageSet) else images
    m, n = len(levels), len(levels[0])
    together = replace(levels[0].subset(torch.arange(n).repeat(m)), images=torch.cat([part.images for part in levels]))
    rows = pixel_features(train, together, 128)[1]
    return _interleave([rows.subset(slice(i * n, (i + 1) * n)) for i in range(m)], transformation)


def _interleave(parts: list[Features], transformation: Transformation) -> Features:
    m, n, first = len(parts), len(parts[0]), parts[0]
    repeated = first.subset(torch.arange(n).repeat_interleave(m))
    level = torch.arange(m).repeat(n)
    return replace(
        repeated,
        matrix=torch.stack([part.matrix for part in parts], 1).view(n * m, -1),
        factors={**repeated.factors, SOURCE: repeated.ids, LEVEL: level},
        ids=repeated.ids * m + level,
        labels={**repeated.labels, LEVEL: transformation.levels},
    )


def as_orbits(features: Features) -> tuple[Tensor, Features]:
    """The long form as a block [N, m, d], and the same features in that order: the levels of an image one after the
    other, so that every m-th row is an image's first.

    Raises:
        FeaturesError: no factors `source` and `level`, a level that an image lacks or has twice, levels of an image in
            different groups.
    """
    missing = [name for name in (SOURCE, LEVEL) if name not in features.factors]
    if missing:
        raise FeaturesError(f"these features are not orbits: they have no factor {' and no '.join(missing)}")
    source, level = features.factors[SOURCE], features.factors[LEVEL]
    m, (sources, count) = int(level.max()) + 1, source.unique(return_counts=True)
    order = torch.argsort(source * m + level, stable=True)
    if len(features) != len(sources) * m or not torch.equal(level[order], torch.arange(m).repeat(len(sources))):
        odd = sources[count != m].tolist()[:5] or sources.tolist()[:1]
        raise FeaturesError(
            f"orbits must have each of the {m} levels once for every image; images {odd} have not: extract them again"
        )
    ordered = features.subset(order)
    group = ordered.groups.view(-1, m)
    if (divided := (group != group[:, :1]).any(1)).any():
        raise FeaturesError(
            f"the levels of images {sources[divided].tolist()[:5]} are in several groups: fitted on one level, a model "
            "would know the image at another; give all levels of an image its own group"
        )
    block = ordered.matrix.view(len(sources), m, -1)
    return block, ordered
