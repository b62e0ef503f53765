"""What some of the images say of I(A;C|Z): each model's cross-entropies, image by image, and their readings. Intervals
reach from this number of images to images without end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from ciperlib.analyse.features import Features
from ciperlib.analyse.information.canonical_variates import CanonicalVariates, assign_folds, fit_canonical_variates
from ciperlib.analyse.information.entropy_models import direct_nll, network_nll, quadratic
from ciperlib.analyse.information.vinformation import Estimate, estimate, interaction_statistic
from ciperlib.analyse.orbits import LEVEL
from ciperlib.analyse.statistics import bootstrap_interval
from ciperlib.learn.seeds import derived_seed

Question: TypeAlias = tuple[Tensor, int, Tensor, int]  # y, its number of values, what is given, its number of values
SIDES = ("A", "C")  # what is to be known
FAMILIES = {"forward": ("A", 0), "backward": ("C", 0), "forward_mlp": ("A", 1), "backward_mlp": ("C", 1)}
FOLDS, FEWEST = 5, 50  # and the least number of images of a part
# of what the last doubling of the images changed, what images without end would still change, if each doubling changes
# three quarters of what the one before did (as n^-0.4 falls; of 1 / n it would be once)
STILL = 3.0
NULL_CHOICE = (8, 0.1)  # rank and ridge of the statistic of N2


@dataclass(frozen=True)
class Reading:
    """I(A;C|Z) as one family of models gives it, in nats.

    Attributes:
        value: raw.
        low, high: of a 95% bootstrap interval over groups, longer by what images without end would still change, and
            capped by the bound.
        spread: the bootstrap interval's width alone.
    """

    value: float
    low: float
    high: float
    spread: float


@dataclass(frozen=True, eq=False)
class Measured:
    """One number of images, measured: what each model knows of each image.

    Attributes:
        images: which of them, int64 [n]. groups: int64 [n].
        without, given: of "A" and "C", -log q0 and -log q1 of each model, float64 [n, models]: linear maps, networks;
            and of q0, of all images, logistic regression on the representations.
        summaries, estimates, questions: what the null draws refit.
    """

    images: Tensor
    groups: Tensor
    without: dict[str, Tensor]
    given: dict[str, Tensor]
    summaries: CanonicalVariates
    estimates: tuple[Estimate, Estimate]
    questions: tuple[Question, Question]

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def families(self) -> list[str]:
        """Those of `FAMILIES` that were asked."""
        return [name for name, (side, model) in FAMILIES.items() if model < self.given[side].shape[1]]

    def entropies(self) -> tuple[float, float]:
        """H(A|Z) and H(C|Z)."""
        return tuple(float(self.without[side].mean(0).min()) for side in SIDES)

    def pair(self, side: str, model: int | None) -> tuple[Tensor, Tensor]:
        """-log q0 and -log q1 of each image [n] by one model; by the better one of each, if that is None."""
        given = self.given[side]
        models = self.without[side][:, : given.shape[1]], given
        return tuple(nll[:, int(nll.mean(0).argmin()) if model is None else model] for nll in models)

    def value(self) -> float:
        """The smaller of forward and backward, each by the better of its models, capped by the bound."""
        best = [first - second for first, second in (self.pair(side, None) for side in SIDES)]
        return min(*(float(one.mean()) for one in best), *self.entropies())

    def read(self, parts: Sequence[Measured], side: str, model: int | None, seed: int, resamples: int) -> Reading:
        """One model's reading, as the last of a growing series: the interval covers this number of images, and images
        without end."""
        first, second = self.pair(side, model)
        bound = min(self.entropies())
        terms = torch.stack((first - second, torch.ones_like(first)), 1)
        low, high = bootstrap_interval(self.groups, terms, _mean, seed, resamples)
        raw, spread, still = float((first - second).mean()), high - low, STILL * _gained(parts, side, model)
        low, high = min(low, bound) + min(still, 0.0), min(high + max(still, 0.0), bound)
        return Reading(raw if model is not None else min(raw, bound), min(low, high), high, spread)

    def shuffled(self, seed: int) -> float:
        """N1: I_A for the classes of other images, or I_C for levels dealt out within each image, the larger."""
        (level, m, category, classes), _ = self.questions
        generator = torch.Generator().manual_seed(derived_seed(seed, "shuffled"))
        dealt = category.view(-1, m)[torch.randperm(self.n, generator=generator)].flatten()
        turned = level.view(-1, m).gather(1, torch.rand(self.n, m, generator=generator).argsort(1)).flatten()
        forward, backward = self.estimates
        return max(
            float(interaction_statistic(self.summaries, forward, level, m, dealt[None], classes)),
            float(interaction_statistic(self.summaries, backward, category, classes, turned[None], m)),
        )

    def p_value(self, null_samples: int, seed: int) -> float:
        """N2: the rank of the statistic among classes drawn from q(c|z); NaN without draws.

        Nothing is chosen for the statistic: what suits the observed classes would not suit drawn ones as well.
        """
        if null_samples < 1:
            return math.nan
        forward, backward = self.estimates
        (level, m, category, classes), folds = self.questions[0], len(forward.chosen)
        fixed = replace(forward, chosen=(NULL_CHOICE,) * folds, temperatures=(1.0,) * folds)
        generator = torch.Generator().manual_seed(derived_seed(seed, "null_samples"))
        chance = backward.base_probabilities()
        drawn = torch.multinomial(chance, null_samples, replacement=True, generator=generator).T
        versions = torch.cat([category[None], drawn])
        found = interaction_statistic(self.summaries, fixed, level, m, versions, classes).tolist()
        return (1 + sum(one >= found[0] for one in found[1:])) / (null_samples + 1)


def measure(
    every: Features, images: Tensor, m: int, target: str, classes: int, networks: bool, seed: int,
    directly: bool = False,
) -> Measured:  # fmt: skip
    """What linear maps and networks know of A and C of these images, each without and with the other; and logistic
    regression on the representations, whose cross-entropy is a bound alone, if it is asked `directly`."""
    rows = every.subset((images[:, None] * m + torch.arange(m)).flatten())
    z, level, category = rows.matrix, rows.factors[LEVEL], rows.factors[target]
    folds = assign_folds(rows.groups, FOLDS, seed)
    questions = ((level, m, category, classes), (category, classes, level, m))  # of A, and with the roles exchanged
    lead, curved = quadratic(z) if networks else (z, z)
    seen, cell = (z, curved) if networks else (z,), level * classes + category
    summaries = [fit_canonical_variates(x, cell, m * classes, folds) for x in seen]
    without, given, linear = {}, {}, []
    for side, question in zip(SIDES, questions):
        estimates = [estimate(one, *question) for one in summaries]
        linear.append(estimates[0])
        pairs = [(-estimates[0].truth0, -estimates[0].truth1)]
        if networks:
            pairs.append(network_nll(lead, summaries, estimates, *question, seed=seed))
        first, second = ([nll.view(-1, m).mean(1) for nll in nlls] for nlls in zip(*pairs))
        if directly:
            first.append(direct_nll(z, *question[:2], rows.groups, seed).view(-1, m).mean(1))
        without[side], given[side] = torch.stack(first, 1), torch.stack(second, 1)
    return Measured(images, rows.groups[::m], without, given, summaries[0], tuple(linear), questions)


def _mean(sums: np.ndarray) -> np.ndarray:
    return sums[:, 0] / sums[:, 1]


def _gained(parts: Sequence[Measured], side: str, model: int | None) -> float:
    """What the last doubling of the images added to I, on the images that both numbers have; 0 where there was none."""
    if len(parts) < 2:
        return 0.0
    small, large = parts[-2:]
    both = torch.isin(large.images, small.images)
    before, after = (first - second for first, second in (part.pair(side, model) for part in (small, large)))
    return float((after[both] - before).mean())


def growing(rows: Features, m: int, category: Tensor, seed: int) -> list[Tensor]:
    """A quarter, a half and all of the images, int64 [n] each, whole groups, the smaller within the larger; without
    those in which some class has too few groups for the folds."""
    distinct, group = torch.unique(rows.groups[::m], return_inverse=True)
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(derived_seed(seed, "growing")))
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    parts = []
    for share in (4, 2):
        chosen = torch.nonzero(place[group] < len(distinct) // share).flatten()
        members = [len(torch.unique(group[chosen[category[chosen] == k]])) for k in range(int(category.max()) + 1)]
        if min(members) >= FOLDS and len(chosen) >= FEWEST:
            parts.append(chosen)
    return [*parts, torch.arange(len(group))]
