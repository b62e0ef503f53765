"""Every choice that changes a result, checked when it is made and hashed into the name of the run it makes."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ciperlib.conflicts import check_conflicts
from ciperlib.errors import ConfigError, nearest
from ciperlib.files import project_root
from ciperlib.registry import (
    CHOICES,
    Entry,
    architectures,
    dataset_of,
    datasets,
    methods,
    options,
    steps,
    transformations,
)

CLASS_INFORMATION = ("none", "added", "removed")
IMAGE_STEPS = ("crop", "flip", "jitter", "grayscale")  # the paper's augmentation, and the default
LARGEST = {"int": 2**63 - 1, "float": 1e30}  # where a choice says nothing: what int64 and float32 can work with
RECIPE = 1  # raised when the library's behaviour changes for the same choices
DEFAULT_PROFILE = "teaching"
_DESCRIPTION = "description"


def _choice(default: Any, description: str, *, owned: bool = False, low=None, high=None, options=None):
    """A field. One that is `owned` counts in a run's name only where the method, network, images or steps in use read
    it; every other one counts always."""
    return field(
        default=default,
        metadata={_DESCRIPTION: description, "owned": owned, "low": low, "high": high, "options": options},
    )


_owned = partial(_choice, owned=True)


@dataclass(frozen=True)
class Config:
    """One training, completely: two equal configs make the same encoder. Device and process count are not in it.

    `alpha=None` means the method's own: 1 for CIPER (paper, section 3.3), 0 for the contrastive methods.
    CIPER with alpha 0 *is* SimCLR: same config, same name. `invariant_share=None`, too, is the method's own.
    `precision=None` is called as bf16 is; only a new training on a CPU that is slow at bf16 takes float32 instead.

    Example:
        >>> config = Config(method="ciper", alpha=0.1, augmentations="pose")
        >>> config.name
        'ciper-a0.1-pose-turntable-s0-0569aeab'
        >>> Config(method="ciper", alpha=0) == Config(method="simclr")
        True
        >>> Config.from_parameters(metod="ciper")
        Traceback (most recent call last):
        ciperlib.errors.ConfigError: there is no parameter named 'metod'; did you mean 'method'?
    """

    method: str = _choice("ciper", "what is trained", options=methods)
    alpha: float | None = _choice(None, "weight of the predictive loss (Eq. 2), or of its kin's", low=0.0)
    augmentations: tuple[str, ...] = _choice(IMAGE_STEPS, "what makes a view", options=steps)
    seed: int = _choice(0, "seed of weights, order and augmentation", low=0)

    dataset: str = _choice("turntable", "images", options=datasets)
    train_size: int = _choice(5000, "training images", low=2, high=10**7)
    image_size: int = _choice(32, "side of an image in pixels", low=8, high=1024)

    architecture: str = _choice("resnet10", "encoder", options=architectures)
    width: int = _choice(
        16, "channels of the encoder's first stage; h has 8 times as many dimensions", low=1, high=4096
    )
    norm: str = _choice("batch", "BatchNorm, or GroupNorm where a batch is divided", options=("batch", "group"))
    coordinates: bool = _choice(True, "append two coordinate channels (paper, section 4.1)")
    projector_width: int = _owned(512, "hidden and output units of the projector (paper: 2048)", low=2, high=2**16)
    predictor_width: int = _owned(512, "hidden units of the predictor (paper: 512)", low=1, high=2**16)

    epochs: int = _choice(30, "passes over the training images", low=1)
    batch_size: int = _choice(128, "images in a batch, over all processes together", low=2)
    learning_rate: float = _choice(0.03, "at the start; cosine to 0, no warm-up", low=0.0)
    optimiser: str = _choice("sgd", "sgd with momentum; adamw, which transformers want", options=("sgd", "adamw"))
    momentum: float = _choice(0.9, "of SGD", low=0.0, high=1.0)
    weight_decay: float = _choice(5e-4, "on all weights", low=0.0)
    precision: str | None = _choice(
        None, "bf16: autocast; float32; none: bf16 where the device is fast at it", options=("bf16", "float32")
    )

    temperature: float = _owned(0.5, "of the contrastive loss; the paper is silent, 0.5 is E-SSL's", low=0.0)
    contrastive: str = _owned("nt_xent", "SimCLR's loss, or E-SSL's between views", options=("nt_xent", "cross_view"))
    standardisation: str = _owned("batch", "of predicted parameters", options=("batch", "fixed"))
    anchor_forward: str = _owned("separate", "anchor's own pass, or one with the views", options=("separate", "joint"))
    anchor_gradient: bool = _owned(True, "let the predictive loss reach the anchor's h")
    flip_probability: float = _owned(0.5, "of a mirror image (paper's Table 1: 0.8)", low=0.0, high=1.0)
    jitter_strength: float = _owned(0.4, "brightness, contrast, saturation; hue a quarter", low=0.0, high=2.0)
    prediction_sign: str = _owned("plus", "of the predictive loss (Eq. 1 prints minus)", options=("plus", "minus"))
    augmentation_order: str = _owned("paper", "of image steps, or colours first", options=("paper", "reversed"))
    invariant_share: float | None = _owned(None, "of h, the invariant part of SIE and CLeVER", low=0.0, high=1.0)
    orthogonality: str = _owned(
        "batch", "CLeVER's |cosine| of answers: mean first, or each", options=("batch", "sample")
    )
    transformation: str = _owned("rotation", "what transformation_prediction predicts", options=transformations)
    class_information: str = _owned("none", "the class: left alone, also predicted, fought", options=CLASS_INFORMATION)

    options: str = _choice("", "of the method, network or images that own them: name=value, name=value")
    content: str = _choice("", "digest of the images of a folder, or of other files that may change; set by fit")
    recipe: int = _choice(RECIPE, "which behaviour of the library made the run", low=1, high=RECIPE)
    recipes: str = _choice("", "of its parts that made an older run: method=1; set where that is loaded")

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, _checked(f, getattr(self, f.name)))
        object.__setattr__(self, "augmentations", _ordered(self.augmentations))
        self._settle_alpha()
        object.__setattr__(self, "options", _settled(self.options))
        check_conflicts(self)
        self._check_recipes()

    @classmethod
    def from_parameters(cls, **parameters: Any) -> Config:
        """A config from a notebook's or command's parameters.

        Raises:
            ConfigError: for an unknown name (the nearest known one is offered), a wrong type, a value out of range,
                or a pair that cannot work.
        """
        known = [f.name for f in fields(cls)]
        for name in parameters:
            if name not in known:
                raise ConfigError(f"there is no parameter named {name!r}{nearest(name, known)}")
        return cls(**parameters)

    def _settle_alpha(self) -> None:
        method, alpha, own = self.method, self.alpha, methods[self.method]
        if own.alpha is not None:
            alpha = own.alpha if alpha is None else alpha
            if alpha == 0 and own.at_zero is None:
                raise ConfigError(f"alpha=0 does not go with method={method!r}, which would be another method's loss")
            method = own.at_zero if alpha == 0 else method
        elif alpha not in (None, 0.0):
            weighed = ", ".join(name for name, known in methods.items() if known.alpha is not None)
            raise ConfigError(
                f"alpha={alpha:g} does not go with method={method!r}: "
                f"alpha weighs the predictive loss; choose one of {weighed}, or leave alpha out"
            )
        else:
            alpha = 0.0
        object.__setattr__(self, "alpha", float(alpha))
        object.__setattr__(self, "method", method)
        if self.invariant_share == methods[method].invariant_share:
            object.__setattr__(self, "invariant_share", None)

    def _check_recipes(self) -> None:
        owners = self.owners
        for kind, number in _pairs(self.recipes).items():
            if kind not in owners or not number.isdigit() or not 1 <= int(number) < owners[kind].recipe:
                raise ConfigError(f"recipes={self.recipes!r}: {kind}={number} is no older recipe of this training")

    @property
    def split(self) -> int:
        """How many of h's dimensions are its invariant part, which comes first (SIE, CLeVER); 0 for other methods."""
        own = methods[self.method].invariant_share
        share = own if self.invariant_share is None or not own else self.invariant_share
        return int(share * 8 * self.width)

    def canonical(self) -> dict[str, Any]:
        """The choices that differ from the defaults, and the recipe: what the name is a hash of.

        A choice that the training never reads is left out: SimCLR has no predictor, pose views no flip probability, and
        `random` depends on nothing but encoder, images and seed.
        """
        read, owners = self.read_choices(), self.owners
        chosen = {
            f.name: _plain(getattr(self, f.name))
            for f in fields(self)
            if f.name in read and getattr(self, f.name) != f.default
        }
        if self.alpha != (owners["method"].alpha or 0.0):
            chosen["alpha"] = self.alpha
        if self.precision == "bf16":
            chosen.pop("precision", None)
        older = _pairs(self.recipes)
        made_by = {kind: int(older.get(kind, owner.recipe)) for kind, owner in owners.items()}
        chosen |= {f"{kind}'s recipe": recipe for kind, recipe in made_by.items() if recipe > 1}
        mine = {name for owner in owners.values() for name in owner.options}
        if used := {name: value for name, value in _pairs(self.options).items() if name in mine}:
            chosen["options"] = used
        return {**chosen, "recipe": self.recipe}

    @property
    def owners(self) -> dict[str, Entry]:
        """What is in use of what can be chosen by name: method, architecture, dataset, and the steps of a training."""
        own = methods[self.method]
        owners = {"method": own, "architecture": architectures[self.architecture], "dataset": dataset_of(self.dataset)}
        if "transformation" in own.reads:
            owners["transformation"] = transformations[self.transformation]
        return owners | {f"step {step}": steps[step] for step in (self.augmentations if own.trained else ())}

    def older(self) -> Iterator[Config]:
        """This config as its parts made it before their recipes were raised, the newest first."""
        raised = {kind: owner.recipe for kind, owner in self.owners.items() if owner.recipe > 1}
        for numbers in itertools.product(*(range(recipe, 0, -1) for recipe in raised.values())):
            chosen = {kind: number for kind, number in zip(raised, numbers) if number < raised[kind]}
            if chosen:
                yield replace(self, recipes=",".join(f"{kind}={number}" for kind, number in chosen.items()))

    @property
    def plugins(self) -> dict[str, str]:
        """What of the user's own code has a part in the training -> the digest of the file that defines it."""
        return {f"{kind} {owner.name}": owner.digest for kind, owner in self.owners.items() if owner.digest}

    def option(self, name: str) -> Any:
        """The value of an option: its owner's default, unless `options` says another.

        Raises:
            KeyError: nobody owns it.
        """
        known, given = options()[name], _pairs(self.options)
        return known.parse(given[name]) if name in given else known.default

    def read_choices(self) -> set[str]:
        """The choices that this training depends on, beside alpha and the recipe: what nobody owns, and what is owned
        by its method, its steps and, where it is trained, the training."""
        own = self.owners["method"]
        read = {name for owner in self.owners.values() for name in owner.reads}
        read |= {f.name for f in fields(self) if not f.metadata["owned"]} - {*(() if own.trained else _TRAINING)}
        if own.trained and sum(not steps[step].dataset for step in self.augmentations) > 1:
            read.add("augmentation_order")
        return read - {"alpha", "recipe", "recipes", "options", *(["momentum"] if self.optimiser == "adamw" else [])}

    @property
    def name(self) -> str:
        """Short, readable, and ending in a hash of `canonical()`: the name of the run's folder."""
        views = "image" if self.augmentations == IMAGE_STEPS else "-".join(self.augmentations)
        own = methods[self.method]
        parts = [self.method, *([f"a{self.alpha:g}"] if own.alpha is not None else [])]
        parts = parts if own.title is None else own.title(self)
        parts += [views] if views and own.trained else []
        parts = [re.sub(r"[^\w.,+-]|_", "-", part)[:60] for part in (*parts, self.dataset, f"s{self.seed}")]
        text = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"))
        return "-".join([*parts, hashlib.sha256(text.encode()).hexdigest()[:8]])

    def to_dict(self) -> dict[str, Any]:
        """All choices as plain JSON values; `Config.from_parameters(**d)` gives the same config back."""
        values = {name: _plain(value) for name, value in asdict(self).items()}
        return {**values, "alpha": None if methods[self.method].alpha is None else self.alpha}


CHOICES.update({f.name: f.metadata["owned"] for f in fields(Config)})
_TRAINING = (  # what an encoder that is not trained does not depend on
    "augmentations", "epochs", "batch_size", "learning_rate", "optimiser", "momentum", "weight_decay", "precision",
)  # fmt: skip


def _pairs(text: str) -> dict[str, str]:
    """name -> value, as they stand in a text."""
    pairs = (part.partition("=") for part in text.split(",") if part.strip())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _settled(text: str) -> str:
    """The options in one order, without those that are as their owners have them.

    Raises:
        ConfigError: no name=value, one that is given twice or that nobody owns, or a value that it cannot have.
    """
    known, kept = options() if text.strip() else {}, {}
    for part in (part for part in text.split(",") if part.strip()):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value) or name in kept:
            raise ConfigError(f"options={text!r}: {part.strip()!r} must be name=value, each name once")
        if name not in known:
            raise ConfigError(f"options={text!r}: nobody has an option named {name!r}{nearest(name, known)}")
        try:
            kept[name] = known[name].parse(value)
        except ValueError as error:
            raise ConfigError(f"options: {name}={value} {error} ({known[name].description})") from None
    return ",".join(f"{name}={_shown(kept[name])}" for name in sorted(kept) if kept[name] != known[name].default)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def profile_parameters(profile: str, section: str) -> dict[str, Any]:
    """What a profile sets for one notebook (by its stem) or, with section "config", for `fit`.

    Raises:
        ConfigError: there is no such profile.
    """
    folder = project_root() / "notebooks" / "profiles"
    path = folder / f"{profile}.yml"
    if not folder.is_dir() and profile == DEFAULT_PROFILE:
        return {}  # it changes nothing, and a library without its workbook has no profiles
    if not folder.is_dir():
        raise ConfigError(
            f"profile {profile!r}: profiles are part of the workbook's checkout, and {project_root()} is none"
        )
    if not path.is_file():
        raise ConfigError(f"there is no profile {profile!r}{nearest(profile, [p.stem for p in folder.glob('*.yml')])}")
    return _section(path, section)


def _section(path: Path, section: str) -> dict[str, Any]:
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({str(error).splitlines()[0]}); restore the file") from error
    values = (sections.get(section) or {}) if isinstance(sections, dict) else None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ConfigError(f"{path}: {section} must be a table of names and values")
    if "plugin" in values:
        raise ConfigError(f"{path}: {section} must not name a plugin, whose code would run: give it yourself")
    return dict(values)


def is_named(dataset: str) -> bool:
    """Whether a dataset's name has one of the user's own after it, and may: folder:NAME."""
    kind, colon, name = dataset.partition(":")
    return bool(colon and name.strip()) and kind in datasets and datasets[kind].named


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _checked(f, value: Any) -> Any:
    """`value` as the field's type (1 and 1.0 are the same choice), or a ConfigError."""
    kind = f.type.split(" | ")[0].split("[")[0]
    if value is None and "None" in f.type:
        return None
    converted = _CONVERTERS[kind](value)
    if converted is None:
        raise ConfigError(f"{f.name}={value!r} is not {_KINDS[kind]} ({f.metadata[_DESCRIPTION]})")
    _check_range(f, converted)
    return converted


def _check_range(f, value: Any) -> None:
    low, high, options = f.metadata["low"], f.metadata["high"], f.metadata["options"]
    high = LARGEST.get(f.type.split(" | ")[0]) if high is None else high
    if options is not None:
        for item in value if isinstance(value, tuple) else (value,):
            if item not in options and not (f.name == "dataset" and is_named(item)):
                raise ConfigError(f"{f.name} has no {item!r}{nearest(str(item), options)}")
    if (low is not None and value < low) or (high is not None and value > high):
        shown = f"{value:g}" if abs(value) < 1e300 else "a huge number"
        allowed = f"at least {low:g} and at most {high:g}"
        raise ConfigError(f"{f.name}={shown} is out of range: it must be {allowed} ({f.metadata[_DESCRIPTION]})")


def _float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, int) and abs(value) > LARGEST["int"] or not math.isfinite(value):
        return None
    return float(value) + 0.0  # 0 and -0 are one choice


def _int(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value  # exactly: a float would round it
    number = _float(value)
    return int(number) if number is not None and number.is_integer() else None


def _tuple(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str):
        value = tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value) else None


def _ordered(chosen: tuple[str, ...]) -> tuple[str, ...]:
    repeated = {step for step in chosen if chosen.count(step) > 1}
    if repeated:
        raise ConfigError(f"augmentations has {', '.join(sorted(repeated))} more than once")
    return tuple(step for step in steps if step in chosen)


_CONVERTERS = {
    "int": _int,
    "float": _float,
    "bool": lambda value: value if isinstance(value, bool) else None,
    "str": lambda value: value if isinstance(value, str) else None,
    "tuple": _tuple,
}
_KINDS = {
    "int": "a whole number",
    "float": "a finite number",
    "bool": "true or false",
    "str": "a text",
    "tuple": "a list of names",
}
