"""Any config that is accepted trains a step: random choices over all methods, architectures and images."""

from __future__ import annotations

import random
from dataclasses import fields
from functools import cache
from typing import Any

import torch

from ciperlib.config import Config, ConfigError
from ciperlib.data.imageset import ImageSet, load_images
from ciperlib.learn.training import Trainer, TrainingError
from ciperlib.registry import architectures, methods, steps
from proofs.trial import tell

CASES = 1000
SIZES = {"train_size": (16, 64, 200, 500), "image_size": (8, 12, 16, 28, 32, 40), "batch_size": (2, 8, 16)}
DATASETS = ("turntable", "turntable_sessions", "digits")  # those at hand everywhere


def prove(share: float, seed: int) -> dict[str, Any]:
    """Counts of configs tried, refused as such, and trained; `found`: those that crashed."""
    generator, counts, found = random.Random(seed), {"tried": 0, "refused": 0, "not finite": 0}, []
    while counts["tried"] < round(share * CASES):
        choices = _draw(generator)
        try:
            config = Config.from_parameters(**choices)
        except ConfigError:
            counts["refused"] += 1
            continue
        counts["tried"] += 1
        try:
            _step(config)
        except TrainingError:
            counts["not finite"] += 1  # said as what it is
        except Exception as error:
            found.append(f"{choices}: {type(error).__name__}: {error}")
            tell(found[-1])
    return {**counts, "found": found}


def _draw(generator: random.Random) -> dict[str, Any]:
    pick = generator.choice
    choices: dict[str, Any] = {
        "method": pick(list(methods)), "architecture": pick(list(architectures)), "dataset": pick(DATASETS),
        "augmentations": [step for step in steps if generator.random() < 0.5], "seed": generator.randrange(2**62),
        "width": pick((1, 2, 4, 8, 12, 16)), "norm": pick(("batch", "group")), "coordinates": pick((True, False)),
        "projector_width": pick((2, 7, 32)), "predictor_width": pick((1, 5, 32)), "epochs": 1,
        **{name: pick(values) for name, values in SIZES.items()},
    }  # fmt: skip
    for f in fields(Config):  # the rest: mostly as it is
        options = f.metadata["options"]
        if f.name not in choices and generator.random() < 0.3:
            if f.name == "alpha":
                choices[f.name] = pick((0, 0.1, 1, 10))
            elif options:
                choices[f.name] = pick(list(options))
            elif f.name in ("flip_probability", "jitter_strength", "invariant_share", "momentum"):
                choices[f.name] = pick((0, 0.3, 0.5, 0.9, 1))
            elif f.name in ("learning_rate", "weight_decay", "temperature"):
                choices[f.name] = pick((0, 1e-4, 0.1, 1, 1e3))
    return choices


def _step(config: Config) -> None:
    """What `fit` does, for one step."""
    images = _images(config.dataset, config.train_size, config.image_size)
    trainer = Trainer(config, images, torch.device("cpu"))
    if config.method != "random":
        trainer.steps = 1
        trainer.train_epoch()
    trainer.check_encoder()


@cache
def _images(dataset: str, size: int, image_size: int) -> ImageSet:
    return load_images(dataset, "train", size=size, image_size=image_size)
