"""A world as tensors: what the camera looks at, made once for a device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ciperlib.data.turntable import catalogue, families
from ciperlib.data.turntable.catalogue import PALETTE, PATTERNS, SESSIONS, Part, Thing, reach_of, rgb
from ciperlib.data.turntable.solids import SOLIDS

WORLDS = {"turntable": catalogue.things, "families": families.things}  # whose objects stand on the turntable


class Table(NamedTuple):
    """All parts of one kind, [objects * slots, ...]; a row without a part is not `used`."""

    used: Tensor  # bool [objects, slots]
    centre: Tensor  # [., 3] in the object's frame
    axes: Tensor  # [., 3, 3]
    size: Tensor  # [., 3]
    bound: Tensor  # [.] radius of a sphere around the part
    colour: Tensor  # [., 3]


class Scene(NamedTuple):
    """A world as tensors: all objects and sessions, ready to be rendered."""

    tables: tuple[Table, ...]  # one a kind
    height: Tensor  # [objects] of the point that the camera looks at
    footprint: Tensor  # [objects] horizontal radius, of the shadow
    gloss: Tensor  # [objects]
    surfaces: Tensor  # [2, sessions, 12]: floor and wall
    light: Tensor  # [sessions, 3] unit vector towards the light
    light_colour: Tensor  # [sessions, 3]
    ambient: Tensor  # [sessions]


def _outline(part: Part) -> np.ndarray:
    """Points on a part's convex hull, [n, 3]."""
    steps = np.linspace(0, 2 * np.pi, 17)[:-1]
    ring = np.stack([np.cos(steps), np.sin(steps), 0 * steps], 1)
    ring = np.concatenate([ring, ring[:, [0, 2, 1]], ring[:, [2, 0, 1]]])
    if part.kind == 0:
        points = ring * part.size
    elif part.kind == 1:
        points = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * part.size
    elif part.kind == 2:
        a, b, half = part.size
        points = np.concatenate([ring[:16] * a - [0, 0, half], ring[:16] * b + [0, 0, half]])
    else:
        points = np.concatenate([part.size[0] * ring + [0, 0, end] for end in (-part.size[1], part.size[1])])
    return part.centre + points @ part.axes


def _fit(thing: Thing) -> tuple[list[Part], float, float]:
    """Puts an object on the floor and the turning axis, in its sphere; also its middle height and footprint."""
    parts = thing.parts
    points = np.concatenate([_outline(part) for part in parts])
    low, high = points.min(0), points.max(0)
    middle = (low + high) / 2
    scale = thing.radius / np.linalg.norm(points - middle, axis=1).max()
    shift = np.array([middle[0], middle[1], low[2]])
    fitted = []
    for part in parts:
        size = (part.size[0] * scale, part.size[1] * scale, part.size[2] * scale)
        fitted.append(part._replace(centre=(part.centre - shift) * scale, size=size))
    footprint = scale * np.linalg.norm((points - middle)[:, :2], axis=1).max()
    return fitted, scale * (middle - low)[2], footprint if thing.shadow is None else thing.shadow


def make_table(kind: int, objects: Sequence[Sequence[Part]]) -> Table:
    """The catalogue of solids as one table of numbers."""
    rows = [[part for part in parts if part.kind == kind] for parts in objects]
    slots = max(map(len, rows))
    used = torch.tensor([[i < len(row) for i in range(slots)] for row in rows])
    empty = Part(kind, np.zeros(3), np.eye(3), (1.0, 1.0, 1.0), "black")
    flat = [part for row in rows for part in [*row, *[empty] * (slots - len(row))]]
    column = lambda get: torch.tensor(np.array([get(part) for part in flat]), dtype=torch.float32)  # noqa: E731
    return Table(used, column(lambda p: p.centre), column(lambda p: p.axes), column(lambda p: p.size), column(reach_of),
                 column(lambda p: rgb(PALETTE[p.colour])))  # fmt: skip


def _surface(first: str, second: str, pattern: str) -> list[float]:
    (a, b), (c, d), one, product = PATTERNS[pattern]
    turn = 2 * math.pi
    return [*rgb(first), *rgb(second), turn * a, turn * b, turn * c, turn * d, one, product]


@lru_cache
def load_scene(device: torch.device, world: str = "turntable") -> Scene:
    """The scene on a device with one of `WORLDS`, made once."""
    if world not in WORLDS:
        raise ValueError(f"there is no world {world!r}; choose one of {', '.join(WORLDS)}")
    things = WORLDS[world]()
    fitted = [_fit(thing) for thing in things]
    sessions = list(SESSIONS.values())
    floats = lambda values: torch.tensor(values, dtype=torch.float32, device=device)  # noqa: E731
    tables = [make_table(kind, [parts for parts, _, _ in fitted]) for kind in range(len(SOLIDS))]
    return Scene(
        tables=tuple(Table(*(column.to(device) for column in table)) for table in tables),
        height=floats([height for _, height, _ in fitted]),
        footprint=floats([footprint for _, _, footprint in fitted]),
        gloss=floats([thing.gloss for thing in things]),
        surfaces=floats([[_surface(*row[:3]) for row in sessions], [_surface(*row[3:6]) for row in sessions]]),
        light=torch.nn.functional.normalize(floats([row[6] for row in sessions]), dim=1),
        light_colour=floats([rgb(row[7]) for row in sessions]),
        ambient=floats([row[8] for row in sessions]),
    )
