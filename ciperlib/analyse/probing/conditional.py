"""Probes with a condition: what h knows of a factor once something else is known, or of what the probe has not seen.

A factor can be in h in a form that no single map reads: each object may write its azimuth in directions of its own. So
beside the pooled probe of `probes`: a map for each object (`fit_within`), the same with the object guessed from h
(`fit_two_stage`), objects that the probe has not seen (`fit_unseen`), and how the answer grows with images or labels
(`learning_curve`). All answer as the pooled probe does, with a `ProbeResult`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from scipy.stats import t as student_t
from torch import Tensor

from ciperlib.analyse.features import Features
from ciperlib.analyse.keys import recipe
from ciperlib.analyse.probing.checks import (
    ProbeError,
    categories_of,
    checked_regularisation,
    column_of,
    pose_parts,
    targets_of,
)
from ciperlib.analyse.probing.probes import (
    accuracy_result,
    fit_linear_probe,
    fit_regression_probe,
    regression_of,
    regression_result,
    shuffle_targets,
)
from ciperlib.analyse.results import ProbeResult
from ciperlib.analyse.solvers.linear import Linear, fit_ridge
from ciperlib.analyse.solvers.threads import single_where_small
from ciperlib.analyse.statistics import circular_error
from ciperlib.learn.seeds import derived_seed

Ask = Callable[[Features, Features], ProbeResult]
Choice = tuple[float, bool]  # a strength, and whether a map starts from its own mean
LABELS = (1, 2, 5)  # an object's labels, of which few are tried
STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-5, 1e-6)  # finer where few images make maps weak
INNER_FOLDS = 5
FEW = (1e-2,)  # regularisation where there are too few labels to choose one


@single_where_small
@recipe(2)
def fit_within(
    train: Features,
    test: Features,
    factor: str,
    group: str,
    *,
    told: Tensor | None = None,
    regularisation: Sequence[float] = STRENGTHS,
    seed: int = 0,
    resamples: int = 1000,
) -> ProbeResult:
    """How well a ridge regression of its own for each value of a group reads a continuous factor.

    Its floor is the same with the group dealt out anew, `shuffle_targets(..., only=group)`, in both parts.

    Args:
        train, test: features of one encoder, without a common group of images.
        factor: a float factor, or "pose".
        group: a categorical factor: each of its values gets a map, all with one strength.
        told: int64 [n], whose map each test image is read with; None for its own.
        regularisation: strengths to choose from, by five folds and for all values together, and with them whether a
            map starts from its own value's mean or from that of all images, which is less noisy where the two are
            alike. The mean of all images is predicted unless the best choice is known to do better (t-test, one in two
            hundred): few images shall do no worse than none.
        seed, resamples: as for `fit_regression_probe`.

    `details` as for `fit_regression_probe`; the `strength` is infinite where no map is better than the mean.

    Raises:
        ProbeError: as `fit_regression_probe`; a group that is continuous or has values that the training part lacks.

    Example:
        >>> from ciperlib.analyse.features import pixel_features
        >>> from ciperlib.data import load_images
        >>> images = [load_images("turntable", split, size=300) for split in ("train", "test")]
        >>> fit_within(*pixel_features(*images, components=16), "elevation", "category").metric
        'R2'
    """
    regularisation = checked_regularisation(regularisation)
    which = categories_of(train, test, group)
    asked = regression_of(train, test, factor)
    (x, z), y = asked.x, asked.y
    (strength, own_mean), validation = _choose(x, y, which.y, train.groups, regularisation, seed)
    maps = [_fit(x, y, which.y == k, ((strength, own_mean),))[0] for k in range(len(which.values))]
    own = torch.searchsorted(which.values, which.truth if told is None else told)
    guess, fitted = (asked.unscaled(_by_value(maps, *rows)) for rows in ((z, own), (x, which.y)))
    details = {"validation": validation, "group": group, "maps": len(maps)}
    return regression_result(
        factor, test, guess, asked.truth, asked.columns, seed, resamples, fitted=(fitted, asked.unscaled(y)),
        protocol="ridge", strength=strength, details=details,
    )  # fmt: skip


@recipe(2)
def fit_two_stage(
    train: Features, test: Features, factor: str, group: str, *, seed: int = 0, resamples: int = 1000, **options: Any
) -> ProbeResult:
    """`fit_within` without being told the group: a linear classifier, fitted on the training part, guesses it from h.

    `details["group_accuracy"]` is the classifier's. Arguments and errors as for `fit_within`.
    """
    guessed = fit_linear_probe(train, test, group, seed=seed, resamples=0)
    found = fit_within(train, test, factor, group, told=guessed.prediction, seed=seed, resamples=resamples, **options)
    return replace(found, details={**found.details, "group_accuracy": guessed.value})


@recipe(1)
def fit_unseen(
    train: Features,
    test: Features,
    factor: str,
    group: str,
    *,
    folds: int = 5,
    seed: int = 0,
    resamples: int = 1000,
    **options: Any,
) -> ProbeResult:
    """How well a probe reads a factor of groups that it has not been fitted on: folds over the values of `group`.

    Each test image is asked of the probe that was fitted on the training images of the other folds' values. It is the
    probe that has not seen them; whether the encoder has, `unseen` says.

    Args:
        factor: categorical, or continuous, or "pose".
        group: a categorical factor. Where the factor is the same for all images of a value, as an object's category is,
            each fold takes its share of each category.
        folds: at most as many as there are values.
        options: for the probe.

    Raises:
        ProbeError: as the probe; fewer values than folds, or a category that only one fold has.
    """
    which = categories_of(train, test, group)
    fold = _folds_of_values(train, factor, which.y, len(which.values), folds, seed)
    fold_of_test = fold[torch.searchsorted(which.values, which.truth)]
    continuous = factor == "pose" or column_of(train, factor).is_floating_point()
    ask = fit_regression_probe if continuous else fit_linear_probe
    prediction, fitted = None, []
    for f in range(int(fold.max()) + 1):
        rows = fold_of_test == f
        if not rows.any():
            continue
        part = train.subset(fold[which.y] != f)
        try:
            found = ask(part, test.subset(rows), factor, seed=seed, resamples=0, **options)
        except ProbeError as error:
            raise ProbeError(f"with the values of {group} in {folds} folds: {error}") from error
        if prediction is None:
            prediction = found.prediction.new_zeros(len(test), *found.prediction.shape[1:])
        prediction[rows] = found.prediction
        fitted.append(found.details["train_value"])
    details = {"group": group, "folds": folds, "train_value": sum(fitted) / len(fitted)}
    if continuous:
        names = pose_parts(train, test) if factor == "pose" else (factor,)
        columns, truth = targets_of(test, names, "test")
        return regression_result(
            factor, test, prediction, truth, columns, seed, resamples, protocol="ridge", details=details
        )
    categories = categories_of(train, test, factor)
    guess = torch.searchsorted(categories.values, prediction)
    return accuracy_result(factor, test, categories, guess, seed, resamples, protocol="lbfgs", details=details)


@recipe(1)
def learning_curve(
    train: Features, test: Features, ask: Ask, per: str, counts: Sequence[int], *, draws: int = 3, seed: int = 0
) -> pd.DataFrame:
    """What a probe knows from few training images: some of each value of a factor, drawn several times.

    Args:
        ask: a probe, called with (training part, test part).
        per: a categorical factor; of each of its values as many images are drawn.
        counts: how many; a value that has fewer gives all of them.
        draws: of each count.

    Returns:
        A row for each count and draw: count, draw, n (training images), value, and the numbers among the details.

    Example:
        >>> from ciperlib.analyse.features import pixel_features
        >>> from ciperlib.data import load_images
        >>> images = [load_images("turntable", split, size=300) for split in ("train", "test")]
        >>> curve = learning_curve(*pixel_features(*images, components=16), few_labels("category"), "category", [2, 8])
        >>> list(curve["n"])
        [20, 20, 20, 80, 80, 80]
    """
    if draws < 1 or not len(counts) or min(counts) < 1:
        raise ProbeError(f"counts and draws must be at least 1, not {list(counts)} and {draws}")
    column, rows = column_of(train, per), []
    if column.is_floating_point():
        raise ProbeError(
            f"{per} is continuous: name a categorical factor, some images of each value of which are drawn"
        )
    for count in counts:
        for draw in range(draws):
            generator = torch.Generator().manual_seed(derived_seed(seed, "learning_curve", draw))
            order = torch.randperm(len(train), generator=generator)
            drawn = pd.Series(column[order].numpy())
            among = drawn.groupby(drawn.to_numpy()).cumcount().to_numpy() < count
            part = train.subset(order[torch.from_numpy(among)].sort().values)
            found = ask(part, test)
            numbers = {k: v for k, v in found.details.items() if isinstance(v, (int, float))}
            rows.append({"count": count, "draw": draw, "n": len(part), "value": found.value, **numbers})
    return pd.DataFrame(rows)


@recipe(2)
def probe_by_object(train: Features, test: Features, *, seed: int = 0) -> pd.DataFrame:
    """What is asked of an encoder beside the pooled probes, object by object: objects are drawn, too, and who speaks of
    them needs their spread.

    Args:
        train, test: with the factors object, category, session and azimuth; features of one encoder.

    Returns:
        A row for each question: factor, how, value, and a column for each object; `value` is their mean.

        - factor "azimuth": mean error in degrees, by one linear map for all ("all"), a map for each category or object
          ("category", "object"), a map of the object that a classifier takes it for ("guessed object"), maps of objects
          dealt out anew ("object dealt out", the floor), and by a map that was fitted on other objects ("other
          objects").
        - factor "category": accuracy of a linear probe fitted on all objects ("all") and on others ("other objects").
        - factor "object": accuracy of a linear probe by labels of each object ("1 label", ...), mean of three draws,
          by all of them ("all"), and by those in other places than the image's ("other places", folds of sessions).

    Raises:
        ProbeError: as the probes.
    """
    options = dict(seed=seed, resamples=0)
    dealt = [shuffle_targets(part, seed, only="object") for part in (train, test)]
    guessed = fit_linear_probe(train, test, "object", **options)
    azimuth = {
        "all": fit_regression_probe(train, test, "azimuth", **options),
        "category": fit_within(train, test, "azimuth", "category", **options),
        "object": fit_within(train, test, "azimuth", "object", **options),
        "guessed object": fit_within(train, test, "azimuth", "object", told=guessed.prediction, **options),
        "object dealt out": fit_within(*dealt, "azimuth", "object", **options),
        "other objects": fit_unseen(train, test, "azimuth", "object", **options),
    }
    found = {("azimuth", how): degrees_off(result, test) for how, result in azimuth.items()}
    found["category", "all"] = fit_linear_probe(train, test, "category", **options).scores
    found["category", "other objects"] = fit_unseen(train, test, "category", "object", **options).scores
    scores: list[Tensor] = []

    def ask(part: Features, rest: Features) -> ProbeResult:
        result = few_labels("object")(part, rest)
        scores.append(result.scores)
        return result

    learning_curve(train, test, ask, "object", LABELS, seed=seed)
    for count, draws in zip(LABELS, torch.stack(scores).view(len(LABELS), -1, len(test))):
        found["object", f"{count} label{'s' * (count > 1)}"] = draws.mean(0)
    found["object", "all"] = guessed.scores
    found["object", "other places"] = fit_unseen(train, test, "object", "session", **options).scores
    labels = test.labels.get("object")
    names = [labels[i] if labels else i for i in test.factors["object"].tolist()]
    rows = []
    for (factor, how), values in found.items():
        of_each = pd.Series(values.double().numpy()).groupby(names).mean()
        rows.append({"factor": factor, "how": how, "value": of_each.mean(), **of_each})
    return pd.DataFrame(rows)


def degrees_off(result: ProbeResult, test: Features) -> Tensor:
    """By how many degrees each image's azimuth was missed, [n]."""
    sine, cosine = result.prediction.unbind(1)
    return circular_error(torch.atan2(sine, cosine), test.factors["azimuth"].double()).rad2deg()


def few_labels(factor: str) -> Ask:
    """The linear probe of a categorical factor where there are too few labels to choose a regularisation."""

    def ask(train: Features, test: Features) -> ProbeResult:
        return fit_linear_probe(train, test, factor, regularisation=FEW, resamples=0)

    return ask


def _folds_of_values(train: Features, factor: str, y: Tensor, values: int, folds: int, seed: int) -> Tensor:
    """A fold for each value of a group [K]; of each category its share, where the factor is one of the values'."""
    if not 2 <= folds <= values:
        raise ProbeError(f"folds must be from 2 to the {values} values that there are, not {folds}")
    order = torch.randperm(values, generator=torch.Generator().manual_seed(seed))
    column = train.factors.get(factor)
    if column is not None and not column.is_floating_point():
        first = torch.empty(values, dtype=column.dtype).scatter_(0, y, column)
        if torch.equal(first[y], column):
            order = order[torch.argsort(first[order], stable=True)]
    fold = torch.empty(values, dtype=torch.int64)
    fold[order] = torch.arange(values) % folds
    return fold


def _fit(x: Tensor, y: Tensor, rows: Tensor, choices: Sequence[Choice]) -> list[Linear]:
    """Ridge regressions of some rows, from their own mean or from 0, the mean of all, which an infinite strength
    predicts."""
    finite = tuple(dict.fromkeys(strength for strength, _ in choices if math.isfinite(strength)))
    fits = dict(zip(finite, fit_ridge(x[rows], y[rows], finite) if finite else []))
    own, maps = y[rows].mean(0), []
    for strength, own_mean in choices:
        if math.isfinite(strength):
            fit = fits[strength]
            maps.append(fit if own_mean else Linear(fit.weight, fit.bias - own))
        else:
            maps.append(Linear(x.new_zeros(y.shape[1], x.shape[1]), y.new_zeros(y.shape[1])))
    return maps


def _by_value(maps: Sequence[Linear], x: Tensor, own: Tensor) -> Tensor:
    """Each row by the map of its value."""
    guess = x.new_empty(len(x), len(maps[0].bias))
    for k, model in enumerate(maps):
        guess[own == k] = model(x[own == k])
    return guess


def _choose(
    x: Tensor, y: Tensor, own: Tensor, groups: Tensor, strengths: tuple[float, ...], seed: int
) -> tuple[Choice, dict[float, float]]:
    """The strength of all maps and whether they start from their own mean, and R2 of each strength, the better of the
    two, on the images of all folds but the fitted ones."""
    tried = ((math.inf, False), *itertools.product(sorted(strengths, reverse=True), (False, True)))
    distinct, group = torch.unique(groups, return_inverse=True)
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))
    fold = order[group] % INNER_FOLDS
    errors = y.square().sum(1)[:, None].repeat(1, len(tried))  # of the mean, where there is nothing to fit on
    for f, k in itertools.product(range(INNER_FOLDS), own.unique().tolist()):
        rows, mine = (fold != f) & (own == k), (fold == f) & (own == k)
        if rows.any() and mine.any():
            for i, model in enumerate(_fit(x, y, rows, tried)):
                errors[mine, i] = (model(x[mine]) - y[mine]).square().sum(1)
    means = errors.mean(0)
    best = int(means.argmin())
    gain = errors[:, 0] - errors[:, best]
    error = float(gain.std()) / math.sqrt(len(gain)) if len(gain) > 1 else math.inf
    least = student_t.ppf(1 - 0.005 / len(tried), max(1, len(gain) - 1)) * error
    known = float(gain.mean()) > max(least, 1e-9 * float(means[0]))  # of one image a map is its mean: all are equal
    spread = y.var(0, correction=0).sum()
    validation: dict[float, float] = {}
    for (strength, _), mean in zip(tried, means.tolist()):
        validation[strength] = max(validation.get(strength, -math.inf), float(1 - mean / spread))
    return (tried[best] if known else tried[0]), validation
