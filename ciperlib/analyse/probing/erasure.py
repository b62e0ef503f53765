"""What goes when a factor is erased from representations? Two factors that a network keeps in directions of their own
can be erased one by one; where they share directions, one takes the other along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ciperlib.analyse.features import Features
from ciperlib.analyse.keys import recipe
from ciperlib.analyse.probing.checks import check_pair, column_of, targets_of

RANK_TOLERANCE = 1e-6  # of the largest singular value: less is rounding


@recipe(1)
def erase(train: Features, test: Features, factors: Sequence[str]) -> tuple[Features, Features, int]:
    """Both parts without what linear maps can read of some factors, and how many directions that took.

    Of all affine maps of x after which nothing is linearly related to the factors, the one that moves x least:
    x - S^(1/2) P S^(-1/2) (x - mean), where S is the covariance of x, C that of x with the factors (an azimuth as sine
    and cosine, a category as one column a value), and P the orthogonal projection onto the columns of S^(-1/2) C. All
    are the training part's; LEACE in Belrose et al. 2023, arXiv 2306.03819, theorem 4.3.

    Args:
        train, test: of one encoder. Directions in which the training part does not vary stay as they are.

    Raises:
        ProbeError: a factor that is missing, constant or not finite, or parts that do not belong together.
    """
    check_pair(train, test)
    x = train.matrix.double()
    mean, centred = x.mean(0), x - x.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    kept = values > RANK_TOLERANCE * values.max()
    roots, vectors = values[kept].sqrt(), vectors[:, kept]
    told = torch.cat([_columns(train, factor) for factor in factors], 1)
    related = (vectors / roots).T @ centred.T @ (told - told.mean(0)) / len(x)
    left, strengths, _ = torch.linalg.svd(related, full_matrices=False)
    left = left[:, strengths > RANK_TOLERANCE * strengths.max()]
    erased = (vectors / roots) @ left @ (left.T @ (vectors * roots).T)  # rows: (x - mean) times this is what goes

    def without(part: Features) -> Features:
        matrix, of = part.matrix.double(), f"{part.encoder_fingerprint} without {', '.join(factors)}"
        return replace(part, matrix=(matrix - (matrix - mean) @ erased).float(), encoder_fingerprint=of)

    return without(train), without(test), left.shape[1]


def _columns(train: Features, factor: str) -> Tensor:
    """A factor as columns, float64 [N, c]."""
    column = column_of(train, factor)
    if column.is_floating_point():
        return targets_of(train, (factor,), "training")[1]
    return torch.nn.functional.one_hot(torch.unique(column, return_inverse=True)[1]).double()
