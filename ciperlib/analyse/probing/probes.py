"""Probes: what a simple model can read from frozen features, scored on held-out groups, with baselines beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ciperlib.analyse.features import Features
from ciperlib.analyse.keys import recipe
from ciperlib.analyse.probing.checks import (
    Categories,
    ProbeError,
    categories_of,
    check_pair,
    checked_regularisation,
    column_of,
    inner_split,
    pose_parts,
    targets_of,
)
from ciperlib.analyse.results import ProbeResult
from ciperlib.analyse.solvers.linear import Linear, LogisticProblem, fit_ridge, fit_sgd, moments
from ciperlib.analyse.solvers.threads import single_where_small
from ciperlib.analyse.statistics import bootstrap_interval, circular_error, r2, r2_columns, r2_terms
from ciperlib.data.imageset import POSE

ANGLES = ("azimuth", "elevation")
LOGISTIC_REGULARISATION = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
RIDGE_REGULARISATION = (1e1, 1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
TIE = 1e-7  # of the variance: ridge regularisation whose validation differs by less are equal, up to rounding
NEIGHBOURS = 200  # that vote, or all there are
PROTOCOLS = {"accuracy": ("lbfgs", "sgd", "knn"), "R2": ("ridge",)}
SHUFFLED = "shuffled labels"


@single_where_small
def fit_linear_probe(
    train: Features,
    test: Features,
    factor: str,
    *,
    protocol: str = "lbfgs",
    regularisation: Sequence[float] = LOGISTIC_REGULARISATION,
    seed: int = 0,
    resamples: int = 1000,
) -> ProbeResult:
    """How well a linear classifier reads a categorical factor.

    Args:
        train, test: features of one encoder, without a common group.
        factor: a categorical factor, int64 [N].
        protocol: "lbfgs": multinomial logistic regression on standardised features, deterministic, its strength chosen
            on held-out groups of the training part. "sgd": CIPER's own protocol (section 4.1): a linear layer on the
            features as they are, 100 epochs of SGD, the last epoch reported.
        regularisation: strengths to choose from, each the factor of |W|^2 / 2 beside the mean cross-entropy in nats
            (scikit-learn's C is 1 / (strength * N)).
        seed: of the inner split, of SGD and of the bootstrap.
        resamples: of the bootstrap.

    Raises:
        ProbeError: the parts share groups or come from different encoders, the factor is missing, continuous or has
            categories that the training part has not, features are not finite, or there are too few rows.

    Example:
        >>> from ciperlib.analyse.features import pixel_features
        >>> from ciperlib.data import load_images
        >>> images = [load_images("turntable", split, size=300) for split in ("train", "test")]
        >>> found = fit_linear_probe(*pixel_features(*images), "session")
        >>> 0.5 < found.low < found.value < found.high <= 1
        True
    """
    if protocol not in ("lbfgs", "sgd"):
        raise ProbeError(f"protocol must be 'lbfgs' or 'sgd', not {protocol!r}")
    categories = categories_of(train, test, factor)
    y, classes = categories.y, len(categories.values)
    if protocol == "sgd":
        model, loss = fit_sgd(train.matrix, y, classes, seed=seed)
        if not math.isfinite(loss):
            raise ProbeError(
                "SGD at the paper's rate of 1 diverged on these features, which are used as they are: they are too "
                "large for it. Use protocol='lbfgs', which standardises them"
            )
        strength, details = None, {"train_loss_nats": loss}
    else:
        regularisation = checked_regularisation(regularisation)
        mean, scale = moments(train.matrix)
        x = ((train.matrix - mean) / scale).float()
        problem = LogisticProblem(x, y, classes)
        strength, start, validation = _choose_logistic(problem, train.groups, regularisation, seed)
        model, converged = problem.solve(strength, start)
        model, details = model.unscaled(mean, scale), {"converged": converged, "validation": validation}
    guess = model(test.matrix.double()).argmax(dim=1)
    details["train_value"] = _accuracy(model, train.matrix.double(), y)
    rest = {"protocol": protocol, "strength": strength, "details": details, "model": model}
    return accuracy_result(factor, test, categories, guess, seed, resamples, **rest)


def fit_knn_probe(
    train: Features,
    test: Features,
    factor: str,
    *,
    k: int | None = None,
    temperature: float = 0.1,
    seed: int = 0,
    resamples: int = 1000,
) -> ProbeResult:
    """How well the nearest neighbours tell a categorical factor: no fit, so nothing to choose.

    The k training images of largest cosine similarity s vote with weights exp(s / temperature), as in E-SSL's code
    (Dangovski et al. 2022, arXiv:2111.00899). Without k, 200 vote, or all there are. Arguments and errors as for
    `fit_linear_probe`; a ProbeError also for a k that is not between 1 and the number of training images.
    """
    categories = categories_of(train, test, factor)
    k = min(NEIGHBOURS, len(train)) if k is None else k
    if not 1 <= k <= len(train):
        raise ProbeError(f"k must be between 1 and the {len(train)} training images, not {k}")
    if not temperature > 0:
        raise ProbeError(f"temperature must be above 0, not {temperature}")
    bank = torch.nn.functional.normalize(train.matrix, dim=1)
    queries, guesses = torch.nn.functional.normalize(test.matrix, dim=1), []
    for chunk in queries.split(max(1, 20_000_000 // len(bank))):  # 80 MB of similarities at a time
        similarity, nearest = (chunk @ bank.T).topk(k, dim=1)
        votes = torch.zeros(len(chunk), len(categories.values), dtype=torch.float64)
        votes.scatter_add_(1, categories.y[nearest], ((similarity.double() - 1) / temperature).exp())
        guesses.append(votes.argmax(dim=1))
    details = {"k": k, "temperature": temperature}
    return accuracy_result(
        factor, test, categories, torch.cat(guesses), seed, resamples, protocol="knn", details=details
    )


class Regression(NamedTuple):
    """What a regression is asked: the columns' names; x of both parts and y of the training part, standardised by the
    training part, float64; and the test part's truth, raw [n, columns]."""

    columns: tuple[str, ...]
    x: tuple[Tensor, Tensor]
    y: Tensor
    y_mean: Tensor
    y_scale: Tensor
    truth: Tensor

    def unscaled(self, y: Tensor) -> Tensor:
        """In the units of the factor."""
        return y * self.y_scale + self.y_mean


def regression_of(train: Features, test: Features, factor: str) -> Regression:
    """The regression of a float factor, or of "pose"; ProbeError as for `fit_regression_probe`."""
    check_pair(train, test)
    names = pose_parts(train, test) if factor == "pose" else (factor,)
    columns, y = targets_of(train, names, "training")
    _, truth = targets_of(test, names, "test")
    mean, scale = moments(train.matrix)
    y_mean, y_scale = moments(y)
    y_scale = torch.where(y_scale.isinf(), 1.0, y_scale)  # a cosine of azimuths a turn apart: its mean is predicted
    x, z = ((part.matrix - mean) / scale for part in (train, test))
    return Regression(columns, (x, z), (y - y_mean) / y_scale, y_mean, y_scale, truth)


@single_where_small
def fit_regression_probe(
    train: Features,
    test: Features,
    factor: str,
    *,
    regularisation: Sequence[float] = RIDGE_REGULARISATION,
    seed: int = 0,
    resamples: int = 1000,
) -> ProbeResult:
    """How well ridge regression on standardised features reads a continuous factor.

    Args:
        train, test: features of one encoder, without a common group.
        factor: a float factor [N]. "azimuth" is fitted as its sine and cosine; "pose" is azimuth, elevation and
            distance together (what there is of them, and is not constant in both parts): four columns. The value is
            the mean of the columns' R2.
        regularisation: strengths to choose from on held-out groups of the training part (the strongest of equals), each
            the factor of |W|^2 beside the mean squared error of the standardised columns.
        seed, resamples: as for `fit_linear_probe`.

    `details` holds R2 by column and mean absolute errors by factor: angles in degrees (azimuth around the circle),
    others in their own unit; for "pose" also their plain mean, `paper_style_error`, which is how the paper's view
    error can be read.

    Raises:
        ProbeError: as `fit_linear_probe`, for a categorical factor, and for one that is constant in either part.

    Example:
        >>> from ciperlib.analyse.features import pixel_features
        >>> from ciperlib.data import load_images
        >>> images = [load_images("turntable", split, size=300) for split in ("train", "test")]
        >>> fit_regression_probe(*pixel_features(*images), "azimuth").metric
        'R2'
    """
    regularisation = checked_regularisation(regularisation)
    asked = regression_of(train, test, factor)
    (x, _), y = asked.x, asked.y
    validation = {}
    if len(regularisation) > 1:
        fitted, held = inner_split(train.groups, seed)
        fits = fit_ridge(x[fitted], y[fitted], regularisation)
        # of the training part's variance, which unlike that of the held-out groups is never 0
        validation = {
            strength: 1 - float((fit(x[held]) - y[held]).square().mean()) for strength, fit in zip(regularisation, fits)
        }
    strength = _strongest_of_best(validation) if validation else regularisation[0]
    model = fit_ridge(x, y, (strength,))[0].unscaled(*moments(train.matrix))
    model = Linear(model.weight * asked.y_scale[:, None], asked.unscaled(model.bias))
    guess, fitted = model(test.matrix.double()), (model(train.matrix.double()), asked.unscaled(y))
    rest = {"protocol": "ridge", "strength": strength, "details": {"validation": validation}, "model": model}
    return regression_result(factor, test, guess, asked.truth, asked.columns, seed, resamples, fitted=fitted, **rest)


@single_where_small
@recipe(1)
def evaluate(
    train: Features,
    test: Features,
    factor: str,
    *,
    baselines: Mapping[str, tuple[Features, Features] | float] | None = None,
    shuffled: bool = True,
    protocol: str | None = None,
    seed: int = 0,
    **options: Any,
) -> ProbeResult:
    """The probe that suits the factor, with its baselines.

    Args:
        train, test, seed: as for the probes.
        factor: categorical: accuracy of a linear probe; float or "pose": R2 of a ridge regression.
        baselines: by name, what else to read the factor from: (train, test) features of the same images, for instance
            from a random encoder or `pixel_features`, or the number that such a probe gave before.
        shuffled: also fit on targets permuted over the training images (at the strength already chosen).
        protocol: "lbfgs" (default), "sgd" or "knn" for a categorical factor, "ridge" for a float.
        options: for the probe: regularisation, resamples, k, temperature.
    """
    metric = "R2" if factor == "pose" or column_of(train, factor).is_floating_point() else "accuracy"
    protocol = protocol or PROTOCOLS[metric][0]
    if protocol not in PROTOCOLS[metric]:
        raise ProbeError(f"for {factor} (measured by {metric}) protocol must be one of {PROTOCOLS[metric]}")
    result = _fit(protocol, train, test, factor, seed=seed, **options)
    values: dict[str, float] = {}
    for name, baseline in (baselines or {}).items():
        if not isinstance(baseline, tuple):
            values[name] = float(baseline)
            continue
        for part, other in zip((train, test), baseline):
            if not torch.equal(part.ids, other.ids):
                raise ProbeError(f"the baseline {name!r} must be features of the same images in the same order")
        values[name] = _fit(protocol, *baseline, factor, seed=seed, **{**options, "resamples": 0}).value
    if shuffled:
        fixed = {**options, "resamples": 0} | ({"regularisation": (result.strength,)} if result.strength else {})
        values[SHUFFLED] = _fit(protocol, shuffle_targets(train, seed), test, factor, seed=seed, **fixed).value
    return replace(result, baselines=values)


def shuffle_targets(features: Features, seed: int = 0, *, only: str = "") -> Features:
    """The same features with their factors (all by one permutation, or `only` one) dealt out to other images."""
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    dealt = {only: column_of(features, only)} if only else features.factors
    return replace(features, factors={**features.factors, **{name: column[order] for name, column in dealt.items()}})


def _fit(protocol: str, train: Features, test: Features, factor: str, **options: Any) -> ProbeResult:
    if protocol == "ridge":
        return fit_regression_probe(train, test, factor, **options)
    if protocol == "knn":
        return fit_knn_probe(train, test, factor, **options)
    return fit_linear_probe(train, test, factor, protocol=protocol, **options)


def regression_result(
    factor: str, test: Features, guess: Tensor, truth: Tensor, columns: tuple[str, ...], seed: int, resamples: int, *,
    fitted: tuple[Tensor, Tensor] | None = None, details: Mapping[str, Any], **rest: Any,
) -> ProbeResult:  # fmt: skip
    """The result of guessing `guess` where `truth` is true, both float64 [n, columns]; `fitted` is both of the training
    part, for its R2."""
    terms = r2_terms(guess, truth)
    low, high = bootstrap_interval(test.groups, terms, r2, seed, resamples)
    each = r2_columns(terms.sum(dim=0).numpy())
    details = {"columns": columns, **details, **{f"R2_{column}": float(v) for column, v in zip(columns, each)}}
    details |= _errors(guess, truth, columns)
    if fitted is not None:
        details["train_value"] = float(r2(r2_terms(*fitted).sum(dim=0).numpy()))
    counts = {"n": len(test), "classes": None, "chance": 0.0, "unseen": test.unseen}
    counts["encoder_fingerprint"] = test.encoder_fingerprint
    rest |= {"details": details, "prediction": guess}
    return ProbeResult(factor, "R2", float(each.mean()), low, high, **counts, **rest)


def accuracy_result(
    factor: str, test: Features, categories: Categories, guess: Tensor, seed: int, resamples: int, **rest: Any
) -> ProbeResult:
    """The result of guessing the positions `guess` [n] among the categories."""
    values, y, truth = categories
    scores = (values[guess] == truth).float()
    terms = torch.stack([scores.double(), torch.ones(len(scores), dtype=torch.float64)], dim=1)
    low, high = bootstrap_interval(test.groups, terms, lambda sums: sums[:, 0] / sums[:, 1], seed, resamples)
    counts = {"n": len(test), "classes": len(values), "chance": 1 / len(values), "unseen": test.unseen}
    counts["encoder_fingerprint"] = test.encoder_fingerprint
    rest["details"] |= {"values": values, "majority": float((truth == values[y.mode().values]).double().mean())}
    tensors = {"scores": scores, "prediction": values[guess]}
    return ProbeResult(factor, "accuracy", float(scores.double().mean()), low, high, **counts, **tensors, **rest)


def _choose_logistic(
    problem: LogisticProblem, groups: Tensor, regularisation: tuple[float, ...], seed: int
) -> tuple[float, Linear | None, dict[float, float]]:
    """The strength of best accuracy on held-out groups (the stronger of equals), a start for it, and all accuracies."""
    if len(regularisation) == 1:
        return regularisation[0], None, {}
    fitted, held = inner_split(groups, seed)
    inner = LogisticProblem(problem.x[fitted], problem.y[fitted], problem.classes, like=problem)
    fit, fits, accuracies = None, {}, {}
    for strength in sorted(regularisation, reverse=True):
        # from strong to weak, each from the last: to 1e-4 of the objective, enough to rank them
        fit, _ = inner.solve(strength, fit, tolerance=1e-4)
        fits[strength], accuracies[strength] = fit, _accuracy(fit, problem.x[held], problem.y[held])
    best = max(accuracies, key=accuracies.__getitem__)
    return best, fits[best], accuracies


def _strongest_of_best(validation: Mapping[float, float]) -> float:
    """The strongest regularisation whose score is the best one's up to rounding: on whitened features all may tie, and
    on other images the weakest by no means does as well."""
    best = max(validation.values())
    return max(strength for strength, score in validation.items() if score >= best - TIE)


def _accuracy(model: Linear, x: Tensor, y: Tensor) -> float:
    return float((model(x).argmax(dim=1) == y).double().mean())


def _errors(guess: Tensor, truth: Tensor, columns: tuple[str, ...]) -> dict[str, float]:
    """Mean absolute error by factor, angles in degrees, and for a whole pose their mean."""
    by_name = {name: (guess[:, i], truth[:, i]) for i, name in enumerate(columns)}
    errors: dict[str, float] = {}
    medians: dict[str, float] = {}  # where half of the images are far off, the mean says little
    if "sin_azimuth" in by_name:
        sines, cosines = by_name.pop("sin_azimuth"), by_name.pop("cos_azimuth")
        first, second = (torch.atan2(sine, cosine) for sine, cosine in zip(sines, cosines))
        off = circular_error(first, second)
        errors["azimuth_error_degrees"] = math.degrees(float(off.mean()))
        medians["azimuth_median_error_degrees"] = math.degrees(float(off.median()))
    for name, (first, second) in by_name.items():
        error = float((first - second).abs().mean())
        errors |= {f"{name}_error_degrees": math.degrees(error)} if name in ANGLES else {f"{name}_error": error}
    if len(errors) == len(POSE):
        errors["paper_style_error"] = sum(errors.values()) / len(POSE)
    return errors | medians
