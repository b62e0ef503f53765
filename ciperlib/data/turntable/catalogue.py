"""What stands on the turntable, and where: ten categories of five objects, and eleven sessions.

An object is a list of parts, drawn around z with its front towards +x, at any scale; a session is a floor, a wall and
a light. A surface is two colours and a pattern of low frequency.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

PALETTE = {
    "red": "c8291e", "orange": "ee7f1b", "yellow": "f5c92b", "green": "3d9a45", "teal": "1f8f8f", "blue": "2b62c0",
    "navy": "22305f", "purple": "7a3f9d", "pink": "ee85a4", "brown": "7b4a26", "tan": "c89b62", "cream": "f0e4c3",
    "white": "f4f4f2", "silver": "b4bac2", "grey": "70757c", "black": "1f2124", "glass": "27394f", "sky": "7fb5e6",
    "lime": "a5cf3c", "maroon": "7c1f2c", "coffee": "3a2012", "glow": "fff3b0",
}  # fmt: skip


class Part(NamedTuple):
    """One solid of an object: its kind, place, size and colours."""

    kind: int  # index into SOLIDS
    centre: np.ndarray  # [3]
    axes: np.ndarray  # [3, 3], rows are the part's own axes
    size: tuple[float, float, float]
    colour: str


class Thing(NamedTuple):
    """One object: its parts, how much it shines, the radius of the sphere that it is fitted into, and its shadow's, if
    that is not as wide as the object."""

    parts: list[Part]
    gloss: float
    radius: float = 0.25
    shadow: float | None = None


def _frame(axis: np.ndarray) -> np.ndarray:
    z = axis / np.linalg.norm(axis)
    x = np.cross([0, 1, 0] if abs(z[1]) < 0.9 else [1, 0, 0], z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def box(centre, half, colour, pitch=0.0, yaw=0.0) -> Part:
    """Box of half sides `half`; pitch lifts its front, yaw turns it to the left (radians)."""
    cp, sp, cy, sy = math.cos(pitch), math.sin(pitch), math.cos(yaw), math.sin(yaw)
    axes = np.array([[cp * cy, cp * sy, sp], [-sy, cy, 0], [-sp * cy, -sp * sy, cp]])
    return Part(1, np.array(centre, float), axes, tuple(half), colour)


def ball(centre, radii, colour) -> Part:
    """Ellipsoid along the axes; one radius makes a sphere."""
    return box(centre, np.broadcast_to(radii, 3), colour)._replace(kind=0)


def cone(a, b, radius_a, radius_b, colour) -> Part:
    """Capped frustum from a to b."""
    a, b = np.array(a, float), np.array(b, float)
    return Part(2, (a + b) / 2, _frame(b - a), (radius_a, radius_b, np.linalg.norm(b - a) / 2), colour)


def tube(a, b, radius, colour) -> Part:
    """Capsule from a to b."""
    a, b = np.array(a, float), np.array(b, float)
    return Part(3, (a + b) / 2, _frame(b - a), (radius, np.linalg.norm(b - a) / 2, 1.0), colour)


def chain(points, radius, colour) -> list[Part]:
    """Capsules from point to point: a handle."""
    return [tube(a, b, radius, colour) for a, b in pairwise(points)]


def mug(foot, rim, height, reach, body, trim, drink) -> list[Part]:
    top, low, mid = 0.82 * height, 0.22 * height, (foot + rim) / 2
    ear = [(0.95 * mid, 0, top), (mid + 0.8 * reach, 0, top), (mid + reach, 0, 0.6 * height),
           (mid + 0.7 * reach, 0, low + 0.05), (0.93 * mid, 0, low)]  # fmt: skip
    return [
        cone((0, 0, 0), (0, 0, height), foot, rim, body),
        cone((0, 0, height), (0, 0, height + 0.012), 0.84 * rim, 0.84 * rim, drink),
        ball((0.02 - mid, 0, 0.52 * height), (0.06, 0.24, 0.24), trim),  # tells the azimuth when the handle is hidden
        *chain(ear, 0.07, trim),
    ]


def table(length, depth, height, leg, top, wood, front) -> list[Part]:
    x, y, z = length - leg - 0.02, depth - leg - 0.02, height - 0.14
    return [
        box((0, 0, height), (length, depth, 0.045), top),
        box((0.72 * length, 0, height + 0.047), (0.14 * length, depth, 0.008), front),
        box((0.45 * length, 0, z), (0.5 * length, 0.8 * depth, 0.1), wood),
        box((0.96 * length, 0, z), (0.02, 0.7 * depth, 0.075), front),
        ball((length, 0, z), 0.04, "black"),
        *(box((i * x, j * y, height / 2), (leg, leg, height / 2), wood) for i in (-1, 1) for j in (-1, 1)),
    ]


def lamp(base, lower, upper, shade, body, hood) -> list[Part]:
    elbow = (-0.28 * lower, 0, lower)
    neck = (elbow[0] + 0.75 * upper, 0, lower + 0.45 * upper)
    end = (neck[0] + 0.32, 0, neck[2] - 0.34)
    return [
        cone((0, 0, 0), (0, 0, 0.09), base, 0.8 * base, body),
        *chain([(0, 0, 0.08), elbow, neck], 0.055, body),
        ball(elbow, 0.09, hood),
        ball(neck, 0.14, hood),
        cone(neck, end, 0.12, shade, hood),
        ball(end, 0.62 * shade, "glow"),
    ]


def chair(width, seat, back, leg, tilt, wood, cushion) -> list[Part]:
    edge, parts = width - leg, []
    for y in (-edge, edge):
        parts.append(tube((-edge, y, seat), (-edge - tilt, y, seat + back), leg, wood))
        parts += [tube((x, y, leg), (x, y, seat), leg, wood) for x in (-edge, edge)]
    lean = math.atan2(tilt, back)
    return [
        *parts,
        box((0, 0, seat), (width, width, 0.05), wood),
        box((0.03, 0, seat + 0.07), (0.88 * width, 0.85 * width, 0.035), cushion),
        box((-edge - 0.7 * tilt, 0, seat + 0.7 * back), (0.045, width, 0.3 * back), wood, lean),
    ]


def car(length, width, body, cabin, start, end, wheel, paint, roof) -> list[Part]:
    floor, top = 0.7 * wheel, 0.7 * wheel + body
    middle, half = (start + end) / 2, (end - start) / 2
    parts = [
        box((0, 0, (floor + top) / 2), (length, width, body / 2), paint),
        box((middle, 0, top + cabin / 2), (half, 0.86 * width, cabin / 2), "glass"),
        box((middle - 0.02, 0, top + cabin), (half - 0.02, 0.9 * width, 0.035), roof),
        box((length, 0, floor + 0.05), (0.03, 0.9 * width, 0.05), "silver"),
    ]
    for y in (-width, width):
        for x in (-0.6 * length, 0.6 * length):
            parts.append(cone((x, 0.7 * y, wheel), (x, 1.06 * y, wheel), wheel, wheel, "black"))
            parts.append(cone((x, y, wheel), (x, 1.08 * y, wheel), 0.5 * wheel, 0.5 * wheel, "silver"))
        parts.append(ball((length, 0.68 * y, top - 0.09), (0.05, 0.09, 0.07), "glow"))
        parts.append(box((-length, 0.7 * y, top - 0.09), (0.02, 0.1, 0.06), "red"))
    return parts


def plane(length, girth, span, chord, sweep, hull, wing, nose) -> list[Part]:
    z, tail = girth + 0.16, -0.75 * length
    parts = [
        tube((tail, 0, z), (0.72 * length, 0, z), girth, hull),
        cone((tail, 0, z), (-1.15 * length, 0, z + 0.45 * girth), girth, 0.3 * girth, hull),
        ball((0.72 * length, 0, z), (1.35 * girth, 1.02 * girth, 1.02 * girth), nose),
        ball((0.5 * length, 0, z + 0.72 * girth), (0.2, 0.6 * girth, 0.5 * girth), "glass"),
        box((-1.02 * length, 0, z + 0.32), (0.13, 0.03, 0.27), wing),
    ]
    for side in (-1, 1):
        y, engine = side * 0.45 * span, z - 0.42 * girth - 0.06
        root = 0.08 * length - 0.5 * span * math.sin(sweep)
        half = (chord, 0.52 * span, 0.03)
        parts.append(box((root, side * 0.5 * span, z - 0.3 * girth), half, wing, yaw=side * sweep))
        parts.append(box((-1.02 * length, side * 0.2, z + 0.1), (0.11, 0.2, 0.025), wing, yaw=side * sweep))
        parts.append(cone((0.1, y, engine), (0.38, y, engine), 0.075, 0.095, nose))
    return parts


def lean(x, y, up) -> tuple[float, float, float]:
    """A hammer leans, so that its handle is seen from above, too."""
    return (x, 0.8 * y + 0.6 * up, 0.8 * up - 0.6 * y)


def hammer(length, grip, head, face, wood, metal, wrap) -> list[Part]:
    at, half, parts = lean, length / 2, []
    for s in (-1, 1):
        claw = [at(-0.1, s * 0.05, length), at(-0.3, s * 0.06, length), at(-0.45, s * 0.08, length - 0.11)]
        parts += chain(claw, 0.06, metal)
    return [
        *parts,
        cone(at(0, 0, 0), at(0, 0, half), 1.3 * grip, grip, wrap),
        cone(at(0, 0, half), at(0, 0, length), grip, 0.85 * grip, wood),
        cone(at(-0.17, 0, length), at(0.17, 0, length), 0.13, 0.15, metal),
        cone(at(0.14, 0, length), at(head - 0.14, 0, length), 0.09, 0.1, metal),
        cone(at(head - 0.16, 0, length), at(head, 0, length), face, face, metal),
    ]


def bottle(radius, height, shoulder, body, label, cap) -> list[Part]:
    neck, top = height + shoulder, 0.95 * radius
    trigger = [(0.2, 0, neck + 0.1), (0.3, 0, neck - 0.04), (0.27, 0, neck - 0.17)]
    return [
        cone((0, 0, 0), (0, 0, height), radius, top, body),
        cone((0, 0, height), (0, 0, neck), top, 0.1, body),
        cone((0, 0, 0.25 * height), (0, 0, 0.8 * height), radius + 0.012, 0.97 * radius + 0.012, label),
        ball((radius - 0.02, 0, 0.52 * height), (0.06, 0.13, 0.13), cap),
        cone((0, 0, neck - 0.03), (0, 0, neck + 0.1), 0.12, 0.12, cap),
        box((0.07, 0, neck + 0.17), (0.26, 0.1, 0.085), cap),
        cone((0.3, 0, neck + 0.18), (0.42, 0, neck + 0.18), 0.07, 0.05, label),
        *chain(trigger, 0.05, label),
    ]


def dog(length, girth, leg, head, ear, coat, patch) -> list[Part]:
    z, front = leg + 0.75 * girth, length + 0.05
    up = z + girth + 0.6 * head
    parts = [
        tube((-length, 0, z), (length, 0, z), girth, coat),
        ball((-0.4 * length, 0, z + 0.25 * girth), (0.5 * length, 0.88 * girth, 0.82 * girth), patch),
        tube((length, 0, z), (front, 0, up), 0.62 * girth, coat),
        ball((front + 0.05, 0, up), (head, 0.9 * head, 0.9 * head), coat),
        tube((front + 0.1, 0, up - 0.25 * head), (front + 1.35 * head, 0, up - 0.35 * head), 0.45 * head, patch),
        ball((front + 1.8 * head, 0, up - 0.2 * head), (0.07, 0.07, 0.06), "black"),
        tube((-length - 0.5 * girth, 0, z + 0.4 * girth), (-length - 0.28, 0, z + girth + 0.25), 0.055, patch),
    ]
    for s in (-1, 1):
        y = s * 0.62 * girth
        parts += [tube((x, y, z), (x, y, 0.08), 0.085, coat) for x in (-0.9 * length, 0.9 * length)]
        parts.append(ball((front + 0.75 * head, s * 0.42 * head, up + 0.35 * head), 0.05, "black"))
        flap = (0.35 * head, 0.22 * head, ear)
        parts.append(ball((front - 0.1 * head, s * 0.85 * head, up + 0.1 * head), flap, patch))
    return parts


def teapot(radius, squash, spout, handle, body, trim) -> list[Part]:
    half = squash * radius
    z, tall = half + 0.04, 2 * half
    arch = [(-0.85 * radius, 0, z + 0.36 * tall), (-radius - 0.7 * handle, 0, z + 0.4 * tall),
            (-radius - handle, 0, z + 0.08 * tall), (-radius - 0.6 * handle, 0, z - 0.22 * tall),
            (-0.9 * radius, 0, z - 0.25 * tall)]  # fmt: skip
    bend, tip = (radius + 0.45 * spout, 0, z + 0.02 * tall), (radius + spout, 0, z + 0.38 * tall)
    return [
        ball((0, 0, z), (radius, radius, half), body),
        cone((0, 0, 0), (0, 0, 0.1), 0.62 * radius, 0.55 * radius, trim),
        ball((0, 0, z + 0.86 * half), (0.55 * radius, 0.55 * radius, 0.26 * half), trim),
        ball((0, 0, z + 1.22 * half), 0.09, body),
        cone((0.7 * radius, 0, z - 0.2 * tall), bend, 0.17, 0.11, body),
        ball(bend, 0.11, body),
        cone(bend, tip, 0.11, 0.075, body),
        *chain(arch, 0.065, trim),
    ]


# category -> how it is built, how much it shines, and the five objects' proportions and colours
CATALOGUE: dict[str, tuple[Callable[..., list[Part]], float, tuple[tuple, ...]]] = {
    "mug": (mug, 0.3, (
        (0.36, 0.4, 0.85, 0.3, "red", "white", "coffee"),
        (0.33, 0.33, 1.1, 0.32, "blue", "yellow", "coffee"),
        (0.3, 0.5, 0.75, 0.3, "white", "teal", "coffee"),
        (0.48, 0.44, 0.62, 0.34, "green", "cream", "brown"),
        (0.44, 0.34, 0.95, 0.28, "black", "orange", "maroon"))),
    "table": (table, 0.1, (
        (0.75, 0.45, 0.65, 0.05, "tan", "brown", "red"),
        (0.55, 0.55, 0.75, 0.07, "white", "grey", "blue"),
        (0.9, 0.42, 0.5, 0.06, "brown", "black", "yellow"),
        (0.6, 0.4, 0.9, 0.04, "teal", "navy", "cream"),
        (0.7, 0.6, 0.45, 0.09, "pink", "purple", "white"))),
    "lamp": (lamp, 0.3, (
        (0.34, 0.6, 0.55, 0.32, "black", "red"),
        (0.3, 0.8, 0.45, 0.28, "silver", "blue"),
        (0.4, 0.5, 0.7, 0.36, "white", "green"),
        (0.36, 0.65, 0.4, 0.42, "brown", "orange"),
        (0.28, 0.7, 0.6, 0.3, "navy", "purple"))),
    "chair": (chair, 0.1, (
        (0.34, 0.5, 0.6, 0.045, 0.08, "brown", "red"),
        (0.3, 0.62, 0.75, 0.04, 0.05, "black", "yellow"),
        (0.42, 0.42, 0.5, 0.06, 0.15, "tan", "green"),
        (0.36, 0.5, 0.85, 0.05, 0.02, "white", "blue"),
        (0.38, 0.55, 0.45, 0.07, 0.1, "navy", "pink"))),
    "car": (car, 0.4, (
        (0.8, 0.36, 0.25, 0.22, -0.5, 0.3, 0.15, "red", "red"),
        (0.72, 0.36, 0.3, 0.34, -0.7, 0.45, 0.15, "yellow", "white"),
        (0.9, 0.38, 0.26, 0.26, -0.1, 0.42, 0.19, "blue", "blue"),
        (0.6, 0.36, 0.28, 0.26, -0.42, 0.22, 0.17, "green", "cream"),
        (0.85, 0.4, 0.2, 0.16, -0.35, 0.2, 0.18, "white", "orange"))),
    "plane": (plane, 0.3, (
        (0.7, 0.15, 0.8, 0.16, 0.35, "white", "blue", "red"),
        (0.6, 0.2, 0.75, 0.18, 0.05, "yellow", "red", "black"),
        (0.8, 0.13, 0.7, 0.2, 0.6, "silver", "navy", "orange"),
        (0.65, 0.17, 0.9, 0.14, 0.15, "green", "cream", "yellow"),
        (0.55, 0.22, 0.65, 0.2, 0.25, "pink", "purple", "white"))),
    "hammer": (hammer, 0.4, (
        (0.85, 0.08, 0.42, 0.14, "tan", "grey", "red"),
        (0.95, 0.07, 0.36, 0.12, "brown", "silver", "blue"),
        (0.7, 0.1, 0.48, 0.19, "yellow", "black", "black"),
        (0.8, 0.09, 0.4, 0.16, "silver", "navy", "orange"),
        (0.75, 0.085, 0.52, 0.15, "white", "maroon", "green"))),
    "bottle": (bottle, 0.3, (
        (0.3, 0.65, 0.25, "blue", "white", "red"),
        (0.26, 0.85, 0.2, "green", "yellow", "white"),
        (0.36, 0.5, 0.3, "pink", "purple", "lime"),
        (0.3, 0.6, 0.4, "white", "orange", "black"),
        (0.24, 0.7, 0.3, "yellow", "red", "teal"))),
    "dog": (dog, 0.05, (
        (0.4, 0.21, 0.35, 0.22, 0.22, "tan", "brown"),
        (0.55, 0.18, 0.2, 0.2, 0.26, "brown", "coffee"),
        (0.36, 0.2, 0.45, 0.19, 0.12, "white", "black"),
        (0.34, 0.25, 0.28, 0.27, 0.2, "grey", "white"),
        (0.42, 0.22, 0.38, 0.2, 0.3, "orange", "cream"))),
    "teapot": (teapot, 0.4, (
        (0.45, 0.8, 0.32, 0.3, "white", "blue"),
        (0.42, 1.0, 0.3, 0.3, "red", "black"),
        (0.5, 0.65, 0.35, 0.28, "green", "yellow"),
        (0.38, 1.15, 0.32, 0.34, "purple", "silver"),
        (0.46, 0.85, 0.4, 0.24, "brown", "cream"))),
}  # fmt: skip
CATEGORIES = tuple(CATALOGUE)
OBJECTS = tuple(f"{name} {i + 1}" for name, (_, _, rows) in CATALOGUE.items() for i in range(len(rows)))


def things() -> tuple[Thing, ...]:
    """All objects, in the order of `OBJECTS`."""
    return tuple(Thing(build(*row), gloss) for build, gloss, rows in CATALOGUE.values() for row in rows)


def reach_of(part: Part) -> float:
    """Radius of a sphere around a part."""
    a, b, c = part.size
    return (max(a, b, c), math.hypot(a, b, c), math.hypot(max(a, b), c), a + b)[part.kind]


PATTERNS = {  # two wave vectors in cycles per unit; weight of the first wave, and of the product of both
    "plain": ((0, 0), (0, 0), 0, 0),
    "boards": ((4.5, 0), (0, 0), 1, 0),
    "rows": ((0, 3), (0, 0), 1, 0),
    "checks": ((2.5, 0), (0, 2.5), 0, 1.5),
    "slant": ((3, 2), (0, 0), 1, 0),
    "clouds": ((2.2, 1.3), (-1.1, 2), 0.5, 0.7),
}
SESSIONS = {  # floor colours and pattern, wall colours and pattern, light from (x, y, z) and its colour, ambient
    "kitchen": ("e8e2d5", "b9c4c9", "checks", "cfe3da", "bcd8cc", "boards", (-0.5, -0.5, 0.8), "fff4e0", 0.50),
    "workshop": ("a5794c", "7d5732", "boards", "8f959b", "7a8087", "rows", (0.6, -0.4, 0.7), "ffe8c8", 0.48),
    "garden": ("6fa048", "4f8236", "clouds", "a9d2f2", "d8ecfa", "clouds", (0.3, -0.6, 1.0), "fffbe8", 0.55),
    "office": ("6d7f94", "627489", "slant", "e6e7e3", "e6e7e3", "plain", (0.0, -0.4, 1.0), "f2f8ff", 0.60),
    "beach": ("ecd6a0", "dcbf85", "rows", "5fa9d8", "86c6e6", "rows", (-0.8, -0.2, 0.7), "fff0d0", 0.55),
    "attic": ("96664a", "7a4b33", "rows", "c9a27a", "b2895f", "boards", (0.7, -0.2, 0.7), "ffe0b0", 0.5),
    "gallery": ("d9d9dc", "d9d9dc", "plain", "a8373b", "a8373b", "plain", (-0.2, -0.7, 0.8), "ffffff", 0.52),
    "garage": ("85898c", "6f7376", "clouds", "d9b64a", "4a4a48", "slant", (0.4, -0.8, 0.5), "e4f0ff", 0.40),
    "nursery": ("f3c6d2", "f7e3c0", "checks", "b9a7dd", "d0c3ea", "boards", (-0.6, -0.6, 0.6), "fff2f6", 0.58),
    "cellar": ("646a76", "4d525e", "checks", "78706a", "5f5853", "clouds", (-0.9, -0.1, 0.5), "c8d8ff", 0.42),
    "balcony": ("b5583e", "9b4630", "checks", "f0b27a", "f7d3a0", "rows", (0.8, -0.5, 0.5), "ffd4a4", 0.48),
}


def rgb(text: str) -> tuple[float, ...]:
    """A colour as three floats in 0..1."""
    return tuple(int(text[i : i + 2], 16) / 255 for i in (0, 2, 4))
