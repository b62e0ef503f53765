"""Choices of a config that do not go together, each with its reason and with what to choose instead."""

from __future__ import annotations

from typing import Any

from ciperlib.errors import ConfigError
from ciperlib.registry import architectures, dataset_of, methods, steps


def check_conflicts(config: Any) -> None:
    """Raises ConfigError for the first pair of choices that cannot work; says what to choose instead."""
    if not config.augmentations and methods[config.method].needs_views:
        raise ConfigError(
            f"augmentations=() does not go with method={config.method!r}: "
            "without augmentation there are no views to compare or parameters to predict; choose from "
            f"{', '.join(steps)}"
        )
    if config.batch_size > config.train_size:
        raise ConfigError(
            f"batch_size={config.batch_size} is larger than train_size={config.train_size}: "
            "no full batch can be drawn; lower batch_size or raise train_size"
        )
    images = dataset_of(config.dataset)
    if config.content and images.fixed:
        raise ConfigError(f"content={config.content!r} does not go with dataset={config.dataset!r}: it is fixed")
    if config.image_size < images.smallest_side:
        raise ConfigError(
            f"image_size={config.image_size} does not go with {config.dataset}: choose {images.smallest_side} or more"
        )
    if config.temperature == 0:
        raise ConfigError("temperature=0 would divide by zero; it must be greater than 0")
    if config.norm == "group" and config.width % 4:
        raise ConfigError(f"width={config.width} does not go with norm='group': its four groups need a multiple of 4")
    for step in config.augmentations:
        if not images.has(*steps[step].needs):
            raise ConfigError(
                f"augmentations={config.augmentations} does not go with dataset={config.dataset!r}: {step} needs "
                f"images with the factors {' and '.join(steps[step].needs)}, such as those of dataset='turntable'"
            )
    _check_positives(config)
    _check_method(config)
    network = architectures[config.architecture]
    if network.check is not None:
        network.check(config)


def _check_positives(config: Any) -> None:
    known = dataset_of(config.dataset).enough
    enough = {step: known.get(step, 0) for step in config.augmentations}
    step = max(enough, key=enough.__getitem__, default="")
    if methods[config.method].trained and config.train_size < enough.get(step, 0):
        raise ConfigError(
            f"train_size={config.train_size} does not go with augmentations={config.augmentations}: among so few "
            f"images of {config.dataset} some objects have no other one to be the view; choose {enough[step]} or more"
        )


def _check_method(config: Any) -> None:
    own = methods[config.method]
    if own.check is not None:
        own.check(config)
    if own.invariant_share and not 0 < config.split < 8 * config.width:
        raise ConfigError(
            f"invariant_share={config.invariant_share} leaves a part of h empty ({config.split} of {8 * config.width} "
            "dimensions are invariant): choose a share between 0 and 1"
        )
