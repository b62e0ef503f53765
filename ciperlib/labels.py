"""How methods and configs are called and coloured, in every table and figure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields

from ciperlib.config import IMAGE_STEPS, Config
from ciperlib.registry import architectures, datasets, methods, transformations

OTHERS = {"pixels": "#999999", "external": "#CC79A7"}  # what is shown beside the methods: an encoder from elsewhere
GREY = "#777777"  # readable on white and on black


def colour_of(method: str) -> str:
    """The one colour of a method through the whole workbook: told apart by colour-blind readers (Okabe and Ito)."""
    return methods[method].colour if method in methods else OTHERS.get(method, GREY)


def label_of(method: str) -> str:
    """How a method is called in tables and figures; of any other name, itself."""
    return methods[method].label if method in methods else method


def label(config: Config) -> str:
    """How a config is called: its method, its views, and all else in which it differs from the default beside seed.

    Example:
        >>> label(Config(alpha=0.1, epochs=3))
        'CIPER 0.1, image aug., 3 epochs'
    """
    return "".join([_short_label(config), *(_difference(config, name) for name in _FURTHER)])


def labels(configs: Sequence[Config]) -> list[str]:
    """How configs are called in a table or figure of theirs: as short as can be, and alike only where all is the same
    but the seed. So rows with one label are seeds of one kind."""
    texts = [_short_label(config) for config in configs]
    for name in _FURTHER:
        ends, found = [_difference(config, name) for config in configs], defaultdict(set)
        for text, end in zip(texts, ends):
            found[text].add(end)
        texts = [text + end if len(found[text]) > 1 else text for text, end in zip(texts, ends)]
    return texts


_FIRST = ("architecture", "coordinates", "options")  # what tells most about a kind
_SAID = ("method", "alpha", "augmentations", "transformation", "class_information")  # by `_short_label`
_FURTHER = (*_FIRST, *(f.name for f in fields(Config) if f.name not in (*_SAID, *_FIRST, "seed", "recipe")))


def views_of(config: Config) -> str:
    """What makes a config's views, in two words where that is one of the usual kinds."""
    kinds = {IMAGE_STEPS: "image aug.", ("pose",): "pose aug.", ("session",): "session aug."}
    kinds |= {tuple(step for step in IMAGE_STEPS if step != left): f"no {left}" for left in IMAGE_STEPS}
    return kinds.get(config.augmentations, "+".join(config.augmentations))


def _short_label(config: Config) -> str:
    own = methods[config.method]
    if "transformation" in own.reads:
        views = f" + {views_of(config)}" if config.augmentations else ""
        informed = {"none": "", "added": ", class added", "removed": ", class removed"}[config.class_information]
        return transformations[config.transformation].label + views + informed
    method = own.label + (f" {config.alpha:g}" if config.alpha != (own.alpha or 0) else "")
    return f"{method}, {views_of(config)}" if own.trained else method


def _difference(config: Config, name: str) -> str:
    """How a choice of a config differs from the default: the end of its label; "" where it does not, or is not read."""
    if name == "recipes":
        return f", by an older recipe ({config.recipes})" if config.recipes else ""
    value = config.canonical().get(name)
    if value is None:
        return ""
    if name == "options":
        return "".join(f", {option.replace('_', ' ')} {chosen}" for option, chosen in value.items())
    words = name.replace("_", " ")
    if value is False:
        return f", without {words}"
    if name in ("dataset", "architecture"):
        known = datasets if name == "dataset" else architectures
        return f", {known[value].label if value in known else value}"
    if name == "epochs":
        return f", {value} epochs"
    return f", {words} {value:g}" if isinstance(value, float) else f", {words} {value}"
