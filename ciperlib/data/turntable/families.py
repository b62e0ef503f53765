"""Families: a category as a distribution of shapes, proportions, parts and colours, from which objects are drawn.

The fifty objects of the catalogue are five of a category, made by hand: of five nobody can tell what a category is.
Here an object is a category and a number, and its number is its seed. All categories draw their colours and their shine
from one distribution, show about as much of themselves, and throw one shadow: none of it tells the category.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ciperlib.data.turntable import catalogue
from ciperlib.data.turntable.catalogue import PALETTE, Part, Thing, ball, box, chain, cone, lean, reach_of, tube

TRAINING, EACH = 40, 60  # objects of a category: to train on, and with the new ones to test on
SEED, TRIES = 7, 10
SEEN = 0.03  # an object whose largest part is smaller, in shares of the whole, cannot be seen
GLOSS, SIZE, SHADOW = (0.05, 0.4), (0.92, 1.08), 0.19
DETAILS = ("glass", "silver", "black", "glow", "red")  # colours that a builder chooses: here they are drawn, too

Draw = Callable[[float], bool]  # whether an object has a part that so many of its category have


class Family(NamedTuple):
    """A category to draw from: how an object is built, from which proportions, the parts that some have, the number of
    colours, and the radius of its sphere, by which all categories show equally much."""

    build: Callable[..., list[Part]]
    ranges: tuple[tuple[float, float], ...]
    some: Callable[..., list[Part]]
    colours: int
    radius: float


def _some_mug(has: Draw, foot, rim, height, reach, body, trim, drink) -> list[Part]:
    middle = (foot + rim) / 2
    saucer, band = [], []
    if has(0.4):
        saucer = [cone((0, 0, 0), (0, 0, 0.05), 1.3 * foot, 1.7 * foot, trim)]
    if has(0.4):
        band = [cone((0, 0, 0.6 * height), (0, 0, 0.75 * height), middle + 0.03, middle + 0.03, drink)]
    return saucer + band


def _some_table(has: Draw, length, depth, height, leg, top, wood, front) -> list[Part]:
    shelf, board, vase = [], [], []
    if has(0.4):
        shelf = [box((0, 0, 0.3 * height), (0.9 * length, 0.85 * depth, 0.03), wood)]
    if has(0.3):
        board = [box((0.03 - length, 0, height + 0.16), (0.03, depth, 0.16), wood)]
    if has(0.3):
        vase = [ball((-0.4 * length, 0.3 * depth, height + 0.12), (0.1, 0.1, 0.14), front)]
    return shelf + board + vase


def _some_lamp(has: Draw, base, lower, upper, shade, body, hood) -> list[Part]:
    plate, weight, ring = [], [], []
    if has(0.4):
        plate = [cone((0, 0, 0), (0, 0, 0.04), 1.3 * base, 1.3 * base, hood)]
    if has(0.4):
        weight = [tube((-0.28 * lower, 0, lower), (-0.28 * lower - 0.3, 0, lower - 0.05), 0.08, body)]
    if has(0.4):
        ring = [cone((-0.1 * lower, 0, 0.45 * lower), (-0.14 * lower, 0, 0.6 * lower), 0.11, 0.11, hood)]
    return plate + weight + ring


def _some_chair(has: Draw, width, seat, back, leg, tilt, wood, cushion) -> list[Part]:
    edge, arms, rails, pad = width - leg, [], [], []
    if has(0.4):
        for y in (-edge, edge):
            arms += chain([(edge, y, seat), (edge, y, seat + 0.3), (-edge, y, seat + 0.3)], leg, wood)
    if has(0.4):
        rails = [tube((x, -edge, 0.45 * seat), (x, edge, 0.45 * seat), 0.8 * leg, wood) for x in (-edge, edge)]
    if has(0.3):
        pad = [box((0.06 - edge - 0.6 * tilt, 0, seat + 0.6 * back), (0.03, 0.8 * width, 0.2 * back), cushion)]
    return arms + rails + pad


def _some_car(has: Draw, length, width, body, cabin, start, end, wheel, paint, roof) -> list[Part]:
    top, spoiler, load, stripe = 0.7 * wheel + body, [], [], []
    if has(0.3):
        spoiler = [box((0.06 - length, 0, top + 0.12), (0.05, 0.95 * width, 0.02), roof)]
    if has(0.3):
        load = [box(((start + end) / 2, 0, top + cabin + 0.1), (0.4 * (end - start), 0.5 * width, 0.07), roof)]
    if has(0.4):
        stripe = [box(((end + length) / 2, 0, top + 0.004), ((length - end) / 2, 0.3 * width, 0.008), roof)]
    return spoiler + load + stripe


def _some_plane(has: Draw, length, girth, span, chord, sweep, hull, wing, nose) -> list[Part]:
    z, second, floats, ring = girth + 0.16, [], [], []
    if has(0.3):
        second = [box((0.08 * length, 0, z + 1.7 * girth), (0.8 * chord, 0.7 * span, 0.025), wing)]
        second += [tube((0.08 * length, y, z), (0.08 * length, y, z + 1.7 * girth), 0.03, nose)
                   for y in (-0.4 * span, 0.4 * span)]  # fmt: skip
    if has(0.3):
        floats = [tube((-0.3 * length, y, 0.03), (0.35 * length, y, 0.03), 0.07, nose) for y in (-0.3, 0.3)]
    if has(0.4):
        ring = [cone((-0.3 * length, 0, z), (-0.15 * length, 0, z), girth + 0.015, girth + 0.015, wing)]
    return second + floats + ring


def _some_hammer(has: Draw, length, grip, head, face, wood, metal, wrap) -> list[Part]:
    ring, knob, plate = [], [], []
    if has(0.4):
        ring = [cone(lean(0, 0, 0.8 * length), lean(0, 0, 0.86 * length), 1.5 * grip, 1.5 * grip, wrap)]
    if has(0.4):
        knob = [ball(lean(0, 0, 0), 1.6 * grip, wood)]
    if has(0.3):
        plate = [cone(lean(head, 0, length), lean(head + 0.08, 0, length), 1.25 * face, 1.25 * face, wrap)]
    return ring + knob + plate


def _some_bottle(has: Draw, radius, height, shoulder, body, label, cap) -> list[Part]:
    neck, grip, foot, band = height + shoulder, [], [], []
    if has(0.35):
        ear = [(-0.1, 0, neck), (-radius - 0.2, 0, neck - 0.05), (-radius - 0.2, 0, 0.5 * height), (0, 0, 0.4 * height)]
        grip = chain(ear, 0.05, cap)
    if has(0.4):
        foot = [cone((0, 0, 0), (0, 0, 0.08), radius + 0.05, radius + 0.03, cap)]
    if has(0.3):
        band = [cone((0, 0, 0.86 * height), (0, 0, 0.93 * height), radius + 0.015, radius + 0.015, cap)]
    return grip + foot + band


def _some_dog(has: Draw, length, girth, leg, head, ear, coat, patch) -> list[Part]:
    z, front = leg + 0.75 * girth, length + 0.05
    up = z + girth + 0.6 * head
    collar, saddle, paws = [], [], []
    if has(0.4):
        at = lambda share: (length + share * (front - length), 0, z + share * (up - z))  # noqa: E731
        collar = [cone(at(0.5), at(0.65), 0.72 * girth, 0.72 * girth, patch)]
    if has(0.3):
        saddle = [box((0, 0, z + 0.95 * girth), (0.4 * length, 0.75 * girth, 0.07), patch)]
    if has(0.4):
        paws = [ball((x, s * 0.62 * girth, 0.07), (0.13, 0.11, 0.08), patch) for s in (-1, 1)
                for x in (0.04 - 0.9 * length, 0.04 + 0.9 * length)]  # fmt: skip
    return collar + saddle + paws


def _some_teapot(has: Draw, radius, squash, spout, handle, body, trim) -> list[Part]:
    z, belt, feet, knob = squash * radius + 0.04, [], [], []
    if has(0.4):
        belt = [cone((0, 0, z - 0.06), (0, 0, z + 0.06), radius + 0.015, radius + 0.015, trim)]
    if has(0.3):
        feet = [ball((0.6 * x * radius, 0.6 * y * radius, 0), 0.1, trim) for x in (-1, 1) for y in (-1, 1)]
    if has(0.3):
        knob = [ball((0, 0, z + 1.5 * squash * radius), (0.07, 0.07, 0.12), trim)]
    return belt + feet + knob


FAMILIES: dict[str, Family] = {
    "mug": Family(catalogue.mug, ((0.28, 0.5), (0.32, 0.52), (0.6, 1.1), (0.26, 0.4)), _some_mug, 3, 0.175),
    "table": Family(catalogue.table, ((0.5, 0.95), (0.4, 0.62), (0.45, 0.9), (0.04, 0.1)), _some_table, 3, 0.192),
    "lamp": Family(catalogue.lamp, ((0.28, 0.42), (0.5, 0.85), (0.4, 0.75), (0.26, 0.44)), _some_lamp, 2, 0.222),
    "chair": Family(
        catalogue.chair, ((0.28, 0.44), (0.4, 0.65), (0.45, 0.85), (0.035, 0.07), (0, 0.16)), _some_chair, 2, 0.214
    ),
    "car": Family(
        catalogue.car,
        ((0.6, 0.92), (0.32, 0.42), (0.2, 0.32), (0.16, 0.36), (-0.6, -0.1), (0.2, 0.45), (0.14, 0.2)),
        _some_car, 2, 0.192,
    ),
    "plane": Family(
        catalogue.plane, ((0.55, 0.82), (0.12, 0.22), (0.6, 0.95), (0.13, 0.22), (0, 0.6)), _some_plane, 3, 0.221
    ),
    "hammer": Family(
        catalogue.hammer, ((0.65, 0.95), (0.07, 0.11), (0.34, 0.54), (0.11, 0.2)), _some_hammer, 3, 0.27
    ),
    "bottle": Family(catalogue.bottle, ((0.22, 0.38), (0.45, 0.9), (0.18, 0.42)), _some_bottle, 3, 0.214),
    "dog": Family(
        catalogue.dog, ((0.32, 0.58), (0.16, 0.27), (0.18, 0.46), (0.18, 0.28), (0.1, 0.3)), _some_dog, 2, 0.26
    ),
    "teapot": Family(catalogue.teapot, ((0.36, 0.52), (0.6, 1.2), (0.28, 0.42), (0.22, 0.36)), _some_teapot, 2, 0.22),
}  # fmt: skip
NAMES = tuple(f"{name} {number + 1}" for name in FAMILIES for number in range(EACH))


def draw_thing(category: str, number: int, families: dict[str, Family] = FAMILIES) -> Thing:
    """One object of a category, the same on every machine.

    Args:
        category: one of `FAMILIES`.
        number: from 0; its seed. Those below `TRAINING` are there to train on.

    Raises:
        ValueError: no such category or number, or proportions of which ten draws show nothing.
    """
    if category not in families or number < 0:
        raise ValueError(f"no object {category} {number}: categories are {', '.join(families)}, numbers start at 0")
    family = families[category]
    rng = np.random.default_rng([SEED, list(families).index(category), number])
    for _ in range(TRIES):
        numbers = [round(low + rng.random() * (high - low), 3) for low, high in family.ranges]
        drawn = list(rng.choice(list(PALETTE), family.colours, replace=False))
        details = dict(zip(DETAILS, rng.choice(list(PALETTE), len(DETAILS))))
        parts = family.build(*numbers, *drawn) + family.some(lambda share: rng.random() < share, *numbers, *drawn)
        parts = [part._replace(colour=str(details.get(part.colour, part.colour))) for part in parts]
        gloss, size = (low + rng.random() * (high - low) for low, high in (GLOSS, SIZE))
        if _can_be_seen(parts):
            return Thing(parts, float(gloss), family.radius * float(size), SHADOW)
    raise ValueError(f"{TRIES} draws of {category} {number} show nothing: its ranges {family.ranges} are too small")


def _can_be_seen(parts: list[Part]) -> bool:
    sizes = [reach_of(part) for part in parts]
    whole = max((np.linalg.norm(part.centre) + size for part, size in zip(parts, sizes)), default=0.0)
    return bool(np.isfinite(whole)) and max(sizes, default=0.0) > SEEN * whole > 0


@lru_cache
def things() -> tuple[Thing, ...]:
    """All objects, category by category: first those to train on."""
    return tuple(draw_thing(category, number) for category in FAMILIES for number in range(EACH))
