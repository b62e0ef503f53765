"""How much of a view's parameters can be read, between what any network shows and what one trained for it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from torch import Tensor, nn

from ciperlib.analyse.equivariance.level_probes import LEVEL_PROBES
from ciperlib.analyse.features import Features, extract_pairs
from ciperlib.analyse.keys import recipe
from ciperlib.analyse.probing.checks import ProbeError
from ciperlib.analyse.probing.probes import fit_regression_probe
from ciperlib.config import nearest
from ciperlib.data.imageset import ImageSet
from ciperlib.learn.augment import Augmentation

HIDDEN_BY_GREY = ("saturation", "hue")  # a grey view has no saturation, and shows the hue in how light colours are
KEY = ["parameter", "reader", "views"]
SMALLEST_SPAN = 0.05  # of R2 between baseline and upper_bound: in less nothing can be placed


@recipe(1)
def decode_parameters(
    encoder: nn.Module, train: ImageSet, test: ImageSet, augmentation: Augmentation, *,
    readers: Sequence[str] = tuple(LEVEL_PROBES), seed: int = 0, resamples: int = 500, **options: Any,
) -> pd.DataFrame:  # fmt: skip
    """R2 of each parameter of a view, by ridge regression from h1 ("view"), h0 - h1 ("difference") or both ("pair").

    Args:
        encoder, options: as for `extract_features`.
        train, test: images to fit on and to score, one view of each.
        augmentation: what makes the views. Quantities and flags are read; categories have no R2.
        seed, resamples: of the views, and of the bootstrap over the test images' groups.

    Returns:
        A row for each parameter and reader: parameter, reader, views, value, low, high, n. `views` is "all"; for
        saturation and hue there is a second row, "coloured": of the views that were not made grey, in fitting and in
        scoring, since a grey view has no saturation and little of the hue.

    Raises:
        FeaturesError, ProbeError: as `extract_features` and `fit_regression_probe`, a parameter that never changes
            among them; a reader that there is not; views without a parameter that could be read.
    """
    names = [spec.name for spec in augmentation.specs if spec.predicted and spec.kind != "categorical"]
    if not names:
        raise ProbeError(f"{augmentation} has no quantity or flag that could be read from its views")
    for reader in readers:
        if reader not in LEVEL_PROBES:
            raise ProbeError(f"there is no reader {reader!r}{nearest(reader, LEVEL_PROBES)}")
    pairs = [extract_pairs(encoder, part, augmentation, seed=seed, **options) for part in (train, test)]
    rows = []
    for reader in readers:
        parts = [replace(h0, matrix=LEVEL_PROBES[reader](h0.matrix, h1.matrix)) for h0, h1 in pairs]
        for name in names:
            hidden = name in HIDDEN_BY_GREY and "grayscale" in augmentation.steps
            for views in ("all", "coloured") if hidden else ("all",):
                fit, score = parts if views == "all" else [part.subset(_coloured(part)) for part in parts]
                found = fit_regression_probe(fit, score, name, seed=seed, resamples=resamples)
                row = {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
                rows.append({"parameter": name, "reader": reader, "views": views, **row})
    return pd.DataFrame(rows)


def rescale(table: pd.DataFrame, baseline: pd.DataFrame, upper_bound: pd.DataFrame) -> pd.DataFrame:
    """Adds where each R2 lies between two others: 0 at the baseline, 1 at the upper bound.

    Args:
        table, baseline, upper_bound: of `decode_parameters`: of an encoder, of one that was never trained, and of one
            that was trained to predict these parameters and nothing else.

    Returns:
        The table with the columns baseline, upper_bound, scaled, scaled_low, scaled_high; the first two are held fixed
        in the last two, and the last three are NaN where they are less than 0.05 apart.

    Raises:
        ValueError: a baseline or an upper bound of several encoders or seeds.
    """
    joined = table
    for name, other in (("baseline", baseline), ("upper_bound", upper_bound)):
        if other.duplicated(KEY).any():
            raise ValueError(f"the {name} has several rows for a parameter: it must be of one encoder and one seed")
        joined = joined.join(other.set_index(KEY)["value"].rename(name), on=KEY)
    span = joined["upper_bound"] - joined["baseline"]
    span = span.where(span >= SMALLEST_SPAN)
    for source, target in (("value", "scaled"), ("low", "scaled_low"), ("high", "scaled_high")):
        joined[target] = (joined[source] - joined["baseline"]) / span
    return joined


def _coloured(part: Features) -> Tensor:
    return part.factors["grayscale"] == 0
