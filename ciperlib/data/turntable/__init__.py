"""The known world: fifty objects on a turntable, and six hundred more that are drawn from families, ray-cast in torch,
with every factor of every image known.

`load` gives image sets, rendered on first use and cached; `render` gives any view of any object in any session.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from ciperlib.data.imageset import ImageSet, data_root
from ciperlib.data.turntable import families
from ciperlib.data.turntable.catalogue import CATEGORIES, OBJECTS, SESSIONS
from ciperlib.data.turntable.raycaster import Rendering, render
from ciperlib.files import write_atomically
from ciperlib.registry import datasets

__all__ = ["CATEGORIES", "OBJECTS", "RENDERED", "SESSIONS", "Rendering", "load", "orbits", "render"]

VERSION = 4  # of the turntable's pixels: raise it whenever an image changes, and cached images are rendered again
VERSIONS = {"turntable": VERSION, "families": 1}
RENDERED = ("object", "session", "azimuth", "elevation", "distance")  # what render takes, in its order
FACTORS = ("category", *RENDERED)
ELEVATIONS = (math.radians(10), math.radians(70))
DISTANCES = (0.8, 1.3)
TEST_IDS = 1_000_000
OBJECT_NAMES = {"turntable": OBJECTS, "families": families.NAMES}


class Drawn(NamedTuple):
    """A part of an image set: the seed of its draws, how many images there are, of which world's objects (all, or the
    families' to train on or new ones), and in which sessions, from the first to before the last."""

    seed: int
    size: int
    world: str = "turntable"
    new: bool | None = None
    sessions: tuple[int, int] = (0, len(SESSIONS))

    @property
    def objects(self) -> Tensor:
        """Which, int64 [n]."""
        every = torch.arange(len(OBJECT_NAMES[self.world]))
        return every if self.new is None else every[(every % families.EACH >= families.TRAINING) == self.new]


FAMILIES = Drawn(301, 12_000, "families", False, (0, 9))  # thirty views of each object
DRAWN = {
    "turntable": {"train": Drawn(101, 5000), "test": Drawn(102, 2500)},
    "turntable_sessions": {"train": Drawn(201, 5000, sessions=(0, 2)), "test": Drawn(202, 2500, sessions=(2, 11))},
    "turntable_families": {"train": FAMILIES, "test": Drawn(302, 4000, "families", True, (0, 9))},
    "turntable_families_seen": {"train": FAMILIES, "test": Drawn(303, 4000, "families", False, (0, 9))},
    "turntable_families_places": {"train": FAMILIES, "test": Drawn(304, 4000, "families", False, (9, 11))},
}


_SHOWN = dict(factors=FACTORS, fixed=True, rendered=True)
_OLD, _NEW_PLACES = {"pose": 100, "session": 159}, {"pose": 100, "session": 409}
_DRAWN = {"pose": 800, "session": 1959}


@datasets.register("turntable", label="turntable", enough=_OLD, place=10, **_SHOWN)
@datasets.register("turntable_sessions", label="turntable, new places", enough=_NEW_PLACES, place=20, **_SHOWN)
@datasets.register("turntable_families", label="families, new objects", enough=_DRAWN, place=22, **_SHOWN)
@datasets.register("turntable_families_seen", label="families, objects seen", enough=_DRAWN, place=24, **_SHOWN)
@datasets.register("turntable_families_places", label="families, new places", enough=_DRAWN, place=26, **_SHOWN)
def load(
    name: str,
    split: str,
    *,
    size: int | None = None,
    image_size: int = 32,
    root: str | Path | None = None,
) -> ImageSet:
    """The known world's image sets, rendered on first use and then kept under `data_root(root)/cache`.

    Factors: category, object and session (int64 [N]); azimuth and elevation in radians, and distance (float32 [N]).
    The objects are balanced in every prefix, and the first n images are the same whatever `size` is.

    Args:
        name: "turntable" (all sessions in both splits, other poses); "turntable_sessions" (two sessions in "train", the
            nine others in "test"); "turntable_families" (objects drawn from families, 400 in "train" and 200 others in
            "test"), and with the same training part "turntable_families_seen" (the same objects in other poses) and
            "turntable_families_places" (the same objects in two other sessions).
        split: "train" or "test".
        size: number of images; None for 5,000 and 2,500, of the families 12,000 and 4,000.
        image_size: side in pixels.
        root: folder of the data; without it `CIPER_DATA`, then `data/` of the checkout.
    """
    part = DRAWN[name][split]
    name = "turntable_families" if part is FAMILIES else name  # it is one training part, whatever is tested
    size = part.size if size is None else size
    factors = _factors(part, size)
    images, masks = _cached(name, split, size, image_size, data_root(root) / "cache")
    ids = torch.arange(size) + (TEST_IDS if split == "test" else 0)
    renderer = partial(_rerender, world=part.world)
    return ImageSet(
        f"{name}-{image_size}", split, images, factors, ids, ids.clone(), _labels(part.world), masks, renderer
    )


def orbits(
    objects: Tensor, steps: int = 36, *, session: int = 0, elevation: float = math.radians(30), distance: float = 1.05,
    image_size: int = 32, world: str = "turntable",
) -> ImageSet:  # fmt: skip
    """Each of `objects` (int64 [n]) turned once around in `steps` equal steps, all else the same: n * steps images.

    A group is an object; ids count within this image set alone.
    """
    object = objects.repeat_interleave(steps)
    azimuth = (2 * math.pi * torch.arange(steps) / steps).repeat(len(objects))
    same = torch.ones(len(object))
    factors = {"category": object // _each(world), "object": object, "session": torch.full_like(object, session)}
    factors |= {"azimuth": azimuth, "elevation": elevation * same, "distance": distance * same}
    renderer = partial(_rerender, world=world)
    images, masks = renderer(factors, image_size)
    ids, name = torch.arange(len(object)), f"{world}_orbits-{image_size}"
    return ImageSet(name, "test", images, factors, ids, object.clone(), _labels(world), masks, renderer)


def _each(world: str) -> int:
    """Objects of a category."""
    return len(OBJECT_NAMES[world]) // len(CATEGORIES)


def _labels(world: str) -> dict[str, tuple[str, ...]]:
    return {"category": CATEGORIES, "object": OBJECT_NAMES[world], "session": tuple(SESSIONS)}


def _rerender(factors: dict[str, Tensor], image_size: int, **options: int | str) -> tuple[Tensor, Tensor]:
    rendered = render(*(factors[name] for name in RENDERED), image_size=image_size, **options)
    return rendered.images, rendered.masks


def _factors(part: Drawn, size: int) -> dict[str, Tensor]:
    draws = np.random.default_rng(part.seed).random((size, 4))  # row by row, so a prefix stays the same
    objects, (first, last) = part.objects, part.sessions
    blocks = np.random.default_rng([part.seed, 1]).random((-(-size // len(objects)), len(objects)))
    object = objects[torch.from_numpy(blocks.argsort(1).reshape(-1)[:size].copy())]
    between = lambda u, low, high: torch.from_numpy((low + u * (high - low)).astype(np.float32))  # noqa: E731
    return {
        "category": object // _each(part.world),
        "object": object,
        "session": torch.from_numpy((first + draws[:, 0] * (last - first)).astype(np.int64)),
        "azimuth": between(draws[:, 1], 0, 2 * math.pi),
        "elevation": between(draws[:, 2], *ELEVATIONS),
        "distance": between(draws[:, 3], *DISTANCES),
    }


def _cached(name: str, split: str, size: int, image_size: int, folder: Path) -> tuple[Tensor, Tensor]:
    """Images and masks from the smallest file that has enough of them, else rendered and stored."""
    part, stem = DRAWN[name][split], f"{name}-{image_size}-{split}"
    version = VERSIONS[part.world]
    for stored, path in _stored(folder, stem, version):
        if stored >= size and (content := _read(path, _factors(part, stored))):
            return content[0][:size], content[1][:size]
    factors = _factors(part, size)
    images, masks = _render_all(stem, factors, image_size, part.world)
    _write(folder / f"{stem}-{size}-v{version}.safetensors", images, masks, factors, version)
    return images, masks


def _stored(folder: Path, stem: str, version: int) -> list[tuple[int, Path]]:
    """Files of this version with their numbers of images, smallest first."""
    pattern = re.compile(rf"{stem}-(\d+)-v{version}\.safetensors")
    with contextlib.suppress(OSError):  # a folder that cannot be listed holds nothing for us
        paths = [path for path in folder.glob(f"{stem}-*") if pattern.fullmatch(path.name)]
        return sorted((int(pattern.fullmatch(path.name)[1]), path) for path in paths)
    return []


def _render_all(title: str, factors: dict[str, Tensor], image_size: int, world: str) -> tuple[Tensor, Tensor]:
    columns = [factors[name] for name in RENDERED]
    steps = tqdm(range(0, len(columns[0]), 250), f"rendering {title}", leave=False, delay=2, disable=None)
    rows = ([column[i : i + 250] for column in columns] for i in steps)
    parts = [render(*some, image_size=image_size, world=world) for some in rows]
    return torch.cat([part.images for part in parts]), torch.cat([part.masks for part in parts])


def _digest(path: Path, images: Tensor, masks: Tensor, factors: dict[str, Tensor]) -> str:
    content = hashlib.sha256(path.name.encode())  # a renamed file must not pass for another
    for tensor in (images, masks, *factors.values()):
        content.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        content.update(tensor.contiguous().numpy().tobytes())
    return content.hexdigest()


def _read(path: Path, factors: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    try:
        with safe_open(path, "pt") as file:
            images, masks = file.get_tensor("images"), file.get_tensor("masks")
            intact = (file.metadata() or {}).get("sha256") == _digest(path, images, masks, factors)
    except (OSError, SafetensorError):
        intact = False
    if intact:
        return images, masks
    warnings.warn(f"{path} is damaged and not used: the images are rendered again.", stacklevel=5)
    return None


def _write(path: Path, images: Tensor, masks: Tensor, factors: dict[str, Tensor], version: int) -> None:
    metadata = {"version": str(version), "sha256": _digest(path, images, masks, factors)}
    content = save({"images": images, "masks": masks}, metadata=metadata)
    try:
        write_atomically(path, content)
    except OSError as error:
        warnings.warn(
            f"Rendered images cannot be kept in {path.parent} ({error.strerror or error}) and will be rendered again "
            "next time. Make room there, or let CIPER_DATA name a folder that can be written.",
            stacklevel=5,
        )
