"""Tables of probes: several encoders, several factors, the same images and the same baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from torch import nn

from ciperlib.analyse.features import Features, extract_features, pixel_features, split_features
from ciperlib.analyse.keys import recipe
from ciperlib.analyse.probing.checks import ProbeError, varies
from ciperlib.analyse.probing.probes import PROTOCOLS, SHUFFLED, evaluate
from ciperlib.analyse.results import ProbeResult
from ciperlib.config import Config
from ciperlib.data.imageset import POSE, ImageSet, TrainedOn
from ciperlib.learn.encoders import make_encoder
from ciperlib.learn.encoders.base import Encoder
from ciperlib.learn.runs import Run

FIRST = ("category", "object", "session")  # in every table, before other categorical factors


def default_factors(test: ImageSet, train: ImageSet | None = None, protocol: str | None = None) -> tuple[str, ...]:
    """The factors worth probing: category, object and session, other categorical ones, the pose (what there is of
    azimuth, elevation and distance), then other quantities; those of them that images have and that vary.

    Args:
        test: the images to test on.
        train: those to fit on; what they cannot teach is then left out: values of a category that they lack (sessions
            are probed within `test`, see `probe_features`) and quantities that are constant.
        protocol: one for categories ("lbfgs", "sgd", "knn") leaves pose and quantities out.
    """
    parts = (test,) if train is None else (test, train)
    shared = [name for name in test.factors if all(name in part.factors for part in parts) and name not in POSE]
    kinds = [name for name in shared if not test.factors[name].is_floating_point() and _can_be_told(name, *parts)]
    kinds.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    if protocol in PROTOCOLS["accuracy"]:
        return tuple(kinds)
    quantities = [name for name in shared if test.factors[name].is_floating_point() and all(_varying(name, parts))]
    return (*kinds, *_default_pose(parts), *quantities)


def _can_be_told(name: str, test: ImageSet, train: ImageSet | None = None) -> bool:
    """Whether the test part has two values of a categorical factor, and the training part has them too."""
    column = test.factors[name]
    if train is None or name == "session":
        return varies(name, column)
    return varies(name, column) and set(column.tolist()) <= set(train.factors[name].tolist())


def _default_pose(parts: Sequence[ImageSet]) -> tuple[str, ...]:
    """The pose if any part of it varies; its parts singly where one is constant in train or test alone, which the probe
    of the whole refuses."""
    found = {name: _varying(name, parts) for name in POSE if all(name in part.factors for part in parts)}
    changing = tuple(name for name, varying in found.items() if all(varying))
    whole = all(len(set(varying)) == 1 for varying in found.values())
    return ("pose",) if changing and whole else changing


def _varying(name: str, parts: Sequence[ImageSet]) -> list[bool]:
    return [varies(name, part.factors[name]) for part in parts]


def _chosen_factors(
    factors: Sequence[str] | None, train: ImageSet, test: ImageSet, protocol: str | None
) -> Sequence[str]:
    """`factors`, or without them the default ones, of which there must be one."""
    chosen = factors or default_factors(test, train, protocol)
    if not chosen:
        kind = "categorical factor" if protocol in PROTOCOLS["accuracy"] else "factor"
        raise ProbeError(
            f"{test.name} has no {kind} to probe: give its images a column of factors with at least two values, "
            "which the training images have too"
        )
    return chosen


@recipe(1)
def probe_features(
    train: Features, test: Features, factors: Sequence[str], *,
    baselines: Mapping[str, Mapping[str, float]] | None = None, shuffled: bool = False, **options: Any,
) -> dict[str, ProbeResult]:  # fmt: skip
    """One probe a factor. Where the test part has sessions that the training part lacks, the session probe is fitted
    and tested within the test part (paper, section 4.1).

    Args:
        baselines: factor -> name -> score, from `probe_baselines`.
        shuffled: also fit on shuffled labels, as one more baseline.
        options: for `evaluate`.
    """
    results = {}
    for factor in factors:
        parts = train, test
        if factor == "session" and not set(test.factors[factor].tolist()) <= set(train.factors[factor].tolist()):
            parts = split_features(test)
        results[factor] = evaluate(
            *parts, factor, baselines=(baselines or {}).get(factor), shuffled=shuffled, **options
        )
    return results


@recipe(1)
def probe_encoder(
    encoder: nn.Module, train: ImageSet, test: ImageSet, factors: Sequence[str] | None = None, *,
    trained_on: TrainedOn | None = None, baselines: Mapping[str, Mapping[str, float]] | None = None, **options: Any,
) -> dict[str, ProbeResult]:  # fmt: skip
    """Extracts an encoder's features of both parts and probes them for each factor, by default `default_factors`.

    Raises:
        ProbeError: no factors are named and the images have none.
    """
    factors = _chosen_factors(factors, train, test, options.get("protocol"))
    features = [extract_features(encoder, images, trained_on=trained_on) for images in (train, test)]
    return probe_features(*features, factors, baselines=baselines, **options)


@recipe(1)
def probe_run(run: Run, train: ImageSet, test: ImageSet, factors: Sequence[str] | None = None, **options: Any):
    """`probe_encoder` for a finished run, on the images' device; the run knows the images it was trained on.

    Example:
        >>> from ciperlib.data import load_images
        >>> from ciperlib.learn.zoo import find_run
        >>> images = [load_images("turntable", split, size=300) for split in ("train", "test")]
        >>> found = probe_run(find_run(Config(method="simclr")), *images, ("object", "session"))
        >>> found["object"].value < found["session"].value
        True
    """
    return probe_encoder(run.load_encoder(train.device), train, test, factors, trained_on=run.trained_on, **options)


@recipe(1)
def random_encoder(config: Config, train: ImageSet) -> Encoder:
    """The config's encoder as it is drawn, never trained, on the images' device; it knows their mean colour."""
    encoder = make_encoder(config)
    encoder.normalise_with(train.images.cpu())
    return encoder.eval().to(train.device)


def probe_baselines(
    train: ImageSet, test: ImageSet, factors: Sequence[str] | None = None, config: Config | None = None, **options: Any
) -> dict[str, dict[str, float]]:
    """What can be read without training: from pixels, from a random encoder, and from shuffled labels.

    Args:
        config: whose architecture and seed the random encoder has.

    Returns:
        factor -> name of the baseline -> score.

    Raises:
        ProbeError: no factors are named and the images have none.
    """
    factors = _chosen_factors(factors, train, test, options.get("protocol"))
    pixels = probe_features(*pixel_features(train, test), factors, **options)
    random = probe_encoder(random_encoder(config or Config(), train), train, test, factors, shuffled=True, **options)
    return {
        factor: {
            "pixels": pixels[factor].value,
            "random encoder": random[factor].value,
            SHUFFLED: random[factor].baselines[SHUFFLED],
        }
        for factor in factors
    }


def to_table(results: Mapping[str, ProbeResult], **columns: Any) -> pd.DataFrame:
    """One row a factor, with `columns` (encoder, method, seed, ...) before the result's own."""
    return pd.DataFrame([{**columns, **result.to_row()} for result in results.values()])


def to_metrics(results: Mapping[str, ProbeResult]) -> dict[str, float]:
    """The results as flat names and numbers: factor, factor_low, factor_high, and the errors of the pose."""
    metrics: dict[str, float] = {}
    for factor, result in results.items():
        metrics |= {factor: result.value, f"{factor}_low": result.low, f"{factor}_high": result.high}
        errors = {name: value for name, value in result.details.items() if "error" in name}
        metrics |= {f"{factor}_{name}": value for name, value in errors.items()}
    return metrics
