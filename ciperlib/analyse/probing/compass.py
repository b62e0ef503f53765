"""Each object's compass: is its azimuth written in h as another object's is, but for a turn?

A direction is a complex number here: an azimuth a is exp(ia), and a turn is a factor. Relative pose, which is what
CIPER is asked for, says nothing of where an object's front is: one map for all objects may read every azimuth but for a
turn that each object has of its own (`fit_turned`). How many labelled views does a new object's compass cost then
(`compass_cost`), and how many objects can one map serve (`fit_teams`)?
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from ciperlib.analyse.features import Features
from ciperlib.analyse.keys import recipe
from ciperlib.analyse.probing.checks import ProbeError, categories_of, column_of
from ciperlib.analyse.probing.conditional import INNER_FOLDS, STRENGTHS, fit_within
from ciperlib.analyse.probing.probes import fit_regression_probe, regression_of, regression_result
from ciperlib.analyse.results import ProbeResult
from ciperlib.analyse.solvers.threads import single_where_small
from ciperlib.analyse.statistics import circular_error
from ciperlib.learn.seeds import derived_seed

ROUNDS = 30  # of turns and map in turn
VIEWS = (1, 2, 5, 10)  # of a new object, labelled


class Compass(NamedTuple):
    """One map for all objects and a turn of each: (x - mean x) @ weight is near turn * (exp(ia) - mean exp(ia)), means
    being each object's own; of a mirrored object with -a for a."""

    weight: Tensor  # complex128 [d]
    means: Tensor  # float64 [K, d]
    mean_directions: Tensor  # complex128 [K]
    turns: Tensor  # complex128 [K], of length 1
    mirrored: Tensor  # bool [K]

    def unturned(self, x: Tensor, own: Tensor) -> Tensor:
        """Each row's azimuth as a direction, complex128 [n]; x standardised features [n, d], own int64 [n], its
        object."""
        found = (x - self.means[own]).to(self.weight.dtype) @ self.weight * self.turns[own].conj()
        return torch.where(self.mirrored[own], found.conj(), found) + self.mean_directions[own]


@single_where_small
@recipe(1)
def fit_turned(
    train: Features, test: Features, group: str = "object", *, mirrored: bool = False, seed: int = 0,
    resamples: int = 1000,
) -> ProbeResult:  # fmt: skip
    """How well one linear map reads the azimuth if each object's is turned by an angle of its own.

    Ridge regression of exp(i(azimuth + turn)) with a mean of its own for each object (the middle of its circle), least
    over the map and all turns together: the turns begin as the leading eigenvector of what a map explains of them, then
    turns and map are fitted in turn. The strength is chosen by five folds of the training images.

    Args:
        train, test: features of one encoder with the factor azimuth, without a common group of images.
        group: a categorical factor, each of whose values has a turn.
        mirrored: an object's azimuth may also be written the other way round.
        seed, resamples: as for `fit_regression_probe`.

    `details["turns"]`: radians, one a value; `details["mirrored"]`: which are.

    Raises:
        ProbeError: as `fit_within`.
    """
    which = categories_of(train, test, group)
    asked = regression_of(train, test, "azimuth")
    azimuth, count = direction(train), len(which.values)
    strength = _choose(asked.x[0], azimuth, which.y, count, train.groups, mirrored, seed)
    found = _fit(asked.x[0], azimuth, which.y, count, strength, mirrored)
    own = torch.searchsorted(which.values, which.truth)
    guess = found.unturned(asked.x[1], own)
    details = {"group": group, "turns": found.turns.angle(), "mirrored": found.mirrored}
    return regression_result(
        "azimuth", test, torch.stack([guess.imag, guess.real], 1), asked.truth, asked.columns, seed, resamples,
        protocol="ridge", strength=strength, details=details,
    )  # fmt: skip


@single_where_small
@recipe(1)
def compass_cost(
    train: Features, new: Features, group: str = "object", *, counts: Sequence[int] = VIEWS, draws: int = 5,
    seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """How many labelled views does the compass of a new object cost?

    "one turn": the map of `fit_turned` on the known objects, and of the new one only its turn, from the labelled views
    (the middle of its circle is the mean of all its views, which needs no label).
    "own map": a ridge regression on the labelled views alone, its strength chosen on the known objects.

    Args:
        train, new: features of one encoder with the factor azimuth; no object in both.
        counts: labelled views of each new object; the others of its views are tested.
        draws: of the labelled views.

    Returns:
        A row for each of `counts` and both ways: views, how, value (mean error in degrees), and each object's.

    Raises:
        ProbeError: an object in both parts, counts below 1, or an object that has no view left to test.
    """
    check_new(train, new, group)
    known, other = column_of(train, group), column_of(new, group)
    fewest = min(int(column.unique(return_counts=True)[1].min()) for column in (known, other))
    if not counts or min(counts) < 1 or max(counts) >= fewest:
        raise ProbeError(f"labelled views must be from 1 to {fewest - 1}, so that each {group} has one left to test")
    asked = regression_of(train, new, "azimuth")
    values, own = torch.unique(known, return_inverse=True)
    strength = _choose(asked.x[0], direction(train), own, len(values), train.groups, False, seed)
    shared = _fit(asked.x[0], direction(train), own, len(values), strength, False)
    at = torch.unique(other, return_inverse=True)[1]
    circles = (asked.x[1] - _means(asked.x[1], at, int(at.max()) + 1)[at]).to(shared.weight.dtype)
    labels, names, rows = new.labels.get(group), torch.unique(other).tolist(), []
    for count in counts:
        best = min(STRENGTHS, key=lambda s: float(_own_maps(asked.x[0], train, known, count, 1, seed, s).mean()))
        ways = {
            "one turn": _one_turn(circles @ shared.weight, new, other, count, draws, seed),
            "own map": _own_maps(asked.x[1], new, other, count, draws, seed, best),
        }
        for how, errors in ways.items():
            each = {labels[name] if labels else name: float(e) for name, e in zip(names, errors)}
            rows.append({"views": count, "how": how, "value": float(errors.mean()), **each})
    return pd.DataFrame(rows)


@recipe(1)
def fit_teams(train: Features, test: Features, size: int, group: str = "object", *, seed: int = 0) -> ProbeResult:
    """`fit_within` with one map for each team of `size` objects, dealt out by chance: how many objects can one map
    serve?"""
    which = categories_of(train, test, group)
    count = len(which.values)
    if not 1 <= size <= count:
        raise ProbeError(f"a team has from 1 to the {count} values of {group}, not {size}")
    if size == count:
        return fit_regression_probe(train, test, "azimuth", seed=seed, resamples=0)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(derived_seed(seed, "teams", size)))
    team = torch.empty_like(order)
    team[order] = torch.arange(count) // size
    own = which.y, torch.searchsorted(which.values, which.truth)
    parts = [replace(part, factors={**part.factors, "team": team[at]}) for part, at in zip((train, test), own)]
    return fit_within(*parts, "azimuth", "team", seed=seed, resamples=0)


def check_new(train: Features, new: Features, group: str = "object") -> None:
    """ProbeError if a value of `group` is in both parts: what is said to be new is not."""
    known, other = (set(column_of(part, group).tolist()) for part in (train, new))
    if both := sorted(known & other):
        names = train.labels.get(group)
        said = names[both[0]] if names else both[0]
        raise ProbeError(f"{group} {said} is in both parts: it is not new ({len(both)} are)")


def direction(features: Features) -> Tensor:
    """exp(i azimuth) of each image, complex128 [n]."""
    azimuth = column_of(features, "azimuth").double()
    return torch.polar(torch.ones_like(azimuth), azimuth)


def _fit(x: Tensor, azimuth: Tensor, own: Tensor, count: int, strength: float, mirrored: bool) -> Compass:
    means = _means(x, own, count)
    x = (x - means[own]).to(azimuth.dtype)
    curvature = (x.T @ x / len(x)).real + strength * torch.eye(x.shape[1], dtype=torch.float64)
    factor = torch.linalg.cholesky(curvature).to(x.dtype)
    # of each object the sum of x * exp(ia), and of x * exp(-ia): all that the fit needs of its images
    sums = torch.zeros(count, x.shape[1], dtype=x.dtype).index_add_(0, own, x * azimuth[:, None]).T / len(x)
    explained = sums.mH @ torch.cholesky_solve(sums, factor)
    turns = _phase(torch.linalg.eigh(explained)[1][:, -1])
    flipped = torch.zeros(count, dtype=torch.bool)
    for _ in range(ROUNDS):
        of_each = torch.where(flipped, sums.conj(), sums)
        weight = torch.cholesky_solve((of_each @ turns)[:, None], factor)[:, 0]
        plain, other = sums.mH @ weight, sums.T @ weight
        flipped = (other.abs() > plain.abs()) if mirrored else flipped
        turns = _phase(torch.where(flipped, other, plain))
    return Compass(weight, means, _means(azimuth[:, None], own, count)[:, 0], turns, flipped)


def _means(x: Tensor, own: Tensor, count: int) -> Tensor:
    sums = x.new_zeros(count, x.shape[1]).index_add_(0, own, x)
    return sums / own.bincount(minlength=count).clamp_min(1)[:, None]


def _phase(z: Tensor) -> Tensor:
    """z / |z|, and 1 for 0."""
    return torch.polar(torch.ones_like(z.real), z.angle())


def _choose(
    x: Tensor, azimuth: Tensor, own: Tensor, count: int, groups: Tensor, mirrored: bool, seed: int
) -> float:  # fmt: skip
    """The strength with the least error on held-out training images."""
    distinct, group = torch.unique(groups, return_inverse=True)
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))
    fold, errors = order[group] % INNER_FOLDS, dict.fromkeys(STRENGTHS, 0.0)
    for f in range(INNER_FOLDS):
        rows, held = fold != f, fold == f
        for strength in STRENGTHS if held.any() else ():
            found = _fit(x[rows], azimuth[rows], own[rows], count, strength, mirrored)
            guess = found.unturned(x[held], own[held])
            errors[strength] += float(circular_error(guess.angle(), azimuth[held].angle()).sum())
    return min(errors, key=errors.__getitem__)  # of equals the strongest


def _labelled(part: Tensor, count: int, seed: int, draw: int) -> Tensor:
    """bool [n]: `count` images of each object."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "labelled", draw))
    order = torch.randperm(len(part), generator=generator)
    dealt = part[order].numpy()
    place = torch.tensor(pd.Series(dealt).groupby(dealt).cumcount().to_numpy())
    chosen = torch.zeros(len(part), dtype=torch.bool)
    chosen[order[place < count]] = True
    return chosen


def _one_turn(read: Tensor, part: Features, objects: Tensor, count: int, draws: int, seed: int) -> Tensor:
    """Each object's mean error in degrees [K], its turn taken from its labelled views."""
    azimuth, own = direction(part), torch.unique(objects, return_inverse=True)[1]
    total = torch.zeros(int(own.max()) + 1, dtype=torch.float64)
    for draw in range(draws):
        told = _labelled(objects, count, seed, draw)
        sums = torch.zeros(len(total), dtype=read.dtype).index_add_(0, own[told], (read * azimuth.conj())[told])
        guess = read * _phase(sums)[own].conj()
        total += _mean_error(guess, azimuth, own, ~told, len(total))
    return total / draws


def _own_maps(
    x: Tensor, part: Features, objects: Tensor, count: int, draws: int, seed: int, strength: float
) -> Tensor:  # fmt: skip
    """Each object's mean error in degrees [K], by a map that is fitted on its labelled views alone."""
    azimuth, own = direction(part), torch.unique(objects, return_inverse=True)[1]
    total = torch.zeros(int(own.max()) + 1, dtype=torch.float64)
    for draw in range(draws):
        told = _labelled(objects, count, seed, draw)
        guess = torch.zeros_like(azimuth)
        order = torch.argsort(own[told], stable=True)
        few = x[told][order].view(len(total), count, -1)  # [K, count, d]
        kernel = few @ few.mT / count + strength * torch.eye(count, dtype=x.dtype)
        known = azimuth[told][order].view(len(total), count, 1) / count
        weight = few.mT.to(known.dtype) @ torch.linalg.solve(kernel.to(known.dtype), known)  # [K, d, 1]
        for k in range(len(total)):
            rows = own == k
            guess[rows] = x[rows].to(known.dtype) @ weight[k, :, 0]
        total += _mean_error(guess, azimuth, own, ~told, len(total))
    return total / draws


def _mean_error(guess: Tensor, azimuth: Tensor, own: Tensor, rows: Tensor, count: int) -> Tensor:
    error = circular_error(guess.angle(), azimuth.angle())[rows] * (180 / math.pi)
    return torch.zeros(count, dtype=torch.float64).index_add_(0, own[rows], error) / own[rows].bincount(minlength=count)
